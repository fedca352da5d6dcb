//! What must hold at every moment of every run (P1 to P8 are PROTOCOL 7), and what must be possible.

use hapax_core::{State, limits::Limits};
use stateright::Property;

use crate::{
    steps::Protocol,
    world::{Courier, Evidence, Incarnation, Parked, Row, Truth, Word, World},
};

fn each(world: &World, holds: impl Fn(&Row, &Truth) -> bool) -> bool {
    world.rows.iter().zip(&world.truth).all(|(row, truth)| holds(row, truth))
}

fn any(world: &World, found: impl Fn(&Row, &Truth) -> bool) -> bool {
    world.rows.iter().zip(&world.truth).any(|(row, truth)| found(row, truth))
}

fn sent_by_reply(row: &Row) -> bool {
    row.done.is_some_and(|done| done.state == State::Sent && done.evidence == Some(Evidence::Reply))
}

/// P5. A row that is due is claimed, one that is parked has a reason, one that is leased is freed by its expiry. What
/// remains is `sending`: its courier lives and holds it, or its relay is dead and the reaper comes. (The reaper also comes
/// by age, and a relay gives back intents of its own that nobody works on: defences in depth, not counted here.)
fn nothing_is_stuck(world: &World) -> bool {
    (0u8..).zip(&world.rows).all(|(delivery, row)| match (row.state(), row.intent, row.intent_by) {
        (State::Sending, Some(token), Some(Incarnation::Of(relay))) => {
            matches!(world.courier(relay), Courier::Down) || world.courier(relay).is_responsible_for(delivery, token)
        }
        (State::Sending, ..) => row.intent_by == Some(Incarnation::Dead),
        // Intend refuses a delivery that is known to be accepted: unsent and unclaimable, it would go round for ever.
        (State::Pending | State::Claimed | State::Held, ..) => row.accepted_late.is_none(),
        _ => true,
    })
}

/// P8. An acceptance that the ledger knows ends in `sent`: it is there already, or another attempt is open which will.
fn acceptance_stands(row: &Row) -> bool {
    !row.knows_acceptance()
        || row.state() == State::Sent
        || (row.state() == State::Sending && row.accepted_late.is_some())
}

/// The properties. Each is named by what it says, since that is what a violation prints.
pub(crate) fn all() -> Vec<Property<Protocol>> {
    let mut properties = safety();
    properties.extend(possibilities());
    properties
}

fn safety() -> Vec<Property<Protocol>> {
    vec![
        Property::always("P1 accepted at most 1 + decided resends", |_, world| {
            each(world, |_, truth| truth.accepted <= 1 + truth.resends)
        }),
        Property::always("P2 markers at most 1 + refusals read + decided resends", |_, world| {
            each(world, |_, truth| truth.markers <= 1 + truth.refusals_read + truth.resends)
        }),
        Property::always("P3 sent by reply implies accepted", |_, world| {
            each(world, |row, truth| !sent_by_reply(row) || truth.accepted > 0)
        }),
        Property::always("P4 failed or cancelled without open doubts implies never accepted", |_, world| {
            each(world, |row, truth| {
                !matches!(row.state(), State::Failed | State::Cancelled) || row.open_doubts > 0 || truth.accepted == 0
            })
        }),
        Property::always("P5 nothing is stuck", |_, world| nothing_is_stuck(world)),
        Property::always("P6 no definite outcome is discarded", |_, world| {
            each(world, |row, truth| {
                let told = truth.acknowledged.iter().zip(&row.ledger);
                told.filter(|(told, _)| !matches!(told, None | Some(Word::Unknown))).all(|(told, known)| told == known)
            })
        }),
        Property::always("P7 a marker on the wire implies a durable intent", |_, world| {
            each(world, |_, truth| !truth.unfenced_marker)
        }),
        Property::always("P8 a known acceptance ends in sent", |_, world| each(world, |row, _| acceptance_stands(row))),
        Property::always("P9 no marker of an attempt whose doubt was decided after its grace", |_, world| {
            each(world, |_, truth| !truth.marker_from_the_grave)
        }),
        Property::always("P10 open doubts are the attempts whose outcome is unknown", |_, world| {
            each(world, |row, _| {
                usize::from(row.open_doubts) == row.ledger.iter().filter(|word| **word == Some(Word::Unknown)).count()
            })
        }),
        Property::always("P11 policy sends again at most max_resends times", |_, world| {
            each(world, |_, truth| i16::from(truth.resends_by_policy) <= Limits::default().max_resends)
        }),
    ]
}

/// A model in which nothing happens violates nothing: these must be reached.
fn possibilities() -> Vec<Property<Protocol>> {
    vec![
        Property::sometimes("everything is sent", |_, world| each(world, |row, _| sent_by_reply(row))),
        Property::sometimes("a delivery is in doubt and was accepted", |_, world| {
            any(world, |row, truth| row.state() == State::InDoubt && truth.accepted > 0)
        }),
        Property::sometimes("a delivery is in doubt and was not accepted", |_, world| {
            any(world, |row, truth| row.state() == State::InDoubt && truth.accepted == 0)
        }),
        Property::sometimes("a doubt was sent again, and accepted twice", |_, world| {
            any(world, |row, truth| row.state() == State::Sent && truth.accepted == 2)
        }),
        Property::sometimes("an acceptance waits for the open attempt to end", |_, world| {
            any(world, |row, _| row.accepted_late.is_some())
        }),
        Property::sometimes("a refusal after sent was decided is held", |_, world| {
            any(world, |row, _| row.parked == Some(Parked::Held) && row.ledger.contains(&Some(Word::Deferred)))
        }),
        Property::sometimes("a marker of a dead relay is still on the wire", |_, world: &World| {
            world.wire.iter().any(|marker| {
                let row = world.row(marker.delivery);
                row.intent == Some(marker.token) && row.intent_by == Some(Incarnation::Dead)
            })
        }),
        Property::sometimes("a claim was lost in a crash of the database", |_, world: &World| {
            world.couriers.iter().filter_map(Courier::job).any(|job| {
                world.row(job.delivery).state() == State::Pending && world.truth(job.delivery).claims == job.lease.0 + 1
            })
        }),
    ]
}
