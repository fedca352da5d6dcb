//! What an attempt came to. Sending returns an [`Outcome`], not an error: "unknown" is a result like any other and
//! cannot be mistaken for something that may be retried.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The step of the SMTP dialogue an attempt had reached (RFC 5321 section 3).
///
/// [`Phase::Body`] ends, and [`Phase::EndMarker`] begins, at the instant the write of the end-of-data marker is first
/// polled: from there on the server may have taken the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing was begun: expiry, rendering, content checks.
    Prepare,
    /// Looking up the server's name.
    Resolve,
    /// TCP connect.
    Connect,
    /// TLS handshake (implicit, or after STARTTLS).
    Tls,
    /// Waiting for the 220.
    Greeting,
    /// EHLO and its reply.
    Ehlo,
    /// STARTTLS and its reply.
    StartTls,
    /// AUTH and its replies.
    Auth,
    /// MAIL FROM and its reply.
    Mail,
    /// RCPT TO and its reply.
    Rcpt,
    /// DATA and its 354.
    Data,
    /// Waiting for the durable intent, after the 354.
    Intend,
    /// Writing the body; the end marker has not been handed to the kernel.
    Body,
    /// The end marker's write has begun: its reply decides.
    EndMarker,
    /// After a complete final reply; nothing here changes an outcome.
    Quit,
}

impl Phase {
    /// Every phase, in the order of the dialogue.
    pub const ALL: [Self; 15] = [
        Self::Prepare,
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Intend,
        Self::Body,
        Self::EndMarker,
        Self::Quit,
    ];

    /// The word used in the ledger, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Intend => "intend",
            Self::Body => "body",
            Self::EndMarker => "end_marker",
            Self::Quit => "quit",
        }
    }

    /// Whether a failure here says something about the route (server, network, credentials) rather than the message.
    #[must_use]
    pub const fn blames_route(self) -> bool {
        matches!(
            self,
            Self::Resolve
                | Self::Connect
                | Self::Tls
                | Self::Greeting
                | Self::Ehlo
                | Self::StartTls
                | Self::Auth
                | Self::Intend
        )
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A complete, well-formed SMTP reply (RFC 5321 section 4.2), with its text losslessly escaped and capped.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reply {
    /// The three-digit code, 200 to 599.
    pub code: u16,
    /// The enhanced status code (RFC 3463), when the text begins with one.
    pub enhanced: Option<String>,
    /// The text of all lines, joined by a line feed; see [`escape_reply`].
    pub text: String,
}

impl Reply {
    /// A reply with an already safe text; the enhanced code is read off its beginning.
    #[must_use]
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        let enhanced = enhanced_code(code, &text);
        Self { code, enhanced, text }
    }
}

impl fmt::Debug for Reply {
    /// Servers repeat addresses in their replies; those never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Reply({}{}{})",
            self.code,
            if self.enhanced.is_some() { " " } else { "" },
            self.enhanced.as_deref().unwrap_or("")
        )
    }
}

/// The enhanced status code `class.subject.detail` (RFC 3463 section 2) at the start of a reply's text, if its class
/// agrees with the code.
fn enhanced_code(code: u16, text: &str) -> Option<String> {
    let word = text.split([' ', '\n']).next()?;
    let mut parts = word.split('.');
    let mut digits = |most: usize| {
        parts.next().filter(|part| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
    };
    let (class, _, _) = (digits(1)?, digits(3)?, digits(3)?);
    let agrees = class.bytes().next().map(|digit| u16::from(digit - b'0')) == Some(code / 100);
    (agrees && parts.next().is_none()).then(|| word.to_owned())
}

/// The most characters of a reply that are kept, in characters after escaping.
pub const REPLY_TEXT_MAX: usize = 2_000;

/// Makes any bytes safe for a text column without losing what they were: printable ASCII and well-formed UTF-8 stay,
/// a backslash is doubled, every other byte becomes `\xNN`, a line end becomes a line feed. Capped at
/// [`REPLY_TEXT_MAX`] characters, with `[...]` where something was cut.
#[must_use]
pub fn escape_reply(bytes: &[u8]) -> String {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n') && *byte != b'\\';
    if bytes.len() <= REPLY_TEXT_MAX && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut out = String::with_capacity(bytes.len().min(REPLY_TEXT_MAX));
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push('\n'),
                '\r' => {}
                c if c.is_control() => c.to_string().bytes().for_each(|b| out.push_str(&format!("\\x{b:02x}"))),
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
        if out.len() > REPLY_TEXT_MAX * 4 {
            break;
        }
    }
    if out.chars().count() > REPLY_TEXT_MAX {
        out = out.chars().take(REPLY_TEXT_MAX - 5).collect();
        out.push_str("[...]");
    }
    out
}

/// Why a dialogue ended without the reply it was waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The phase's time was up.
    Timeout,
    /// The peer closed the connection.
    Eof,
    /// The connection was reset or failed otherwise.
    Io,
    /// The reply was malformed, over-long, or of a class that has no meaning here (3xx, 1xx).
    Malformed,
    /// The peer said something before it was asked (a reply was already in the buffer).
    Unexpected,
    /// The server offers no way to do what the delivery needs (TLS, AUTH, SMTPUTF8, SIZE).
    Unsupported,
    /// The server's certificate or name was not accepted.
    Certificate,
    /// We gave up ourselves: deadline passed, intent not granted, shutdown.
    Aborted,
}

impl Cause {
    /// The word used in the ledger and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Eof => "eof",
            Self::Io => "io",
            Self::Malformed => "malformed",
            Self::Unexpected => "unexpected",
            Self::Unsupported => "unsupported",
            Self::Certificate => "certificate",
            Self::Aborted => "aborted",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an attempt came to. The four variants are the whole truth table of PRODUCT section 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// A complete 2xx to the end marker was read: the server has taken responsibility.
    Accepted {
        /// The server's words.
        reply: Reply,
    },
    /// A server definitely refused this delivery.
    Refused {
        /// 5xx where it counts: no later attempt can succeed.
        permanent: bool,
        /// Where it was refused.
        phase: Phase,
        /// The server's words.
        reply: Reply,
    },
    /// Certainly not taken by any server.
    NotSent {
        /// Where it ended.
        phase: Phase,
        /// Why.
        cause: Cause,
        /// The reply that ended it, if one did.
        reply: Option<Reply>,
        /// A short explanation without addresses or secrets.
        detail: String,
    },
    /// Some of the end marker was handed to the kernel and no complete, meaningful reply came back.
    Unknown {
        /// Why.
        cause: Cause,
        /// The reply that was no answer (421, 3xx), if there was one.
        reply: Option<Reply>,
        /// A short explanation without addresses or secrets.
        detail: String,
    },
}

impl Outcome {
    /// The word used in the ledger, logs and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Refused { permanent: true, .. } => "refused",
            Self::Refused { permanent: false, .. } => "deferred",
            Self::NotSent { .. } => "not_sent",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The phase the attempt reached.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Accepted { .. } | Self::Unknown { .. } => Phase::EndMarker,
            Self::Refused { phase, .. } | Self::NotSent { phase, .. } => *phase,
        }
    }

    /// The server's reply that decided it, if any.
    #[must_use]
    pub const fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Accepted { reply } | Self::Refused { reply, .. } => Some(reply),
            Self::NotSent { reply, .. } | Self::Unknown { reply, .. } => reply.as_ref(),
        }
    }

    /// Shorthand for something that ended before any server could have taken it.
    #[must_use]
    pub fn not_sent(phase: Phase, cause: Cause, detail: impl Into<String>) -> Self {
        Self::NotSent { phase, cause, reply: None, detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_escaped_without_loss_and_capped() {
        assert_eq!(escape_reply(b"2.0.0 Ok: queued as \xe9\0\\"), "2.0.0 Ok: queued as \\xe9\\x00\\\\");
        assert_eq!(escape_reply("grüß\r\nGott".as_bytes()), "grüß\nGott");
        let long = escape_reply(&vec![b'a'; 200_000]);
        assert_eq!(long.chars().count(), REPLY_TEXT_MAX);
        assert!(long.ends_with("[...]"));
    }

    #[test]
    fn an_enhanced_code_counts_only_with_the_class_of_its_reply() {
        assert_eq!(Reply::new(550, "5.1.1 no such user").enhanced.as_deref(), Some("5.1.1"));
        assert_eq!(Reply::new(250, "5.1.1 odd").enhanced, None);
        assert_eq!(Reply::new(250, "2.0 odd").enhanced, None);
        assert_eq!(Reply::new(250, "").enhanced, None);
    }

    #[test]
    fn a_reply_in_a_log_shows_no_text() {
        let shown = format!("{:?}", Reply::new(550, "5.1.1 <ada@example.org> unknown"));
        assert_eq!(shown, "Reply(550 5.1.1)");
    }
}
