//! Why a relay stops.

/// Anything that ends a relay process with a failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused what a relay cannot work without.
    #[error("{doing}")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: hapax_store::Error,
    },
    /// The answering server is not the one this relay was armed for.
    #[error(
        "this is not the database the relay was armed for, nothing more is sent (hint: after a failover or restore, check what was lost, then hapax arm --reason 'why')"
    )]
    Guard {
        /// What the statement said.
        #[source]
        source: hapax_store::Error,
    },
    /// A route cannot be used at all.
    #[error("routes.{route}")]
    Route {
        /// Its name.
        route: String,
        /// Why.
        #[source]
        source: hapax_mail::Error,
    },
    /// Attachments cannot be fetched as configured.
    #[error("attachments.https_ca_file: {0}")]
    Attachments(String),
    /// Another process speaks under this incarnation, or the row of this one is gone.
    #[error("another process uses the identity of this relay, or its row in outbox.relay is gone: stopping")]
    Incarnation,
    /// Nobody's heartbeat goes on in this database, and the server says it is somewhere else than the armed one.
    #[error(
        "this looks like a copy of the outbox that is armed at {others}, or the server has moved: it says it is at {here} now, and no relay is alive in it (hint: if it is the one to send from: hapax arm --reason 'why', which holds what is pending; --continue holds nothing) (hint: address_guard = \"off\" below [database] if its address changes all the time)"
    )]
    Copy {
        /// Where the server says it is.
        here: String,
        /// Where it was met before.
        others: String,
    },
    /// A task ended that never should.
    #[error("the {0} task died")]
    Task(&'static str),
    /// At the end of the grace period something was still open.
    #[error("{0} deliveries had an intent and no durable outcome yet when the relay had to end: they will be in doubt")]
    Abandoned(usize),
}
