//! Options of the scripted server.

use std::time::Duration;

use super::SmtpServer;
use super::script::Script;
use super::tls::{Certificate, TlsMode};

/// What EHLO offers.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// PIPELINING. Without it, commands sent ahead are noted as violations.
    pub pipelining: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// 8BITMIME. Without it, 8-bit bodies are noted as violations.
    pub eight_bit_mime: bool,
    /// SIZE; a larger SIZE= is refused at MAIL, a larger message after its end marker.
    pub size: Option<usize>,
    /// ENHANCEDSTATUSCODES.
    pub enhanced_status_codes: bool,
    /// The mechanisms after AUTH: PLAIN, LOGIN and XOAUTH2 are understood. Empty: no AUTH.
    pub auth: Vec<String>,
    /// More lines, as they are.
    pub extra: Vec<String>,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            pipelining: true,
            smtputf8: true,
            eight_bit_mime: true,
            size: Some(50_000_000),
            enhanced_status_codes: true,
            auth: Vec::new(),
            extra: Vec::new(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) capabilities: Capabilities,
    pub(super) tls: TlsMode,
    pub(super) certificate: Certificate,
    pub(super) credentials: Option<(String, String)>,
    pub(super) require_tls: bool,
    pub(super) require_auth: bool,
    pub(super) lmtp: bool,
    pub(super) final_reply_delay: Duration,
    pub(super) connections_max: usize,
    pub(super) expected_body_bytes: Option<usize>,
    pub(super) receive_buffer_bytes: Option<usize>,
    pub(super) keep_bodies: bool,
    pub(super) keep_dialogues: bool,
}

/// Options of an [`SmtpServer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SmtpServerBuilder {
    options: Options,
    script: Script,
}

impl Default for SmtpServerBuilder {
    fn default() -> Self {
        let options = Options {
            capabilities: Capabilities::default(),
            tls: TlsMode::None,
            certificate: Certificate::Good,
            credentials: None,
            require_tls: false,
            require_auth: false,
            lmtp: false,
            final_reply_delay: Duration::ZERO,
            connections_max: usize::MAX,
            expected_body_bytes: None,
            receive_buffer_bytes: None,
            keep_bodies: true,
            keep_dialogues: true,
        };
        Self { options, script: Script::good() }
    }
}

impl SmtpServerBuilder {
    /// The first script.
    pub fn script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Changes the capabilities: `.capabilities(|offered| offered.pipelining = false)`.
    pub fn capabilities(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(&mut self.options.capabilities);
        self
    }

    /// When TLS begins. [`TlsMode::StartTls`] offers STARTTLS.
    pub fn tls(mut self, mode: TlsMode) -> Self {
        self.options.tls = mode;
        self
    }

    /// A certificate with a flaw.
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.options.certificate = certificate;
        self
    }

    /// Offers AUTH (PLAIN and LOGIN unless mechanisms were set), and takes these credentials only.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.options.credentials = Some((user.into(), password.into()));
        if self.options.capabilities.auth.is_empty() {
            self.options.capabilities.auth = ["PLAIN", "LOGIN"].map(String::from).to_vec();
        }
        self
    }

    /// MAIL without TLS gets 530.
    pub fn require_tls(mut self) -> Self {
        self.options.require_tls = true;
        self
    }

    /// MAIL without AUTH gets 530.
    pub fn require_auth(mut self) -> Self {
        self.options.require_auth = true;
        self
    }

    /// Speaks LMTP: LHLO, and one final reply per recipient.
    pub fn lmtp(mut self) -> Self {
        self.options.lmtp = true;
        self
    }

    /// How long to wait before every final reply, whatever it is.
    pub fn final_reply_delay(mut self, delay: Duration) -> Self {
        self.options.final_reply_delay = delay;
        self
    }

    /// Connections above this number are refused with 421 in place of the greeting.
    pub fn connections_max(mut self, count: usize) -> Self {
        self.options.connections_max = count;
        self
    }

    /// What the shares of [`Phase::Body`](crate::Phase::Body) are shares of, when MAIL has no SIZE=.
    pub fn expected_body_bytes(mut self, bytes: usize) -> Self {
        self.options.expected_body_bytes = Some(bytes);
        self
    }

    /// A small receive buffer, so that a client feels a server that has stopped reading.
    pub fn receive_buffer_bytes(mut self, bytes: usize) -> Self {
        self.options.receive_buffer_bytes = Some(bytes);
        self
    }

    /// Whether the ledger keeps bodies (default: yes). Off for storms of many large messages.
    pub fn keep_bodies(mut self, keep: bool) -> Self {
        self.options.keep_bodies = keep;
        self
    }

    /// Whether the ledger keeps the commands and transactions of connections that have ended (default: yes). Off for
    /// storms of hundreds of thousands: what stays are the counts of each delivery, and violations.
    pub fn keep_dialogues(mut self, keep: bool) -> Self {
        self.options.keep_dialogues = keep;
        self
    }

    /// Starts the server on a free port.
    ///
    /// # Panics
    /// When no socket can be bound.
    #[must_use]
    pub fn start(self) -> SmtpServer {
        SmtpServer::launch(self.options, self.script)
    }
}
