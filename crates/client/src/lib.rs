//! The typed way for Rust applications to enqueue mail: in their own Postgres transaction, for Hapax to send once.
//!
//! An application writes its rows and the notification about them in one transaction. If it commits, the mail will be
//! sent; if it rolls back, there never was one. Nothing here speaks SMTP, starts a thread or opens a connection: a
//! notification is a row, and `hapax run` delivers it.
//!
//! Build a [`Notification`], then give it to the module of your driver, inside of your transaction:
//!
//! | module | feature | takes |
//! |---|---|---|
//! | `hapax_client::tokio_postgres` | `tokio-postgres` (default) | `Client`, `Transaction`, pools that lend them |
//! | `hapax_client::sqlx` | `sqlx` | `&mut PgConnection`, `&mut *transaction`, `&PgPool` |
//! | `hapax_client::diesel` | `diesel` | diesel connections to Postgres |
//! | `hapax_client::diesel_async` | `diesel-async` | `AsyncPgConnection` |
//!
//! Each has the same four functions: `enqueue`, `enqueue_many`, `status` and `cancel`. Their documentation has an example
//! for each driver; this is the first one:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let database_url = hapax_tests::shop::Shop::open().await?.url();
//! # let (mut client, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await?;
//! # tokio::spawn(connection);
//! use hapax_client::{Notification, tokio_postgres as outbox};
//! use serde::Serialize;
//!
//! #[derive(Serialize)]
//! struct OrderConfirmed {
//!     order_id: i64,
//!     total: &'static str,
//! }
//!
//! let transaction = client.transaction().await?;
//! let order_id: i64 = transaction
//!     .query_one("INSERT INTO orders (email, total) VALUES ('ada@example.org', '19.90 EUR') RETURNING id", &[])
//!     .await?
//!     .get(0);
//! let confirmation = Notification::new("order_confirmed", "Ada Lovelace <ada@example.org>")
//!     .payload(&OrderConfirmed { order_id, total: "19.90 EUR" })?
//!     .dedup_key(format!("order-{order_id}-confirmed"));
//! outbox::enqueue(&transaction, &confirmation).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is wrong with a notification the outbox says, naming the argument and the remedy:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let database_url = hapax_tests::shop::Shop::open().await?.url();
//! # let (client, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await?;
//! # tokio::spawn(connection);
//! use hapax_client::{Error, Notification, tokio_postgres as outbox};
//!
//! let nobody = Notification::new("welcome", "ada").subject("Welcome").body_text("Good to have you.");
//! match outbox::enqueue(&client, &nobody).await {
//!     Err(Error::Refused { argument, message, hint, .. }) => {
//!         assert_eq!(argument, "recipients");
//!         assert_eq!(message, "outbox.enqueue: recipients: element 1 has no @");
//!         assert!(hint.is_some_and(|hint| hint.starts_with("write user@example.org")));
//!     }
//!     other => panic!("it was not refused: {other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Several keys.** Transactions that use several dedup or ordering keys take them in sorted order (or with
//! `enqueue_many`, which does it for you), or they may deadlock. Repeat a transaction that fails with SQLSTATE `40001` or
//! `40P01`; a notification is only borrowed, so it can be enqueued again.
//!
//! Invariants: values only ever travel as parameters, never as SQL; `Debug` and errors show no address, no content, no
//! key; the crate knows the SQL contract and nothing else of Hapax, and depends on none of its crates.

#[cfg(feature = "diesel")]
pub mod diesel;
#[cfg(feature = "diesel-async")]
pub mod diesel_async;
#[cfg(feature = "sqlx")]
pub mod sqlx;
#[cfg(feature = "tokio-postgres")]
pub mod tokio_postgres;

// Without a driver nobody calls these.
#[cfg_attr(not(any(feature = "diesel", feature = "sqlx", feature = "tokio-postgres")), allow(dead_code))]
mod arguments;
mod attachment;
pub mod content;
#[cfg_attr(not(any(feature = "diesel", feature = "sqlx", feature = "tokio-postgres")), allow(dead_code))]
mod error;
mod notification;
#[cfg_attr(not(any(feature = "diesel", feature = "sqlx", feature = "tokio-postgres")), allow(dead_code))]
mod outcome;
#[cfg_attr(not(any(feature = "diesel", feature = "sqlx", feature = "tokio-postgres")), allow(dead_code))]
mod time;

pub use attachment::Attachment;
pub use error::Error;
pub use notification::{Notification, OnDoubt, Priority, mailbox};
pub use outcome::{Cancellation, Cancelled, Delivery, State};

/// The examples of the page that one sees first must compile, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
