//! Blocked ordering keys in `hapax status`: what has stopped, who waits behind it, and what to type.

use hapax_core::State;
use hapax_store::inspect::{Blocking, StateCount};

use crate::{look::age, output};

/// So many are shown.
pub(crate) const SHOWN_MAX: i64 = 5;

/// Nothing blocks but what has stopped: where certainly nothing has, all that has an ordering key need not be looked at. An
/// estimate says "none" of what it has not met.
pub(crate) fn is_possible(states: &[StateCount]) -> bool {
    let stopped = [State::InDoubt, State::Held].map(State::as_str);
    states.iter().any(|one| stopped.contains(&one.state.as_str()) && (one.deliveries > 0 || !one.exact))
}

/// How many there are, shown or not.
pub(crate) fn count(shown: &[Blocking]) -> i64 {
    shown.first().map_or(0, |one| one.blocking)
}

/// Ordering keys in which nothing moves, and what moves them.
pub(crate) fn lines(shown: &[Blocking]) -> Vec<String> {
    let mut lines: Vec<String> = shown.iter().map(line).collect();
    let more = count(shown) - i64::try_from(shown.len()).unwrap_or(i64::MAX);
    if more > 0 {
        lines.push(format!("and {more} more: SELECT * FROM outbox.blocked_keys ORDER BY waiting DESC"));
    }
    lines
}

fn line(one: &Blocking) -> String {
    let Blocking { tenant, ordering_key, waiting, message_id, recipient_no, since, age_s, .. } = one;
    let key = output::one_line(ordering_key);
    let tenant = tenant.as_ref().map_or_else(String::new, |tenant| format!(" of tenant {}", output::one_line(tenant)));
    let waits = if *waiting == 1 { "1 waits".to_owned() } else { format!("{waiting} wait") };
    let since = match (since, age_s) {
        (Some(since), Some(age_s)) => format!(" since {since} ({})", age(*age_s)),
        _ => String::new(),
    };
    let passed = one.passed_at.as_ref().map_or_else(String::new, |time| format!(", and passed at {time}"));
    let reason = one.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", output::one_line(reason)));
    let (state, decide) = match one.token {
        Some(token) => ("in doubt", format!("hapax resolve {token} sent|resend|failed --reason '...'")),
        None => {
            ("held", format!("hapax release {message_id} --reason '...', or hapax cancel {message_id} --reason '...'"))
        }
    };
    format!(
        "\nBLOCKED ordering key {key}{tenant}: {waits} behind {message_id}/{recipient_no}, which is {state}{since}{passed}{reason}; {decide}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_certainly_nothing_has_stopped_nothing_is_looked_for() {
        let of = |state: &str, deliveries, exact| StateCount {
            state: state.into(),
            deliveries,
            exact,
            oldest: None,
            oldest_age_s: None,
            newest: None,
        };
        let with = |deliveries, exact| {
            is_possible(&[of("pending", 9, exact), of("in_doubt", 0, exact), of("held", deliveries, exact)])
        };
        assert!(!with(0, true) && with(1, true) && with(0, false));
    }

    #[test]
    fn a_blocked_key_says_what_blocks_it_since_when_and_what_to_type() {
        let id = uuid::Uuid::from_u128(7);
        let doubt = Blocking {
            tenant: Some("acme".into()),
            ordering_key: "order-1".into(),
            waiting: 2,
            message_id: id,
            recipient_no: 1,
            kind: "note".into(),
            state: "in_doubt".into(),
            reason: None,
            since: Some("2026-11-26T10:00:00.000Z".into()),
            age_s: Some(90.0),
            passed_at: Some("2026-11-26T11:00:00.000Z".into()),
            token: Some(uuid::Uuid::from_u128(8)),
            blocking: 3,
        };
        let held = Blocking {
            tenant: None,
            waiting: 1,
            reason: Some("refused: 550".into()),
            token: None,
            since: None,
            passed_at: None,
            ..doubt.clone()
        };
        let [first, second, more] = &lines(&[doubt, held])[..] else { panic!("two, and that there is one more") };
        assert_eq!(
            first.trim_start(),
            format!(
                "BLOCKED ordering key order-1 of tenant acme: 2 wait behind {id}/1, which is in doubt since 2026-11-26T10:00:00.000Z \
                 (90 s), and passed at 2026-11-26T11:00:00.000Z; hapax resolve {} sent|resend|failed --reason '...'",
                uuid::Uuid::from_u128(8)
            )
        );
        assert!(
            second.ends_with(&format!(
                "order-1: 1 waits behind {id}/1, which is held: refused: 550; hapax release {id} --reason '...', or hapax cancel {id} --reason '...'"
            )),
            "{second}"
        );
        assert!(more.starts_with("and 1 more"), "{more}");
        assert!(lines(&[]).is_empty());
    }
}
