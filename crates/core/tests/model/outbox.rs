//! The outbox: each statement as Postgres executes it, in one go, whenever it comes to run. Written from
//! `crates/store/queries/*.sql` and the functions of `migrations/`; when one of those changes, this file does, too.

use hapax_core::State;

use crate::{
    mutants::Mutant,
    world::{
        Done, DoubtBy, Evidence, Incarnation, Lease, Parked, Resolution, Row, Settlement, Token, Verdict, Word, World,
    },
};

impl World {
    /// A commit with `synchronous_commit` at least `on`: it, and every commit before it, survives a crash.
    pub(crate) fn committed_durably(&mut self) {
        self.on_disk = None;
        for (row, truth) in self.rows.iter().zip(&mut self.truth) {
            if let Some(token) = row.intent {
                truth.intended[token.index()] = true;
            }
        }
    }

    /// Before an asynchronous commit: remember what a crash would fall back to.
    pub(crate) fn commits_asynchronously(&mut self) {
        if self.on_disk.is_none() {
            self.on_disk = Some(self.rows.clone());
        }
    }

    /// `claim.sql`: a fresh lease on a row that is due. *Asynchronous*, because a lost claim is harmless: the lease is only
    /// a hint about who works on what. *Never with an intent*: such a row is not handed out again, ever; that is the rule
    /// that everything else serves.
    pub(crate) fn claim(&mut self, delivery: u8, mutant: Option<Mutant>) -> (Lease, Token) {
        self.commits_asynchronously();
        let truth = self.truth_mut(delivery);
        let (lease, token) = (Lease(truth.claims), Token(truth.claims));
        truth.claims += 1;
        let row = self.row_mut(delivery);
        row.lease = Some(lease);
        if mutant == Some(Mutant::ClaimTakesSendingForPending) {
            (row.intent, row.intent_by) = (None, None);
        }
        (lease, token)
    }

    /// `intend.sql`: the fence. Matches the lease of the claim (so that of two holders only the last one passes) or its own
    /// token (so that it may be repeated when the answer of its COMMIT was lost). Not when parked: whoever holds, cancels
    /// or marks first wins. Not after a known acceptance: nothing is sent after one. *Durable*, because the end marker
    /// follows. Answers whether it was granted.
    pub(crate) fn intend(
        &mut self,
        delivery: u8,
        lease: Lease,
        token: Token,
        by: Incarnation,
        mutant: Option<Mutant>,
    ) -> bool {
        let row = self.row(delivery);
        let unfenced = matches!(mutant, Some(Mutant::IntendIgnoresIntent | Mutant::BothFencesDown));
        let lease_matches = row.lease == Some(lease) && (row.intent.is_none() || unfenced);
        let granted = row.done.is_none()
            && row.parked.is_none()
            && (row.accepted_late.is_none() || mutant == Some(Mutant::LateAcceptanceForgotten))
            && (lease_matches || row.intent == Some(token));
        if granted {
            if mutant == Some(Mutant::AsynchronousIntent) {
                self.commits_asynchronously();
            }
            let row = self.row_mut(delivery);
            (row.intent, row.intent_by) = (Some(token), Some(by));
            if mutant != Some(Mutant::AsynchronousIntent) {
                self.committed_durably();
            }
        }
        granted
    }

    /// `settle.sql`, the hot half: the attempt that still owns its delivery writes the ledger and moves the delivery on.
    /// It owns it by its token; by the lease of its claim only when its intent may never have been written. Answers whether
    /// it did; the others go to [`World::settle_late`].
    pub(crate) fn settle(
        &mut self,
        delivery: u8,
        lease: Lease,
        token: Token,
        end: Settlement,
        mutant: Option<Mutant>,
    ) -> bool {
        let row = self.row(delivery);
        let by_token =
            row.intent == Some(token) || (mutant == Some(Mutant::SettleWithoutToken) && row.intent.is_some());
        let by_lease = !end.intended
            && mutant != Some(Mutant::GivenUpByTokenOnly)
            && row.intent.is_none()
            && row.lease == Some(lease);
        if row.done.is_some() || !(by_token || by_lease) {
            return false;
        }
        if mutant == Some(Mutant::AsynchronousSettle) {
            self.commits_asynchronously();
        }
        let row = self.row_mut(delivery);
        record(row, token, end.word);
        let was_in_doubt = matches!(row.parked, Some(Parked::Doubt(_)));
        match (end.word == Word::Unknown, was_in_doubt) {
            (true, false) if mutant != Some(Mutant::DoubtsForgotten) => row.open_doubts += 1,
            (false, true) => row.open_doubts = row.open_doubts.saturating_sub(1),
            _ => {}
        }
        // A known acceptance outranks every verdict.
        let accepted_late = row.accepted_late.filter(|_| mutant != Some(Mutant::LateAcceptanceForgotten));
        let verdict = accepted_late.map_or(end.verdict, |_| Verdict::Sent);
        match verdict {
            Verdict::Sent => finish(row, State::Sent, Some(Evidence::Reply), accepted_late.or(Some(token))),
            Verdict::Failed => finish(row, State::Failed, None, Some(token)),
            Verdict::Retry => {
                // Lease and intent in the same UPDATE: a delayed first intend of this attempt must not match a kept lease.
                (row.intent, row.intent_by, row.parked) = (None, None, None);
                if mutant != Some(Mutant::LeaseKeptBySettle) {
                    row.lease = None;
                }
            }
            Verdict::InDoubt => {
                row.parked = Some(Parked::Doubt(DoubtBy::Relay));
                row.lease = None;
            }
        }
        if mutant != Some(Mutant::AsynchronousSettle) {
            self.committed_durably();
        }
        true
    }

    /// `outbox.settle_late()`, the cold half: the delivery was reaped, resolved, cancelled or claimed again meanwhile. Late
    /// truth wins: a known acceptance always ends in `sent`, and no definite reply is discarded. Answers whether the row
    /// turned out to be this attempt's after all: then the hot half must do it.
    pub(crate) fn settle_late(
        &mut self,
        delivery: u8,
        lease: Lease,
        token: Token,
        end: Settlement,
        mutant: Option<Mutant>,
    ) -> bool {
        let row = self.row_mut(delivery);
        let queued = row.done.is_none();
        let by_lease = !end.intended && mutant != Some(Mutant::GivenUpByTokenOnly);
        if queued && (row.intent == Some(token) || (by_lease && row.intent.is_none() && row.lease == Some(lease))) {
            return true;
        }
        let known = row.ledger[token.index()];
        if known.is_some_and(|known| known != Word::Unknown || end.word == Word::Unknown) {
            return false;
        }
        record(row, token, end.word);
        let in_doubt = matches!(row.parked, Some(Parked::Doubt(_)));
        if end.word == Word::Unknown {
            row.open_doubts += 1;
        } else if known == Some(Word::Unknown) {
            row.open_doubts = row.open_doubts.saturating_sub(1);
        }
        match (end.word, row.done) {
            (Word::Unknown, _) => {}
            (Word::Accepted, None) if row.intent.is_none() || in_doubt => {
                finish(row, State::Sent, Some(Evidence::Reply), Some(token));
            }
            // Another attempt is open: it will end as sent, whatever it comes to itself.
            (Word::Accepted, None) => row.accepted_late = Some(token),
            (Word::Accepted, Some(done)) if done.state == State::Sent && done.evidence == Some(Evidence::Reply) => {}
            (Word::Accepted, Some(_)) => finish(row, State::Sent, Some(Evidence::Reply), Some(token)),
            // Somebody decided that it was sent, and it was not: a person has to look again.
            (_, Some(done))
                if done.state == State::Sent && done.evidence != Some(Evidence::Reply) && done.token == Some(token) =>
            {
                row.done = None;
                row.parked = Some(Parked::Held);
            }
            _ => {}
        }
        self.committed_durably();
        false
    }

    /// `release.sql`: what has no intent goes back. By the lease, so that a late one takes nothing from the next holder.
    pub(crate) fn release(&mut self, delivery: u8, lease: Lease) {
        let row = self.row(delivery);
        if row.done.is_none() && row.lease == Some(lease) && row.intent.is_none() {
            self.commits_asynchronously();
            self.row_mut(delivery).lease = None;
        }
    }

    /// `outbox.mark_in_doubt()`: the reaper, about a relay it believes to be dead, or an intent that is too old. *Never
    /// pending*, because the marker may be on the wire, and the relay may even be alive and wake up.
    pub(crate) fn mark_in_doubt(&mut self, delivery: u8, mutant: Option<Mutant>) {
        let row = self.row_mut(delivery);
        let Some(token) = row.intent else { return };
        row.ledger[token.index()].get_or_insert(Word::Unknown);
        if mutant != Some(Mutant::DoubtsForgotten) {
            row.open_doubts += 1;
        }
        let accepted_late = row.accepted_late.filter(|_| mutant != Some(Mutant::ReaperForgetsLateAcceptance));
        if accepted_late.is_some() {
            finish(row, State::Sent, Some(Evidence::Reply), accepted_late);
        } else if mutant == Some(Mutant::ReaperMakesPending) {
            (row.intent, row.intent_by, row.lease) = (None, None, None);
        } else {
            row.parked = Some(Parked::Doubt(DoubtBy::Reaper { grace_over: false }));
            row.lease = None;
        }
        self.committed_durably();
    }

    /// `outbox.resolve_doubt()`: what a person or a policy decides about the doubt that `named` stands for. *By its
    /// token*, because a script that is run twice would otherwise decide the doubt of the next attempt. Answers the token
    /// whose doubt was decided.
    pub(crate) fn resolve(
        &mut self,
        delivery: u8,
        named: Option<Token>,
        verdict: Resolution,
        evidence: Evidence,
    ) -> Option<Token> {
        let row = self.row_mut(delivery);
        let token = row.intent?;
        if named.is_some_and(|named| named != token) || !matches!(row.parked, Some(Parked::Doubt(_))) {
            return None;
        }
        match verdict {
            _ if row.accepted_late.is_some() => {
                let accepted_late = row.accepted_late;
                finish(row, State::Sent, Some(Evidence::Reply), accepted_late);
            }
            Resolution::Sent => finish(row, State::Sent, Some(evidence), Some(token)),
            Resolution::Failed => finish(row, State::Failed, None, Some(token)),
            Resolution::Resend => {
                (row.intent, row.intent_by, row.parked, row.lease) = (None, None, None, None);
                row.resends += 1;
            }
        }
        self.committed_durably();
        Some(token)
    }

    /// `outbox.cancel()`: ends what is not sending. It and intend lock the same row, so whoever commits first wins; on
    /// `sending` it answers "too late, in flight".
    pub(crate) fn cancel(&mut self, delivery: u8) {
        let row = self.row_mut(delivery);
        finish(row, State::Cancelled, None, None);
        self.committed_durably();
    }

    /// `outbox.hold()`: parks what is not sending, and takes its lease away.
    pub(crate) fn hold(&mut self, delivery: u8) {
        let row = self.row_mut(delivery);
        (row.parked, row.lease) = (Some(Parked::Held), None);
        self.committed_durably();
    }

    /// `outbox.release()`: lets what is held go on.
    pub(crate) fn release_held(&mut self, delivery: u8) {
        self.row_mut(delivery).parked = None;
        self.committed_durably();
    }

    /// `outbox.retry()` on a finished delivery, forced where it has open doubts: then it is a resend. Answers whether it
    /// was one.
    pub(crate) fn retry(&mut self, delivery: u8) -> bool {
        let row = self.row_mut(delivery);
        row.done = None;
        let resend = row.open_doubts > 0;
        row.resends += u8::from(resend);
        self.committed_durably();
        resend
    }
}

/// The ledger: append-only, but for unknown becoming known.
fn record(row: &mut Row, token: Token, word: Word) {
    let entry = &mut row.ledger[token.index()];
    if matches!(entry, None | Some(Word::Unknown)) {
        *entry = Some(word);
    }
}

/// `outbox.finish()`: from the queue to `done`, with the doubts that are still open.
fn finish(row: &mut Row, state: State, evidence: Option<Evidence>, token: Option<Token>) {
    *row = Row {
        open_doubts: row.open_doubts,
        resends: row.resends,
        ledger: row.ledger,
        done: Some(Done { state, evidence, token }),
        ..Row::default()
    };
}
