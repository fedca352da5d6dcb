//! Content: what is enqueued is what a mail reader sees; the bytes are the same at every attempt; nothing an application,
//! a customer or a file name says changes the structure of a message or the dialogue with a server.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

mod content {
    mod attempts;
    mod corpus;
    mod damaged;
    mod delivered;
    mod dkim;
    mod injection;
    mod readers;
    mod taken_apart;
    mod theatre;
}
