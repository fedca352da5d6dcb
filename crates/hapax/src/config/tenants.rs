//! `[tenants.NAME]` and `[senders."DOMAIN"]`: what applies to a tenant's mail, and to that of a sender's domain.

use std::collections::BTreeMap;

use config::{Map, Value};
use hapax_core::Recipient;
use hapax_relay::{Directions, Tenant};

use super::{
    assemble::{known_route, named_by_producers},
    origin::Problem,
    quiet,
    reader::Reader,
    settings::Route,
};

pub(super) fn read(reader: &mut Reader, root: &mut Map<String, Value>, routes: &[Route]) -> Directions {
    Directions { tenants: tenants(reader, root, routes), senders: senders(reader, root, routes) }
}

fn tenants(reader: &mut Reader, root: &mut Map<String, Value>, routes: &[Route]) -> BTreeMap<String, Tenant> {
    let mut section = reader.section(root, "", "tenants");
    let names = section.names();
    let mut table = section.take_table();
    let read = |name: String| {
        let shape = "letters, digits, _ . : -, begins with a letter or digit";
        named_by_producers(reader, "tenants", &name, 100, shape);
        let mut section = reader.section(&mut table, "tenants", &name);
        let route = known_route(&mut section, routes);
        let zone = quiet::zone(&mut section, None);
        section.finish();
        (name, Tenant { route, zone })
    };
    names.into_iter().map(read).collect()
}

/// A domain is met by itself, not by what lies below it.
fn senders(reader: &mut Reader, root: &mut Map<String, Value>, routes: &[Route]) -> BTreeMap<String, String> {
    let mut section = reader.section(root, "", "senders");
    let names = section.names();
    let mut table = section.take_table();
    let mut senders = BTreeMap::new();
    for domain in names {
        let mut section = reader.section(&mut table, "senders", &domain);
        let route = known_route(&mut section, routes);
        let (is_given, path) = (route.is_some(), section.path("route"));
        section.finish();
        let known = Recipient::parse(&format!("a@{domain}")).ok();
        match known.map(|address| address.domain().to_ascii_lowercase()) {
            Some(plain) if plain == domain => {}
            Some(plain) => {
                let problem = Problem::new(format!("senders.{domain}"), "is not a domain as it is compared");
                reader.problems.push(problem.hint(format!("write [senders.\"{plain}\"]")));
            }
            None => {
                let problem = Problem::new(format!("senders.{domain}"), "is not a domain");
                let hint = "the part of a sender's address after the @, in quotes: [senders.\"example.org\"]";
                reader.problems.push(problem.hint(hint));
            }
        }
        if !is_given {
            let problem = Problem::new(path, "is missing");
            reader.problems.push(problem.hint("the route of mail from this domain: route = \"NAME\""));
        }
        senders.extend(route.map(|route| (domain, route)));
    }
    senders
}
