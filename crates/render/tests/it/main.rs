//! Messages as a reader would see them: rendered here, taken apart by an independent parser.

mod content;
mod headers;
mod injection;
mod kinds;
mod properties;
mod raw;
mod stamps;
mod support;
mod templates;
mod unsubscribe;
