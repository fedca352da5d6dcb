//! What claimed deliveries say: fetched by id after the claim, with the trace contexts of their producers where they are
//! wanted.

use std::collections::HashMap;
use std::sync::Arc;

use hapax_core::{MessageId, envelope::Notification};
use hapax_store::Error;

use crate::{courier::Office, job::Letter, trace::TraceParent};

/// What each message says, or why it cannot be read.
pub(crate) type Letters = HashMap<MessageId, Result<Arc<Letter>, String>>;

/// Fetches them.
///
/// # Errors
/// Any of the store's: nothing is known then. That holds for the trace contexts, too: a message that carries its own must
/// not be made without it once and with it at the next attempt.
pub(crate) async fn fetch(office: &Office, ids: &[MessageId]) -> Result<Letters, Error> {
    let contents = read_all(office, ids).await?;
    let parents = match office.config.tracing {
        Some(_) => {
            let readable: Vec<MessageId> = contents.iter().flatten().map(|notification| notification.id).collect();
            office.store.traceparents(&readable).await?
        }
        None => HashMap::new(),
    };
    let clock = office.clock.as_ref();
    let read = |content: Result<Notification, Error>| match content {
        Ok(notification) => {
            let (id, policy) = (notification.id, office.config.kinds.get(&notification.kind).cloned());
            let mut letter = Letter::new(notification, policy.unwrap_or_default(), clock);
            letter.parent = parents.get(&id).and_then(|text| TraceParent::parse(text));
            Some((id, Ok(Arc::new(letter))))
        }
        Err(Error::Row { key, reason, .. }) => {
            Some((MessageId(key.parse().ok()?), Err(format!("content cannot be read: {reason}"))))
        }
        Err(_) => None,
    };
    Ok(contents.into_iter().filter_map(read).collect())
}

/// What these messages say. One that the database itself cannot read (its storage is damaged) keeps no other back.
async fn read_all(office: &Office, ids: &[MessageId]) -> Result<Vec<Result<Notification, Error>>, Error> {
    let inline = office.freight.inline_bytes_max();
    match office.store.letters(ids, inline).await {
        Err(error) if error.is_damage() => {
            tracing::error!(
                error = error.in_full(),
                messages = ids.len(),
                "contents cannot be read, asking for them one by one"
            );
        }
        other => return other,
    }
    let mut contents = Vec::new();
    for id in ids {
        match office.store.letters(&[*id], inline).await {
            Ok(more) => contents.extend(more),
            Err(error) if error.is_damage() => {
                let (key, reason) = (id.0.to_string(), error.in_full());
                contents.push(Err(Error::Row { operation: "letters", key, reason }));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(contents)
}
