//! Mutants: deliberate breakages of the protocol, to test the tests with. Without the feature `fault-points` (release
//! builds) there are none: [`is`] is constant, and [`of_sql`] hands the statement on.
//!
//! With it, `HAPAX_MUTANT=name` switches one on. Each breaks one rule of the protocol; `tests/tests/mutants.rs` shows for
//! each who notices. Invariant: a mutant that has nothing left to break (its fragment of SQL is gone, its name is unknown)
//! panics, so none can rot.

use std::borrow::Cow;

/// All mutants, each with the rule it breaks.
pub const MUTANTS: [(&str, &str); 19] = [
    ("intent_after_marker", "the intent is written after the end marker"),
    ("intend_asynchronous", "the intent's COMMIT does not wait for the disk"),
    ("claim_takes_intents", "a claim takes over deliveries that are sending"),
    ("claim_ignores_leases", "a claim takes what another has in hand"),
    ("unknown_retried", "an unknown outcome is tried again"),
    ("reaper_makes_pending", "what a dead relay left behind its intent becomes pending"),
    ("settle_without_token", "a settle matches any attempt of its delivery"),
    ("lost_intend_granted", "an intend without an answer counts as granted"),
    ("gate_never_closes", "neither deadline nor heartbeat keeps an end marker back"),
    ("strays_believed", "what is in the read buffer before a command is taken for its answer"),
    ("reply_421_refuses", "421 in place of the answer to the end marker counts as refused for now"),
    ("reply_3xx_refuses", "3xx in place of the answer to the end marker counts as refused for now"),
    ("late_truth_dropped", "an outcome whose delivery has moved on is forgotten"),
    ("dots_not_stuffed", "a line that is a lone dot is transmitted as it is"),
    ("message_id_fresh", "each rendering has a Message-ID of its own"),
    ("resends_unlimited", "policy resend goes on for ever"),
    ("outcome_dropped", "an outcome that the database does not take at once is forgotten"),
    ("name_is_identity", "a relay speaks for its dead predecessor of the same name"),
    ("epoch_ignored", "statements do not ask what the outbox is armed for"),
];

/// Whether the mutant `name` is on.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
#[must_use]
pub const fn is(_name: &'static str) -> bool {
    false
}

/// Whether the mutant `name` is on.
///
/// # Panics
/// When `HAPAX_MUTANT` is no mutant's name.
#[cfg(feature = "fault-points")]
#[must_use]
pub fn is(name: &'static str) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    debug_assert!(MUTANTS.iter().any(|(known, _)| *known == name), "{name} is not a mutant");
    let on = ON.get_or_init(|| {
        let on = std::env::var("HAPAX_MUTANT").ok().filter(|name| !name.is_empty());
        if let Some(on) = &on {
            assert!(MUTANTS.iter().any(|(known, _)| known == on), "HAPAX_MUTANT: {on} is not a mutant");
        }
        on
    });
    on.as_deref() == Some(name)
}

/// Of each mutant that breaks a statement: the operation, the fragment that is there, and what is put in its place.
#[cfg(feature = "fault-points")]
const SQL: [(&str, &str, &str, &str); 4] = [
    (
        "reaper_makes_pending",
        "mark_in_doubt",
        "SELECT /* outbox.mark_in_doubt */ x.message_id, x.recipient_no, x.token, x.relay, q.pinned_route AS route\nFROM guard CROSS JOIN LATERAL outbox.mark_in_doubt(CASE WHEN guard.ok THEN $3::uuid[] END, $4 * interval '1 second') x\nLEFT JOIN outbox.queue q ON q.message_id = x.message_id AND q.recipient_no = x.recipient_no",
        "UPDATE outbox.queue q SET intent = NULL, intent_by = NULL, intent_at = NULL, lease = NULL, lease_until = NULL FROM guard WHERE guard.ok AND $4 > 0 AND q.parked IS NULL AND q.intent_by = ANY ($3::uuid[]) RETURNING q.message_id, q.recipient_no, q.message_id AS token, NULL::uuid AS relay, q.pinned_route AS route",
    ),
    (
        "name_is_identity",
        "register",
        "ON CONFLICT (incarnation) DO NOTHING",
        "ON CONFLICT (incarnation) DO UPDATE SET beat = 0, signed_off_at = NULL",
    ),
    ("epoch_ignored", "renew", "outbox.assert_armed($1, $2)", "($1::uuid IS NOT NULL AND $2::text IS NOT NULL)"),
    ("epoch_ignored", "heartbeat", "outbox.assert_armed($3, $4)", "($3::uuid IS NOT NULL AND $4::text IS NOT NULL)"),
];

/// Of each mutant that breaks a function of the schema: its name, the fragment that is there, and what is put in its place.
/// The relay has no right to change functions; who plays the mutant does it ([`in_functions`]).
const FUNCTIONS: [(&str, &str, &str, &str); 10] = [
    (
        "intend_asynchronous",
        "intend_batch",
        "set_config('synchronous_commit', outbox.durable_commit(), true)",
        "set_config('synchronous_commit', 'off', true)",
    ),
    (
        "claim_takes_intents",
        "claim_batch",
        "SET lease = p_lease,",
        "SET intent = NULL, intent_by = NULL, intent_at = NULL, lease = p_lease,",
    ),
    ("claim_takes_intents", "claim_batch", "AND c.intent IS NULL AND c.parked IS NULL", "AND c.parked IS NULL"),
    ("claim_takes_intents", "look_onward", "AND c.intent IS NULL AND c.parked IS NULL", "AND c.parked IS NULL"),
    ("claim_ignores_leases", "claim_batch", "AND (c.lease IS NULL OR c.lease_until IS NULL OR", "AND (true OR"),
    ("claim_ignores_leases", "look_onward", "AND (c.lease IS NULL OR c.lease_until IS NULL OR", "AND (true OR"),
    ("settle_without_token", "settle_batch", "(q.intent = i.token OR", "(q.intent IS NOT NULL OR"),
    ("epoch_ignored", "claim_batch", "PERFORM outbox.assert_armed(p_epoch, p_identity);", ""),
    ("epoch_ignored", "intend_batch", "PERFORM outbox.assert_continues(p_epoch, p_identity, p_relay, p_beat);", ""),
    ("epoch_ignored", "settle_batch", "PERFORM outbox.assert_armed(p_epoch, p_identity);", ""),
];

/// What `mutant` breaks in functions of the schema: name, fragment, replacement.
pub fn in_functions(mutant: &str) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> + '_ {
    let of_mutant = FUNCTIONS.into_iter().filter(move |(name, ..)| *name == mutant);
    of_mutant.map(|(_, function, fragment, replacement)| (function, fragment, replacement))
}

/// Of each mutant that breaks a statement: operation and the fragment that must be there.
#[cfg(feature = "fault-points")]
pub fn in_statements() -> impl Iterator<Item = (&'static str, &'static str)> {
    SQL.into_iter().map(|(_, operation, fragment, _)| (operation, fragment))
}

/// The text of a statement, as it is.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
#[must_use]
pub fn of_sql<'a>(_operation: &str, sql: &'a str) -> Cow<'a, str> {
    Cow::Borrowed(sql)
}

/// The text of a statement, broken as the mutant that is on demands.
///
/// # Panics
/// When there is nothing to break any more.
#[cfg(feature = "fault-points")]
#[must_use]
pub fn of_sql<'a>(operation: &str, sql: &'a str) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(sql);
    for (mutant, statement, fragment, replacement) in SQL {
        if statement == operation && is(mutant) {
            assert!(text.contains(fragment), "mutant {mutant}: {operation} no longer contains {fragment:?}");
            text = Cow::Owned(text.replace(fragment, replacement));
        }
    }
    text
}
