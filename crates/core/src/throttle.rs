//! What a server means that refuses for now: "not this message", or "not so fast".
//!
//! The table, and where it is from:
//!
//! | reply | who says so |
//! |---|---|
//! | 421 without an enhanced code, or with 4.7.* | RFC 5321 3.8 (closing the channel); Postfix `421 4.7.0 Error: too many connections from`; Google `421 4.7.0 Try again later`, `421 4.7.28`; Yahoo `421 4.7.0 [TSS04]`; SendGrid `421 Too many concurrent SMTP connections` |
//! | 4.4.5 | RFC 3463 3.5: mail system congestion |
//! | 4.3.2 | RFC 3463 3.4: system not accepting network messages; Exchange `421 4.3.2`, `432 4.3.2` (concurrent connections) |
//! | 4.7.500 to 4.7.699 | Exchange Online: `451 4.7.500 Server busy`, `4.7.65x` |
//! | "too many", "too much mail", "throttl", "rate limit", "rate exceeded", "sending rate" | Postfix anvil `450 4.7.1 Error: too much mail from`; SES `454 Throttling failure: Maximum sending rate exceeded` |
//!
//! Not in it: what is about one mailbox (4.2.*: Google `450 4.2.1 ... receiving mail too quickly`), about one message
//! (4.5.3 and 452, too many recipients; 4.4.6, too many hops), or greylisting (450 4.7.1 without such words).

use crate::outcome::{Outcome, Reply};

/// In any case.
const WORDS: [&str; 6] = ["too many", "too much mail", "throttl", "rate limit", "rate exceeded", "sending rate"];

/// Whether the attempt ended because the route goes too fast, or has too many connections; its message is not at fault.
#[must_use]
pub fn asks_to_slow_down(outcome: &Outcome) -> bool {
    let reply = match outcome {
        Outcome::Refused { permanent: false, reply, .. } | Outcome::NotSent { reply: Some(reply), .. } => reply,
        _ => return false,
    };
    (400..500).contains(&reply.code) && means(reply)
}

fn means(reply: &Reply) -> bool {
    let mut parts = reply.enhanced.iter().flat_map(|code| code.split('.').skip(1)).map(str::parse::<u16>);
    let enhanced = match (parts.next(), parts.next()) {
        (Some(Ok(subject)), Some(Ok(detail))) => Some((subject, detail)),
        _ => None,
    };
    match enhanced {
        Some((2, _) | (5, 3) | (4, 6)) => return false,
        Some((4, 5) | (3, 2) | (7, 500..=699)) => return true,
        Some((7, _)) | None if reply.code == 421 => return true,
        _ => {}
    }
    let text = reply.text.to_ascii_lowercase();
    reply.code != 452 && WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Cause, Phase};

    fn refused(code: u16, text: &str) -> Outcome {
        Outcome::Refused { permanent: code >= 500, phase: Phase::Rcpt, reply: Reply::new(code, text) }
    }

    #[test]
    fn what_known_servers_say_when_they_are_asked_too_fast() {
        let cases = [
            (421, "4.7.0 mx Error: too many connections from 192.0.2.1"),
            (421, "4.7.28 Our system has detected an unusual rate of mail"),
            (421, "4.7.0 [TSS04] Messages temporarily deferred"),
            (421, "Too many concurrent SMTP connections; please try again later."),
            (421, "Service not available, closing transmission channel"),
            (432, "4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"),
            (450, "4.7.1 Error: too much mail from 192.0.2.1"),
            (451, "4.4.5 Mail system congestion"),
            (451, "4.7.500 Server busy. Please try again later"),
            (454, "Throttling failure: Maximum sending rate exceeded."),
        ];
        for (code, text) in cases {
            assert!(asks_to_slow_down(&refused(code, text)), "{code} {text}");
            let reply = Some(Reply::new(code, text));
            let lost = Outcome::NotSent { phase: Phase::Mail, cause: Cause::Eof, reply, detail: String::new() };
            assert!(asks_to_slow_down(&lost), "{code} {text}");
        }
    }

    #[test]
    fn what_is_about_one_message_one_mailbox_or_for_good_is_no_hint() {
        let cases = [
            (450, "4.7.1 Greylisted, try again in 300 seconds"),
            (450, "4.2.1 The user you are trying to contact is receiving mail too quickly"),
            (452, "4.5.3 Too many recipients"),
            (452, "too many recipients"),
            (451, "4.4.6 too many hops"),
            (421, "4.2.1 mailbox busy"),
            (451, "4.3.0 Temporary lookup failure"),
            (550, "5.7.1 too many complaints"),
        ];
        for (code, text) in cases {
            assert!(!asks_to_slow_down(&refused(code, text)), "{code} {text}");
        }
        let silent = Outcome::not_sent(Phase::Mail, Cause::Timeout, "too many");
        assert!(!asks_to_slow_down(&silent));
        let unknown = Outcome::Unknown {
            cause: Cause::Unexpected,
            reply: Some(Reply::new(421, "4.7.0 x")),
            detail: String::new(),
        };
        assert!(!asks_to_slow_down(&unknown), "a doubt stays one");
    }
}
