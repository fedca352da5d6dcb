//! `[attachments]` and `relay.spool_directory`: what may be attached from outside of the outbox, and where large contents lie
//! until they are sent.

use std::time::Duration;

use config::{Map, Value};
use hapax_relay::FreightConfig;

use super::{
    origin::Problem,
    reader::{Reader, Section},
};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn read(reader: &mut Reader, root: &mut Map<String, Value>, default: FreightConfig) -> FreightConfig {
    let mut section = reader.section(root, "", "attachments");
    let root = directory(&mut section, "directory", "attachments named by a path lie below it");
    let https_hosts =
        words(&mut section, "https_hosts", "a host is files.example.org, and .example.org all below it", |text| {
            let name = text.strip_prefix('.').unwrap_or(text);
            hapax_core::Recipient::parse(&format!("x@{name}")).is_ok_and(|host| host.domain() == name)
        });
    let https_types =
        words(&mut section, "https_types", "a media type is application/pdf, and image/* all of a kind", |text| {
            text.split_once('/').is_some_and(|(kind, subtype)| !kind.is_empty() && !subtype.is_empty())
        });
    let attachment_bytes_max =
        section.number("bytes_max", default.attachment_bytes_max, 1..=1 << 30, "a whole number of bytes");
    let https_timeout = section.duration("https_timeout", default.https_timeout, SECOND..=3600 * SECOND);
    let ca = section.file("https_ca_file");
    if let Some((path, given)) = &ca
        && let Err(error) = std::fs::read(path)
    {
        section.refuse("https_ca_file", given, format!("cannot be read: {}", error.to_string().to_lowercase()));
    }
    let freight = FreightConfig {
        root,
        https_hosts,
        https_types,
        attachment_bytes_max,
        https_timeout,
        https_ca_file: ca.map(|(path, _)| path),
        ..default
    };
    if !section.has_problem("https_ca_file")
        && let Err(why) = freight.check()
    {
        section.reader.problems.push(Problem::new(section.path("https_ca_file"), why.to_lowercase()));
    }
    section.finish();
    freight
}

/// Where files without names are made.
pub(super) fn spool(section: &mut Section<'_>) -> FreightConfig {
    let mut freight = FreightConfig::default();
    if let Some(found) =
        directory(section, "spool_directory", "messages that are too large for memory lie there until they are sent")
    {
        freight.spool_directory = found;
    }
    freight
}

fn directory(section: &mut Section<'_>, key: &'static str, what_for: &str) -> Option<std::path::PathBuf> {
    let (path, given) = section.file(key)?;
    if !path.is_dir() {
        let message = if path.exists() { "is not a directory" } else { "there is no such directory" };
        section.refuse_with(key, &given, message, what_for);
    }
    Some(path)
}

fn words(section: &mut Section<'_>, key: &'static str, hint: &str, fits: impl Fn(&str) -> bool) -> Vec<String> {
    let given = section.list(key).unwrap_or_default();
    let mut words = Vec::new();
    for one in &given {
        let word = one.text.to_ascii_lowercase();
        match fits(&word) {
            true => words.push(word),
            false => section.refuse_with(key, one, "is not one", hint),
        }
    }
    words
}
