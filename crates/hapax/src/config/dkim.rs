//! `[dkim.NAME]`: keys that sign, and which of them a route uses.
//!
//! Invariant: a private key is in no problem, warning or shown value.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use config::{Map, Value};
use hapax_render::dkim::{Error, Key};

use super::{
    assemble::{NAME_BYTES_MAX, valid_route_name},
    nearest::nearest,
    origin::Problem,
    reader::{Reader, Section},
    secrets::{self, Names},
};

/// What sections there are, and the usable keys among them.
#[derive(Debug, Default)]
pub(super) struct Keys {
    names: Vec<String>,
    usable: BTreeMap<String, Arc<Key>>,
}

/// Reads all sections.
pub(super) fn read(reader: &mut Reader, root: &mut Map<String, Value>, credentials: Option<&Path>) -> Keys {
    let mut section = reader.section(root, "", "dkim");
    let mut keys = Keys { names: section.names(), usable: BTreeMap::new() };
    let mut table = section.take_table();
    for name in keys.names.clone() {
        if !valid_route_name(&name) {
            let message = format!("a key's name is 1 to {NAME_BYTES_MAX} of a-z, 0-9, _ and -");
            reader.problems.push(Problem::new(format!("dkim.{name}"), message));
            continue;
        }
        let mut section = reader.section(&mut table, "dkim", &name);
        let key = key(&mut section, &name, credentials);
        section.finish();
        let Some(key) = key else { continue };
        let is_same = |other: &&Arc<Key>| other.domain() == key.domain() && other.selector() == key.selector();
        if keys.usable.values().any(|other| is_same(&other)) {
            let message = format!("another key signs for {} with this selector already", key.domain());
            let hint = "a selector names one key of its domain in the DNS";
            reader.problems.push(Problem::new(format!("dkim.{name}.selector"), message).hint(hint));
            continue;
        }
        keys.usable.insert(name, Arc::new(key));
    }
    keys
}

fn key(section: &mut Section<'_>, name: &str, credentials: Option<&Path>) -> Option<Key> {
    let domain = section.take("domain");
    section.show("domain", domain.as_ref(), None);
    if domain.is_none() && !section.has_problem("domain") {
        section.missing("domain", "the domain that signs, that of the senders: domain = \"example.com\"");
    }
    let selector = section.take("selector");
    section.show("selector", selector.as_ref(), None);
    if selector.is_none() && !section.has_problem("selector") {
        section.missing("selector", "the public key stands in the DNS at SELECTOR._domainkey.DOMAIN");
    }
    let credential = format!("dkim_{name}_private_key");
    let names = Names { key: "private_key", file_key: "private_key_file", credential: &credential };
    let (pem, file) = secrets::find_with_file(section, &names, credentials);
    let file_path = section.path("private_key_file");
    if pem.is_none() && !section.has_problem("private_key_file") && !section.has_problem("private_key") {
        let hint = format!(
            "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out FILE makes one; \
             or put it into $CREDENTIALS_DIRECTORY/{credential}"
        );
        section.missing("private_key_file", hint);
    }
    if file.is_some_and(|path| std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)) {
        let warning = Problem::new(&file_path, "everybody on this machine can read the private key");
        section.reader.warnings.push(warning.hint("chmod o-rwx, and give it to the user hapax runs as"));
    }
    let (domain, selector, pem) = (domain?, selector?, pem?);
    let error = match Key::new(&domain.text, &selector.text, pem.expose()) {
        Ok(key) => return Some(key),
        Err(error) => error,
    };
    let text = error.to_string();
    match error {
        Error::Domain => section.refuse("domain", &domain, text),
        Error::Selector => section.refuse("selector", &selector, text),
        _ => {
            let (message, hint) = text.split_once(": ").unwrap_or((&text, "make a new one"));
            section.reader.problems.push(Problem::new(file_path, message).hint(hint));
        }
    }
    None
}

/// `dkim = ["NAME", ...]` of a route: the keys it uses; all of them where it says nothing.
pub(super) fn of_route(section: &mut Section<'_>, keys: &Keys, from: Option<&str>) -> Vec<Arc<Key>> {
    let given = section.list("dkim");
    let mut used: Vec<Arc<Key>> = match &given {
        Some(_) => Vec::new(),
        None => keys.usable.values().cloned().collect(),
    };
    let given = given.unwrap_or_default();
    for one in &given {
        if let Some(key) = keys.usable.get(&one.text) {
            used.push(key.clone());
        } else if !keys.names.contains(&one.text) {
            let names = keys.names.iter().map(String::as_str);
            let hint = match nearest(&one.text, names) {
                Some(near) => format!("did you mean {near}?"),
                None if keys.names.is_empty() => format!("write [dkim.{}] with domain and selector", one.text),
                None => format!("the keys are: {}", keys.names.join(", ")),
            };
            section.refuse_with("dkim", one, "there is no such key", &hint);
        }
    }
    let sender = from.and_then(|from| hapax_core::Recipient::parse(from).ok());
    if let Some(sender) = sender
        && !used.is_empty()
        && !used.iter().any(|key| key.signs_for(sender.domain()))
    {
        let warning = Problem::new(section.path("dkim"), "none of these keys signs for the domain of the route's from");
        section.reader.warnings.push(warning.hint("a key signs for its domain and those below it"));
    }
    used
}
