//! Development only: what the tests of Hapax stand on.
//!
//! - [`PgCluster`]: a private Postgres (from `hapax-sandbox`).
//! - [`SmtpServer`]: a scripted mail server; its [`Ledger`] is the oracle of every test about duplicates.
//! - [`ChaosProxy`]: a TCP proxy that cuts, stalls, delays.
//! - [`HapaxProcess`]: the real binary in a harness that signals it.
//! - [`eventually`]: a condition that must become true.
//!
//! Invariants: the servers run on threads of their own, so neither a paused clock nor a blocked or dropped runtime of
//! the test disturbs them; nothing here uses code of Hapax itself, so the oracle cannot share its mistakes. A kit for
//! tests panics, with everything it knows, where a library would return an error.

mod background;
mod chaos;
mod process;
mod recipe;
pub mod smtp;
mod wait;

pub use chaos::{ChaosProxy, Direction, ProxyCounters};
pub use hapax_sandbox::{Catcher, PgCluster, PgClusterBuilder, PgError, ReservedPort};
pub use process::{HapaxProcess, HapaxProcessBuilder, find_hapax};
pub use recipe::migrations_recipe;
pub use smtp::{Action, Context, Fault, Hold, Ledger, Phase, Rule, Script, SmtpServer, SmtpServerBuilder};
pub use wait::{Settled, eventually};
