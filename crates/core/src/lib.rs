//! The pure heart of Hapax: identities, states, outcomes, the certainty table, retry and doubt policy.
//!
//! Nothing here does I/O or knows tokio, Postgres or SMTP libraries; everything can be called from a model checker.
//! The shells around it (`store`, `mail`, `relay`) act, this crate decides.
//!
//! Architecture Invariant: `core` depends on no other crate of the workspace.

pub mod address;
pub mod certainty;
pub mod clock;
pub mod codes;
pub mod decide;
pub mod envelope;
pub mod fault;
pub mod guards;
pub mod hint;
pub mod ids;
pub mod limits;
pub mod mutant;
pub mod outcome;
pub mod policy;
pub mod state;
pub mod throttle;

pub use address::Recipient;
pub use codes::{Codes, Meaning};
pub use decide::{Decision, decide};
pub use ids::{DeliveryKey, Incarnation, Lease, MessageId, Token};
pub use outcome::{Outcome, Phase, Reply};
pub use policy::{OnDoubt, Priority, RetryPart, RetryPolicy};
pub use state::State;
