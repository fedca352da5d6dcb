//! What several of the whole's test suites share. Each module says what it is for; the suites are in `tests/`.

pub mod anatomy;
pub mod collector;
pub mod database;
pub mod dns;
pub mod faketime;
pub mod jail;
pub mod keeper;
pub mod letters;
pub mod mailbox;
pub mod manager;
pub mod misdeeds;
pub mod pgbouncer;
pub mod postfix;
pub mod probe;
pub mod producer;
pub mod promtool;
pub mod recipe;
pub mod shop;
pub mod stage;
pub mod storm;
pub mod verdict;
