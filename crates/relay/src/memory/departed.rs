//! Incarnations of this process that ended without signing off: the database was another one or away, or replies were still
//! outstanding. Whoever is at work later says goodbye for them.
//!
//! Invariant: not before all their couriers have ended and every outcome is durable. A row that has signed off has nothing
//! on a socket.

use hapax_core::Incarnation;
use tokio_util::task::TaskTracker;

use super::Memory;

impl Memory {
    /// An incarnation ends and has not signed off. Its couriers go on reading their replies, and what they learn is told from
    /// here.
    pub(crate) fn leave(&self, incarnation: Incarnation, couriers: TaskTracker) {
        couriers.close();
        let mut attempts = self.lock();
        attempts.departed.retain(|(known, _)| *known != incarnation);
        attempts.departed.push((incarnation, couriers.clone()));
        drop(attempts);
        if !couriers.is_empty() {
            self.stragglers.spawn(async move { couriers.wait().await });
        }
    }

    /// Those of which nothing is under way any more.
    pub(crate) fn at_rest(&self) -> Vec<Incarnation> {
        let attempts = self.lock();
        let is_open = |incarnation: Incarnation| {
            let known = attempts.known.iter().flatten();
            known.filter(|known| !known.durable).any(|known| attempts.relays[usize::from(known.relay)] == incarnation)
        };
        let ended = attempts.departed.iter().filter(|(_, couriers)| couriers.is_empty());
        ended.map(|(incarnation, _)| *incarnation).filter(|incarnation| !is_open(*incarnation)).collect()
    }

    /// Somebody said goodbye for it.
    pub(crate) fn signed_off(&self, incarnation: Incarnation) {
        self.lock().departed.retain(|(known, _)| *known != incarnation);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hapax_core::{DeliveryKey, Lease, MessageId, Token};
    use hapax_store::IntendRequest;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn goodbye_is_said_when_the_last_courier_has_ended_and_the_last_outcome_is_durable() {
        let (memory, incarnation) = (Memory::default(), Incarnation::fresh());
        let token = Token::fresh();
        let request = IntendRequest {
            key: DeliveryKey { message_id: MessageId(Lease::fresh().0), recipient_no: 1 },
            lease: Lease::fresh(),
            token,
            sha256: [0; 32],
            route: "default".into(),
            upstream: None,
        };
        memory.asked(&request, incarnation, Duration::ZERO);
        let (couriers, (reply, read)) = (TaskTracker::new(), oneshot::channel::<()>());
        couriers.spawn(read);
        memory.leave(incarnation, couriers.clone());
        memory.leave(incarnation, couriers.clone());
        assert!(memory.at_rest().is_empty(), "it still reads");
        reply.send(()).expect("it reads");
        couriers.wait().await;
        assert!(memory.at_rest().is_empty(), "what it read is not durable");
        memory.durable(token);
        assert_eq!(memory.at_rest(), [incarnation]);
        memory.signed_off(incarnation);
        assert!(memory.at_rest().is_empty());
    }
}
