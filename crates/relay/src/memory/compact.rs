//! How an attempt ended, in few bytes. The usual end (sent, accepted) has a fixed form; every other is kept as it is, with
//! its texts cut to [`TEXT_CHARS_MAX`] characters.
//!
//! Invariant: what is expanded says the same as what was given, apart from the cut and from fractions of a millisecond.

use std::{collections::HashMap, time::Duration};

use hapax_core::{DeliveryKey, Lease, Outcome, Reply, Token};
use hapax_store::{Settlement, Verdict};

/// The longest text that is remembered of a reply or a reason.
pub(super) const TEXT_CHARS_MAX: usize = 200;

/// Texts that are kept once for all: names of routes and servers, and how replies begin.
const WORDS_MAX: usize = 1_000;

/// The last word of a reply, mostly a queue id, if it is no longer.
const TAIL_BYTES_MAX: usize = 28;

/// Stands for no server.
const NO_SERVER: u16 = u16::MAX;

/// Texts that recur, each kept once.
#[derive(Debug, Default)]
pub(super) struct Words {
    texts: Vec<Box<str>>,
    indexes: HashMap<Box<str>, u16>,
}

impl Words {
    /// None when there are too many already.
    pub(super) fn index_of(&mut self, text: &str) -> Option<u16> {
        if let Some(index) = self.indexes.get(text) {
            return Some(*index);
        }
        let index = u16::try_from(self.texts.len()).ok().filter(|index| usize::from(*index) < WORDS_MAX)?;
        self.texts.push(text.into());
        self.indexes.insert(text.into(), index);
        Some(index)
    }

    pub(super) fn get(&self, index: u16) -> &str {
        self.texts.get(usize::from(index)).map_or("", |text| text)
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    /// It has not.
    Open,
    /// Accepted and sent.
    Sent(Sent),
    /// Anything else.
    Other(Box<Settlement>),
}

/// The fixed form.
#[derive(Debug)]
pub(super) struct Sent {
    said: Said,
    took_ms: u32,
    bytes: u32,
    code: u16,
    server: u16,
    intended: bool,
}

/// The server's words.
#[derive(Debug)]
enum Said {
    /// A beginning that recurs, and the last word.
    Split { head: u16, length: u8, tail: [u8; TAIL_BYTES_MAX] },
    /// As they are.
    Whole(Box<str>),
}

impl Said {
    fn of(text: &str, words: &mut Words) -> Self {
        let at = text.rfind([' ', '=']).map_or(0, |at| at + 1);
        let (head, tail) = text.split_at(at);
        let split = (tail.len() <= TAIL_BYTES_MAX).then(|| words.index_of(head)).flatten();
        let Some(head) = split else { return Self::Whole(text.into()) };
        let mut bytes = [0; TAIL_BYTES_MAX];
        bytes[..tail.len()].copy_from_slice(tail.as_bytes());
        Self::Split { head, length: tail.len() as u8, tail: bytes }
    }

    fn text(&self, words: &Words) -> String {
        match self {
            Self::Split { head, length, tail } => {
                words.get(*head).to_owned() + &String::from_utf8_lossy(&tail[..usize::from(*length)])
            }
            Self::Whole(text) => text.to_string(),
        }
    }
}

impl End {
    pub(super) fn of(settlement: &Settlement, words: &mut Words) -> Self {
        Self::sent(settlement, words).map_or_else(|| Self::Other(Box::new(brief(settlement))), Self::Sent)
    }

    /// The fixed form, if it can say all of it.
    fn sent(settlement: &Settlement, words: &mut Words) -> Option<Sent> {
        let (Verdict::Sent, Some(Outcome::Accepted { reply })) = (&settlement.verdict, &settlement.outcome) else {
            return None;
        };
        let text = cut(&reply.text);
        if Reply::new(reply.code, text.as_str()).enhanced != reply.enhanced {
            return None;
        }
        let server = match &settlement.server {
            Some(server) => words.index_of(&cut(server))?,
            None => NO_SERVER,
        };
        Some(Sent {
            said: Said::of(&text, words),
            took_ms: u32::try_from(settlement.took.as_millis()).unwrap_or(u32::MAX),
            bytes: u32::try_from(settlement.bytes).unwrap_or(u32::MAX),
            code: reply.code,
            server,
            intended: settlement.intended,
        })
    }

    /// What it takes outside the fixed form.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Self::Open | Self::Sent(Sent { said: Said::Split { .. }, .. }) => 0,
            Self::Sent(Sent { said: Said::Whole(text), .. }) => text.len() + 16,
            Self::Other(settlement) => {
                let outcome = settlement.outcome.as_ref();
                let reply = outcome.and_then(Outcome::reply).map_or(0, |reply| reply.text.len());
                let detail = match outcome {
                    Some(Outcome::NotSent { detail, .. } | Outcome::Unknown { detail, .. }) => detail.len(),
                    _ => 0,
                };
                let server = settlement.server.as_ref().map_or(0, |server| server.len());
                size_of::<Settlement>() + settlement.route.len() + reply + detail + reason(settlement) + server + 80
            }
        }
    }

    pub(super) fn expand(
        &self,
        key: DeliveryKey,
        lease: Lease,
        token: Token,
        route: &str,
        words: &Words,
    ) -> Option<Settlement> {
        let sent = match self {
            Self::Open => return None,
            Self::Other(settlement) => return Some(Settlement::clone(settlement)),
            Self::Sent(sent) => sent,
        };
        Some(Settlement {
            key,
            lease,
            token,
            intended: sent.intended,
            verdict: Verdict::Sent,
            outcome: Some(Outcome::Accepted { reply: Reply::new(sent.code, sent.said.text(words)) }),
            route: route.into(),
            server: (sent.server != NO_SERVER).then(|| words.get(sent.server).into()),
            took: Duration::from_millis(sent.took_ms.into()),
            bytes: sent.bytes as usize,
        })
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

fn reason(settlement: &Settlement) -> usize {
    match &settlement.verdict {
        Verdict::Failed(reason)
        | Verdict::InDoubt(reason)
        | Verdict::DoubtAgain(reason)
        | Verdict::Suppressed(reason)
        | Verdict::Held(reason)
        | Verdict::Poison(reason) => reason.len(),
        Verdict::Sent | Verdict::SentElsewhere(_) | Verdict::Expired | Verdict::Retry { .. } => 0,
    }
}

/// The same with short texts.
fn brief(settlement: &Settlement) -> Settlement {
    let reply = |reply: &Reply| Reply { text: cut(&reply.text), ..reply.clone() };
    let outcome = settlement.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Accepted { reply: said } => Outcome::Accepted { reply: reply(said) },
        Outcome::Refused { permanent, phase, reply: said } => {
            Outcome::Refused { permanent: *permanent, phase: *phase, reply: reply(said) }
        }
        Outcome::NotSent { phase, cause, reply: said, detail } => {
            Outcome::NotSent { phase: *phase, cause: *cause, reply: said.as_ref().map(reply), detail: cut(detail) }
        }
        Outcome::Unknown { cause, reply: said, detail } => {
            Outcome::Unknown { cause: *cause, reply: said.as_ref().map(reply), detail: cut(detail) }
        }
    });
    let verdict = match &settlement.verdict {
        Verdict::Failed(reason) => Verdict::Failed(cut(reason)),
        Verdict::InDoubt(reason) => Verdict::InDoubt(cut(reason)),
        Verdict::Held(reason) => Verdict::Held(cut(reason)),
        Verdict::Poison(reason) => Verdict::Poison(cut(reason)),
        other => other.clone(),
    };
    Settlement { outcome, verdict, server: settlement.server.as_deref().map(cut), ..settlement.clone() }
}

#[cfg(test)]
mod tests {
    use hapax_core::{MessageId, Phase, outcome::Cause};

    use super::*;

    fn ends() -> Vec<(Verdict, Option<Outcome>, Option<String>)> {
        let accepted = |code, text: &str| Some(Outcome::Accepted { reply: Reply::new(code, text) });
        let odd = Reply { code: 250, enhanced: Some("2.9.9".into()), text: "2.0.0 ok".into() };
        let many =
            (0..2 * WORDS_MAX).map(|n| (Verdict::Sent, accepted(250, "2.0.0 ok"), Some(format!("mx{n}.example.org"))));
        let fixed = [
            (Verdict::Sent, accepted(250, "2.0.0 Ok: queued as 4XyZ12abcdQ"), Some("mx.example.org".into())),
            (Verdict::Sent, accepted(250, "OK id=1r7abc-00000001AbC-2xyz"), None),
            (Verdict::Sent, accepted(251, ""), None),
            (
                Verdict::Sent,
                accepted(
                    250,
                    "grüß=gött\n2nd line, and a last word that is much longer: 0123456789012345678901234567890",
                ),
                None,
            ),
            (Verdict::Sent, Some(Outcome::Accepted { reply: odd }), None),
            (Verdict::SentElsewhere("x"), accepted(250, "2.0.0 ok"), None),
            (Verdict::Expired, None, None),
            (
                Verdict::Failed("no".into()),
                Some(Outcome::Refused { permanent: true, phase: Phase::EndMarker, reply: Reply::new(550, "5.1.1 no") }),
                None,
            ),
            (
                Verdict::Retry { after: Duration::from_secs(9), counts: true },
                Some(Outcome::not_sent(Phase::Body, Cause::Io, "io")),
                None,
            ),
            (
                Verdict::InDoubt("why".into()),
                Some(Outcome::Unknown { cause: Cause::Eof, reply: None, detail: "eof".into() }),
                Some("mx".into()),
            ),
        ];
        fixed.into_iter().chain(many).collect()
    }

    #[test]
    fn what_is_expanded_says_what_was_given() {
        let (mut words, mut small) = (Words::default(), 0);
        for (verdict, outcome, server) in ends() {
            let given = Settlement {
                key: DeliveryKey { message_id: MessageId(Lease::fresh().0), recipient_no: 7 },
                lease: Lease::fresh(),
                token: Token::fresh(),
                intended: true,
                verdict,
                outcome,
                route: "eu".into(),
                server,
                took: Duration::from_millis(1_234),
                bytes: 5_678,
            };
            let end = End::of(&given, &mut words);
            small += usize::from(end.text_bytes() == 0);
            let expanded = end.expand(given.key, given.lease, given.token, "eu", &words).expect("it has ended");
            assert_eq!(format!("{expanded:?}"), format!("{given:?}"));
            assert_eq!(expanded.outcome, given.outcome, "texts included");
        }
        assert!(small >= 3 + WORDS_MAX - 10, "{small} in the fixed form");
        assert!(small < 3 + WORDS_MAX, "and no more words than are allowed");
    }

    #[test]
    fn the_fixed_form_is_small() {
        assert!(size_of::<End>() <= 48, "{}", size_of::<End>());
        assert!(size_of::<Option<super::super::Known>>() <= 112, "{}", size_of::<Option<super::super::Known>>());
    }
}
