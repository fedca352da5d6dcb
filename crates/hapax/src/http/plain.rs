//! OpenMetrics in the words of Prometheus' own text format (0.0.4), for scrapers that do not ask for the other, and for
//! `promtool check metrics`. The two differ in what a counter's family is called, in types, and in the last line.

/// Without exemplars: the format has none.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("# HELP ") {
            help = of.split_once(' ');
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|of| of.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                plain.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            plain.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            // Only buckets have any, and no label of theirs has a value that looks like one.
            let exemplar = line.split_once(" # {trace_id=").filter(|(sample, _)| sample.contains("_bucket{"));
            plain.push_str(exemplar.map_or(line, |(sample, _)| sample));
            plain.push('\n');
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemplars_stay_behind() {
        let open = "# TYPE a_s histogram\na_s_bucket{le=\"1.0\"} 3 # {trace_id=\"0af7\"} 0.5\na_s_count 3\n# EOF\n";
        assert_eq!(from_open_metrics(open), "# TYPE a_s histogram\na_s_bucket{le=\"1.0\"} 3\na_s_count 3\n");
    }

    #[test]
    fn counters_have_their_suffix_and_nothing_else_changes() {
        let open = "# HELP a_attempts Attempts.\n# TYPE a_attempts counter\na_attempts_total{r=\"x\"} 1\n\
            # HELP a_up Up.\n# TYPE a_up gauge\n# UNIT a_up seconds\na_up 1\n# EOF\n";
        let plain = "# HELP a_attempts_total Attempts.\n# TYPE a_attempts_total counter\na_attempts_total{r=\"x\"} 1\n\
            # HELP a_up Up.\n# TYPE a_up gauge\na_up 1\n";
        assert_eq!(from_open_metrics(open), plain);
    }
}
