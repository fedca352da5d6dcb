//! `hapax explain`: why somebody got two mails, or none. Finds the deliveries, then tells what became of them and when.
//!
//! Invariant: the only address that is ever printed in full is the one that was typed.

mod asked;
mod report;
pub(crate) mod story;
mod timeline;
mod twins;
mod verdict;
#[cfg(test)]
mod verdict_tests;
pub(crate) mod waiting;
#[cfg(test)]
mod waiting_tests;

use std::{collections::BTreeSet, time::Duration};

use hapax_store::{
    Error,
    inspect::{
        Console, DoubtFilter,
        search::{Found, Twins, TwinsOf, Unqueued},
    },
};
use uuid::Uuid;

pub(crate) use self::verdict::verdict;
use self::{asked::Asked, report::Findings, story::Story};
use crate::{
    cli::Explain,
    config::Loaded,
    connect,
    failure::{Exit, Refusal},
    look::console,
};

/// Pairs that are looked at: more of them would tell nothing new.
const PAIRS_MAX: i32 = 200;

/// # Errors
/// Usage, configuration, an unreachable database, nothing found.
pub(crate) async fn run(loaded: Loaded, options: Explain) -> anyhow::Result<Exit> {
    let asked = match asked::sender(&options.what, &loaded.settings.routes) {
        Some(asked) => asked,
        None => asked::read(&options.what)?,
    };
    let is_text = matches!(asked, Asked::Text(_));
    let lost = asked.clone();
    let (console, database) = console(loaded, "hapax explain").await?;
    let explain = |error| connect::explain(&error, &database);
    let search = Search { console: &console, since: options.since, limit: options.limit };
    let findings = search.find(asked).await.map_err(explain)?;
    let Some(findings) = findings else {
        let unqueued = search.unqueued(&lost).await.map_err(explain)?;
        if let Some(refusal) = without_delivery(&unqueued) {
            return Err(refusal.into());
        }
        let since = console.history_since().await.map_err(explain)?;
        return Err(nothing(&options, is_text, since.as_deref()).into());
    };
    report::print(&options.what, &findings, options.json.json)?;
    Ok(Exit::Done)
}

/// What to say when there is nothing to tell.
fn nothing(options: &Explain, is_text: bool, history_since: Option<&str>) -> Refusal {
    let Some(oldest) = history_since else {
        let message = format!("nothing was enqueued for {}: the outbox holds no message at all", options.what);
        return Refusal::failed(message, &["is this the right database? hapax check --print shows database.url"]);
    };
    let reach = match options.since {
        Some(since) => format!("in the last {}", crate::look::age(since.as_secs_f64())),
        None => format!("in the retained history (since {})", story::at(oldest)),
    };
    let mut hints = vec![
        "if the application says that it did enqueue: its transaction was rolled back, or its dedup_key was in use; then it \
         got the id of the first message back, ask for that id",
    ];
    if is_text {
        hints.insert(0, "an address is compared as a whole: is it spelt as in the customer's account?");
        hints.push(
            "a finished message (raw_message) is found by its own Message-ID for 7 days; longer with --since 30d",
        );
    }
    Refusal::failed(format!("nothing was enqueued for {} {reach}", options.what), &hints)
}

/// What to say of messages that are there and have no delivery.
pub(crate) fn without_delivery(found: &[Unqueued]) -> Option<Refusal> {
    let newest = found.first()?;
    let Unqueued { message_id, kind, .. } = newest;
    let others = match newest.how_many {
        1 => String::new(),
        many => format!(", and so are {} older ones", many - 1),
    };
    let at = story::at(&newest.enqueued_at);
    let message = format!(
        "message {message_id} ({kind}, enqueued {at}) is there, but no delivery of it, neither queued nor ended: nobody \
         sends it{others}"
    );
    let attempts = match newest.attempts {
        0 => "the ledger has no attempt of it; what was in doubt or not yet recorded it may not know".to_owned(),
        many => format!("the ledger has {many} attempts of it: it may have been sent (outbox.attempts)"),
    };
    let hints = [
        "somebody has deleted from outbox.queue, or it was loaded past the doors: a partial restore, an INSERT into a partition",
        &attempts,
        "if it shall be sent: enqueue it again, with outbox.enqueue(); its dedup_key still stands for this one: use another, \
         or outbox.force_release_key() first",
    ];
    Some(Refusal::failed(message, &hints))
}

struct Search<'a> {
    console: &'a Console,
    since: Option<Duration>,
    limit: i32,
}

impl Search<'_> {
    async fn find(&self, asked: Asked) -> Result<Option<Findings>, Error> {
        match asked {
            Asked::Id { id, recipient_no } => match self.message(id, recipient_no, "message").await? {
                None if recipient_no.is_none() => self.token(id).await,
                found => Ok(found),
            },
            Asked::OwnHeader { id, text } => match self.message(id, None, "Message-ID").await? {
                None => self.text(&text).await,
                found => Ok(found),
            },
            Asked::Text(text) => self.text(&text).await,
        }
    }

    /// What was asked for, among messages that have no delivery.
    async fn unqueued(&self, asked: &Asked) -> Result<Vec<Unqueued>, Error> {
        match asked {
            Asked::Id { id, .. } | Asked::OwnHeader { id, .. } => self.console.find_unqueued(None, Some(*id)).await,
            Asked::Text(text) => self.console.find_unqueued(Some(text), None).await,
        }
    }

    async fn token(&self, token: Uuid) -> Result<Option<Findings>, Error> {
        match self.console.find_token(token).await? {
            Some(found) => self.message(found.message_id, Some(found.recipient_no), "token").await,
            None => Ok(None),
        }
    }

    /// An address first, a foreign Message-ID otherwise.
    async fn text(&self, text: &str) -> Result<Option<Findings>, Error> {
        // One more than is told, to know whether there are more.
        let found = self.console.find_deliveries(text, self.since, self.limit.saturating_add(1)).await?;
        let erased = self.console.erased(text, self.limit).await?;
        if found.is_empty() && erased.is_empty() {
            let ids = self.console.find_raw_message(text, self.since).await?;
            return match ids.first() {
                Some(newest) => self.message(*newest, None, "Message-ID").await,
                None => Ok(None),
            };
        }
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        let mut stories = Vec::new();
        for Found { message_id, recipient_no } in found.into_iter().take(limit) {
            stories.extend(stories_of(self.console, message_id, Some(recipient_no)).await?);
        }
        stories.reverse();
        let twins = self.twins(TwinsOf::Address(text)).await?;
        Ok(Some(Findings { by: "address", stories, others: Vec::new(), twins, more, states: Vec::new(), erased }))
    }

    async fn message(&self, id: Uuid, recipient_no: Option<i32>, by: &'static str) -> Result<Option<Findings>, Error> {
        let mut stories = stories_of(self.console, id, recipient_no).await?;
        if stories.is_empty() {
            return Ok(None);
        }
        let states = stories.iter().map(|story| story.delivery.state.clone()).collect();
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = stories.len() > limit;
        stories.truncate(limit);
        let mut twins = self.twins(TwinsOf::Message(id)).await?;
        if let Some(number) = recipient_no {
            twins.retain(|twins| {
                [(twins.first_id, twins.first_no), (twins.second_id, twins.second_no)].contains(&(id, number))
            });
        }
        let others = self.others(id, &twins).await?;
        Ok(Some(Findings { by, stories, others, twins, more, states, erased: Vec::new() }))
    }

    /// The twins of a message: their story belongs to its own.
    async fn others(&self, id: Uuid, twins: &[Twins]) -> Result<Vec<Story>, Error> {
        let each = twins.iter().flat_map(|pair| [(pair.first_id, pair.first_no), (pair.second_id, pair.second_no)]);
        let others: BTreeSet<(Uuid, i32)> = each.filter(|(other, _)| *other != id).collect();
        let mut stories = Vec::new();
        for (other, number) in others.into_iter().take(usize::try_from(self.limit).unwrap_or(usize::MAX)) {
            stories.extend(stories_of(self.console, other, Some(number)).await?);
        }
        Ok(stories)
    }

    async fn twins(&self, of: TwinsOf<'_>) -> Result<Vec<Twins>, Error> {
        self.console.suspected_duplicates(of, self.since, PAIRS_MAX).await
    }
}

/// The facts about the deliveries of one message, or one of them.
pub(crate) async fn stories_of(console: &Console, id: Uuid, recipient_no: Option<i32>) -> Result<Vec<Story>, Error> {
    let deliveries = console.message_deliveries(id, recipient_no).await?;
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let attempts = console.message_attempts(id, recipient_no).await?;
    let decisions = console.message_audit(id, recipient_no).await?;
    let filter = DoubtFilter { message_id: Some(id), recipient_no, ..DoubtFilter::default() };
    let doubts = console.doubt_list(&filter, 1000).await?;
    let around = console.circumstances(id).await?;
    let standing = waiting::ask(console, &deliveries, &around).await?;
    let story = |delivery| Story::of(delivery, &attempts, decisions.as_deref(), &doubts, &around, standing.as_ref());
    Ok(deliveries.iter().map(story).collect())
}
