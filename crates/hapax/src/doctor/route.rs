//! The way out: each route's server is asked everything but to take a message.

use std::time::Duration;

use hapax_core::{DeliveryKey, MessageId, Outcome, Phase, Recipient, outcome::Cause};
use hapax_mail::{
    Security, SmtpServer, Transport,
    probe::{Encryption, Extensions, Probed, harmless, probe},
};

use super::finding::Finding;
use crate::{
    cli::doctor::Doctor,
    config::{Route, Settings, Way},
};

/// Whoever renews certificates by hand needs so long.
const EXPIRY_MIN: Duration = Duration::from_secs(21 * 86_400);

/// What `openssl req -x509` makes when it is not told otherwise.
const OF_AN_AUTHORITY: &str = "have a certificate made for the server itself: one that the authority signs (and the authority's \
    own as ca_file), or openssl req -x509 -addext basicConstraints=critical,CA:FALSE and that one as ca_file";

pub(super) async fn examine(route: &Route, settings: &Settings, options: &Doctor) -> Vec<Finding> {
    let name = format!("route.{}", route.name);
    let Some(server) = smtp(&route.way) else { return vec![local(&name, &route.way)] };
    let mut server = server.clone();
    server.timeouts.connect = server.timeouts.connect.min(options.timeout);
    server.timeouts.command = server.timeouts.command.min(options.timeout);
    // As the first recipient of a message would have it.
    let delivery = DeliveryKey { message_id: MessageId(uuid::Uuid::nil()), recipient_no: 1 };
    let own = route.envelope_sender.as_ref().map(|pattern| pattern.of(delivery));
    let sender = Recipient::parse(own.as_ref().unwrap_or(&route.from)).ok();
    let probed = match Box::pin(probe(&server, sender.as_ref())).await {
        Ok(probed) => probed,
        Err(error) => {
            let remedy = "correct the route's url, credentials or ca_file";
            return vec![Finding::error(name, crate::failure::chain(&error), remedy)];
        }
    };
    let mut findings = Vec::new();
    if let Some(outcome) = &probed.failed {
        findings.push(failed(&name, &server, &probed, outcome));
    } else {
        findings.push(Finding::ok(&name, story(&server, &probed)));
    }
    let refused = probed.failed.as_ref().is_some_and(|outcome| outcome.phase() == Phase::Tls);
    if !refused {
        findings.extend(encryption(&name, &server, &probed));
    }
    if let Some(extensions) = &probed.extensions {
        findings.extend(offers(&name, extensions, settings));
    }
    findings
}

/// The server of a route that has one.
pub(super) fn smtp(way: &Way) -> Option<&SmtpServer> {
    match way {
        Way::Transport(transport) => match &**transport {
            Transport::Smtp(server) => Some(server),
            Transport::File { .. } => None,
        },
        Way::Capture(_) => None,
    }
}

/// Nobody to ask.
fn local(name: &str, way: &Way) -> Finding {
    match way {
        Way::Capture(_) => {
            Finding::note(name, "mail of this route is captured, not delivered", "give it the url of a mail server")
        }
        Way::Transport(transport) => match &**transport {
            Transport::File { directory } => match std::fs::metadata(directory) {
                Ok(found) if !found.is_dir() => {
                    let evidence = format!("{} is no directory", directory.display());
                    Finding::error(name, evidence, "name a directory in the route's url: file:///directory")
                }
                _ => {
                    let evidence = format!("mail of this route is written to {}, not delivered", directory.display());
                    Finding::note(name, evidence, "give it the url of a mail server")
                }
            },
            Transport::Smtp(_) => Finding::ok(name, "a mail server"),
        },
    }
}

/// What was done, in a sentence.
fn story(server: &SmtpServer, probed: &Probed) -> String {
    let mut words = vec![place(server, probed)];
    if let Some(encryption) = &probed.encryption {
        words.push(encryption.version.clone().unwrap_or_else(|| "TLS".to_owned()));
    }
    if let Some(extensions) = &probed.extensions {
        words.push(format!("offers {}", offered(extensions)));
    }
    if probed.authenticated {
        words.push("credentials are taken".to_owned());
    }
    if probed.sender_taken {
        words.push("MAIL FROM is taken (and was taken back with RSET: no mail was sent)".to_owned());
    }
    words.join("; ")
}

fn place(server: &SmtpServer, probed: &Probed) -> String {
    let named = format!("{}:{}", server.host, server.port);
    let address = probed.address.filter(|address| address.ip().to_string() != server.host);
    let at = address.map(|address| format!(" at {}", address.ip())).unwrap_or_default();
    let greets = probed.greeting.as_ref().map(|name| format!(", which calls itself {name}")).unwrap_or_default();
    format!("{named}{at}{greets}")
}

fn offered(extensions: &Extensions) -> String {
    let size = match extensions.size {
        None => None,
        Some(None) => Some("SIZE without a limit".to_owned()),
        Some(Some(bytes)) => Some(format!("SIZE {bytes}")),
    };
    let words = [
        extensions.pipelining.then(|| "PIPELINING".to_owned()),
        size,
        extensions.eight_bit_mime.then(|| "8BITMIME".to_owned()),
        extensions.smtputf8.then(|| "SMTPUTF8".to_owned()),
        extensions.dsn.then(|| "DSN".to_owned()),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() { "no extension".to_owned() } else { words.join(", ") }
}

/// Where it ended, and what to do about it.
fn failed(name: &str, server: &SmtpServer, probed: &Probed, outcome: &Outcome) -> Finding {
    let phase = outcome.phase();
    let part = match phase {
        Phase::Resolve => "dns",
        Phase::Mail => "sender",
        phase => phase.as_str(),
    };
    let (cause, detail) = match outcome {
        Outcome::NotSent { cause, detail, .. } => (Some(*cause), detail.as_str()),
        _ => (None, ""),
    };
    let said = outcome.reply().map(|reply| format!("{} {}", reply.code, harmless(server, &reply.text)));
    let what = match (&said, detail) {
        (Some(said), _) => format!("the answer in phase {phase} is {said}"),
        (None, "") => format!("it ended in phase {phase}"),
        (None, detail) => format!("in phase {phase}: {}", harmless(server, detail)),
    };
    let place = place(server, probed);
    let presented = match (phase, &probed.encryption) {
        (Phase::Tls, Some(encryption)) => format!("; {}", presented(encryption)),
        _ => String::new(),
    };
    let remedy = match (phase, cause) {
        (Phase::Tls, Some(Cause::Certificate)) if detail.contains("CA:TRUE") => OF_AN_AUTHORITY.to_owned(),
        _ => remedy(phase, cause, server, probed),
    };
    Finding::error(format!("{name}.{part}"), format!("{place}: {what}{presented}"), remedy)
}

fn remedy(phase: Phase, cause: Option<Cause>, server: &SmtpServer, probed: &Probed) -> String {
    let timed_out = cause == Some(Cause::Timeout);
    match phase {
        Phase::Resolve => "see that the name is right, and what this machine's resolver says: getent hosts NAME".into(),
        Phase::Connect if timed_out => {
            "a firewall drops the packets, or the address is wrong: many networks block port 25".into()
        }
        Phase::Connect => {
            "see that the server runs there and the port is right: 465 smtps, 587 submission, 25 relay".into()
        }
        Phase::Tls if cause == Some(Cause::Certificate) => certificate_remedy(server, probed),
        Phase::Tls => {
            "smtps:// is for servers that speak TLS at once (465); smtp:// for those with STARTTLS (587, 25)".into()
        }
        Phase::Greeting if timed_out => {
            "it took the connection and says nothing: overloaded, waiting for TLS (try smtps://), or no mail server"
                .into()
        }
        Phase::StartTls => {
            "use smtps:// if it speaks TLS at once, or starttls = \"none\" if plain text is acceptable".into()
        }
        Phase::Auth if cause == Some(Cause::Unsupported) => {
            "see what the server offers after EHLO on this port, and that the connection is encrypted".into()
        }
        Phase::Auth => {
            "see user and password: password_file, $CREDENTIALS_DIRECTORY, or HAPAX__ROUTES__NAME__PASSWORD".into()
        }
        Phase::Mail => {
            "the server must let this account send as the route's from: allow it there, or set another from".into()
        }
        _ => "see the server's log; --timeout 1m gives it longer".into(),
    }
}

fn certificate_remedy(server: &SmtpServer, probed: &Probed) -> String {
    let own = probed.encryption.as_ref().and_then(|encryption| encryption.chain.first());
    let wanted = server.tls_name.as_deref().unwrap_or(&server.host);
    match own {
        Some(own) if own.remaining.is_none() => "have the server's certificate renewed".to_owned(),
        Some(own) if !own.names.iter().any(|name| covers(name, wanted)) => {
            format!("use a name it is for in the route's url, or tls_name = {:?}", own.names[0])
        }
        _ => "have the server send its whole chain; for an authority of one's own: ca_file".to_owned(),
    }
}

/// `*.example.org` covers one label.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) => name.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(rest)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

fn presented(encryption: &Encryption) -> String {
    match encryption.chain.first() {
        None => "it presents no certificate".to_owned(),
        Some(own) => format!(
            "its certificate is for {}, from {}, until {}, in a chain of {}",
            own.names.join(", "),
            own.issuer,
            own.not_after,
            encryption.chain.len()
        ),
    }
}

/// Of a handshake that went well.
fn encryption(name: &str, server: &SmtpServer, probed: &Probed) -> Vec<Finding> {
    let loopback = probed.address.is_some_and(|address| address.ip().is_loopback());
    let place = format!("{name}.encryption");
    let Some(encryption) = &probed.encryption else {
        if probed.address.is_none() || loopback || probed.failed.is_some() {
            return Vec::new();
        }
        let remedy = "smtps://, or starttls = \"required\" for the route";
        return vec![Finding::warning(place, "mail to this server is not encrypted", remedy)];
    };
    let mut findings = Vec::new();
    if !encryption.verified && !loopback {
        let evidence = "encrypted, but the server's certificate is not checked (starttls = opportunistic)";
        findings.push(Finding::warning(place, evidence, "starttls = \"required\" for the route"));
    }
    if encryption.verified || server.security == Security::Opportunistic && !loopback {
        findings.push(expiry(name, encryption));
    }
    findings
}

fn expiry(name: &str, encryption: &Encryption) -> Finding {
    let name = format!("{name}.certificate");
    let first_to_end = encryption.chain.iter().min_by_key(|certificate| certificate.not_after_unix);
    let evidence = presented(encryption);
    match first_to_end {
        Some(first) if first.remaining.is_none_or(|left| left < EXPIRY_MIN) => {
            let left = first.remaining.map_or(0, |left| left.as_secs() / 86_400);
            let evidence = format!("{evidence}: {left} days are left of {}", first.subject);
            Finding::warning(name, evidence, "have the server's certificate renewed before then: mail stops otherwise")
        }
        _ => Finding::ok(name, evidence),
    }
}

/// What the server lacks that this configuration could want.
fn offers(name: &str, extensions: &Extensions, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let freight = &settings.relay.freight;
    // Base64 makes four bytes of three, and a line end for every 76.
    let attachment = freight.attachment_bytes_max / 3 * 4 / 76 * 78;
    if let Some(Some(limit)) = extensions.size
        && (limit as u64) < attachment
    {
        let evidence = format!(
            "it takes {limit} bytes a message at most; an attachment of attachments.bytes_max ({}) makes {attachment}",
            freight.attachment_bytes_max
        );
        let fit = limit as u64 / 78 * 76 / 4 * 3;
        let remedy = format!("raise the server's limit, or attachments.bytes_max = {fit}: larger ones fail for good");
        findings.push(Finding::warning(format!("{name}.size"), evidence, remedy));
    }
    let lacking = [
        (extensions.pipelining, "PIPELINING (two round trips more a message)"),
        (extensions.eight_bit_mime, "8BITMIME (finished messages with 8-bit bodies wait for a server that has it)"),
        (extensions.smtputf8, "SMTPUTF8 (non-ASCII addresses fail)"),
    ];
    let lacking: Vec<&str> = lacking.into_iter().filter(|(has, _)| !has).map(|(_, what)| what).collect();
    if !lacking.is_empty() {
        let evidence = format!("not offered: {}", lacking.join(", "));
        findings.push(Finding::note(format!("{name}.extensions"), evidence, "switch it on there, if that is possible"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use hapax_mail::probe::Certificate;

    use super::*;
    use crate::doctor::finding::Severity;

    fn ends_in(days: u64) -> Certificate {
        Certificate {
            names: vec!["*.example.org".to_owned()],
            subject: "CN=mx".to_owned(),
            issuer: "CN=authority".to_owned(),
            not_after: "2030-01-01".to_owned(),
            not_after_unix: Duration::from_secs(days * 86_400),
            remaining: (days > 0).then(|| Duration::from_secs(days * 86_400)),
        }
    }

    #[test]
    fn a_chain_ends_with_the_first_of_its_certificates_and_three_weeks_are_few() {
        let of = |days: &[u64]| {
            let chain = days.iter().map(|days| ends_in(*days)).collect();
            expiry("route.x", &Encryption { chain, version: None, verified: true })
        };
        assert_eq!(of(&[22, 400]).severity, Severity::Ok);
        for few in [&[20, 400][..], &[90, 20], &[0, 400]] {
            let finding = of(few);
            assert_eq!(
                (finding.severity, finding.name.as_str()),
                (Severity::Warning, "route.x.certificate"),
                "{few:?}"
            );
        }
        assert!(of(&[400, 5]).evidence.ends_with("5 days are left of CN=mx"));
    }

    #[test]
    fn a_star_covers_one_label() {
        assert!(covers("*.example.org", "MX.example.ORG") && covers("mx.example.org", "mx.Example.org"));
        assert!(!covers("*.example.org", "a.b.example.org") && !covers("*.example.org", "example.org"));
    }
}
