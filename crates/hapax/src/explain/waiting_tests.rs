//! What pending deliveries are said to wait for.

use std::sync::Arc;

use hapax_store::{
    ArmedState,
    inspect::{Blocking, Delivery, Relay, search::Circumstances},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    story::Story,
    verdict::verdict,
    verdict_tests::{attempt, delivery, nothing_around, story},
    waiting::{Standing, waits},
};

fn due() -> Delivery {
    Delivery {
        finished_at: None,
        due_at: Some("2026-11-26T11:00:00.000Z".into()),
        due_later: Some(false),
        ..delivery("pending")
    }
}

fn server() -> ArmedState {
    ArmedState {
        armed: true,
        standby: false,
        copy: false,
        armed_for: "7/00000001/5".into(),
        here: Some("7/00000001/5".into()),
        address: "10.0.0.2".into(),
        port: 5432,
        database: "shop".into(),
    }
}

fn relay(name: &str, beat_age_s: f64, routes: &serde_json::Value) -> Relay {
    Relay {
        incarnation: Uuid::from_u128(1),
        name: name.into(),
        host: "h".into(),
        pid: 1,
        version: "0".into(),
        started_at: String::new(),
        beat_at: String::new(),
        beat_age_s,
        route_states: Some(routes.to_string()),
        routes: None,
    }
}

fn standing(relays: Vec<Relay>) -> Standing {
    Standing { server: server(), relays: Some(relays), due: Some(1), blocking: Vec::new() }
}

fn in_it(delivery: Delivery, standing: Standing) -> Story {
    Story { standing: Some(Arc::new(standing)), ..story(delivery, vec![], vec![]) }
}

const FIRST: &str = "Waits for a relay: due since 2026-11-26 11:00:00 UTC. No attempt has been made yet; `hapax status` shows the relays.";

fn beyond(delivery: Delivery, standing: Standing) -> String {
    let told = verdict(&in_it(delivery, standing));
    told.strip_prefix(FIRST).map(|rest| rest.trim_start().to_owned()).unwrap_or(told)
}

#[test]
fn what_is_due_says_what_keeps_relays_from_it() {
    let fine = || vec![relay("one", 1.0, &json!([]))];
    assert_eq!(beyond(due(), standing(fine())), "", "nothing is known");
    assert_eq!(
        beyond(due(), Standing { due: Some(1_234), ..standing(fine()) }),
        "1234 deliveries are due; how fast they go is up to `rate` and `max_connections` of their routes."
    );
    assert!(beyond(due(), Standing { due: Some(40_000), ..standing(fine()) }).starts_with("40000 or more deliveries"));
    assert_eq!(beyond(due(), standing(vec![relay("one", 60.0, &json!([]))])), "No relay is alive: hapax run");
    assert_eq!(beyond(due(), Standing { relays: None, ..standing(vec![]) }), "", "this user may not look");
    let disarmed = Standing { server: ArmedState { armed: false, ..server() }, ..standing(fine()) };
    assert!(beyond(due(), disarmed).contains("not armed"));
    let standby = Standing { server: ArmedState { armed: false, standby: true, ..server() }, ..standing(fine()) };
    assert!(beyond(due(), standby).contains("standby"));
}

#[test]
fn a_route_that_no_running_relay_has_is_told_of() {
    let with = |routes: &str| Relay { routes: Some(routes.into()), ..relay("one", 1.0, &json!([])) };
    let old = || Delivery { route: Some("old".into()), ..due() };
    let told = beyond(old(), standing(vec![with(r#"["default"]"#), Relay { beat_age_s: 60.0, ..with(r#"["old"]"#) }]));
    assert!(told.starts_with("No running relay has route old in its configuration: "), "{told}");
    for relays in [vec![with(r#"["default"]"#), with(r#"["old"]"#)], vec![relay("one", 1.0, &json!([]))]] {
        assert_eq!(beyond(old(), standing(relays)), "", "one has it, or does not say");
    }
}

#[test]
fn routes_that_rest_are_told_of_what_takes_them_or_may() {
    let rests =
        json!([{ "route": "a", "state": "resting", "failures": 3, "connections": 1, "why": "connect: refused" }]);
    let slow = json!([{ "route": "b", "state": "slowed", "failures": 0, "connections": 2, "why": "rcpt: 421 4.7.0" }]);
    let both = || Standing {
        due: Some(9),
        ..standing(vec![relay("one", 1.0, &rests), relay("two", 1.0, &slow), relay("dead", 60.0, &rests)])
    };
    let a = "Route a rests on relay one after three failures (connect: refused): it is tried with one delivery now and then.";
    let b = "Route b is slowed down on relay two to two connections (rcpt: 421 4.7.0).";
    assert_eq!(beyond(due(), both()), format!("{a} {b}"), "which way it goes is not known");
    let of = |route: &str| Delivery { route: Some(route.into()), ..due() };
    assert_eq!(beyond(of("a"), both()), a);
    assert_eq!(beyond(of("b"), both()), b);
    assert!(beyond(of("c"), both()).starts_with("9 deliveries are due"));
    let tried = Story { attempts: vec![attempt("deferred", "2026-11-26T10:10:00.000Z")], ..in_it(due(), both()) };
    assert!(verdict(&tried).ends_with("due since 2026-11-26 11:00:00 UTC. 9 deliveries are due; how fast they go is up to `rate` and `max_connections` of their routes."), "its last attempt took route default: {}", verdict(&tried));
    let later = Delivery { due_later: Some(true), ..of("a") };
    assert!(verdict(&in_it(later, both())).ends_with(a), "it was given back");
}

#[test]
fn a_pause_says_how_it_ends_and_a_key_when_it_is_passed() {
    let paused = |why: &str| Delivery { reason: Some(why.into()), ..due() };
    let told = verdict(&story(paused("paused (kind note, by postgres since 2026: open)"), vec![], vec![]));
    assert!(told.ends_with("It goes on after `hapax resume --kind note --reason '...'`."), "{told}");
    let told = verdict(&story(paused("paused (address a***@example.org, by postgres since 2026: x)"), vec![], vec![]));
    assert!(told.ends_with("`hapax resume --address ADDRESS --reason '...'`."), "{told}");
    let head = Uuid::from_u128(9);
    let around = Circumstances {
        waits_for: Some(head),
        waits_for_no: Some(1),
        waits_for_state: Some("in_doubt".into()),
        ahead: Some(1),
        ..nothing_around()
    };
    let blocking = Blocking {
        tenant: None,
        ordering_key: "k".into(),
        waiting: 1,
        message_id: head,
        recipient_no: 1,
        kind: "note".into(),
        state: "in_doubt".into(),
        reason: None,
        since: None,
        age_s: None,
        passed_at: Some("2026-11-26T12:00:00.000Z".into()),
        token: None,
        blocking: 1,
    };
    let ordered = Delivery { due_at: None, due_later: None, ..due() };
    let standing = Standing { blocking: vec![blocking], ..standing(vec![]) };
    let told = Story { around: Some(around), ..in_it(ordered, standing) };
    assert_eq!(
        verdict(&told),
        format!(
            "Waits behind its ordering key, whose head {head}/1 is in doubt. It is passed at 2026-11-26 12:00:00 UTC. hapax explain {head}/1"
        )
    );
    assert_eq!(
        serde_json::to_value(waits(&told)).expect("it is JSON"),
        json!({ "for": "ordering_key", "head": format!("{head}/1"), "state": "in_doubt", "ahead": 1, "passed_at": "2026-11-26T12:00:00.000Z" })
    );
}

#[test]
fn programs_are_told_in_a_word() {
    let word = |delivery| serde_json::to_value(waits(&story(delivery, vec![], vec![]))).expect("it is JSON");
    assert_eq!(word(due())["for"], "relay");
    let later = Delivery { due_later: Some(true), ..due() };
    assert_eq!(
        word(later.clone()),
        json!({ "for": "next_try", "until": "2026-11-26T11:00:00.000Z", "hindrances": [] })
    );
    let not_before = Delivery { not_before: Some("2026-11-26T11:00:00.000Z".into()), ..later.clone() };
    assert_eq!(word(not_before)["for"], "not_before");
    let quiet = Delivery { reason: Some("quiet hours of its kind: not before then".into()), ..later.clone() };
    assert_eq!(word(quiet)["for"], "quiet_hours");
    let gathered = |reason: &str| Delivery { reason: Some(reason.into()), ..later.clone() };
    assert_eq!(word(gathered("gathered: goes in a digest at 2026-11-26 11:00:00+00"))["for"], "digest");
    let id = Uuid::from_u128(5);
    let collected = Delivery { due_at: None, due_later: None, ..gathered(&format!("in digest {id}")) };
    assert_eq!(
        verdict(&story(collected.clone(), vec![], vec![])),
        format!("Waits: in digest {id}. It ends as digest {id}: hapax explain {id}.")
    );
    assert_eq!(word(delivery("sent")), json!(null), "it does not wait");
    let with_it =
        |state: &str| Delivery { state: state.into(), open_doubts: i32::from(state == "failed"), ..collected.clone() };
    let of = format!("It ends as digest {id}: hapax explain {id}.");
    for (state, said) in [
        (
            "in_doubt",
            format!("In doubt, with digest {id}: nobody knows whether that arrived. It is decided there. {of}"),
        ),
        ("held", format!("Held, with digest {id}: nothing is sent until somebody decides on that. {of}")),
        ("failed", format!("It may have arrived: its digest, which has ended as failed, may have. {of}")),
    ] {
        assert_eq!(verdict(&story(with_it(state), vec![], vec![])), said);
    }
}
