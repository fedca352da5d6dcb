//! The mail crate against the scripted server of the testkit, whose ledger is the oracle.

mod cancel;
mod content;
mod dialogue;
mod gates;
mod kit;
mod matrix;
mod security;
mod strays;
