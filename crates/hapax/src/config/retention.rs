//! `[retention]` and `kinds.NAME.keep_content`: what is kept, and for how long.

use std::{collections::BTreeMap, time::Duration};

use config::{Map, Value};
use hapax_relay::{KeepContent, KindPolicy, Retention};

use super::{
    duration,
    origin::{Origin, Problem},
    reader::{Reader, Section},
    schema::Shape,
};

const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

const HINT: &str =
    "accepted: until a server has accepted it, 30d say: for so long after its end, forever: as long as the record";

pub(super) fn read(reader: &mut Reader, root: &mut Map<String, Value>) -> Retention {
    let mut section = reader.section(root, "", "retention");
    let records = section.duration_maybe("records", WEEK..=LONGEST);
    let content = keep(&mut section, "content", Some("forever")).unwrap_or_default();
    section.finish();
    Retention { records, content }
}

/// For how long content is kept, if it says so.
pub(super) fn keep(section: &mut Section<'_>, key: &'static str, default: Option<&str>) -> Option<KeepContent> {
    let given = section.take_as(key, Shape::DurationOr("accepted|forever"));
    section.show(key, given.as_ref(), default.map(|default| format!("{default:?}")));
    let given = given?;
    match given.text.as_str() {
        "accepted" => return Some(KeepContent::Accepted),
        "forever" => return Some(KeepContent::Forever),
        _ => {}
    }
    match duration::parse(&given.text) {
        Some(time) if (MINUTE..=LONGEST).contains(&time) => return Some(KeepContent::For(time)),
        Some(_) => {
            let (least, most) = (duration::format(MINUTE), duration::format(LONGEST));
            section.refuse_with(key, &given, format!("must be between {least} and {most}, accepted or forever"), HINT);
        }
        None => {
            let message = format!("is neither accepted, nor forever, nor {}", duration::SHAPE);
            section.refuse_with(key, &given, message, HINT);
        }
    }
    None
}

/// Content never outlives its record.
pub(super) fn check(reader: &mut Reader, retention: &Retention, kinds: &BTreeMap<String, KindPolicy>) {
    let Some(records) = retention.records else { return };
    let own = kinds.iter().filter_map(|(name, kind)| Some((format!("kinds.{name}.keep_content"), kind.keep_content?)));
    for (path, keep) in std::iter::once(("retention.content".to_owned(), retention.content)).chain(own) {
        let KeepContent::For(time) = keep else { continue };
        if time > records {
            let shown = reader.shown.iter().find(|shown| shown.path == path);
            let origin = shown.map_or(Origin::Default, |shown| shown.origin.clone());
            let message =
                format!("is longer than retention.records ({}): it goes with its record", duration::format(records));
            let hint = "make it shorter, or retention.records longer; weeks are dropped whole, up to a week later";
            let problem = Problem::new(path, message).hint(hint);
            reader.warnings.push(problem.of(format!("{:?}", duration::format(time)), origin));
        }
    }
}
