//! What can go wrong, for whatever driver: `D` is the driver's own error.
//!
//! Messages of the outbox name the argument and the remedy and never repeat a value, so they can be logged as they are.

use uuid::Uuid;

/// Why a call did not do what it should.
///
/// After an error of the database the transaction can only be rolled back, as after any other failed statement: behind
/// a savepoint, if the application wants to go on. Each driver's module has an alias with its own error filled in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error<D> {
    /// The outbox refused an argument: this very call will never work, do not repeat it.
    #[error("{message}")]
    Refused {
        /// `22H..`; what each stands for is in `\df+ outbox.refuse`. `None` with diesel, whose errors do not carry it,
        /// and for what was refused before it was sent (NUL characters, which no text in Postgres can hold).
        sqlstate: Option<String>,
        /// The argument's name, as in `outbox.enqueue()`.
        argument: String,
        /// Where, which argument, and what is wrong with it.
        message: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The dedup key stands for other content (`23H01`): two events share a name, or one event has changed.
    #[error("{message}")]
    DedupConflict {
        /// The message that was enqueued with this key first; `None` if another user of the database did that.
        first: Option<Uuid>,
        /// Where and what.
        message: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// Anything else: no connection, no permission, a serialization failure (repeat the transaction), ...
    #[error("database error")]
    Database(#[source] D),
    /// The outbox answered something that this version of the crate cannot read.
    #[error("an answer of the outbox that is not understood")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a driver tells about an error of the server.
pub(crate) struct Said<'a> {
    /// Not all drivers have it.
    pub(crate) sqlstate: Option<&'a str>,
    pub(crate) column: Option<&'a str>,
    pub(crate) message: &'a str,
    pub(crate) detail: Option<&'a str>,
    pub(crate) hint: Option<&'a str>,
}

impl Said<'_> {
    /// The error that the outbox raised, or `None` if somebody else did.
    pub(crate) fn by_the_outbox<D>(&self) -> Option<Error<D>> {
        let conflict = match self.sqlstate {
            Some("23H01") => true,
            Some(code) if code.starts_with("22H") => false,
            Some(_) => return None,
            // Refusals begin with what was called and name the argument in COLUMN, too; Postgres' own do neither.
            None if self.message.starts_with("outbox.") && self.column.is_some() => {
                self.column == Some("dedup_key") && self.message.ends_with(": was used for other content")
            }
            None => return None,
        };
        let (message, hint) = (self.message.to_owned(), self.hint.map(str::to_owned));
        Some(if conflict {
            Error::DedupConflict { first: self.detail.and_then(first_message), message, hint }
        } else {
            let argument = self.column.unwrap_or_default().to_owned();
            Error::Refused { sqlstate: self.sqlstate.map(str::to_owned), argument, message, hint }
        })
    }
}

/// From `first message: <id>, remembered until ...`.
fn first_message(detail: &str) -> Option<Uuid> {
    let (id, _) = detail.strip_prefix("first message: ")?.split_once(',')?;
    Uuid::parse_str(id).ok()
}
