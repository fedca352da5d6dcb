//! What a server says it can do (its EHLO reply), and what follows for one delivery: the commands, or a local refusal.
//!
//! lettre's own EHLO parser is not used: it forgets PIPELINING and SIZE.
//!
//! Invariant: MAIL and RCPT are built from parsed mailboxes only, and their lines are checked once more by
//! [`crate::channel::Channel::queue`].

use hapax_core::{
    Outcome, Phase, Recipient, Reply,
    outcome::{Cause, escape_reply},
};
use lettre::transport::smtp::authentication::Mechanism;

/// Most command lines are shorter: their buffers need not grow.
const COMMAND_BYTES_GUESS: usize = 128;

/// Who writes to whom, and what the server must know about the message beforehand.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The envelope sender: `local@domain`, or nothing for `<>`.
    pub sender: Option<String>,
    /// The one recipient of this delivery.
    pub recipient: Recipient,
    /// [`crate::Message::size`].
    pub size: usize,
    /// [`crate::Message::needs_8bit`].
    pub eight_bit: bool,
    /// What a file is named after by a file route: `<message id>-<recipient number>`, say.
    pub name_hint: String,
}

/// The extensions of one server, after its last EHLO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) pipelining: bool,
    pub(crate) eight_bit_mime: bool,
    pub(crate) smtputf8: bool,
    pub(crate) starttls: bool,
    /// SIZE was offered; the limit, if there is one.
    pub(crate) size: Option<Option<usize>>,
    plain: bool,
    login: bool,
    xoauth2: bool,
}

/// The command lines of one transaction, without line ends.
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) mail: Vec<u8>,
    pub(crate) rcpt: Vec<u8>,
}

impl Capabilities {
    /// Reads the text of an EHLO reply; its first line is a greeting.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut capabilities = Self::default();
        for line in text.split(|byte| *byte == b'\n').skip(1) {
            // Keywords and their parameters are ASCII; what is not can be no keyword we know.
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("PIPELINING") => capabilities.pipelining = true,
                Some("8BITMIME") => capabilities.eight_bit_mime = true,
                Some("SMTPUTF8") => capabilities.smtputf8 = true,
                Some("STARTTLS") => capabilities.starttls = true,
                // RFC 1870 section 3: zero, or no number, is no fixed limit.
                Some("SIZE") => {
                    capabilities.size =
                        Some(words.next().and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0));
                }
                // Old servers write `AUTH=LOGIN PLAIN`.
                Some("AUTH") => words.for_each(|mechanism| match mechanism {
                    "PLAIN" => capabilities.plain = true,
                    "LOGIN" => capabilities.login = true,
                    "XOAUTH2" => capabilities.xoauth2 = true,
                    _ => {}
                }),
                _ => {}
            }
        }
        capabilities
    }

    /// The first of `wanted` that the server offers.
    pub(crate) fn mechanism(&self, wanted: &[Mechanism]) -> Option<Mechanism> {
        wanted.iter().copied().find(|mechanism| match mechanism {
            Mechanism::Plain => self.plain,
            Mechanism::Login => self.login,
            Mechanism::Xoauth2 => self.xoauth2,
        })
    }

    /// The commands for `envelope`, or the outcome if this server cannot take it. Pure.
    ///
    /// What could never succeed here is a permanent refusal in the words a server would have used, marked `local`. Only
    /// a missing 8BITMIME is "not sent, unsupported": another server of the same route may offer it, and mail rendered
    /// by Hapax never needs it.
    pub(crate) fn commands(&self, envelope: &Envelope) -> Result<Commands, Outcome> {
        let sender = match &envelope.sender {
            None => None,
            Some(sender) => Some(Recipient::parse(sender).map_err(|error| {
                refused_here(553, &format!("5.1.7 local: the envelope sender cannot be used: {error}"))
            })?),
        };
        let utf8 = envelope.recipient.needs_smtputf8() || sender.as_ref().is_some_and(Recipient::needs_smtputf8);
        if utf8 && !self.smtputf8 {
            return Err(refused_here(553, "5.6.7 local: a non-ASCII address, and the server does not offer SMTPUTF8"));
        }
        if let Some(Some(limit)) = self.size
            && envelope.size > limit
        {
            let size = envelope.size;
            return Err(refused_here(552, &format!("5.3.4 local: {size} bytes, and the server takes {limit} at most")));
        }
        if envelope.eight_bit && !self.eight_bit_mime {
            let detail = "the message is 8-bit and the server does not offer 8BITMIME";
            return Err(Outcome::not_sent(Phase::Mail, Cause::Unsupported, detail));
        }
        let mut mail = Vec::with_capacity(COMMAND_BYTES_GUESS);
        mail.extend_from_slice(b"MAIL FROM:<");
        mail.extend_from_slice(sender.as_ref().map(Recipient::address).unwrap_or_default().as_bytes());
        mail.push(b'>');
        if self.size.is_some() {
            mail.extend_from_slice(b" SIZE=");
            mail.extend_from_slice(envelope.size.to_string().as_bytes());
        }
        if envelope.eight_bit {
            mail.extend_from_slice(b" BODY=8BITMIME");
        }
        if utf8 {
            mail.extend_from_slice(b" SMTPUTF8");
        }
        let mut rcpt = Vec::with_capacity(COMMAND_BYTES_GUESS);
        rcpt.extend_from_slice(b"RCPT TO:<");
        rcpt.extend_from_slice(envelope.recipient.address().as_bytes());
        rcpt.push(b'>');
        Ok(Commands { mail, rcpt })
    }
}

fn refused_here(code: u16, text: &str) -> Outcome {
    Outcome::Refused { permanent: true, phase: Phase::Mail, reply: Reply::new(code, escape_reply(text.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(sender: Option<&str>, recipient: &str) -> Envelope {
        Envelope {
            sender: sender.map(str::to_owned),
            recipient: Recipient::parse(recipient).expect("an address"),
            size: 100,
            eight_bit: false,
            name_hint: String::new(),
        }
    }

    #[test]
    fn an_ehlo_reply_is_read_whatever_its_case_and_age() {
        let all = Capabilities::parse(
            b"mx\npipelining\n8BitMime\nSIZE 1000\nAUTH PLAIN LOGIN\nAUTH=XOAUTH2\nSTARTTLS\nSMTPUTF8\n\xff",
        );
        assert!(all.pipelining && all.eight_bit_mime && all.smtputf8 && all.starttls);
        assert_eq!(all.size, Some(Some(1000)));
        assert_eq!(all.mechanism(&[Mechanism::Plain, Mechanism::Login]), Some(Mechanism::Plain));
        assert_eq!(all.mechanism(&[Mechanism::Xoauth2]), Some(Mechanism::Xoauth2));
        assert_eq!(Capabilities::parse(b"PIPELINING"), Capabilities::default());
        for unlimited in [&b"mx\nSIZE"[..], b"mx\nSIZE 0", b"mx\nSIZE much"] {
            assert_eq!(Capabilities::parse(unlimited).size, Some(None));
        }
    }

    #[test]
    fn commands_declare_what_the_server_understands() {
        let all = Capabilities::parse(b"mx\nSIZE 1000\n8BITMIME\nSMTPUTF8");
        let mut jorg = envelope(None, "jörg@exämple.org");
        jorg.eight_bit = true;
        let commands = all.commands(&jorg).expect("accepted");
        assert_eq!(commands.mail, b"MAIL FROM:<> SIZE=100 BODY=8BITMIME SMTPUTF8");
        assert_eq!(commands.rcpt, "RCPT TO:<jörg@xn--exmple-cua.org>".as_bytes());
        let plain = Capabilities::default().commands(&envelope(Some("shop@Example.org"), "a@b.org")).expect("accepted");
        assert_eq!(plain.mail, b"MAIL FROM:<shop@example.org>");
    }

    #[test]
    fn what_the_server_cannot_take_is_refused_here_and_says_so() {
        let limited = Capabilities::parse(b"mx\nSIZE 99");
        let mut eight_bit = envelope(None, "a@b.org");
        eight_bit.eight_bit = true;
        eight_bit.size = 1;
        let cases = [
            (envelope(None, "a@b.org"), "refused", Some(552)),
            (envelope(None, "jörg@b.org"), "refused", Some(553)),
            (envelope(Some("jörg@b.org"), "a@b.org"), "refused", Some(553)),
            (envelope(Some("x@y.org>\r\nRCPT TO:<z@y.org"), "a@b.org"), "refused", Some(553)),
            (eight_bit, "not_sent", None),
        ];
        for (envelope, word, code) in cases {
            let outcome = limited.commands(&envelope).expect_err("refused");
            assert_eq!((outcome.as_str(), outcome.phase()), (word, Phase::Mail));
            assert_eq!(outcome.reply().map(|reply| reply.code), code);
            assert!(outcome.reply().is_none_or(|reply| reply.text.contains("local: ")));
        }
    }
}
