//! `hapax explain`, as a support engineer uses it: "a customer got two mails", "a customer got none". Each test makes the
//! situation with real processes, asks the binary, and reads the verdict and the time line. Nobody's address is printed.

#[path = "explain/asking.rs"]
mod asking;
#[path = "explain/doubts.rs"]
mod doubts;
#[path = "explain/producers.rs"]
mod producers;
#[path = "explain/states.rs"]
mod states;
#[path = "explain/support.rs"]
mod support;
