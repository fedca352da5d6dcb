//! `[retry]`: when to try again, and what refusals mean; and what `[kinds.NAME.retry]` and `[routes.NAME.retry]` say otherwise.

use std::time::Duration;

use config::{Map, Value};
use hapax_core::{Codes, Meaning, RetryPart, RetryPolicy};

use super::{
    duration::format,
    origin::Problem,
    reader::{Given, Reader, Section},
    schema::Shape,
    settings::Settings,
};

const PAUSE: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a code may mean, in words.
pub(super) const MEANINGS: [(&str, Meaning); 2] =
    [("transient", Meaning::Transient), ("permanent", Meaning::Permanent)];

/// The section.
pub(super) fn read(reader: &mut Reader, root: &mut Map<String, Value>) -> (RetryPolicy, Codes) {
    let default = RetryPolicy::default();
    let mut section = reader.section(root, "", "retry");
    let retry = RetryPolicy {
        first: section.duration("first", default.first, PAUSE..=DAY),
        factor: section.number("factor", default.factor, 1.0..=100.0, "a number"),
        cap: section.duration("cap", default.cap, PAUSE..=30 * DAY),
        give_up_after: section.duration("give_up_after", default.give_up_after, SECOND..=366 * DAY),
        jitter: section.number("jitter", default.jitter, 0.0..=1.0, "a number"),
    };
    let codes = codes(&mut section);
    section.finish();
    (retry, codes)
}

/// The section `retry` of a kind or a route.
pub(super) fn part(section: &mut Section<'_>) -> (RetryPart, Codes) {
    section.sub("retry", |section| {
        let part = RetryPart {
            first: section.duration_maybe("first", PAUSE..=DAY),
            factor: section.number_maybe("factor", 1.0..=100.0),
            cap: section.duration_maybe("cap", PAUSE..=30 * DAY),
            give_up_after: section.duration_maybe("give_up_after", SECOND..=366 * DAY),
            jitter: section.number_maybe("jitter", 0.0..=1.0),
        };
        (part, codes(section))
    })
}

fn codes(section: &mut Section<'_>) -> Codes {
    const HINT: &str = "in quotes, an enhanced code, its first two parts, or a reply code: \
                        codes = { \"5.2.2\" = \"transient\", \"5.7\" = \"permanent\", \"552\" = \"transient\" }";
    let mut codes = Codes::default();
    for (code, given) in section.parts("codes", Shape::Codes) {
        let named = |given: &Given| Given { text: format!("{code} = {}", given.text), quoted: false, ..given.clone() };
        let meaning = MEANINGS.iter().find(|(word, _)| *word == given.text).map(|(_, meaning)| *meaning);
        let Some(meaning) = meaning else {
            section.refuse_with("codes", &named(&given), "is neither transient nor permanent", HINT);
            continue;
        };
        if let Err(why) = codes.insert(&code, meaning) {
            section.refuse_with("codes", &named(&given), why, HINT);
        }
    }
    codes
}

/// Reports pauses that would shrink instead of growing.
pub(super) fn check(reader: &mut Reader, settings: &Settings) {
    let kinds = settings.kinds.iter().map(|(name, kind)| (format!("kinds.{name}.retry"), kind.retry));
    let routes = settings.routes.iter().map(|route| (format!("routes.{}.retry", route.name), route.retry));
    for (path, part) in kinds.chain(routes) {
        let all = part.over(settings.retry);
        if part != RetryPart::default() && all.first > all.cap && settings.retry.first <= settings.retry.cap {
            let key = if part.first.is_some() { "first" } else { "cap" };
            let message = format!("first ({}) is longer than cap ({})", format(all.first), format(all.cap));
            let problem = Problem::new(format!("{path}.{key}"), message);
            reader
                .problems
                .push(problem.hint("pauses grow from the one to the other; what is not given here is that of [retry]"));
        }
    }
}
