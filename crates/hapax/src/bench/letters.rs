//! What is sent: always the same messages, about 2 kB each when rendered, one recipient, text and HTML.
//!
//! The content is that of the measurements of other outbox relays which BENCHMARKS.md speaks of, so that everybody
//! sends the same.

use std::fmt::Write as _;

use serde::Serialize;

const LOREM: &str = "Thank you for your order. We have received your payment and are preparing your parcel. You will \
     get another message with a tracking link as soon as the parcel leaves our warehouse.";

/// The header by which a sink tells messages apart.
pub(super) const ID_HEADER: &str = "X-Bench-Id";

/// One message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Letter {
    pub(super) id: u32,
    pub(super) from: &'static str,
    pub(super) to: String,
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

impl Letter {
    /// Number `id`, from 1.
    pub(super) fn new(id: u32) -> Self {
        let words: Vec<&str> = LOREM.split(' ').collect();
        let word = |at: usize| words[(id as usize + at) % words.len()];
        let line = |number: usize| (number * 10..number * 10 + 10).map(word).collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = (0..16).map(line).collect();
        let text = format!("Hello customer {id},\n\n{}\n\nKind regards\nThe Shop\n", lines[..8].join("\n"));
        let mut html = format!("<html><body><h1>Order {id:06}</h1>\n<p>Hello customer {id},</p>\n");
        for line in &lines[8..] {
            // Writing to a String cannot fail.
            let _ = writeln!(html, "<p style=\"margin:0\">{line}</p>");
        }
        html.push_str("<p>Kind regards<br>The Shop</p></body></html>\n");
        Self {
            id,
            from: "shop@example.com",
            to: format!("user{id}@example.net"),
            subject: format!("msg-{id:06} your order has been received"),
            text,
            html,
        }
    }

    /// Its headers as `outbox.enqueue` takes them.
    pub(super) fn headers(&self) -> serde_json::Value {
        serde_json::json!({ ID_HEADER: self.id.to_string() })
    }

    /// As an element of `outbox.enqueue_many`.
    fn notification(&self, priority: &str) -> serde_json::Value {
        serde_json::json!({
            "kind": "bench",
            "priority": priority,
            "recipients": [self.to],
            "subject": self.subject,
            "body_text": self.text,
            "body_html": self.html,
            "headers": self.headers(),
        })
    }
}

/// A document for `outbox.enqueue_many`.
pub(super) fn document(ids: std::ops::Range<u32>, priority: &str) -> String {
    serde_json::Value::Array(ids.map(|id| Letter::new(id).notification(priority)).collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_have_the_size_that_is_promised_and_differ() {
        let (one, two) = (Letter::new(1), Letter::new(2));
        let size = one.text.len() + one.html.len();
        assert!((1_200..2_000).contains(&size), "{size}");
        assert_ne!(one.text, two.text);
        assert!(one.text.starts_with("Hello customer 1,\n\nyou for your order."), "{}", one.text);
        assert_eq!(one.html.lines().count(), 11);
    }
}
