//! How long a server asks to be left alone, read from its words: "try again in 300 seconds". SMTP has no field for it.
//!
//! Known forms: Postgrey `Greylisted for 300 seconds`, milter-greylist `please come back in 00:04:59`, `try again in 5
//! minutes`, `retry after 30s`, `wait 1 hour`, `Retry-After: 120`. A number counts only behind such words.

use std::time::Duration;

/// Nobody is left alone for longer because of a word.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// So many words before a number may say what it is.
const WITHIN: usize = 3;

/// The time a server's words ask for, at most [`LONGEST`].
#[must_use]
pub fn retry_after(words: &str) -> Option<Duration> {
    let text = words.to_ascii_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').collect();
    let words: Vec<&str> = words.iter().map(|word| word.trim_matches(':')).filter(|word| !word.is_empty()).collect();
    (0..words.len()).find_map(|at| {
        let asks = |word: &&str| matches!(*word, "again" | "retry" | "wait" | "back") || word.starts_with("greylist");
        let asked = words[at.saturating_sub(WITHIN)..at].iter().any(asks);
        let before = at.checked_sub(1).map_or("", |before| words[before]);
        let seconds = if asked { seconds(before, words[at], words.get(at + 1).copied()) } else { None };
        seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds).min(LONGEST))
    })
}

/// `300s`, `5 minutes`, `00:04:59`; `after 300`.
fn seconds(before: &str, word: &str, next: Option<&str>) -> Option<u64> {
    if word.contains(':') {
        let parts: Option<Vec<u64>> = word.split(':').map(|part| part.parse().ok().filter(|n| *n < 1_000)).collect();
        let parts = parts?;
        return (parts.len() <= 3).then(|| parts.iter().fold(0, |sum, part| sum * 60 + part));
    }
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = if unit.is_empty() { next.unwrap_or_default() } else { unit };
    let factor = match unit {
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        _ if digits == word.len() && matches!(before, "after" | "in") => 1,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_about_when_to_come_back() {
        for (words, seconds) in [
            ("4.2.0 <ada@example.org>: Recipient address rejected: Greylisted for 300 seconds (see http://x/y)", 300),
            ("4.7.1 Greylisting in action, please come back in 00:04:59", 299),
            ("4.7.0 Try again in 5 minutes", 300),
            ("please retry after 30s", 30),
            ("4.3.2 wait 1 hour", 3600),
            ("Retry-After: 120", 120),
            ("try again in 2 hours", 3600),
            ("4.7.1 too many, TRY AGAIN IN 10 MIN.", 600),
            ("come back in 2:30", 150),
        ] {
            assert_eq!(retry_after(words), Some(Duration::from_secs(seconds)), "{words}");
        }
    }

    #[test]
    fn other_numbers_are_no_times() {
        for words in [
            "",
            "4.2.1 try again later",
            "you have sent 500 messages in 60 minutes, later",
            "4.7.1 [192.0.2.1] too much mail",
            "retry, error id 4711abc",
            "retry, error id 4711",
            "try again, 192.0.2.1 is not known",
            "try again in 0 seconds",
            "try again in 99999999999999999999999 seconds",
            "back at 1:2:3:4",
        ] {
            assert_eq!(retry_after(words), None, "{words}");
        }
    }
}
