//! What somebody pasted: an address, a Message-ID, an id, a token. Told apart by their shape alone.

use uuid::Uuid;

use crate::{config::Route, failure::Refusal, target::Target};

/// What was asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A message, one of its deliveries, or an attempt's token: they look the same.
    Id { id: Uuid, recipient_no: Option<i32> },
    /// `<ID@host>`: a Message-ID that Hapax has written, most likely.
    OwnHeader { id: Uuid, text: String },
    /// An address, or the Message-ID of a finished message.
    Text(String),
}

/// Reads it.
///
/// # Errors
/// Exit code 64 for what is none of these.
pub(crate) fn read(typed: &str) -> Result<Asked, Refusal> {
    let text = typed.trim();
    if let Ok(Target { id, recipient_no }) = Target::parse(text) {
        return Ok(Asked::Id { id, recipient_no });
    }
    let has_at = text.split_once('@').is_some_and(|(before, after)| !before.is_empty() && !after.is_empty());
    if !has_at || text.chars().any(char::is_control) {
        let hint =
            "give an email address, a Message-ID (<ID@host>), a message id (a uuid), ID/NO, or the token of an attempt";
        return Err(Refusal::usage(format!("{typed:?} is nothing hapax could look for"), &[hint]));
    }
    let bare = text.trim_start_matches('<').trim_end_matches('>');
    let own = bare.split_once('@').and_then(|(before, _)| before.parse::<Uuid>().ok());
    Ok(match own {
        Some(id) => Asked::OwnHeader { id, text: text.to_owned() },
        None => Asked::Text(text.to_owned()),
    })
}

/// The delivery whose envelopes came from this address, where a route makes one for each.
pub(crate) fn sender(typed: &str, routes: &[Route]) -> Option<Asked> {
    let patterns = routes.iter().filter_map(|route| route.envelope_sender.as_ref());
    let (message, recipient_no) = patterns.filter_map(|pattern| pattern.delivery_of(typed)).next()?;
    Some(Asked::Id { id: message.0, recipient_no: recipient_no.map(i32::from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d";

    #[test]
    fn what_is_pasted_is_told_apart_by_its_shape() {
        let id: Uuid = ID.parse().expect("an id");
        assert_eq!(read(ID).expect("an id"), Asked::Id { id, recipient_no: None });
        assert_eq!(read(&format!(" {ID}/2 ")).expect("a delivery"), Asked::Id { id, recipient_no: Some(2) });
        for header in [format!("<{ID}@shop.example>"), format!("{ID}@shop.example")] {
            assert_eq!(read(&header).expect("a header"), Asked::OwnHeader { id, text: header });
        }
        for text in ["ada@example.org", "Ada Lovelace <ADA@example.org>", "<20261126.42@shop.example>"] {
            assert_eq!(read(text).expect("a text"), Asked::Text(text.to_owned()));
        }
        for wrong in ["", "ada", "@", "ada@", "@example.org", "a\nb@example.org", "0199aa3e"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
