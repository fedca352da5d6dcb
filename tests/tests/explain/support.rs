//! Asking, and looking at the answer.

use hapax_tests::stage::Stage;
use tokio_postgres::{Client, NoTls};

/// What `hapax explain` said.
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Told {
    /// The sentences of the verdict, as one text.
    #[track_caller]
    pub(crate) fn verdict(&self) -> String {
        assert_eq!(self.code, 0, "{}", self.text);
        let (_, rest) = self.text.split_once("Verdict\n").unwrap_or_else(|| panic!("no verdict: {}", self.text));
        let (verdict, _) = rest.split_once("Notifications\n").expect("the notifications follow");
        verdict.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
    }

    /// The lines of the time line.
    #[track_caller]
    pub(crate) fn timeline(&self) -> String {
        self.text.split_once("Time line (UTC)\n").unwrap_or_else(|| panic!("no time line: {}", self.text)).1.to_owned()
    }

    /// The verdict has all of these.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> &Self {
        let verdict = self.verdict();
        for part in parts {
            assert!(verdict.contains(part), "no {part:?} in:\n{}", self.text);
        }
        self
    }

    /// The time line has all of these, in this order.
    #[track_caller]
    pub(crate) fn tells(&self, parts: &[&str]) -> &Self {
        let timeline = self.timeline();
        let mut rest = timeline.as_str();
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else {
                panic!("no {part:?} (in this order) in:\n{}", self.text)
            };
            rest = after;
        }
        self
    }
}

/// Asks as `user`. Whatever it says, no address but the typed one is in it.
pub(crate) async fn explain_as(stage: &Stage, user: &str, typed: &str, more: &[&str]) -> Told {
    let arguments = ["explain", typed].into_iter().chain(more.iter().copied());
    let (code, text) = stage.settings_of(user).command(arguments).await;
    println!("$ hapax explain {typed} {}   ({user}, exit code {code})\n{text}\n", more.join(" "));
    let foreign = text.replace(typed, "(typed)");
    let pieces: Vec<&str> = foreign.split("@example.org").collect();
    for piece in &pieces[..pieces.len() - 1] {
        assert!(piece.ends_with("***"), "an address in:\n{text}");
    }
    Told { code, text }
}

/// Asks as an operator.
pub(crate) async fn explain(stage: &Stage, typed: &str) -> Told {
    explain_as(stage, "operator", typed, &[]).await
}

/// A session of the user `producer`, as the application of this name.
pub(crate) async fn application(stage: &Stage, name: &str) -> Client {
    let url = stage.cluster.direct_url_for("postgres", "producer");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it takes a client");
    tokio::spawn(connection);
    client.batch_execute(&format!("SET application_name = '{name}'")).await.expect("it has a name");
    client
}

/// Enqueues "Your order" as this application, with further arguments in SQL; answers id and transaction.
pub(crate) async fn order(client: &Client, recipient: &str, more: &str) -> (uuid::Uuid, String) {
    let sql = format!(
        "SELECT outbox.enqueue(kind => 'order_confirmed', recipients => ARRAY[$1], subject => 'Your order', \
         body_text => 'Thank you.'{more}), pg_current_xact_id()::text"
    );
    let row = client.query_one(&sql, &[&recipient]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    (row.get(0), row.get(1))
}
