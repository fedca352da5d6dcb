//! One SMTP dialogue, phase by phase, with the truth about its outcome (PROTOCOL section 4, RFC 5321).
//!
//! [`Mailer::open`] leads to a [`Connection`], [`Connection::begin`] to a [`Data`] (its 354 has been read; the relay
//! makes the intent durable now), [`Data::transmit`] to an outcome and, if all was in order, the connection back. Each
//! step consumes the one before, so a connection in an unknown state cannot be used again.
//!
//! Architecture Invariant: this is the only user of lettre, and it knows nothing of the store. An outcome is unknown
//! only if the write of the end marker was polled (or a server announced a message before it), and is certain only by a
//! complete, well-formed reply.
//!
//! # What is lettre's and what is ours
//! lettre's: the commands EHLO, STARTTLS, AUTH, RSET and QUIT; the SASL mechanisms and their encoding; and its codec is
//! the second opinion on our dot-stuffing in `tests/mail/content.rs`.
//! Ours, because lettre 0.11.23 cannot give the certainty table (`client/async_connection.rs`, `response.rs`):
//! - *Reading replies.* `read_response` fails on a byte that is not UTF-8 (a 250 in Latin-1 would be an error, hence
//!   unknown), waits for ever on a line that ends in a bare LF, reads a line without bound before it checks its length,
//!   calls 3xx a success, and its buffer cannot be looked at: stray replies (RC-49) cannot be seen.
//! - *Writing bodies.* `message_iter` allocates and copies part by part, does not read while it writes, and cannot be
//!   asked between body and marker whether the deadline has passed.
//! - *Connecting and TLS.* It never sets TCP_NODELAY (40 ms per message), and only below our own TLS is it known which
//!   bytes the kernel has taken.
//! - *EHLO.* Its parser drops PIPELINING and SIZE. *Aborting.* Its `abort` writes QUIT into the open DATA.

mod auth;
mod capabilities;
mod certificate;
mod channel;
mod config;
mod connection;
mod expiry;
mod file;
mod gate;
mod local;
mod mailer;
mod message;
pub mod moments;
pub mod probe;
mod reply;
mod route_url;
mod spool;
mod tls;
mod transmit;
mod wire;

pub use capabilities::Envelope;
pub use config::{Credentials, Error, Secret, Security, SmtpServer, Transport, default_hello_name};
pub use connection::{Begun, Connection};
pub use gate::{Gate, Heartbeat, Shut};
pub use mailer::Mailer;
pub use message::{MARKER, Message};
pub use route_url::{ParsedUrl, UrlError, parse_url};
pub use spool::{Spool, Spooled};
pub use transmit::{Data, Transmitted};
