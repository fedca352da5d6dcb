//! What can happen next, one step at a time: the only place where the order of things is decided, and it decides nothing.
//! Every step that is possible is taken; a pause, a slow network, a late reply are other steps in between.
//!
//! Things that go wrong, and things that people do, are counted: a search is complete for *any* so many of them, in any
//! order, at any moment. What the protocol does by itself is free.

use hapax_core::{OnDoubt, Phase, Reply, State, certainty};
use stateright::{Model, Property};

use crate::{
    mutants::Mutant,
    properties,
    relay::{never_transmitted, policy_decides, settlement},
    step::{Fault, Step},
    world::{
        ATTEMPTS_MAX, Courier, DoubtBy, Evidence, Heard, InFlight, Incarnation, Parked, Resolution, Row, Script,
        Statement, Token, World,
    },
};

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocol {
    pub(crate) deliveries: usize,
    pub(crate) relays: usize,
    /// Claims per delivery.
    pub(crate) attempts_max: u8,
    /// Things that go wrong in one run.
    pub(crate) faults_max: u8,
    /// What may go wrong.
    pub(crate) faults: &'static [Fault],
    pub(crate) policy: OnDoubt,
    /// Two relays are alike: look at one of each pair of mirror images. Traces then change names on their way.
    pub(crate) symmetric: bool,
    pub(crate) mutant: Option<Mutant>,
}

impl Protocol {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Which fault a step is, if it is one.
    fn fault(&self, world: &World, step: Step) -> Option<Fault> {
        match step {
            Step::Claim { delivery, .. } if self.lease_is_held(world, delivery) => Some(Fault::Expiry),
            Step::ClaimUnheard { .. } => Some(Fault::Expiry),
            Step::RefusedBefore354 { .. } | Step::Refuse(..) => Some(Fault::Refusal),
            Step::ReplyTimesOut { .. } | Step::TakeAndLoseReply(_) | Step::LoseMarker(_) => Some(Fault::LostReply),
            Step::LoseAnswer { .. } => Some(Fault::LostAnswer),
            Step::CrashRelay { .. } => Some(Fault::RelayCrash),
            Step::CrashDatabase { .. } => Some(Fault::DatabaseCrash),
            Step::MarkInDoubt { delivery } if !writer_is_dead(world, world.row(delivery)) => Some(Fault::Reaped),
            Step::Resolve { .. } => Some(Fault::Resolve),
            Step::RunScriptAgain => Some(Fault::ScriptAgain),
            Step::Cancel { .. } => Some(Fault::Cancel),
            Step::Hold { .. } => Some(Fault::Hold),
            Step::Retry { .. } => Some(Fault::Retry),
            _ => None,
        }
    }

    fn lease_is_held(&self, world: &World, delivery: u8) -> bool {
        let Some(lease) = world.row(delivery).lease else { return false };
        world.couriers.iter().filter_map(Courier::job).any(|job| job.delivery == delivery && job.lease == lease)
    }

    fn courier_steps(&self, world: &World, relay: u8, steps: &mut Vec<Step>) {
        match world.courier(relay) {
            Courier::Idle => {
                let claimable =
                    (0u8..).zip(&world.rows).filter(|(delivery, row)| self.is_claimable(world, *delivery, row));
                steps.extend(claimable.map(|(delivery, _)| Step::Claim { relay, delivery }));
            }
            Courier::Claimed(_) if self.is(Mutant::IntentAfterMarker) => steps.push(Step::Transmit { relay }),
            Courier::Claimed(_) => {
                steps.extend([Step::AskForIntent { relay }, Step::GiveBack { relay }]);
                steps.extend([450, 550].map(|code| Step::RefusedBefore354 { relay, code }));
            }
            Courier::Intending(_) | Courier::Settling(..) => steps.push(Step::LoseAnswer { relay }),
            Courier::Unanswered(_) => steps.extend([Step::RepeatIntend { relay }, Step::GiveUpIntend { relay }]),
            Courier::Granted(job) => {
                steps.push(Step::Abort { relay });
                if !job.gate_shut {
                    steps.push(Step::Transmit { relay });
                }
            }
            Courier::OnWire(_, heard) => {
                steps.push(Step::ReplyTimesOut { relay });
                if heard.is_some() {
                    steps.push(Step::ReadReply { relay });
                }
            }
            Courier::Down => steps.push(Step::RestartRelay { relay }),
        }
        if !matches!(world.courier(relay), Courier::Idle | Courier::Down) {
            steps.push(Step::CrashRelay { relay });
        }
    }

    fn is_claimable(&self, world: &World, delivery: u8, row: &Row) -> bool {
        let unfenced = self.is(Mutant::ClaimTakesSendingForPending)
            || self.is(Mutant::ClaimIgnoresIntent)
            || self.is(Mutant::BothFencesDown);
        row.done.is_none()
            && row.parked.is_none()
            && (row.intent.is_none() || unfenced)
            && world.truth(delivery).claims < self.attempts_max
    }

    fn network_steps(world: &World, steps: &mut Vec<Step>) {
        for (index, flight) in world.statements.iter().enumerate() {
            steps.push(Step::Execute(index));
            if flight.client.is_none() {
                steps.push(Step::Evaporate(index));
            }
        }
        for (index, marker) in world.wire.iter().enumerate() {
            steps.push(Step::Take(index));
            // Without anybody who listens, the rest is the same as nothing.
            if listener(world, marker.delivery, marker.token).is_some() {
                steps.extend([Step::TakeAndLoseReply(index), Step::LoseMarker(index)]);
                steps.extend([451, 554].map(|code| Step::Refuse(index, code)));
            }
        }
        steps.push(Step::CrashDatabase { losing: false });
        if world.on_disk.is_some() {
            steps.extend([Step::CrashDatabase { losing: true }, Step::WalIsFlushed]);
        }
    }

    fn row_steps(&self, world: &World, delivery: u8, steps: &mut Vec<Step>) {
        let row = world.row(delivery);
        if self.is_claimable(world, delivery, row) {
            steps.push(Step::ClaimUnheard { delivery });
        }
        match row.state() {
            State::Sending => {
                steps.push(Step::MarkInDoubt { delivery });
                if is_orphan(world, delivery, row) {
                    steps.push(Step::SettleOrphan { delivery });
                }
                if self.is(Mutant::CancelWhileSending) {
                    steps.push(Step::Cancel { delivery });
                }
            }
            State::InDoubt => {
                // Nobody asks for the time where nobody can decide.
                let asked =
                    self.policy != OnDoubt::Hold || (world.faults_left > 0 && self.faults.contains(&Fault::Resolve));
                if asked && row.parked == Some(Parked::Doubt(DoubtBy::Reaper { grace_over: false })) {
                    steps.push(Step::GraceIsOver { delivery });
                }
                if let Some(verdict) = policy_decides(self.policy, row, self.mutant) {
                    steps.push(Step::DecideByPolicy { delivery, verdict });
                }
                let verdicts = [Resolution::Sent, Resolution::Resend, Resolution::Failed];
                steps.extend(verdicts.map(|verdict| Step::Resolve { delivery, verdict }));
            }
            State::Pending | State::Claimed => steps.extend([Step::Cancel { delivery }, Step::Hold { delivery }]),
            State::Held => steps.extend([Step::Cancel { delivery }, Step::ReleaseHeld { delivery }]),
            State::Failed | State::Cancelled | State::Expired => steps.push(Step::Retry { delivery }),
            State::Sent | State::Suppressed => {}
        }
    }

    /// Takes a courier's step. None when it turns out not to be possible.
    fn courier_step(&self, world: &mut World, step: Step) -> Option<()> {
        let mutant = self.mutant;
        match step {
            Step::Claim { relay, delivery } => world.courier_takes(relay, delivery, mutant),
            Step::GiveBack { relay } => world.give_back(relay, *world.courier(relay).job()?),
            Step::RefusedBefore354 { relay, code } => {
                let event = certainty::Event::Reply(Reply::new(code, ""));
                let outcome = certainty::classify(Phase::Rcpt, event, certainty::Trust::default());
                world.hand_in(relay, *world.courier(relay).job()?, settlement(&outcome, false, mutant));
            }
            Step::AskForIntent { relay } => world.ask_for_intent(relay, *world.courier(relay).job()?),
            Step::RepeatIntend { relay } => match (mutant, *world.courier(relay).job()?) {
                (Some(Mutant::SelectInsteadOfRepeat), job) => {
                    let seen = world.row(job.delivery).intent == Some(job.token);
                    *world.courier_mut(relay) = if seen { Courier::Granted(job) } else { Courier::Idle };
                }
                (Some(Mutant::NoAnswerIsGranted), job) => *world.courier_mut(relay) = Courier::Granted(job),
                (_, job) => world.ask_for_intent(relay, job),
            },
            Step::GiveUpIntend { relay } => world.give_up_intent(relay, *world.courier(relay).job()?, mutant),
            Step::Transmit { relay } => world.transmit(relay, *world.courier(relay).job()?),
            Step::Abort { relay } => {
                let end = settlement(&never_transmitted(Phase::Body), true, mutant);
                world.hand_in(relay, *world.courier(relay).job()?, end);
            }
            Step::ReadReply { relay } => {
                let Courier::OnWire(job, heard) = *world.courier(relay) else { return None };
                world.hear(relay, job, heard, mutant);
            }
            Step::ReplyTimesOut { relay } => world.hear(relay, *world.courier(relay).job()?, None, mutant),
            _ => return None,
        }
        Some(())
    }

    fn execute(&self, world: &mut World, InFlight { client, statement }: InFlight) {
        let mutant = self.mutant;
        match statement {
            Statement::Intend { delivery, lease, token, by } => {
                let granted = world.intend(delivery, lease, token, by, mutant);
                if let Some(relay) = client {
                    world.intend_answered(relay, granted, mutant);
                }
            }
            Statement::Settle { delivery, lease, token, end } => {
                let settled = world.settle(delivery, lease, token, end, mutant);
                match client {
                    Some(relay) if settled || self.is(Mutant::LateTruthDropped) => world.settle_answered(relay),
                    // Zero rows are information: the delivery has moved on.
                    Some(_) => world.send(client, Statement::SettleLate { delivery, lease, token, end }),
                    None => {}
                }
            }
            Statement::SettleLate { delivery, lease, token, end } => {
                let again = world.settle_late(delivery, lease, token, end, mutant);
                match client {
                    Some(_) if again => world.send(client, Statement::Settle { delivery, lease, token, end }),
                    Some(relay) => world.settle_answered(relay),
                    None => {}
                }
            }
            Statement::Release { delivery, lease } => world.release(delivery, lease),
        }
    }

    fn network_step(&self, world: &mut World, step: Step) -> Option<()> {
        match step {
            Step::Execute(index) => {
                let flight = world.statements.remove(index);
                self.execute(world, flight);
            }
            Step::Evaporate(index) => drop(world.statements.remove(index)),
            Step::LoseAnswer { relay } => world.answer_lost(relay),
            // Its lease is nobody's until it expires.
            Step::ClaimUnheard { delivery } => drop(world.claim(delivery, self.mutant)),
            Step::WalIsFlushed => world.committed_durably(),
            Step::Take(index) => reach_the_server(world, index, true, Heard::Reply(250)),
            Step::TakeAndLoseReply(index) => reach_the_server(world, index, true, Heard::Lost),
            Step::Refuse(index, code) => reach_the_server(world, index, false, Heard::Reply(code)),
            Step::LoseMarker(index) => reach_the_server(world, index, false, Heard::Lost),
            Step::CrashRelay { relay } => {
                world.orphan_statements_of(relay);
                *world.courier_mut(relay) = Courier::Down;
                if !self.is(Mutant::SameIncarnationAfterRestart) {
                    world.bury(relay);
                }
            }
            Step::RestartRelay { relay } => *world.courier_mut(relay) = Courier::Idle,
            Step::CrashDatabase { losing } => {
                world.statements.clear();
                if let Some(on_disk) = world.on_disk.take().filter(|_| losing) {
                    world.rows = on_disk;
                }
                world.committed_durably();
                (0u8..).take(self.relays).for_each(|relay| world.answer_lost(relay));
            }
            _ => return None,
        }
        Some(())
    }

    fn decision_step(&self, world: &mut World, step: Step) -> Option<()> {
        match step {
            Step::MarkInDoubt { delivery } => world.mark_in_doubt(delivery, self.mutant),
            Step::GraceIsOver { delivery } => {
                let row = world.row_mut(delivery);
                row.parked = Some(Parked::Doubt(DoubtBy::Reaper { grace_over: true }));
                let token = row.intent;
                // The grace is longer than the transmit deadline, and began later: the gate of that attempt is shut.
                if !self.is(Mutant::GateWithoutDeadline) {
                    let jobs = world.couriers.iter_mut().filter_map(Courier::job_mut);
                    jobs.filter(|job| job.delivery == delivery && Some(job.token) == token)
                        .for_each(|job| job.gate_shut = true);
                }
            }
            Step::DecideByPolicy { delivery, verdict } => {
                let token = world.row(delivery).intent;
                self.resolve(world, delivery, token, verdict, true);
            }
            Step::SettleOrphan { delivery } => world.settle_orphan(delivery, self.mutant),
            Step::Resolve { delivery, verdict } => {
                let token = world.row(delivery).intent?;
                self.resolve(world, delivery, Some(token), verdict, false);
                if self.faults.contains(&Fault::ScriptAgain) {
                    world.script = Some(Script { delivery, token, verdict });
                }
            }
            Step::RunScriptAgain => {
                let Script { delivery, token, verdict } = world.script.take()?;
                let named = Some(token).filter(|_| !self.is(Mutant::ResolveWithoutToken));
                // Nobody has looked at another doubt: this decides nothing that counts as decided.
                world.resolve(delivery, named, verdict, Evidence::Operator);
            }
            Step::Cancel { delivery } => world.cancel(delivery),
            Step::Hold { delivery } => world.hold(delivery),
            Step::ReleaseHeld { delivery } => world.release_held(delivery),
            Step::Retry { delivery } => {
                let resend = world.retry(delivery);
                world.truth_mut(delivery).resends += u8::from(resend);
            }
            _ => return None,
        }
        Some(())
    }

    fn resolve(&self, world: &mut World, delivery: u8, named: Option<Token>, verdict: Resolution, policy: bool) {
        let may_be_alive = world.row(delivery).parked == Some(Parked::Doubt(DoubtBy::Reaper { grace_over: false }));
        let evidence = if policy { Evidence::Policy } else { Evidence::Operator };
        let Some(token) = world.resolve(delivery, named, verdict, evidence) else { return };
        // Sent meanwhile by a late acceptance: nothing was decided.
        let resent = verdict == Resolution::Resend && world.row(delivery).done.is_none();
        let truth = world.truth_mut(delivery);
        truth.resends += u8::from(resent);
        truth.resends_by_policy += u8::from(resent && policy);
        // Who forces it knows that the attempt may be alive. Policy never forces.
        truth.decided[token.index()] |= verdict != Resolution::Sent && (policy || !may_be_alive);
    }
}

/// Dead is what an observer has itself seen: a heartbeat counter that stood still. Whoever is down beats no more.
fn writer_is_dead(world: &World, row: &Row) -> bool {
    match row.intent_by {
        Some(Incarnation::Of(relay)) => matches!(world.courier(relay), Courier::Down),
        Some(Incarnation::Dead) | None => true,
    }
}

fn is_orphan(world: &World, delivery: u8, row: &Row) -> bool {
    match (row.intent, row.intent_by) {
        (Some(token), Some(Incarnation::Of(relay))) => {
            let courier = world.courier(relay);
            !matches!(courier, Courier::Down) && !courier.is_responsible_for(delivery, token)
        }
        _ => false,
    }
}

/// The relay whose connection a marker came over, if it still waits there.
fn listener(world: &World, delivery: u8, token: Token) -> Option<usize> {
    world.couriers.iter().position(|courier| match courier {
        Courier::OnWire(job, None) => job.delivery == delivery && job.token == token,
        _ => false,
    })
}

fn reach_the_server(world: &mut World, index: usize, taken: bool, answer: Heard) {
    let marker = world.wire.remove(index);
    world.truth_mut(marker.delivery).accepted += u8::from(taken);
    let listener = listener(world, marker.delivery, marker.token);
    if let Some(Courier::OnWire(_, heard)) = listener.and_then(|relay| world.couriers.get_mut(relay)) {
        *heard = Some(answer);
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        assert!(usize::from(self.attempts_max) <= ATTEMPTS_MAX);
        vec![World::new(self.deliveries, self.relays, self.faults_max)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        (0u8..).take(self.relays).for_each(|relay| self.courier_steps(world, relay, steps));
        Self::network_steps(world, steps);
        (0u8..).take(self.deliveries).for_each(|delivery| self.row_steps(world, delivery, steps));
        if world.script.is_some() {
            steps.push(Step::RunScriptAgain);
        }
        steps.retain(|step| match self.fault(world, *step) {
            Some(fault) => world.faults_left > 0 && self.faults.contains(&fault),
            None => true,
        });
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        world.faults_left -= u8::from(self.fault(before, step).is_some());
        self.courier_step(&mut world, step)
            .or_else(|| self.network_step(&mut world, step))
            .or_else(|| self.decision_step(&mut world, step))?;
        if !self.faults.contains(&Fault::DatabaseCrash) {
            world.on_disk = None;
        }
        if world.faults_left == 0 {
            world.script = None;
        }
        Some(world.canonical(self.symmetric))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
