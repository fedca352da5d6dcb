//! Private servers on loopback: a Postgres cluster ([`PgCluster`]) and a mail catcher ([`Catcher`]).
//!
//! `hapax demo`, `capture:` routes, the bench and every test of the workspace use them. Invariants: nothing here listens
//! on anything but 127.0.0.1 and a unix socket in a private directory; nothing survives its handle, not even when the
//! process that holds it is killed; nothing here knows what Hapax is.

mod catcher;
mod pg;
mod port;
pub mod smtp;
mod watchdog;

pub use catcher::{Catcher, CatcherBuilder, Received};
pub use pg::{Error as PgError, PgCluster, PgClusterBuilder};
pub use port::ReservedPort;
