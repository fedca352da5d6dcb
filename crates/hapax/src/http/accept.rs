//! What a scraper would rather have (RFC 9110, 12.5.1). OpenMetrics only for those who name it: a browser that takes anything
//! gets what it can show.

const OPEN_METRICS: &str = "application/openmetrics-text";
const PLAIN: &str = "text/plain";

/// Whether these `Accept` fields ask for OpenMetrics, at least as much as for plain text.
pub(super) fn prefers_open_metrics<'a>(fields: impl Iterator<Item = &'a str>) -> bool {
    let ranges: Vec<(String, f32)> = fields.flat_map(|field| field.split(',')).filter_map(range).collect();
    let of = |names: &[&str]| {
        // The most specific range that fits counts; of several like it, the kindest.
        names.iter().find_map(|name| {
            let qualities = ranges.iter().filter(|(range, _)| range == name).map(|(_, quality)| *quality);
            qualities.reduce(f32::max)
        })
    };
    let open = of(&[OPEN_METRICS]).unwrap_or_default();
    open > 0.0 && open >= of(&[PLAIN, "text/*", "*/*"]).unwrap_or_default()
}

/// A media range and its quality; nothing for what is none.
fn range(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| name.contains('/'))?.to_ascii_lowercase();
    let mut quality = 1.0;
    for parameter in parts {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        if key.trim().eq_ignore_ascii_case("q") {
            quality = value.trim().parse::<f32>().ok().filter(|quality| (0.0..=1.0).contains(quality))?;
        }
    }
    Some((name, quality))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_name_it_and_do_not_like_plain_text_better() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.2";
        for open in [
            &[prometheus][..],
            &["application/openmetrics-text"],
            &["Application/OpenMetrics-Text ; version=1.0.0 ; Q=1.0"],
            &["text/plain;q=0.5", "application/openmetrics-text;q=0.5"],
            &["application/openmetrics-text;q=0.9,*/*;q=0.1"],
        ] {
            assert!(prefers_open_metrics(open.iter().copied()), "{open:?}");
        }
        for plain in [
            &[][..],
            &["*/*"],
            &["text/plain, application/*"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=0.0, */*"],
            &["application/openmetrics-text;q=0.3,text/plain;q=0.7"],
            &["application/openmetrics-text;q=0.3,*/*"],
            &["application/openmetrics-text-of-another-kind"],
            &["application/openmetrics-text;q=much", "nonsense"],
        ] {
            assert!(!prefers_open_metrics(plain.iter().copied()), "{plain:?}");
        }
    }
}
