//! The certainty table (PRODUCT section 2) as one pure function: from the phase a dialogue had reached and the thing
//! that ended it to what is known about the delivery.
//!
//! Architecture Invariant: nothing that ended before [`Phase::EndMarker`] is ever unknown, and nothing that ended in it
//! is ever certain without a complete reply of class 2, 4 (but 421) or 5.

use crate::{
    mutant,
    outcome::{Cause, Outcome, Phase, Reply},
};

/// What ended a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A complete, well-formed reply.
    Reply(Reply),
    /// Anything but a complete reply.
    Lost(Cause),
}

/// How far a route is trusted (PROTOCOL 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// A 4xx after the end marker means "not taken". Off for proxies that pass a message on and then answer 4xx.
    pub four_xx_after_data: bool,
}

impl Default for Trust {
    fn default() -> Self {
        Self { four_xx_after_data: true }
    }
}

/// The certainty table. `phase` is where the dialogue stood when `event` ended it; a 2xx (354 for DATA) before the end
/// marker does not end a dialogue and must not be passed in, except as an unexpected one, which is no refusal.
#[must_use]
pub fn classify(phase: Phase, event: Event, trust: Trust) -> Outcome {
    match (phase, event) {
        (Phase::EndMarker, Event::Reply(reply)) => classify_final(reply, trust),
        (Phase::EndMarker, Event::Lost(cause)) => Outcome::Unknown {
            cause,
            reply: None,
            detail: format!("{cause} while waiting for the reply to the end marker"),
        },
        // A complete 2xx to the end marker was read before: QUIT errors never matter, and nobody asks.
        (_, Event::Lost(cause)) => {
            Outcome::NotSent { phase, cause, reply: None, detail: format!("{cause} at {phase}") }
        }
        (_, Event::Reply(reply)) => classify_early(phase, reply),
    }
}

fn classify_final(reply: Reply, trust: Trust) -> Outcome {
    match reply.code {
        200..=299 => Outcome::Accepted { reply },
        421 if mutant::is("reply_421_refuses") => Outcome::Refused { permanent: false, phase: Phase::EndMarker, reply },
        300..=399 if mutant::is("reply_3xx_refuses") => {
            Outcome::Refused { permanent: false, phase: Phase::EndMarker, reply }
        }
        421 => Outcome::Unknown {
            cause: Cause::Unexpected,
            reply: Some(reply),
            detail: "421 in place of a reply to the end marker: the server is closing the channel".into(),
        },
        400..=499 if trust.four_xx_after_data => Outcome::Refused { permanent: false, phase: Phase::EndMarker, reply },
        400..=499 => Outcome::Unknown {
            cause: Cause::Unexpected,
            reply: Some(reply),
            detail: "4xx after the end marker on a route with trust_4xx_after_data = false".into(),
        },
        500..=599 => Outcome::Refused { permanent: true, phase: Phase::EndMarker, reply },
        _ => Outcome::Unknown {
            cause: Cause::Malformed,
            reply: Some(reply),
            detail: "the reply to the end marker is of a class that has no meaning there".into(),
        },
    }
}

fn classify_early(phase: Phase, reply: Reply) -> Outcome {
    let code = reply.code;
    let not_sent = |cause, detail: String, reply| Outcome::NotSent { phase, cause, reply: Some(reply), detail };
    if phase.blames_route() {
        return not_sent(Cause::Unexpected, format!("{code} at {phase}"), reply);
    }
    match code {
        // RFC 4954 section 6: the server wants other credentials. That is the route's fault, never the message's.
        530 | 534 | 535 | 538 => Outcome::NotSent {
            phase: Phase::Auth,
            cause: Cause::Unexpected,
            reply: Some(reply),
            detail: format!("{code} at {phase}"),
        },
        // The channel is closing: nothing was said about this message.
        421 => not_sent(Cause::Eof, "421 at ".to_owned() + phase.as_str(), reply),
        400..=499 => Outcome::Refused { permanent: false, phase, reply },
        500..=599 => Outcome::Refused { permanent: true, phase, reply },
        _ => not_sent(Cause::Malformed, format!("{code} has no meaning at {phase}"), reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: [Cause; 8] = [
        Cause::Timeout,
        Cause::Eof,
        Cause::Io,
        Cause::Malformed,
        Cause::Unexpected,
        Cause::Unsupported,
        Cause::Certificate,
        Cause::Aborted,
    ];

    /// The whole table: every phase, every code from 100 to 599 and every way to lose a connection, both trusts.
    #[test]
    fn each_cell_of_the_certainty_table_says_what_the_contract_says() {
        let mut cells = 0;
        for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Quit) {
            for four_xx_after_data in [true, false] {
                let trust = Trust { four_xx_after_data };
                for cause in LOST {
                    let word = classify(phase, Event::Lost(cause), trust).as_str();
                    assert_eq!(word, if phase == Phase::EndMarker { "unknown" } else { "not_sent" }, "{phase} {cause}");
                    cells += 1;
                }
                for code in 100..600 {
                    let word = classify(phase, Event::Reply(Reply::new(code, "text")), trust).as_str();
                    assert_eq!(word, expected(phase, code, four_xx_after_data), "{phase} {code}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, 14 * 2 * (500 + 8));
    }

    /// PRODUCT section 2, written down a second time and in another way, as a pair assertion.
    fn expected(phase: Phase, code: u16, trusted: bool) -> &'static str {
        let class = code / 100;
        if phase == Phase::EndMarker {
            return match (class, code) {
                (2, _) => "accepted",
                (_, 421) => "unknown",
                (4, _) if trusted => "deferred",
                (5, _) => "refused",
                _ => "unknown",
            };
        }
        let about_the_message = matches!(phase, Phase::Prepare | Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Body);
        match (about_the_message, class, code) {
            (false, ..) | (_, _, 421 | 530 | 534 | 535 | 538) => "not_sent",
            (true, 4, _) => "deferred",
            (true, 5, _) => "refused",
            _ => "not_sent",
        }
    }

    #[test]
    fn odd_texts_of_a_2xx_are_accepted() {
        for text in ["", "\\xe9t\\xe9", "one\ntwo", "no enhanced code"] {
            let outcome = classify(Phase::EndMarker, Event::Reply(Reply::new(250, text)), Trust::default());
            assert_eq!(outcome.as_str(), "accepted");
        }
    }
}
