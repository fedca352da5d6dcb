//! What one line of a Postfix log says. Pure; knows the words of Postfix and nothing of doubts.
//!
//! A word is taken for what it is only where Postfix writes it: `status=` behind `to=<...>` of a delivery agent is a
//! delivery, in a subject it is nothing.

/// Who wrote a line, behind its time: `mx1 postfix-out/smtpd[123]: text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) host: &'a str,
    pub(crate) program: &'a str,
    pub(crate) pid: &'a str,
    pub(crate) text: &'a str,
}

impl<'a> Header<'a> {
    /// `None` for lines that are not syslog's.
    pub(crate) fn read(rest: &'a str) -> Option<Self> {
        let (host, rest) = rest.split_once(' ')?;
        let (tag, text) = rest.split_once(": ")?;
        if host.is_empty() || host.ends_with(':') || tag.contains(' ') {
            return None;
        }
        let (program, pid) = match tag.strip_suffix(']').and_then(|tag| tag.split_once('[')) {
            Some((program, pid)) => (program, pid),
            None => (tag, ""),
        };
        Some(Self { host, program, pid, text })
    }

    /// Instance and service of a Postfix program: `postfix-out/smtpd` and `postfix/submission/smtpd` are smtpd.
    pub(crate) fn postfix(&self) -> Option<(&'a str, &'a str)> {
        let (instance, rest) = self.program.split_once('/')?;
        let service = rest.rsplit('/').next()?;
        SERVICES.contains(&service).then_some((instance, service))
    }

    /// Whether a logger says that it has lost lines.
    pub(crate) fn lost_lines(&self) -> bool {
        let loggers = ["rsyslogd", "systemd-journald", "syslog-ng", "journal"];
        let words = ["rate-limit", "ratelimit", "Suppressed ", "messages lost", "lost ", "dropped "];
        loggers.iter().any(|logger| self.program.starts_with(logger))
            && words.iter().any(|word| self.text.contains(word))
    }
}

const SERVICES: [&str; 24] = [
    "smtpd",
    "cleanup",
    "qmgr",
    "smtp",
    "lmtp",
    "local",
    "virtual",
    "pipe",
    "pickup",
    "bounce",
    "error",
    "discard",
    "retry",
    "relay",
    "anvil",
    "scache",
    "postscreen",
    "master",
    "postsuper",
    "postfix-script",
    "verify",
    "tlsmgr",
    "trivial-rewrite",
    "postlogd",
];

/// What a line says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    /// A queue id begins: smtpd or pickup took a new message on.
    Begins { queue_id: &'a str },
    /// Its Message-ID, as its header has it.
    MessageId { queue_id: &'a str, message_id: &'a str },
    /// The queue manager has it, or a delivery agent: Postfix took responsibility.
    Queued { queue_id: &'a str },
    /// A delivery agent's line: for whom.
    Delivery { queue_id: &'a str, recipient: &'a str },
    /// Refused at its end.
    Refused { queue_id: &'a str, recipient: Option<&'a str> },
    /// Discarded or put on hold: neither refused nor queued.
    Kept { queue_id: &'a str },
    /// Gone from the queue: the id may be used again.
    Removed { queue_id: &'a str, delivered: bool },
    /// The client was lost before the end of the message; of the message this process was receiving.
    Aborted,
    /// The process has another client now, or none.
    Idle,
    /// A filter in front of the queue answers for Postfix.
    Proxied,
}

/// What the text of a service says; nothing for most lines.
pub(crate) fn read<'a>(service: &str, text: &'a str) -> Option<Said<'a>> {
    if let Some(said) = session(text).filter(|_| service == "smtpd") {
        return Some(said);
    }
    let (queue_id, rest) = text.split_once(": ")?;
    if !is_queue_id(queue_id) {
        return (queue_id == "NOQUEUE" && is_proxied(rest)).then_some(Said::Proxied);
    }
    match service {
        "smtpd" if rest.starts_with("client=") => Some(Said::Begins { queue_id }),
        "pickup" if rest.starts_with("uid=") => Some(Said::Begins { queue_id }),
        "smtpd" if is_proxied(rest) => Some(Said::Proxied),
        "smtpd" | "cleanup" => receiving(service, queue_id, rest),
        "qmgr" if rest.ends_with("(queue active)") => Some(Said::Queued { queue_id }),
        "qmgr" if rest == "removed" => Some(Said::Removed { queue_id, delivered: true }),
        "postsuper" if rest == "removed" => Some(Said::Removed { queue_id, delivered: false }),
        _ if rest.starts_with("to=<") && rest.contains(", status=") => {
            let recipient = field(rest, "orig_to=<").or_else(|| field(rest, "to=<"))?;
            Some(Said::Delivery { queue_id, recipient })
        }
        _ => None,
    }
}

/// What smtpd says of a client, without a queue id.
fn session(text: &str) -> Option<Said<'_>> {
    // Not END-OF-MESSAGE: then it had the whole message.
    let before_the_end = ["lost connection after DATA ", "timeout after DATA "];
    if before_the_end.iter().any(|words| text.starts_with(words)) {
        return Some(Said::Aborted);
    }
    let ended = ["connect from ", "disconnect from "].iter().any(|words| text.starts_with(words));
    ended.then_some(Said::Idle)
}

fn is_proxied(rest: &str) -> bool {
    rest.starts_with("proxy-accept: ") || rest.starts_with("proxy-reject: ")
}

/// What smtpd and cleanup say while they receive a message.
fn receiving<'a>(service: &str, queue_id: &'a str, rest: &'a str) -> Option<Said<'a>> {
    if let Some(message_id) = rest.strip_prefix("message-id=").filter(|_| service == "cleanup") {
        return Some(Said::MessageId { queue_id, message_id: message_id.trim() });
    }
    let (action, what) = rest.split_once(": ")?;
    let at_the_end = what.starts_with("END-OF-MESSAGE ") || what.starts_with("END-OF-DATA ");
    match action {
        "milter-reject" | "reject" if at_the_end || (service == "cleanup" && action == "reject") => {
            let recipient = what.find(" to=<").and_then(|at| field(&what[at + 1..], "to=<"));
            Some(Said::Refused { queue_id, recipient })
        }
        "discard" | "milter-discard" | "hold" | "milter-hold" => Some(Said::Kept { queue_id }),
        _ => None,
    }
}

/// The value of `name...>` at the beginning of the text or behind a comma.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let at = if text.starts_with(name) { 0 } else { text.find(&format!(", {name}"))? + 2 };
    let value = &text[at + name.len()..];
    // A quoted local part may hold anything, but not Postfix's own separator.
    let end = value.find(">, ").or_else(|| value.find("> ")).or_else(|| value.rfind('>'))?;
    Some(&value[..end])
}

/// Short ids are upper-case hexadecimal, long ones digits and consonants.
fn is_queue_id(text: &str) -> bool {
    let short = text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    let consonant = |b: u8| b.is_ascii_alphabetic() && !b"aeiouAEIOU".contains(&b);
    short || (text.len() >= 10 && text.bytes().all(|b| b.is_ascii_digit() || consonant(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines_say_what_they_say() {
        let cases: &[(&str, &str, Option<Said<'_>>)] = &[
            ("smtpd", "connect from unknown[192.0.2.7]", Some(Said::Idle)),
            ("smtpd", "3F2A51C0D4: client=app1.example.com[192.0.2.7]", Some(Said::Begins { queue_id: "3F2A51C0D4" })),
            (
                "smtpd",
                "4bXy2z1WvTz9rqN: client=app1[192.0.2.7], sasl_method=PLAIN, sasl_username=shop",
                Some(Said::Begins { queue_id: "4bXy2z1WvTz9rqN" }),
            ),
            (
                "cleanup",
                "3F2A51C0D4: message-id=<0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d@shop.example>",
                Some(Said::MessageId {
                    queue_id: "3F2A51C0D4",
                    message_id: "<0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d@shop.example>",
                }),
            ),
            (
                "cleanup",
                "3F2A51C0D4: message-id=<>",
                Some(Said::MessageId { queue_id: "3F2A51C0D4", message_id: "<>" }),
            ),
            (
                "qmgr",
                "3F2A51C0D4: from=<no-reply@shop.example>, size=1023, nrcpt=1 (queue active)",
                Some(Said::Queued { queue_id: "3F2A51C0D4" }),
            ),
            ("qmgr", "3F2A51C0D4: removed", Some(Said::Removed { queue_id: "3F2A51C0D4", delivered: true })),
            (
                "virtual",
                "3F2A51C0D4: to=<ada@example.org>, relay=virtual, delay=0.05, delays=0.04/0.01/0/0, dsn=2.0.0, status=sent (delivered to maildir)",
                Some(Said::Delivery { queue_id: "3F2A51C0D4", recipient: "ada@example.org" }),
            ),
            (
                "local",
                "3F2A51C0D4: to=<root@mx1.example.com>, orig_to=<ada@example.org>, relay=local, delay=1, dsn=2.0.0, status=sent (delivered to mailbox)",
                Some(Said::Delivery { queue_id: "3F2A51C0D4", recipient: "ada@example.org" }),
            ),
            (
                "smtp",
                "3F2A51C0D4: to=<\"a> b\"@example.org>, relay=none, delay=30, dsn=4.4.1, status=deferred (connect to x[192.0.2.1]:25: Connection refused)",
                Some(Said::Delivery { queue_id: "3F2A51C0D4", recipient: "\"a> b\"@example.org" }),
            ),
            (
                "cleanup",
                "3F2A51C0D4: milter-reject: END-OF-MESSAGE from app1[192.0.2.7]: 5.7.1 Command rejected; from=<a@shop.example> to=<ada@example.org> proto=ESMTP helo=<app1>",
                Some(Said::Refused { queue_id: "3F2A51C0D4", recipient: Some("ada@example.org") }),
            ),
            (
                "cleanup",
                "3F2A51C0D4: reject: header Subject: SPAM from app1[192.0.2.7]; from=<a@shop.example> to=<ada@example.org> proto=ESMTP helo=<app1>: 5.7.1 no",
                Some(Said::Refused { queue_id: "3F2A51C0D4", recipient: Some("ada@example.org") }),
            ),
            (
                "smtpd",
                "3F2A51C0D4: reject: END-OF-MESSAGE from app1[192.0.2.7]: 552 5.3.4 too big; from=<a@shop.example> to=<ada@example.org> proto=ESMTP helo=<app1>",
                Some(Said::Refused { queue_id: "3F2A51C0D4", recipient: Some("ada@example.org") }),
            ),
            (
                "smtpd",
                "3F2A51C0D4: reject: RCPT from app1[192.0.2.7]: 550 5.1.1 no; from=<a@shop.example> to=<bob@example.org> proto=ESMTP helo=<app1>",
                None,
            ),
            (
                "smtpd",
                "NOQUEUE: reject: RCPT from app1[192.0.2.7]: 450 4.2.1 x; from=<> to=<ada@example.org> proto=ESMTP helo=<app1>",
                None,
            ),
            ("smtpd", "lost connection after DATA (1234 bytes) from app1[192.0.2.7]", Some(Said::Aborted)),
            ("smtpd", "lost connection after DATA from app1[192.0.2.7]", Some(Said::Aborted)),
            ("smtpd", "timeout after DATA (0 bytes) from app1[192.0.2.7]", Some(Said::Aborted)),
            ("smtpd", "lost connection after END-OF-MESSAGE from app1[192.0.2.7]", None),
            ("smtpd", "lost connection after RCPT from app1[192.0.2.7]", None),
            (
                "smtpd",
                "disconnect from app1[192.0.2.7] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5",
                Some(Said::Idle),
            ),
            (
                "smtpd",
                "NOQUEUE: proxy-accept: END-OF-MESSAGE: 250 2.0.0 Ok: queued as 7A1B; from=<> to=<ada@example.org>",
                Some(Said::Proxied),
            ),
            (
                "cleanup",
                "3F2A51C0D4: hold: header Subject: x from app1[192.0.2.7]; from=<> to=<a@b.c> proto=ESMTP helo=<x>",
                Some(Said::Kept { queue_id: "3F2A51C0D4" }),
            ),
            (
                "cleanup",
                "3F2A51C0D4: milter-discard: END-OF-MESSAGE from app1[192.0.2.7]: milter triggers DISCARD action; from=<> to=<a@b.c>",
                Some(Said::Kept { queue_id: "3F2A51C0D4" }),
            ),
            ("cleanup", "warning: dict_nis_init: NIS domain name not set", None),
            ("qmgr", "warning: mail for x is using up 4001 of 8000 active queue entries", None),
            ("bounce", "3F2A51C0D4: sender non-delivery notification: 5A1B2C3D4E", None),
            ("pickup", "5A1B2C3D4E: uid=0 from=<root>", Some(Said::Begins { queue_id: "5A1B2C3D4E" })),
        ];
        for (service, text, said) in cases {
            assert_eq!(read(service, text), *said, "{service}: {text}");
        }
    }

    #[test]
    fn programs_of_every_instance_are_known() {
        let of = |rest: &'static str| Header::read(rest).and_then(|header| header.postfix());
        assert_eq!(of("mx1 postfix/cleanup[123]: 3F2A51C0D4: message-id=<>"), Some(("postfix", "cleanup")));
        assert_eq!(of("mx1 postfix-out/smtp[99]: x"), Some(("postfix-out", "smtp")));
        assert_eq!(of("mx1 postfix/submission/smtpd[1]: connect from x[1.2.3.4]"), Some(("postfix", "smtpd")));
        for foreign in [
            "mx1 sshd[1]: Accepted publickey",
            "mx1 dovecot: imap-login: Login",
            "auth: Debug: Loading modules",
            "mx1 amavis/master[3]x: y",
        ] {
            assert_eq!(of(foreign), None, "{foreign}");
        }
        let lost = "mx1 rsyslogd[7]: imuxsock: process 99 lost 132 messages due to rate-limiting";
        assert!(Header::read(lost).expect("a header").lost_lines());
    }
}
