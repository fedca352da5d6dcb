//! What is told of a panic: where, and its words only where they are the program's own.
//!
//! A message made with data may hold any of it: slicing a text beside its characters quotes the text. So what was formatted
//! stays unsaid, here and wherever a panic is caught; the place says what went wrong.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::PanicHookInfo,
};

/// From now on panics are told so, in the log.
pub(super) fn tell_places_only() {
    std::panic::set_hook(Box::new(tell));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let at = panic.location().map(ToString::to_string);
    let words = panic.payload().downcast_ref::<&'static str>().copied();
    let words = words.unwrap_or("(made with data, which is not told)");
    let stack = Backtrace::capture();
    let stack = (stack.status() == BacktraceStatus::Captured).then(|| stack.to_string());
    tracing::error!(
        panic.at = at,
        panic.words = words,
        thread = thread.name(),
        stack,
        "a panic, which is a mistake of hapax"
    );
}
