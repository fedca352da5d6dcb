//! How templates are compiled and run: what they may reach, and how much they may do.
//!
//! Invariants: a template sees no clock, no chance and no file that was not loaded; HTML is escaped, text is not.

use std::{borrow::Cow, io};

use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig};

use crate::Options;

pub(super) fn environment(options: &Options) -> Environment<'static> {
    let mut environment = Environment::new();
    // So that an error names the key that was missing. The error then also carries a copy of the payload: it is dropped
    // in `explain`, never kept or shown.
    environment.set_debug(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(options.template_fuel_max));
    environment.set_auto_escape_callback(|name| match name.ends_with(".html") || name.ends_with(".mjml") {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    environment.set_path_join_callback(resolve);
    super::filters::add(&mut environment);
    // It prints the whole context, with everything the payload holds.
    environment.remove_global("debug");
    // A line that holds only a block tag leaves no trace in a plain text.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

/// Names are relative to the template directory; `./` and `../` to the including file. Only what was loaded can be
/// found, so no name leads out of the directory; one that tries resolves to a name no template has.
fn resolve<'s>(name: &'s str, parent: &'s str) -> Cow<'s, str> {
    if !name.starts_with("./") && !name.starts_with("../") {
        return Cow::Borrowed(name);
    }
    let mut path: Vec<&str> = parent.split('/').collect();
    path.pop();
    for segment in name.split('/') {
        match segment {
            "." => {}
            ".." if path.pop().is_none() => return Cow::Borrowed(".."),
            ".." => {}
            segment => path.push(segment),
        }
    }
    Cow::Owned(path.join("/"))
}

/// Output that stops at a limit.
pub(super) struct Bounded {
    pub(super) bytes: Vec<u8>,
    pub(super) bytes_max: usize,
    pub(super) exceeded: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.bytes_max - self.bytes.len() {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
