//! `[attachments]` and `relay.spool_directory`: what may be attached from outside of the outbox, and where large contents lie
//! until they are sent.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Map, Value};
use hapax_relay::FreightConfig;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{
    origin::{Origin, Problem},
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
        && let Err((message, hint)) = certificates(path)
    {
        section.refuse_with("https_ca_file", given, message, hint);
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

/// What keeps a file from being certificates to trust, and what to do about it.
pub(super) fn certificates(path: &Path) -> Result<(), (String, &'static str)> {
    const FORM: &str =
        "a line -----BEGIN CERTIFICATE----- begins one; from DER: openssl x509 -inform DER -in FILE -out FILE.pem";
    const WHAT_FOR: &str = "it holds the certificates of the authorities to trust; without it those of the system are";
    let bytes = std::fs::read(path)
        .map_err(|error| (format!("cannot be read: {}", error.to_string().to_lowercase()), WHAT_FOR))?;
    let path = path.display();
    let found: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|_| (format!("{path} is cut off or damaged: its PEM cannot be read"), FORM))?;
    if found.is_empty() {
        return Err((format!("{path} holds no certificate in PEM form"), FORM));
    }
    let mut roots = RootCertStore::empty();
    for (at, certificate) in found.into_iter().enumerate() {
        let unusable =
            |_| (format!("{path}: certificate {} in it cannot be used", at + 1), "openssl x509 -in FILE -text");
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(())
}

/// Secrets that a producer could have sent by mail.
pub(super) fn warn(reader: &mut Reader, root: &Path) {
    let Ok(root) = root.canonicalize() else { return };
    let origins = reader.shown.iter().filter_map(|shown| match &shown.origin {
        Origin::File(path) => Some(("the configuration", path)),
        _ => None,
    });
    let named = reader.files.iter().filter(|(key, _)| key.ends_with("_file"));
    let all = origins.chain(named.map(|(key, path)| (key.as_str(), path)));
    let inside = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path.starts_with(&root));
    let mut exposed: Vec<String> = all.filter(|(_, path)| inside(path)).map(|(what, _)| what.to_owned()).collect();
    exposed.sort();
    exposed.dedup();
    let message = match (root.parent().is_none(), exposed.is_empty()) {
        (true, _) => "every file of this machine that hapax can read may be attached".to_owned(),
        (false, false) => format!("what lies in it may be attached, and that includes {}", exposed.join(", ")),
        (false, true) => return,
    };
    let warning = Problem::new("attachments.directory", message);
    reader.warnings.push(warning.hint("whoever may enqueue can have it sent: name a directory of its own"));
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
