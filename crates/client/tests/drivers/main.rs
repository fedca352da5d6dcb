//! The same scenarios through every driver, against a real Postgres: what an application relies on.
//!
//! Each module is an application that knows one library; `scenarios.rs` says what must hold for all of them. The crate is
//! built with every driver here (it is its own dev-dependency), so a driver cannot be left out by a choice of features.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

#[macro_use]
mod scenarios;
mod application;
mod deadpool;
mod diesel;
mod diesel_async;
mod example;
mod sqlx;
mod tokio_postgres;
