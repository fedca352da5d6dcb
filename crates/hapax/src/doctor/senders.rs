//! The DNS of the senders: SPF, DKIM, DMARC. Where no DNS server answers, that is a note: many servers may not ask.
//!
//! Which addresses a server sends from is not known here, so an SPF record is looked for and not evaluated.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::future::join_all;
use hapax_core::Recipient;
use hapax_render::dkim::Key;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name, RData},
};

use super::{
    finding::Finding,
    limited,
    records::{self, Dkim},
    route::smtp,
};
use crate::{cli::doctor::Doctor, config::Route};

/// The records of every sender's domain and of every key of these routes.
pub(super) async fn examine(routes: &[&Route], options: &Doctor) -> Vec<Finding> {
    let leaving: Vec<&&Route> = routes.iter().filter(|route| smtp(&route.way).is_some()).collect();
    let domain = |route: &&&Route| Recipient::parse(&route.from).ok().map(|from| from.domain().to_ascii_lowercase());
    let domains: BTreeSet<String> =
        leaving.iter().filter_map(domain).filter(|domain| !domain.starts_with('[')).collect();
    if domains.is_empty() {
        return Vec::new();
    }
    let Some(resolver) = Asker::new(options) else {
        return vec![unreachable("this machine names no DNS server")];
    };
    let seen: BTreeSet<String> = BTreeSet::new();
    let keys = leaving.iter().flat_map(|route| route.dkim.iter());
    let keys: Vec<&Key> = keys
        .map(AsRef::as_ref)
        .scan(seen, |seen, key| Some((seen.insert(key.record_name()), key)))
        .filter_map(|(is_new, key)| is_new.then_some(key))
        .collect();
    // One question tells whether anybody answers at all.
    let first = domains.iter().next().map(String::as_str).unwrap_or_default();
    if let Err(why) = resolver.texts(first).await {
        return vec![unreachable(&why)];
    }
    let limit = options.timeout;
    let of_domains =
        domains.iter().map(|domain| limited(format!("dns.{domain}"), limit, Box::pin(policies(&resolver, domain))));
    let of_keys = keys
        .into_iter()
        .map(|key| limited(format!("dkim.{}", key.record_name()), limit, Box::pin(public_half(&resolver, key))));
    join_all(of_domains.chain(of_keys)).await.into_iter().flatten().collect()
}

fn unreachable(why: &str) -> Finding {
    let remedy = "run the doctor where DNS can be asked, or name a server: --resolver 9.9.9.9:53";
    Finding::note("dns", format!("SPF, DKIM and DMARC could not be looked at: {why}"), remedy)
}

async fn policies(resolver: &Asker, domain: &str) -> Vec<Finding> {
    vec![spf(resolver, domain).await, dmarc(resolver, domain).await]
}

async fn spf(resolver: &Asker, domain: &str) -> Finding {
    let name = format!("dns.{domain}.spf");
    let found = match resolver.texts(domain).await {
        Ok(found) => found,
        Err(why) => return Finding::note(name, why, "try again"),
    };
    match records::spf(&found).as_slice() {
        [one] => Finding::ok(name, one.as_str()),
        [] => {
            let remedy = format!("a TXT record at {domain}: \"v=spf1 include:YOUR-PROVIDER -all\"");
            Finding::warning(name, format!("{domain} has no SPF record: receivers trust its mail less"), remedy)
        }
        more => {
            let evidence = format!("{domain} has {} SPF records: receivers take that for an error", more.len());
            Finding::warning(name, evidence, "make one of them")
        }
    }
}

async fn dmarc(resolver: &Asker, domain: &str) -> Finding {
    let name = format!("dns.{domain}.dmarc");
    for place in records::domain_and_above(domain) {
        let found = match resolver.texts(&format!("_dmarc.{place}")).await {
            Ok(found) => found,
            Err(why) => return Finding::note(name, why, "try again"),
        };
        match records::dmarc(&found).as_slice() {
            [] => {}
            [one] => return Finding::ok(name, format!("policy {} at _dmarc.{place}", records::policy(one))),
            more => {
                let evidence = format!("_dmarc.{place} has {} records: receivers ignore them all", more.len());
                return Finding::warning(name, evidence, "keep one of them");
            }
        }
    }
    let remedy = format!("a TXT record at _dmarc.{domain}: \"v=DMARC1; p=none; rua=mailto:...\", to begin with");
    Finding::warning(name, format!("{domain} has no DMARC record: large receivers ask for one"), remedy)
}

async fn public_half(resolver: &Asker, key: &Key) -> Vec<Finding> {
    let place = key.record_name();
    let name = format!("dkim.{place}");
    let Ok(wanted) = key.record() else {
        return vec![Finding::note(name, "the key's public half cannot be written", "make a new key")];
    };
    let found = match resolver.texts(&place).await {
        Ok(found) => found,
        Err(why) => return vec![Finding::note(name, why, "try again")],
    };
    let publish = format!("publish this TXT record at {place}: {wanted}");
    let finding = match records::dkim(&found, &wanted) {
        Dkim::Same => Finding::ok(name, format!("the record at {place} is that of the key, {} bits", key.bits())),
        Dkim::Missing => {
            Finding::error(name, format!("there is no record at {place}: no signature can be verified"), publish)
        }
        Dkim::Revoked => Finding::error(name, format!("the key at {place} is revoked (p= is empty)"), publish),
        Dkim::Other => Finding::error(
            name,
            format!("the record at {place} is that of another key: every signature fails"),
            publish,
        ),
        Dkim::Several => {
            Finding::error(name, format!("there are several records at {place}: receivers may take any"), publish)
        }
    };
    vec![finding]
}

/// Asks DNS servers for TXT records.
struct Asker(TokioResolver);

impl Asker {
    /// The server that was named, else those of `/etc/resolv.conf`; nothing without any.
    fn new(options: &Doctor) -> Option<Self> {
        let servers: Vec<SocketAddr> = match options.resolver {
            Some(address) => vec![address],
            None => nameservers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        };
        if servers.is_empty() {
            return None;
        }
        let server = |address: SocketAddr| {
            let at_port = |mut connection: ConnectionConfig| {
                connection.port = address.port();
                connection
            };
            let ways = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
            NameServerConfig::new(address.ip(), true, ways)
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.into_iter().map(server).collect());
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let opts = builder.options_mut();
        opts.attempts = 1;
        opts.timeout = (options.timeout / 2).max(Duration::from_millis(100));
        builder.build().ok().map(Self)
    }

    /// The TXT records at a name, each in one piece; none where there are none.
    async fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let name = Name::from_ascii(format!("{name}.")).map_err(|error| format!("{name}: {error}"))?;
        match self.0.txt_lookup(name).await {
            Ok(found) => {
                let texts = found.answers().iter().filter_map(|record| match &record.data {
                    RData::TXT(text) => Some(text.txt_data.concat()),
                    _ => None,
                });
                Ok(texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect())
            }
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(format!("no DNS server answers: {error}")),
        }
    }
}

/// `nameserver ADDRESS` lines.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses =
        lines.filter_map(|rest| rest.trim().split('%').next().and_then(|address| address.parse::<IpAddr>().ok()));
    addresses.map(|address| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_from_the_file_of_the_system() {
        let text =
            "# a comment\nsearch example.org\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\nnameserver nonsense\n";
        let found: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
