//! The sentences, from facts made by hand.

use hapax_store::inspect::{Attempt, Decision, Delivery, OpenDoubt, search::Circumstances};
use uuid::Uuid;

use super::{
    report::{Findings, verdicts},
    story::{Story, at, capital, counted, list, millis, words},
    timeline::timeline,
    verdict::verdict,
};

const ID: Uuid = Uuid::from_u128(0x0199_aa3e_6f0c_7d2e_9b6f_0d8f_3a1c_2b4d);

pub(super) fn delivery(state: &str) -> Delivery {
    Delivery {
        message_id: ID,
        recipient_no: 1,
        recipient: Some("a***@example.org".into()),
        kind: "note".into(),
        state: state.into(),
        reason: None,
        tenant: None,
        route: None,
        priority: "normal".into(),
        created_at: "2026-11-26T10:00:00.000Z".into(),
        due_at: None,
        due_later: None,
        attempts: 0,
        intents: 0,
        open_doubts: 0,
        resends: 0,
        evidence: None,
        finished_at: Some("2026-11-26T10:31:02.100Z".into()),
        not_before: None,
        expires_at: None,
        on_doubt: None,
        application_name: Some("shop".into()),
        session_role: "app".into(),
        txid: "7012".into(),
        content_gone: false,
    }
}

pub(super) fn attempt(outcome: &str, finished_at: &str) -> Attempt {
    Attempt {
        recipient_no: 1,
        token: Uuid::from_u128(finished_at.len() as u128),
        attempt_no: 1,
        outcome: outcome.into(),
        phase: "end_marker".into(),
        cause: None,
        code: None,
        enhanced: None,
        reply: None,
        detail: Some("eof".into()),
        route: Some("default".into()),
        server: Some("mx1.example.org".into()),
        relay_name: Some("r1".into()),
        relay_host: Some("r1".into()),
        relay_incarnation: None,
        started_at: None,
        finished_at: finished_at.into(),
        took_s: Some(0.5),
        bytes: None,
    }
}

fn accepted(finished_at: &str) -> Attempt {
    let reply = Some("2.0.0 Ok: queued as 3F2A".into());
    Attempt { code: Some(250), enhanced: Some("2.0.0".into()), reply, ..attempt("accepted", finished_at) }
}

fn decision(action: &str, actor: &str, reason: &str) -> Decision {
    Decision {
        at: "2026-11-26T10:20:00.000Z".into(),
        actor: actor.into(),
        application_name: None,
        action: action.into(),
        recipient_no: Some(1),
        token: None,
        reason: Some(reason.into()),
        before: Some("in_doubt".into()),
        after: Some("pending".into()),
    }
}

fn doubt() -> OpenDoubt {
    OpenDoubt {
        message_id: ID,
        recipient_no: 1,
        token: Uuid::from_u128(7),
        recipient: None,
        kind: None,
        tenant: None,
        doubt_since: "2026-11-26T10:31:02.100Z".into(),
        age_s: 1.0,
        marked_by: Some("reaper".into()),
        relay_name: None,
        relay_host: None,
        relay_incarnation: None,
        relay_signed_off: false,
        relay_state: "silent for 3 min".into(),
        route: None,
        phase: "end_marker".into(),
        server: None,
        server_known_by: None,
        message_id_header: ID.to_string(),
        search_for: ID.to_string(),
        search_from: None,
        search_until: None,
        intents: 1,
        intent_at: Some("2026-11-26T10:30:00.000Z".into()),
        resends: 1,
        may_be_alive_until: None,
        may_be_alive: false,
        grace_over: false,
        note: None,
    }
}

pub(super) fn nothing_around() -> Circumstances {
    Circumstances {
        recipient_no: 1,
        dedup_key: None,
        key_until: None,
        key_in_force: None,
        key_holder: None,
        waits_for: None,
        waits_for_no: None,
        waits_for_state: None,
        ahead: None,
        copy_of: None,
        copied_at: None,
        copied_by: None,
        copy_reason: None,
        relay_silent_s: None,
        same_key: None,
        made_of: Vec::new(),
    }
}

pub(super) fn story(delivery: Delivery, attempts: Vec<Attempt>, decisions: Vec<Decision>) -> Story {
    Story { delivery, attempts, decisions: Some(decisions), doubt: None, around: None, standing: None }
}

fn sent() -> Delivery {
    Delivery { evidence: Some("reply".into()), ..delivery("sent") }
}

#[test]
fn one_copy_is_one_sentence() {
    let once = story(sent(), vec![accepted("2026-11-26T10:31:02.105Z")], vec![]);
    assert_eq!(
        verdict(&once),
        "Sent once: accepted by mx1.example.org at 2026-11-26 10:31:02 UTC with \"250 2.0.0 Ok: queued as 3F2A\"."
    );
}

#[test]
fn a_copy_that_may_have_arrived_is_never_passed_over() {
    let unknown = attempt("unknown", "2026-11-26T10:10:00.000Z");
    let resent = Delivery { open_doubts: 1, resends: 1, ..sent() };
    let attempts = vec![unknown.clone(), accepted("2026-11-26T10:31:02.105Z")];
    let by_alice = decision("resolve resend", "alice", "mx1 was wiped");
    let told = verdict(&story(resent.clone(), attempts.clone(), vec![by_alice]));
    assert!(told.starts_with("One copy is certain: accepted by mx1.example.org"), "{told}");
    assert!(
        told.contains("The attempt of 2026-11-26 10:10:00 UTC ended without an answer: that copy may have"),
        "{told}"
    );
    let decided = "An operator (session user alice) decided at 2026-11-26 10:20:00 UTC to send it again, because \"mx1 was wiped\".";
    assert!(told.ends_with(decided), "{told}");
    // A policy is no operator; who may not see decisions is told that there was one.
    let told = verdict(&story(
        resent.clone(),
        attempts.clone(),
        vec![decision("resolve resend", "relay", "policy on_doubt = resend")],
    ));
    assert!(
        told.ends_with("The policy on_doubt = resend decided at 2026-11-26 10:20:00 UTC to send it again."),
        "{told}"
    );
    let told = verdict(&Story { decisions: None, ..story(resent, attempts, vec![]) });
    assert!(
        told.ends_with("It was sent again once by decision; who decided can be seen as outbox_operator."),
        "{told}"
    );
    // Given up and cancelled say so, too.
    for state in ["failed", "cancelled", "expired", "suppressed", "held"] {
        let doubtful = Delivery { open_doubts: 1, ..delivery(state) };
        let told = verdict(&story(doubtful, vec![unknown.clone()], vec![]));
        assert!(told.contains("It may have arrived nevertheless: an attempt ended without an answer."), "{told}");
    }
}

#[test]
fn two_copies_are_counted_by_the_ledger_whatever_the_state_says() {
    let attempts = vec![accepted("2026-11-26T10:21:00.000Z"), accepted("2026-11-26T10:31:02.105Z")];
    let told = verdict(&story(sent(), attempts, vec![decision("resolve resend", "alice", "no trace in the log")]));
    assert!(told.starts_with("Two copies were accepted: by mx1.example.org at 2026-11-26 10:21:00 UTC"), "{told}");
    assert!(told.contains(" and by mx1.example.org at 2026-11-26 10:31:02 UTC"), "{told}");
    assert!(
        told.ends_with("That the first copy had been accepted became known only at 2026-11-26 10:21:00 UTC."),
        "{told}"
    );
}

#[test]
fn an_upstream_that_knows_repeats_makes_one_copy_of_them() {
    let repeated = Delivery { evidence: Some("idempotent upstream".into()), open_doubts: 1, ..sent() };
    let attempts = vec![attempt("unknown", "2026-11-26T10:10:00.000Z"), accepted("2026-11-26T10:31:02.105Z")];
    let told = verdict(&story(repeated, attempts, vec![]));
    assert!(told.starts_with("Sent once: accepted by mx1"), "{told}");
    assert!(told.ends_with("Its upstream knows repeats by their key: they made no further copy."), "{told}");
}

#[test]
fn what_was_decided_is_called_a_decision() {
    let unknown = || vec![attempt("unknown", "2026-11-26T10:10:00.000Z")];
    let believed = |evidence: &str| Delivery { evidence: Some(evidence.into()), open_doubts: 1, ..delivery("sent") };
    let cases = [
        (
            story(believed("operator"), unknown(), vec![decision("resolve sent", "alice", "in the log")]),
            "Taken for sent: an operator (session user alice) decided so at 2026-11-26 10:20:00 UTC, because \"in the log\". No reply of a server is known.",
        ),
        (
            story(
                believed("policy"),
                unknown(),
                vec![decision("resolve sent", "relay", "policy on_doubt = assume_sent")],
            ),
            "Taken for sent: the policy on_doubt = assume_sent decided so at 2026-11-26 10:20:00 UTC. No reply of a server is known.",
        ),
        (
            story(delivery("cancelled"), vec![], vec![decision("cancel", "app", "order was a test")]),
            "Not sent: cancelled by session user app at 2026-11-26 10:20:00 UTC, because \"order was a test\".",
        ),
        (
            story(delivery("held"), vec![], vec![decision("hold", "alice", "legal")]),
            "Held: an operator (session user alice) stopped it at 2026-11-26 10:20:00 UTC, because \"legal\". Nothing is sent until somebody decides: hapax release 0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d --reason '...'",
        ),
    ];
    for (story, expected) in cases {
        assert_eq!(verdict(&story), expected);
    }
    let guarded = Delivery { reason: Some("older than guard.max_age".into()), ..delivery("held") };
    let told =
        verdict(&story(guarded.clone(), vec![], vec![decision("hold", "a", "x"), decision("release", "a", "y")]));
    assert!(told.starts_with("Held by a guard: older than guard.max_age. Nothing is sent"), "{told}");
    let told = verdict(&Story { decisions: None, ..story(guarded, vec![], vec![]) });
    assert!(told.starts_with("Held by a guard or an operator: older"), "{told}");
}

#[test]
fn what_was_sent_again_as_a_new_message_is_said_whatever_the_function_was_called() {
    for action in ["send again", "send_again"] {
        let anew = Decision { after: Some("message x".into()), ..decision(action, "alice", "customer lost it") };
        let told = verdict(&story(sent(), vec![accepted("2026-11-26T10:31:02.105Z")], vec![anew]));
        assert!(told.ends_with("An operator (session user alice) sent the same again as a new message (message x) at 2026-11-26 10:20:00 UTC, because \"customer lost it\"."), "{told}");
    }
}

#[test]
fn evidence_from_elsewhere_and_policies_of_routes_say_where_they_come_from() {
    let found = decision("evidence accepted", "alice", "mx1: 3F2A51C0D4: queue active at 10:31:02");
    let told = verdict(&story(sent(), vec![accepted("2026-11-26T10:31:02.105Z")], vec![found]));
    let brought = "Session user alice brought evidence at 2026-11-26 10:20:00 UTC that it was accepted: \
                   \"mx1: 3F2A51C0D4: queue active at 10:31:02\".";
    assert!(told.ends_with(brought), "{told}");
    let same_key = decision("resolve resend", "relay", "policy: route default de-duplicates by X-Key");
    let told =
        verdict(&story(Delivery { resends: 1, ..sent() }, vec![accepted("2026-11-26T10:31:02.105Z")], vec![same_key]));
    assert!(told.ends_with("A policy decided at 2026-11-26 10:20:00 UTC to send it again, because \"route default de-duplicates by X-Key\"."), "{told}");
}

#[test]
fn waiting_names_what_is_waited_for() {
    let pending = Delivery {
        finished_at: None,
        due_at: Some("2026-11-26T11:00:00.000Z".into()),
        due_later: Some(true),
        ..delivery("pending")
    };
    let refused = |phase: &str| Attempt { phase: phase.into(), ..attempt("not_sent", "2026-11-26T10:10:00.000Z") };
    let told = verdict(&story(pending.clone(), vec![refused("rcpt"), refused("connect"), refused("tls")], vec![]));
    assert_eq!(
        told,
        "Waits: route default has failed 2 times in a row for it; the last attempt ended at 2026-11-26 10:10:00 UTC before anything was sent (tls): \"eof\"; next try at 2026-11-26 11:00:00 UTC."
    );
    let later = Delivery { not_before: Some("2026-11-26T11:00:00.000Z".into()), ..pending.clone() };
    assert_eq!(
        verdict(&story(later, vec![], vec![])),
        "Waits for its time: the application wants it sent not before 2026-11-26 11:00:00 UTC."
    );
    let quiet = |due_later| Delivery {
        reason: Some("quiet hours of its kind: not before 2026-11-26 11:00:00Z".into()),
        due_later: Some(due_later),
        ..pending.clone()
    };
    let told = |delivery| verdict(&story(delivery, vec![], vec![]));
    assert_eq!(told(quiet(true)), "Waits: quiet hours of its kind: not before 2026-11-26 11:00:00Z.");
    assert!(told(quiet(false)).starts_with("Waits for a relay: due since"), "they are over");
    let ordered = Circumstances {
        waits_for: Some(ID),
        waits_for_no: Some(2),
        waits_for_state: Some("held".into()),
        ahead: Some(7),
        ..nothing_around()
    };
    let told = verdict(&Story { around: Some(ordered), ..story(pending, vec![], vec![]) });
    assert_eq!(
        told,
        format!("Waits behind its ordering key, whose head {ID}/2 is held (7 are ahead of it). hapax explain {ID}/2")
    );
}

#[test]
fn a_doubt_tells_since_when_what_to_look_for_and_what_came_before() {
    let doubt = doubt();
    let attempts = vec![attempt("unknown", "2026-11-26T10:10:00.000Z")];
    let open = Delivery { finished_at: None, resends: 1, ..delivery("in_doubt") };
    let decisions = vec![decision("resolve resend", "alice", "x")];
    let told = verdict(&Story { doubt: Some(doubt), ..story(open, attempts, decisions) });
    assert!(
        told.starts_with("In doubt since 2026-11-26 10:31:02 UTC. Nobody knows whether it arrived: its relay vanished"),
        "{told}"
    );
    assert!(told.contains(&format!("Look for {ID} in the mail server's log around 2026-11-26 10:30:00 UTC")), "{told}");
    assert!(
        told.contains("One attempt before it ended without an answer, too. An operator (session user alice)"),
        "{told}"
    );
}

#[test]
fn a_key_of_what_was_not_sent_is_pointed_out_for_it_keeps_a_repeat_from_being_sent() {
    let around = Circumstances {
        dedup_key: Some("order-42".into()),
        key_until: Some("2026-12-26T10:00:00.000Z".into()),
        key_in_force: Some(true),
        key_holder: Some(ID),
        ..nothing_around()
    };
    let told = |state: &str| {
        let story = Story { around: Some(around.clone()), ..story(delivery(state), vec![], vec![]) };
        verdicts(&Findings {
            by: "message",
            stories: vec![story],
            others: vec![],
            twins: vec![],
            more: false,
            states: vec![],
            erased: vec![],
        })
        .join("\n")
    };
    assert!(told("failed").contains("It was not sent, but its dedup_key \"order-42\" is remembered until 2026-12-26"));
    assert!(told("sent").contains("gets this message's id back, and no second mail is made."));
}

#[test]
fn consequences_follow_their_causes_in_the_time_line_even_when_their_times_are_a_moment_earlier() {
    let attempts = vec![
        attempt("unknown", "2026-11-26T10:10:00.000Z"),
        accepted("2026-11-26T10:31:02.105Z"),
        accepted("2026-11-26T10:31:03.000Z"),
    ];
    let events = timeline(&[&story(sent(), attempts, vec![decision("resolve resend", "alice", "x")])]);
    let told: Vec<(&str, &str)> = events.iter().map(|event| (event.event, event.at.as_str())).collect();
    assert_eq!(
        told,
        [
            ("enqueued", "2026-11-26T10:00:00.000Z"),
            ("outcome", "2026-11-26T10:10:00.000Z"),
            ("decision", "2026-11-26T10:20:00.000Z"),
            ("outcome", "2026-11-26T10:31:02.105Z"),
            ("end", "2026-11-26T10:31:02.105Z"),
            ("outcome", "2026-11-26T10:31:03.000Z"),
        ]
    );
    assert!(events[0].text.starts_with("enqueued as note by application shop, session user app, transaction 7012"));
}

#[test]
fn words_and_numbers_read_as_people_write_them() {
    assert_eq!(at("2026-11-26T10:31:02.105Z"), "2026-11-26 10:31:02 UTC");
    assert_eq!(millis("1970-01-01T00:00:00.000Z"), Some(0));
    assert_eq!(millis("2026-11-26T10:31:02.105Z"), Some(1_795_689_062_105));
    assert_eq!(millis("2024-02-29T00:00:00.000Z"), Some(1_709_164_800_000));
    assert_eq!(millis("yesterday"), None);
    assert_eq!((counted(1, "attempt"), counted(12, "attempt")), ("one attempt".into(), "12 attempts".into()));
    assert_eq!((capital("two"), list(&["a".into(), "b".into(), "c".into()])), ("Two".into(), "a, b and c".into()));
    let other = Attempt {
        code: Some(451),
        enhanced: Some("4.3.0".into()),
        reply: Some("busy".into()),
        ..attempt("deferred", "x")
    };
    assert_eq!(words(&other).as_deref(), Some("451 4.3.0 busy"));
    assert_eq!(words(&attempt("unknown", "x")).as_deref(), Some("eof"));
}

#[test]
fn a_redirected_delivery_was_not_sent_to_its_recipient() {
    let elsewhere = Delivery { reason: Some("redirected by guards.redirect_all_to".into()), ..sent() };
    let told = verdict(&story(elsewhere, vec![accepted("2026-11-26T10:31:02.105Z")], vec![]));
    let begins = "Redirected: it went to the address in guards.redirect_all_to, not to this one: accepted by mx1";
    assert!(told.starts_with(begins), "{told}");
}

#[test]
fn a_silent_relay_is_not_said_to_be_sending() {
    let told = |silent_s| {
        let around = Circumstances { relay_silent_s: Some(silent_s), ..nothing_around() };
        verdict(&Story { around: Some(around), ..story(delivery("sending"), vec![], vec![]) })
    };
    assert!(told(1.0).starts_with("It is being sent at this moment"), "{}", told(1.0));
    let silent = "its relay has been silent for 61 s; another running relay will put it in doubt: start one";
    assert!(told(61.0).contains(silent), "{}", told(61.0));
}

#[test]
fn a_doubt_says_what_may_decide_it_by_itself_and_promises_no_time_that_is_over() {
    let told = |delivery: Delivery, doubt: OpenDoubt, same_key| {
        let around = Circumstances { same_key: Some(same_key), ..nothing_around() };
        verdict(&Story { doubt: Some(doubt), around: Some(around), ..story(delivery, vec![], vec![]) })
    };
    let open = delivery("in_doubt");
    let alive = |until: &str| OpenDoubt { may_be_alive: true, may_be_alive_until: Some(until.into()), ..doubt() };
    let later = told(open.clone(), alive("2026-11-26T10:41:00.000Z"), false);
    assert!(later.contains("(resend and failed only after 2026-11-26 10:41:00 UTC)"), "{later}");
    assert!(!later.contains("by policy"), "{later}");
    // The doubt is one second old.
    let over = told(open.clone(), alive("2026-11-26T10:31:03.000Z"), false);
    assert!(over.contains("only once a running relay has watched it for the whole grace)"), "{over}");
    let policy = Delivery { on_doubt: Some("resend".into()), ..open.clone() };
    let policy = told(policy, doubt(), false);
    assert!(policy.contains("It may decide itself by policy (on_doubt = resend)."), "{policy}");
    let keyed = told(Delivery { on_doubt: Some("hold".into()), ..open.clone() }, doubt(), true);
    assert!(keyed.contains("It may decide itself by policy (its upstream knows repeats by their key)."), "{keyed}");
    let held = told(Delivery { on_doubt: Some("hold".into()), ..open }, doubt(), false);
    assert!(!held.contains("by policy"), "{held}");
}

#[test]
fn an_answer_that_is_neither_yes_nor_no_is_told_and_no_lost_connection() {
    let closing = Attempt {
        token: doubt().token,
        code: Some(421),
        reply: Some("4.3.2 going down".into()),
        ..attempt("unknown", "2026-11-26T10:31:02.100Z")
    };
    let own = OpenDoubt { marked_by: Some("relay".into()), ..doubt() };
    let told = verdict(&Story { doubt: Some(own), ..story(delivery("in_doubt"), vec![closing], vec![]) });
    assert!(told.contains("the server answered \"421 4.3.2 going down\", which is neither yes nor no."), "{told}");
    assert!(!told.contains("connection was lost"), "{told}");
}

#[test]
fn what_a_log_has_settled_is_told_as_the_logs_and_not_as_the_servers_words() {
    let by_log = |outcome: &str| Attempt {
        code: Some(421),
        reply: Some("4.3.2 going down".into()),
        detail: Some("Postfix log: mx1 3F2A: queued at 10:31:04".into()),
        ..attempt(outcome, "2026-11-26T10:31:02.105Z")
    };
    for (outcome, what) in [("accepted", "it was accepted"), ("not_sent", "it did not arrive")] {
        let found = Decision { token: Some(by_log(outcome).token), ..decision("evidence accepted", "alice", "x") };
        let story = story(sent(), vec![by_log(outcome)], vec![found]);
        let events = timeline(&[&story]);
        let told = events.iter().find(|event| event.event == "outcome").expect("an outcome");
        let begins =
            format!("by the Postfix log, reconciled by session user alice: {what}: \"mx1 3F2A: queued at 10:31:04\"");
        assert!(told.text.starts_with(&begins), "{}", told.text);
        assert!(!verdict(&story).contains("421"), "{}", verdict(&story));
    }
}
