//! The protocol as an explicit model, every run of which is looked at: what may happen next is taken in every order, with
//! any so many things going wrong. Read it as the protocol's documentation, in this order:
//!
//! - `world.rs`: what there is. Rows, leases, tokens, couriers, statements and end markers on their way.
//! - `outbox.rs`: the statements, each with its reason: claim, intend, settle, settle_late, release, mark in doubt, resolve,
//!   cancel, hold, retry.
//! - `relay.rs`: what a courier does between two of its awaits. What follows from an outcome is decided by production's own
//!   `classify`, `decide` and `decide_doubt`: a change of those that breaks the protocol fails here.
//! - `step.rs`, `steps.rs`: what can happen next, and what counts as a fault.
//! - `properties.rs`: P1 to P8 of PROTOCOL 7, and three more.
//! - `mutants.rs`: deliberate breakages, each of which the search must find.
//!
//! What is not a step needs none. A *paused relay* is one whose courier stands still while others go on, at any point and
//! for any time. A *late reply* is a reply after any of these. A *retransmitted* statement is two of them on their way.
//! Time is only this: leases expire at any moment; the reaper marks what a dead relay left at once, what a living one
//! holds as a fault; the grace of a doubt is over some time after the mark, and then the gate of its attempt is shut.
//!
//! What is left out: rendering, routes, lanes, ordering keys and expiry (they decide when a delivery is due, not whether
//! it may be sent), batches (each row of a statement is locked and decided by itself), the arming epoch, and signing off.
//!
//! `make test` looks at every run with few faults; `make model` at larger ones, in minutes.

mod mutants;
mod outbox;
mod properties;
mod relay;
mod search;
mod step;
mod steps;
mod world;

use hapax_core::OnDoubt;

use crate::{search::search, step::Fault, steps::Protocol};

/// Everything may go wrong.
const FULL: Protocol = Protocol {
    deliveries: 1,
    relays: 2,
    attempts_max: 3,
    faults_max: 2,
    faults: Fault::ALL,
    policy: OnDoubt::Hold,
    symmetric: true,
    mutant: None,
};

/// Larger searches instead of those that every test run has time for.
fn at_length() -> bool {
    std::env::var_os("HAPAX_MODEL").is_some_and(|word| word == "long")
}

fn holds(protocol: Protocol) -> search::Found {
    let Protocol { deliveries, relays, attempts_max, faults_max, policy, .. } = protocol;
    let found = search(protocol, 2);
    found.print(&format!(
        "{deliveries} deliveries, {relays} relays, up to {attempts_max} attempts of each, any {faults_max} faults, on_doubt = {}",
        policy.as_str()
    ));
    assert!(found.violated.is_empty(), "the protocol is broken");
    found
}

#[test]
fn one_delivery_whatever_goes_wrong() {
    let faults_max = if at_length() { 4 } else { 2 };
    let found = holds(Protocol { faults_max, ..FULL });
    if at_length() {
        assert!(found.never.is_empty(), "the model is too small to show that {:?}", found.never);
    }
}

#[test]
fn one_delivery_whose_doubts_are_decided_by_policy() {
    let faults_max = if at_length() { 3 } else { 2 };
    holds(Protocol { faults_max, policy: OnDoubt::Resend, ..FULL });
    holds(Protocol { faults_max: faults_max - 1, policy: OnDoubt::AssumeSent, ..FULL });
}

#[test]
fn two_deliveries_whatever_goes_wrong() {
    let faults_max = if at_length() { 2 } else { 1 };
    holds(Protocol { deliveries: 2, attempts_max: 2, faults_max, ..FULL });
}
