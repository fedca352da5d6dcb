//! The relay: what a courier does between two of its awaits, and what production's own functions decide for it. Written
//! from `crates/relay/src/{courier,ledger,reaper}.rs`.

use std::time::Duration;

use hapax_core::{
    Decision, OnDoubt, Outcome, Phase, Reply, RetryPolicy,
    certainty::{Event, Trust, classify},
    decide,
    decide::Situation,
    limits::Limits,
    outcome::Cause,
    policy::{DoubtDecision, decide_doubt},
};

use crate::{
    mutants::Mutant,
    world::{
        Courier, DoubtBy, Heard, Incarnation, Job, Lease, Marker, Parked, Resolution, Row, Settlement, Statement,
        Token, Verdict, Word, World,
    },
};

/// From what ended an attempt to the word for the ledger and the verdict for the delivery. The certainty table and the
/// decision are production's: nothing is decided here.
pub(crate) fn settlement(outcome: &Outcome, intended: bool, mutant: Option<Mutant>) -> Settlement {
    let situation =
        Situation { attempts_before: 0, age: Duration::ZERO, expires_in: None, route_failures: 1, chance: 0.5 };
    let word = match outcome {
        Outcome::Accepted { .. } => Word::Accepted,
        Outcome::Refused { permanent: true, .. } => Word::Refused,
        Outcome::Refused { permanent: false, .. } => Word::Deferred,
        Outcome::NotSent { .. } => Word::NotSent,
        Outcome::Unknown { .. } => Word::Unknown,
    };
    let verdict = match decide(outcome, &RetryPolicy::default(), situation) {
        Decision::Sent => Verdict::Sent,
        // To the protocol, expired is failed with another name.
        Decision::Failed { .. } | Decision::Expired => Verdict::Failed,
        Decision::Retry { .. } => Verdict::Retry,
        Decision::InDoubt if mutant == Some(Mutant::UnknownIsRetried) => Verdict::Retry,
        Decision::InDoubt => Verdict::InDoubt,
    };
    Settlement { word, verdict, intended }
}

/// The outcome of an attempt that ended without a reply: certainly not sent.
pub(crate) fn never_transmitted(phase: Phase) -> Outcome {
    Outcome::not_sent(phase, Cause::Aborted, "")
}

/// What the doubt policy wants now, if anything.
pub(crate) fn policy_decides(policy: OnDoubt, row: &Row, mutant: Option<Mutant>) -> Option<Resolution> {
    let Some(Parked::Doubt(by)) = row.parked else { return None };
    let day = Duration::from_secs(86_400);
    // A relay that settled "unknown" itself is not alive any more behind this attempt: no grace.
    let (waited, grace) = match by {
        DoubtBy::Relay => (Duration::ZERO, Duration::ZERO),
        DoubtBy::Reaper { grace_over: true } => (day, day),
        DoubtBy::Reaper { grace_over: false } if mutant == Some(Mutant::PolicyWithoutGrace) => (day, day),
        DoubtBy::Reaper { grace_over: false } => (Duration::ZERO, day),
    };
    let resends = if mutant == Some(Mutant::ResendsWithoutLimit) { 0 } else { i16::from(row.resends) };
    match decide_doubt(policy, waited, grace, resends, Limits::default().max_resends) {
        DoubtDecision::Wait => None,
        DoubtDecision::Resend => Some(Resolution::Resend),
        DoubtDecision::AssumeSent => Some(Resolution::Sent),
    }
}

impl World {
    /// A claim: from here to the 354 nothing is durable and everything may be given up.
    pub(crate) fn courier_takes(&mut self, relay: u8, delivery: u8, mutant: Option<Mutant>) {
        let (lease, token) = self.claim(delivery, mutant);
        let token = if mutant == Some(Mutant::TokenIsTheRelay) { Token(relay) } else { token };
        *self.courier_mut(relay) =
            Courier::Claimed(Job { delivery, lease, token, gate_shut: false, unanswered: false });
    }

    /// Behind the 354: the intent is asked for.
    pub(crate) fn ask_for_intent(&mut self, relay: u8, job: Job) {
        *self.courier_mut(relay) = Courier::Intending(job);
        let Job { delivery, lease, token, .. } = job;
        self.send(Some(relay), Statement::Intend { delivery, lease, token, by: Incarnation::Of(relay) });
    }

    /// Shutdown, a closed route: nothing was transmitted and no intent was asked for.
    pub(crate) fn give_back(&mut self, relay: u8, job: Job) {
        *self.courier_mut(relay) = Courier::Idle;
        self.send(None, Statement::Release { delivery: job.delivery, lease: job.lease });
    }

    /// The answer of an intend. Refused: the delivery is somebody else's, the dialogue is dropped, nothing was transmitted.
    /// *But* where an answer was lost before, that intent may have been written, and the delivery moved on since (marked
    /// in doubt, known to be accepted): then what is certain must be said, or it would stay `sending`, or in doubt.
    pub(crate) fn intend_answered(&mut self, relay: u8, granted: bool, mutant: Option<Mutant>) {
        let Courier::Intending(job) = *self.courier(relay) else { return };
        if granted {
            *self.courier_mut(relay) = Courier::Granted(job);
        } else if job.unanswered && mutant != Some(Mutant::RefusalAfterLostAnswerDropped) {
            self.give_up_intent(relay, job, mutant);
        } else {
            *self.courier_mut(relay) = Courier::Idle;
        }
    }

    /// No intent in time. It may have been written or not, or may be later, so the lease matches, too: the settle clears
    /// both, and a delayed intend finds neither.
    pub(crate) fn give_up_intent(&mut self, relay: u8, job: Job, mutant: Option<Mutant>) {
        self.hand_in(relay, job, settlement(&never_transmitted(Phase::Intend), false, mutant));
    }

    /// The end marker: the last step that is taken back by nobody.
    pub(crate) fn transmit(&mut self, relay: u8, job: Job) {
        *self.courier_mut(relay) = Courier::OnWire(job, None);
        let truth = self.truth_mut(job.delivery);
        let marker = Marker { delivery: job.delivery, token: job.token, copy: truth.markers };
        truth.markers += 1;
        truth.unfenced_marker |= !truth.intended[job.token.index()];
        truth.marker_from_the_grave |= truth.decided[job.token.index()];
        self.wire.push(marker);
    }

    /// What came back, or did not, is put into the certainty table.
    pub(crate) fn hear(&mut self, relay: u8, job: Job, heard: Option<Heard>, mutant: Option<Mutant>) {
        let event = match heard {
            Some(Heard::Reply(code)) => Event::Reply(Reply::new(code, "")),
            Some(Heard::Lost) => Event::Lost(Cause::Eof),
            None => Event::Lost(Cause::Timeout),
        };
        let outcome = classify(Phase::EndMarker, event, Trust::default());
        if matches!(outcome, Outcome::Refused { .. }) {
            self.truth_mut(job.delivery).refusals_read += 1;
        }
        let intended = mutant != Some(Mutant::IntentAfterMarker);
        self.hand_in(relay, job, settlement(&outcome, intended, mutant));
    }

    /// The outcome goes to the ledger. The *mark* is repeated until it is durable, never the send.
    pub(crate) fn hand_in(&mut self, relay: u8, job: Job, end: Settlement) {
        *self.courier_mut(relay) = Courier::Settling(job, end);
        let Job { delivery, lease, token, .. } = job;
        self.send(Some(relay), Statement::Settle { delivery, lease, token, end });
    }

    /// The answer of a settle: the attempt is over, its permit is free.
    pub(crate) fn settle_answered(&mut self, relay: u8) {
        if let Courier::Settling(job, end) = *self.courier(relay) {
            self.truth_mut(job.delivery).acknowledged[job.token.index()] = Some(end.word);
            *self.courier_mut(relay) = Courier::Idle;
        }
    }

    /// The connection to Postgres is lost while an answer is waited for. A settle is sent again at once; an intend may be
    /// repeated or given up.
    pub(crate) fn answer_lost(&mut self, relay: u8) {
        self.orphan_statements_of(relay);
        match *self.courier(relay) {
            Courier::Intending(job) => *self.courier_mut(relay) = Courier::Unanswered(Job { unanswered: true, ..job }),
            Courier::Settling(job, end) => self.hand_in(relay, job, end),
            _ => {}
        }
    }

    /// The reaper's look at its own relay's intents: one that no courier works on was never transmitted, since only
    /// couriers transmit. Defence in depth: P5 holds without it.
    pub(crate) fn settle_orphan(&mut self, delivery: u8, mutant: Option<Mutant>) {
        let Some(token) = self.row(delivery).intent else { return };
        let end = settlement(&never_transmitted(Phase::Intend), true, mutant);
        self.settle(delivery, Lease(u8::MAX), token, end, mutant);
    }
}
