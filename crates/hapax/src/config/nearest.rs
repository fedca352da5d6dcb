//! The known word that somebody probably meant.

/// The known word nearest to `word`, unless even that one is something else entirely.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Two slips in a short word make another one of it.
    let limit = match word.chars().count() {
        0..=4 => 1,
        length => (length / 3).max(2),
    };
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance * 2 < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_recognised() {
        let known = ["max_in_flight", "final_reply_timeout", "lease", "name"];
        assert_eq!(nearest("max_inflight", known), Some("max_in_flight"));
        assert_eq!(nearest("final_replay_timeout", known), Some("final_reply_timeout"));
        assert_eq!(nearest("laese", known), Some("lease"));
        assert_eq!(nearest("nam", known), Some("name"));
        assert_eq!(nearest("colour", known), None);
        let sections = ["log", "http", "relay", "dkim"];
        assert_eq!(sections.map(|section| nearest(section, sections)), sections.map(Some));
        assert_eq!(nearest("logs", sections), Some("log"));
        for far in ["foo", "lag2", "hash", "rely on", "doc"] {
            assert_eq!(nearest(far, sections), None, "{far}");
        }
    }

    #[test]
    fn distances_count_steps() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("same", "same"), 0);
    }
}
