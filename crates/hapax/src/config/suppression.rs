//! `[suppression]`: whether addresses that do not exist are suppressed by themselves.
//!
//! Off unless it is asked for: a mail server that has lost its users refuses everybody.

use std::time::Duration;

use config::{Map, Value};
use hapax_relay::HardBounces;

use super::reader::Reader;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn read(reader: &mut Reader, root: &mut Map<String, Value>) -> Option<HardBounces> {
    let mut section = reader.section(root, "", "suppression");
    let wanted = section.switch("hard_bounces", false);
    let expire_after = section.duration("hard_bounces_expire_after", 90 * DAY, HOUR..=366 * DAY);
    let per_hour_max = section.number("hard_bounces_per_hour_max", 100, 1..=1_000_000, "a whole number");
    section.finish();
    wanted.then_some(HardBounces { expire_after, per_hour_max })
}
