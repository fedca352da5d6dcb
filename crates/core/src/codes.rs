//! What a refusal means where that is not what its first digit says: a table of codes, and the defaults.
//!
//! Architecture Invariant: only what a server has certainly refused is weighed. What is accepted, not sent, or unknown stays
//! what it is, whatever a table says.

use std::collections::BTreeMap;

use crate::{
    outcome::{Outcome, Phase, Reply},
    throttle::asks_to_slow_down,
};

/// What becomes of a delivery that is refused with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is tried again.
    Transient,
    /// It has failed.
    Permanent,
}

/// Codes and what they mean: `5.2.2` (RFC 3463), all of a subject `5.7`, or a reply code `552`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codes(BTreeMap<String, Meaning>);

impl Codes {
    /// Adds an entry.
    ///
    /// # Errors
    /// When it is no code of a refusal.
    pub fn insert(&mut self, code: &str, meaning: Meaning) -> Result<(), &'static str> {
        if !is_code(code) {
            return Err("is no code of a refusal");
        }
        self.0.insert(code.to_owned(), meaning);
        Ok(())
    }

    /// The entry that fits best: the enhanced code, its subject, the reply code.
    fn meaning(&self, reply: &Reply) -> Option<Meaning> {
        let enhanced = reply.enhanced.as_deref();
        let subject = enhanced.and_then(|code| code.rsplit_once('.')).map(|(subject, _)| subject);
        let basic = reply.code.to_string();
        [enhanced, subject, Some(basic.as_str())].into_iter().flatten().find_map(|code| self.0.get(code)).copied()
    }
}

/// `4.x.y`, `5.x.y`, `4.x`, `5.x`, 400 to 599.
fn is_code(code: &str) -> bool {
    let is_number = |part: &str, most: usize| {
        (1..=most).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let parts: Vec<&str> = code.split('.').collect();
    match parts.as_slice() {
        [basic] => is_number(basic, 3) && basic.parse().is_ok_and(|code: u16| (400..600).contains(&code)),
        [class, subject] => ["4", "5"].contains(class) && is_number(subject, 3),
        [class, subject, detail] => ["4", "5"].contains(class) && is_number(subject, 3) && is_number(detail, 3),
        _ => false,
    }
}

/// A mailbox that is full is emptied some day: 5.2.2 (RFC 3463 3.3), and 552 to RCPT from servers without enhanced codes
/// (RFC 5321 4.2.3: exceeded storage allocation).
fn by_default(phase: Phase, reply: &Reply) -> Option<Meaning> {
    let is_full = match reply.enhanced.as_deref() {
        Some(code) => code == "5.2.2",
        None => reply.code == 552 && phase == Phase::Rcpt,
    };
    is_full.then_some(Meaning::Transient)
}

/// The outcome as these tables, the first that knows its code, or the defaults would have it.
#[must_use]
pub fn weigh(outcome: Outcome, tables: &[&Codes]) -> Outcome {
    // "Not so fast" is about the route, whichever message is asked about.
    if asks_to_slow_down(&outcome) {
        return outcome;
    }
    let Outcome::Refused { permanent, phase, reply } = outcome else { return outcome };
    let known = tables.iter().find_map(|table| table.meaning(&reply)).or_else(|| by_default(phase, &reply));
    let permanent = known.map_or(permanent, |meaning| meaning == Meaning::Permanent);
    Outcome::Refused { permanent, phase, reply }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Cause;

    fn refused(phase: Phase, code: u16, text: &str) -> Outcome {
        Outcome::Refused { permanent: code >= 500, phase, reply: Reply::new(code, text) }
    }

    fn table(entries: &[(&str, Meaning)]) -> Codes {
        let mut codes = Codes::default();
        entries.iter().for_each(|(code, meaning)| codes.insert(code, *meaning).expect("a code"));
        codes
    }

    fn is_permanent(outcome: Outcome, tables: &[&Codes]) -> bool {
        matches!(weigh(outcome, tables), Outcome::Refused { permanent: true, .. })
    }

    #[test]
    fn a_full_mailbox_is_tried_again_and_nothing_else_is_by_default() {
        let at = |code, text| is_permanent(refused(Phase::Rcpt, code, text), &[]);
        assert!(!at(552, "5.2.2 over quota") && !at(550, "5.2.2 mailbox full") && !at(552, "mailbox full"));
        assert!(at(550, "5.1.1 no such user") && at(550, "no") && at(552, "5.3.4 message too big"));
        assert!(is_permanent(refused(Phase::EndMarker, 552, "too much mail data"), &[]), "the message may be too big");
        assert!(!is_permanent(refused(Phase::EndMarker, 552, "5.2.2 over quota"), &[]));
        assert!(!at(450, "4.2.1 later"));
    }

    #[test]
    fn the_best_fit_of_the_first_table_that_knows_it_counts() {
        use Meaning::{Permanent, Transient};
        let (own, all) =
            (table(&[("5.7.1", Permanent), ("5.7", Transient)]), table(&[("550", Transient), ("5.2.2", Permanent)]));
        let at = |code, text| is_permanent(refused(Phase::Rcpt, code, text), &[&own, &all]);
        assert!(at(550, "5.7.1 spam") && !at(550, "5.7.26 unauthenticated"));
        assert!(!at(550, "5.1.1 no such user") && !at(550, "no") && at(554, "5.1.1 no such user"));
        assert!(at(552, "5.2.2 over quota"), "a table comes before the defaults");
        let given_up = table(&[("4.4.7", Permanent), ("451", Permanent)]);
        assert!(is_permanent(refused(Phase::EndMarker, 451, "4.4.7 expired"), &[&given_up]));
        assert!(is_permanent(refused(Phase::Rcpt, 451, "later"), &[&given_up]));
    }

    #[test]
    fn nothing_but_a_refusal_is_weighed() {
        let everything = table(&[
            ("450", Meaning::Permanent),
            ("421", Meaning::Permanent),
            ("550", Meaning::Transient),
            ("4.7", Meaning::Permanent),
        ]);
        let reply = Reply::new(421, "4.7.0 closing");
        for outcome in [
            refused(Phase::Rcpt, 450, "4.7.1 too much mail from you"),
            Outcome::Unknown { cause: Cause::Eof, reply: Some(reply.clone()), detail: String::new() },
            Outcome::NotSent { phase: Phase::Rcpt, cause: Cause::Eof, reply: Some(reply), detail: String::new() },
            Outcome::Accepted { reply: Reply::new(250, "2.0.0 ok") },
        ] {
            assert_eq!(weigh(outcome.clone(), &[&everything]), outcome);
        }
    }

    #[test]
    fn what_is_no_code_of_a_refusal_is_refused() {
        for code in [
            "", "250", "2.0.0", "600", "5", "5.", "5.1.", "5.1.1.1", "5.01.1", "5.1.1000", "x", "5.x.1", "55", "3.1.1",
            " 550",
        ] {
            assert!(Codes::default().insert(code, Meaning::Transient).is_err(), "{code:?}");
        }
    }
}
