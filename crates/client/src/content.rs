//! Which content a notification has, as types.
//!
//! They are never made: they stand in [`Notification<...>`](crate::Notification) and decide which methods it has. So a
//! notification without content cannot be enqueued, a second form of content cannot be added, and a finished message
//! takes no further headers; the compiler says so, not the database.

/// No content yet: what [`Notification::new`](crate::Notification::new) gives.
#[derive(Debug)]
pub enum Missing {}

/// A subject that still needs a body.
#[derive(Debug)]
pub enum Subject {}

/// A payload for the templates of the kind.
#[derive(Debug)]
pub enum Payload {}

/// A subject with a text body, an HTML body, or both.
#[derive(Debug)]
pub enum Body {}

/// A finished message (RFC 5322), which brings its own headers and attachments.
#[derive(Debug)]
pub enum Raw {}

/// Some content, no matter which; see [`Notification::into_any`](crate::Notification::into_any).
#[derive(Debug)]
pub enum Any {}

/// A notification with content, which can be enqueued. Sealed.
#[diagnostic::on_unimplemented(
    message = "this notification has no content that could be sent",
    label = "its content is `{Self}`",
    note = "give it one form of content: `.payload(&...)?`, or `.subject(...)` with `.body_text(...)` and/or \
            `.body_html(...)`, or `.raw_message(...)`"
)]
pub trait Content: sealed::Sealed {}

impl Content for Payload {}
impl Content for Body {}
impl Content for Raw {}
impl Content for Any {}

/// A notification whose message Hapax composes, so that headers and attachments can be added to it. Sealed.
#[diagnostic::on_unimplemented(
    message = "headers, attachments and reply_to can be added to a payload, or to a subject with a body, only",
    label = "the content of this notification is `{Self}`",
    note = "first the content, then these; a raw message is finished, it brings its own"
)]
pub trait Composed: sealed::Sealed {}

impl Composed for Payload {}
impl Composed for Subject {}
impl Composed for Body {}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Missing {}
    impl Sealed for super::Subject {}
    impl Sealed for super::Payload {}
    impl Sealed for super::Body {}
    impl Sealed for super::Raw {}
    impl Sealed for super::Any {}
}
