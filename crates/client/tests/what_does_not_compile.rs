//! Mistakes that the types rule out: methods that are not there, and notifications that are not ready.
//!
//! An inherent method wins over a method of a trait. [`Absent`] gives every notification all the methods, returning
//! [`Missing`]: where a call returns that, the type has no such method of its own. So it is the absence that compiles,
//! and nothing can be absent for another reason, such as a typing error in an example that is expected to fail.

use std::marker::PhantomData;

use hapax_client::content::{self, Content};
use hapax_client::{Attachment, Notification};

/// What a method returns that a type does not have.
struct Missing;

trait Absent: Sized {
    fn payload(self, _: &str) -> Missing {
        Missing
    }
    fn subject(self, _: &str) -> Missing {
        Missing
    }
    fn body_text(self, _: &str) -> Missing {
        Missing
    }
    fn body_html(self, _: &str) -> Missing {
        Missing
    }
    fn raw_message(self, _: &str) -> Missing {
        Missing
    }
    fn reply_to(self, _: &str) -> Missing {
        Missing
    }
    fn header(self, _: &str, _: &str) -> Missing {
        Missing
    }
    fn attachment(self, _: Attachment) -> Missing {
        Missing
    }
    fn into_any(self) -> Missing {
        Missing
    }
}

impl<C> Absent for Notification<C> {}

/// Whether a notification with content `C` can be enqueued: here, too, what is inherent wins.
struct Probe<C>(PhantomData<C>);

trait Otherwise {
    const CAN_BE_ENQUEUED: bool = false;
}

impl<C> Otherwise for Probe<C> {}

impl<C: Content> Probe<C> {
    const CAN_BE_ENQUEUED: bool = true;
}

fn new() -> Notification<content::Missing> {
    Notification::new("welcome", "ada@example.org")
}

fn subject() -> Notification<content::Subject> {
    new().subject("Hi")
}

fn body() -> Notification<content::Body> {
    subject().body_text("Hi!")
}

fn payload() -> Notification<content::Payload> {
    new().payload("{}").expect("a string can be serialized")
}

fn raw() -> Notification<content::Raw> {
    new().raw_message("Subject: Hi\n\nHi!")
}

fn file() -> Attachment {
    Attachment::new("a.txt", "a")
}

#[test]
fn a_notification_without_content_cannot_be_enqueued() {
    const {
        assert!(!Probe::<content::Missing>::CAN_BE_ENQUEUED && !Probe::<content::Subject>::CAN_BE_ENQUEUED);
        assert!(Probe::<content::Payload>::CAN_BE_ENQUEUED && Probe::<content::Body>::CAN_BE_ENQUEUED);
        assert!(Probe::<content::Raw>::CAN_BE_ENQUEUED && Probe::<content::Any>::CAN_BE_ENQUEUED);
    }
    let _: [Missing; 2] = [new().into_any(), subject().into_any()];
    let _: [Notification; 3] = [payload().into_any(), body().into_any(), raw().into_any()];
}

#[test]
fn a_second_form_of_content_cannot_be_added() {
    let _: [Missing; 3] = [payload().subject("Hi"), payload().body_text("Hi!"), payload().raw_message("")];
    let _: [Missing; 2] = [payload().body_html("<p>Hi!</p>"), payload().payload("{}")];
    let _: [Missing; 3] = [body().payload("{}"), body().subject("Hi"), body().raw_message("")];
    let _: [Missing; 2] = [subject().payload("{}"), subject().raw_message("")];
    let _: [Missing; 3] = [raw().payload("{}"), raw().subject("Hi"), raw().raw_message("")];
    let _: [Missing; 2] = [raw().body_text("Hi!"), raw().body_html("<p>Hi!</p>")];
    let _: [Missing; 2] = [body().into_any().payload("{}"), body().into_any().body_text("Hi!")];
    let _: Notification<content::Body> = body().body_html("<p>Hi!</p>");
}

#[test]
fn a_body_needs_a_subject() {
    let _: [Missing; 2] = [new().body_text("Hi!"), new().body_html("<p>Hi!</p>")];
    let _: Notification<content::Body> = subject().body_html("<p>Hi!</p>").body_text("Hi!");
}

#[test]
fn a_finished_message_takes_no_headers_and_attachments() {
    let _: [Missing; 3] = [raw().reply_to("a@example.org"), raw().header("X-A", "b"), raw().attachment(file())];
    let _: [Missing; 3] = [new().reply_to("a@example.org"), new().header("X-A", "b"), new().attachment(file())];
    let _: Notification<content::Body> = body().reply_to("a@example.org").header("X-A", "b").attachment(file());
    let _: Notification<content::Payload> = payload().reply_to("a@example.org").header("X-A", "b").attachment(file());
}

#[test]
fn debug_shows_no_address_no_content_and_no_key() {
    let secret = "canary";
    let notification = Notification::new("welcome", "canary@example.org")
        .cc("canary@example.org")
        .sender("canary@example.org")
        .dedup_key(secret)
        .ordering_key(secret)
        .subject(secret)
        .body_text(secret)
        .header("X-A", secret)
        .attachment(Attachment::new(secret, secret).content_id(secret));
    assert_eq!(format!("{notification:?}"), r#"Notification { kind: "welcome", recipients: 2, .. }"#);
    assert!(!format!("{:?}", Attachment::new(secret, secret)).contains(secret));
}
