//! The statements of `cases.sql`, with what they are about put in.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokio_postgres::Client;

/// A statement and its bounds.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Executed before it, in its transaction.
    pub(crate) before: Option<String>,
    pub(crate) sql: String,
    /// At most so many buffers.
    pub(crate) buffers: i64,
    /// At most so many partitions.
    pub(crate) weeks: i64,
    /// Large tables it may read without an index.
    pub(crate) whole: Vec<String>,
}

/// What the cases are about.
pub(crate) struct Facts(BTreeMap<String, String>);

impl Facts {
    pub(crate) async fn of(sql: &Client) -> Self {
        let row = sql.query_one(include_str!("facts.sql"), &[]).await.unwrap_or_else(|error| panic!("{error:?}"));
        let Value::Object(facts) = row.get::<_, Value>(0) else { panic!("facts are an object") };
        let plain = |fact: &Value| fact.as_str().map_or_else(|| fact.to_string(), str::to_owned);
        Self(facts.iter().map(|(name, fact)| (name.clone(), plain(fact))).collect())
    }

    /// `2*queue_pages+400`: terms with facts in them; between slashes, whichever is less.
    pub(crate) fn bound(&self, text: &str) -> i64 {
        let number = |word: &str| {
            let word = self.0.get(word).map_or(word, String::as_str);
            word.parse::<i64>().unwrap_or_else(|_| panic!("{text}: {word} is no number"))
        };
        let sum = |text: &str| text.split('+').map(|term| term.split('*').map(number).product::<i64>()).sum();
        text.split('/').map(sum).min().unwrap_or_default()
    }

    pub(crate) fn put_into(&self, text: &str) -> String {
        let put = |text: String, (name, fact): (&String, &String)| text.replace(&format!("{{{name}}}"), fact);
        // Facts may have facts in them.
        let once = self.0.iter().fold(text.to_owned(), put);
        self.0.iter().fold(once, put)
    }
}

/// A statement of `crates/store/queries` with its arguments, which `;` separates, in place of `$1`, `$2` and so on.
fn query(call: &str) -> String {
    let (name, arguments) = call.split_once(char::is_whitespace).unwrap_or((call, ""));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../crates/store/queries/{name}.sql"));
    let sql = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let sql: Vec<_> = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let arguments: Vec<_> = arguments.split(';').map(str::trim).filter(|argument| !argument.is_empty()).collect();
    // From the last one, or $1 would be found in $12.
    let put =
        |sql: String, (no, argument): (usize, &&str)| sql.replace(&format!("${}", no + 1), &format!("({argument})"));
    arguments.iter().enumerate().rev().fold(sql.join("\n"), put)
}

/// Everything in `cases.sql`.
pub(crate) fn all(facts: &Facts) -> Vec<Case> {
    let cases = include_str!("cases.sql").split("\n## ").skip(1).map(|text| {
        let (head, body) = text.split_once('\n').expect("a statement");
        let (name, bounds) = head.split_once('|').unwrap_or_else(|| panic!("{head}: no bounds"));
        let body = body.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
        let (before, sql) =
            body.split_once("\n=>\n").map_or((None, body.as_str()), |(before, sql)| (Some(before), sql));
        let sql = facts.put_into(sql.trim().trim_end_matches(';'));
        let mut words = bounds.split_whitespace();
        let mut bound = || facts.bound(words.next().unwrap_or_else(|| panic!("{head}: no bound")));
        let (buffers, weeks) = (bound(), bound());
        Case {
            name: name.trim().to_owned(),
            before: before.map(|before| facts.put_into(before)),
            sql: sql.strip_prefix('@').map_or_else(|| sql.clone(), query),
            buffers,
            weeks,
            whole: words.map(str::to_owned).collect(),
        }
    });
    cases.collect()
}
