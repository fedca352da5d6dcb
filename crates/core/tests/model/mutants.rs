//! Deliberate breakages of the protocol, one at a time. The search must find each: a model that finds nothing proves
//! nothing.

use hapax_core::OnDoubt;

use crate::{
    search::{search, search_shortest},
    step::Fault,
    steps::Protocol,
};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The end marker is written first, the intent with the outcome.
    IntentAfterMarker,
    /// Claim takes a delivery with an intent for pending, and begins anew.
    ClaimTakesSendingForPending,
    /// Claim does not look at the intent; intend still does.
    ClaimIgnoresIntent,
    /// Intend does not look at another's intent; claim still does.
    IntendIgnoresIntent,
    /// Neither looks.
    BothFencesDown,
    /// `decide` makes unknown a retry.
    UnknownIsRetried,
    /// Settle matches the delivery instead of the attempt.
    SettleWithoutToken,
    /// What a dead relay left behind an intent becomes pending.
    ReaperMakesPending,
    /// A settle back to pending keeps the lease.
    LeaseKeptBySettle,
    /// After a lost answer the row is read, instead of the intend repeated.
    SelectInsteadOfRepeat,
    /// After a lost answer the intent is taken for granted.
    NoAnswerIsGranted,
    /// A repeated intend that is refused is dropped, as if it could not have been written before.
    RefusalAfterLostAnswerDropped,
    /// An intend that was given up is settled by its token only: when it runs later, nobody is there.
    GivenUpByTokenOnly,
    /// A settle that matches no row is dropped.
    LateTruthDropped,
    /// An acceptance that comes while another attempt is open is noted, and looked at by nobody but people.
    LateAcceptanceForgotten,
    /// The reaper does not look at it.
    ReaperForgetsLateAcceptance,
    /// Resolve decides whatever doubt is open.
    ResolveWithoutToken,
    /// Intents are committed with `synchronous_commit = off`.
    AsynchronousIntent,
    /// Settles are.
    AsynchronousSettle,
    /// The token is the relay's identity, instead of fresh per attempt.
    TokenIsTheRelay,
    /// Cancel ends a delivery that is sending.
    CancelWhileSending,
    /// The gate knows no deadline: an attempt can transmit however late it wakes up.
    GateWithoutDeadline,
    /// Policy decides a doubt while its attempt may be alive.
    PolicyWithoutGrace,
    /// Policy sends again for ever.
    ResendsWithoutLimit,
    /// Doubts are not counted: `failed` looks like certainly not sent.
    DoubtsForgotten,
    /// A restarted relay speaks for its dead predecessor.
    SameIncarnationAfterRestart,
}

/// A search that is just large enough to find a mutant.
const SMALL: Protocol = Protocol {
    deliveries: 1,
    relays: 2,
    attempts_max: 2,
    faults_max: 2,
    faults: &[],
    policy: OnDoubt::Hold,
    symmetric: false,
    mutant: None,
};

/// Each mutant, what has to go wrong for it to show, and the property it breaks.
#[rustfmt::skip]
const FOUND: &[(Mutant, &str, u8, &[Fault])] = &[
    (Mutant::IntentAfterMarker, "P7", 0, &[]),
    (Mutant::NoAnswerIsGranted, "P7", 1, &[Fault::LostAnswer]),
    (Mutant::AsynchronousIntent, "P7", 0, &[]),
    (Mutant::ClaimTakesSendingForPending, "P2", 1, &[Fault::Expiry]),
    (Mutant::BothFencesDown, "P2", 1, &[Fault::Expiry]),
    (Mutant::UnknownIsRetried, "P2", 1, &[Fault::LostReply]),
    (Mutant::ReaperMakesPending, "P2", 1, &[Fault::RelayCrash]),
    (Mutant::SameIncarnationAfterRestart, "P5", 1, &[Fault::RelayCrash]),
    (Mutant::SettleWithoutToken, "P2", 2, &[Fault::LostAnswer]),
    (Mutant::TokenIsTheRelay, "P6", 2, &[Fault::LostAnswer]),
    (Mutant::ResolveWithoutToken, "P2", 4, &[Fault::LostReply, Fault::Resolve, Fault::ScriptAgain]),
    (Mutant::CancelWhileSending, "P4", 1, &[Fault::Cancel]),
    (Mutant::LeaseKeptBySettle, "P5", 1, &[Fault::LostAnswer]),
    (Mutant::SelectInsteadOfRepeat, "P5", 1, &[Fault::LostAnswer]),
    (Mutant::GivenUpByTokenOnly, "P5", 1, &[Fault::LostAnswer]),
    (Mutant::RefusalAfterLostAnswerDropped, "P5", 3, &[Fault::LostAnswer, Fault::Reaped, Fault::Resolve]),
    (Mutant::LateTruthDropped, "P6", 2, &[Fault::Reaped, Fault::Resolve]),
    (Mutant::AsynchronousSettle, "P6", 1, &[Fault::DatabaseCrash]),
    (Mutant::LateAcceptanceForgotten, "P8", 3, &[Fault::Reaped, Fault::Resolve, Fault::Refusal]),
    (Mutant::ReaperForgetsLateAcceptance, "P8", 3, &[Fault::Reaped, Fault::Resolve]),
    (Mutant::GateWithoutDeadline, "P9", 2, &[Fault::Reaped, Fault::Resolve]),
    (Mutant::PolicyWithoutGrace, "P9", 1, &[Fault::Reaped]),
    (Mutant::DoubtsForgotten, "P10", 1, &[Fault::LostReply]),
    (Mutant::ResendsWithoutLimit, "P11", 2, &[Fault::LostReply]),
];

#[test]
fn the_search_finds_every_mutant() {
    let mut unexpected = Vec::new();
    for &(mutant, property, faults_max, faults) in FOUND {
        let policy = match mutant {
            Mutant::PolicyWithoutGrace | Mutant::ResendsWithoutLimit => OnDoubt::Resend,
            _ => OnDoubt::Hold,
        };
        let attempts_max = match mutant {
            Mutant::SettleWithoutToken | Mutant::ResolveWithoutToken | Mutant::ResendsWithoutLimit => 3,
            _ => SMALL.attempts_max,
        };
        let broken = Protocol { attempts_max, faults_max, faults, policy, ..SMALL };
        let sound = search(broken, 1);
        assert!(sound.violated.is_empty(), "without {mutant:?} nothing is wrong: {sound:?}");
        let found = search_shortest(Protocol { mutant: Some(mutant), ..broken });
        let (violated, trace) = found
            .violated
            .iter()
            .min_by_key(|(violated, _)| violated.split(' ').next() != Some(property))
            .unwrap_or_else(|| panic!("{mutant:?} was not found: {found:?}"));
        println!("mutant {mutant:?}: {violated}, in {} steps, of {} states", trace.len(), found.states);
        if violated.split(' ').next() != Some(property) {
            unexpected.push(format!("{mutant:?}: {property} was expected: {trace:?}"));
        }
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

/// Claim never hands out what has an intent, and intend never overwrites one: each alone would do. Both exist because each
/// is one line of SQL that somebody may change.
#[test]
fn each_of_the_two_fences_holds_alone() {
    for mutant in [Mutant::ClaimIgnoresIntent, Mutant::IntendIgnoresIntent] {
        let found = search(Protocol { faults: Fault::ALL, faults_max: 1, mutant: Some(mutant), ..SMALL }, 1);
        found.print(&format!("{mutant:?}"));
        assert!(found.violated.is_empty());
    }
}
