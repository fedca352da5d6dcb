//! The SQL contract, as the applications, the DBAs and the relay meet it: every refusal with its exact words, every
//! accepted form, de-duplication under concurrency, the views, and who may do what.
//!
//! Only SQL speaks here: no code of Hapax takes part.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

mod contract {
    mod accepted;
    mod dedup;
    mod duplicates;
    mod folding;
    mod manual;
    mod many;
    mod observing;
    mod outbox_test;
    mod overtaken;
    mod privileges;
    mod raw;
    mod refusals;
    mod schema;
    mod short_way;
    mod statistics;
    mod support;
    mod surface;
}
