//! Envelope senders of a route's own: a pattern with a place for the delivery, so that whoever gets a bounce knows whose it
//! is (VERP). The header fields stay as they are.
//!
//! Invariant: whatever the delivery, what comes out is an address that fits a command: checked when the pattern is read.

use hapax_core::{DeliveryKey, MessageId, Recipient};

/// What may stand in braces, and how long it gets.
const MESSAGE: &str = "{message_id}";
const RECIPIENT: &str = "{recipient_no}";

/// The pattern of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeSender {
    local: String,
    domain: String,
}

impl EnvelopeSender {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let hint = || "bounces+{message_id}.{recipient_no}@bounce.example.org".to_owned();
        let text = text.trim();
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err(("is not an address: there is no @ in it".to_owned(), hint()));
        };
        if domain.contains(['{', '}']) {
            return Err(("has a brace after the @".to_owned(), format!("placeholders stand before it: {}", hint())));
        }
        let left = local.replace(MESSAGE, "").replace(RECIPIENT, "");
        if left.contains(['{', '}']) {
            let message = "has a brace that belongs to no placeholder".to_owned();
            return Err((message, format!("there are {MESSAGE} and {RECIPIENT}, each as it is written here")));
        }
        if [MESSAGE, RECIPIENT].iter().any(|place| local.matches(place).count() > 1) {
            return Err(("names a placeholder twice".to_owned(), hint()));
        }
        if local.contains(['<', '>', '"', ' ']) || !local.is_ascii() {
            let message = "has a character before the @ that does not belong there".to_owned();
            return Err((message, format!("the plain address, without a name: {}", hint())));
        }
        let pattern = Self { local: local.to_owned(), domain: domain.to_owned() };
        let longest = DeliveryKey { message_id: MessageId(uuid::Uuid::max()), recipient_no: i16::MAX };
        let length = pattern.of(longest).rfind('@').unwrap_or_default();
        if length > 64 {
            let message = format!("has up to {length} bytes before the @, of which there may be 64");
            return Err((
                message,
                "a message id is 36, a recipient's number up to 5: write less around them".to_owned(),
            ));
        }
        match Recipient::parse(&pattern.of(longest)) {
            Ok(address) => Ok(Self { domain: address.domain().to_owned(), ..pattern }),
            Err(error) => Err((format!("does not make an address: {error}"), hint())),
        }
    }

    /// The sender of one delivery.
    #[must_use]
    pub fn of(&self, delivery: DeliveryKey) -> String {
        let local = self.local.replace(MESSAGE, &delivery.message_id.to_string());
        format!("{}@{}", local.replace(RECIPIENT, &delivery.recipient_no.to_string()), self.domain)
    }

    /// The message that an address was made for, and for which of its recipients where it says so; if this pattern made it.
    #[must_use]
    pub fn delivery_of(&self, address: &str) -> Option<(MessageId, Option<u16>)> {
        let (local, domain) = address.trim().trim_matches(['<', '>']).rsplit_once('@')?;
        if !self.local.contains(MESSAGE) || !domain.eq_ignore_ascii_case(&self.domain) {
            return None;
        }
        (0..local.len()).find_map(|start| {
            let id = local.get(start..start + 36)?.parse::<uuid::Uuid>().ok()?;
            Some((MessageId(id), self.recipient_of(local, id)?))
        })
    }

    /// None where it is no address of that message.
    fn recipient_of(&self, local: &str, id: uuid::Uuid) -> Option<Option<u16>> {
        let (local, made) =
            (local.to_ascii_lowercase(), self.local.replace(MESSAGE, &id.to_string()).to_ascii_lowercase());
        let Some((before, after)) = made.split_once(RECIPIENT) else { return (made == local).then_some(None) };
        let number = local.strip_prefix(before)?.strip_suffix(after)?;
        number.parse().ok().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: &str = "bounces+{message_id}.{recipient_no}@bounce.example.org";

    fn key(no: i16) -> DeliveryKey {
        DeliveryKey { message_id: MessageId(uuid::Uuid::from_u128(0x0192_f00d << 96)), recipient_no: no }
    }

    #[test]
    fn every_delivery_has_a_sender_of_its_own_that_leads_back_to_its_message() {
        let pattern = EnvelopeSender::parse(PATTERN).expect("a pattern");
        let sender = pattern.of(key(3));
        assert_eq!(sender, "bounces+0192f00d-0000-0000-0000-000000000000.3@bounce.example.org");
        assert_ne!(sender, pattern.of(key(4)));
        assert_eq!(pattern.delivery_of(&format!("<{}>", sender.to_uppercase())), Some((key(3).message_id, Some(3))));
        for other in ["bounces+x.3@bounce.example.org", "a@example.org", "", &sender.replace("bounces", "b")] {
            assert_eq!(pattern.delivery_of(other), None, "{other}");
        }
        let turned = EnvelopeSender::parse("b{recipient_no}-{message_id}@example.org").expect("a pattern");
        assert_eq!(turned.delivery_of(&turned.of(key(12))), Some((key(12).message_id, Some(12))));
        let whole = EnvelopeSender::parse("b-{message_id}@example.org").expect("a pattern");
        assert_eq!(whole.delivery_of(&whole.of(key(12))), Some((key(12).message_id, None)));
        let fixed = EnvelopeSender::parse("bounces@EXAMPLE.org").expect("one for all");
        assert_eq!(fixed.of(key(1)), "bounces@example.org");
        assert_eq!(fixed.delivery_of("bounces@example.org"), None);
    }

    #[test]
    fn what_could_not_be_an_address_is_refused_when_it_is_read() {
        let long = format!("{}{{message_id}}.{{recipient_no}}@example.org", "b".repeat(23));
        let cases = [
            ("bounces", "no @"),
            ("b+{message_id}@{recipient_no}.example.org", "brace after the @"),
            ("b+{id}@example.org", "no placeholder"),
            ("b+{message_id@example.org", "no placeholder"),
            ("Shop <b@example.org>", "does not make"),
            ("b b@example.org", "does not belong"),
            (".{message_id}@example.org", "does not make"),
            ("b@", "does not make"),
            ("b{message_id}{message_id}@example.org", "twice"),
            (&long, "up to 65 bytes"),
        ];
        for (text, said) in cases {
            let refused = EnvelopeSender::parse(text).expect_err(text).0;
            assert!(refused.contains(said) || text.starts_with("Shop"), "{text}: {refused}");
        }
        assert!(EnvelopeSender::parse(&long[1..]).is_ok(), "64 are allowed");
    }
}
