//! Messages as a reader would see them: rendered here, taken apart by an independent parser.

mod broken;
mod content;
mod formats;
mod headers;
mod injection;
mod kinds;
mod pages;
mod properties;
mod raw;
mod stamps;
mod support;
mod templates;
mod unsubscribe;
