//! HTML taken apart into tags, as leniently as mail readers do: enough to give advice and to make a display copy. Not a
//! parser of documents: it knows neither nesting nor entities beyond `&amp;` in attributes.
//!
//! Invariants: every range lies on character boundaries of the text; comments (also conditional ones of Outlook) are
//! passed over; it never fails and always ends.

use std::ops::Range;

/// One piece of a document, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A tag that opens an element.
    Tag(Tag),
    /// What stands between the tags of `style`, `script` or `title`.
    Raw {
        /// The element, lower case.
        element: String,
        /// Its text.
        text: &'a str,
    },
    /// Other text.
    Text(&'a str),
}

/// An opening tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Lower case.
    pub(super) name: String,
    /// Names in lower case, values without quotes.
    pub(super) attributes: Vec<(String, String)>,
    /// From `<` to `>`.
    pub(super) at: Range<usize>,
}

impl Tag {
    /// The value of an attribute; empty when it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value.trim())
    }
}

/// The pieces of a document.
pub(super) fn pieces(html: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < html.len() {
        let rest = &html[at..];
        let open = rest.find('<').unwrap_or(rest.len());
        if open > 0 {
            found.push(Piece::Text(&rest[..open]));
            at += open;
            continue;
        }
        if let Some(comment) = rest.strip_prefix("<!--") {
            at += comment.find("-->").map_or(rest.len(), |end| end + 7);
            continue;
        }
        let letter = rest[1..].chars().next().is_some_and(|c| c.is_ascii_alphabetic());
        if !letter {
            let markup = rest.starts_with("</") || rest.starts_with("<!") || rest.starts_with("<?");
            let end = if markup { rest.find('>').map_or(rest.len(), |end| end + 1) } else { 1 };
            if !markup {
                found.push(Piece::Text(&rest[..end]));
            }
            at += end;
            continue;
        }
        let tag = tag(html, at);
        at = tag.at.end;
        if ["style", "script", "title"].contains(&tag.name.as_str()) {
            let end = end_of(&html[at..], &tag.name);
            let raw = Piece::Raw { element: tag.name.clone(), text: &html[at..at + end] };
            at += end;
            found.extend([Piece::Tag(tag), raw]);
        } else {
            found.push(Piece::Tag(tag));
        }
    }
    found
}

/// Where the closing tag of a raw element begins.
fn end_of(text: &str, name: &str) -> usize {
    let closing = format!("</{name}");
    let found = text.match_indices("</").find(|(at, _)| starts_with_word(&text[*at..], &closing));
    found.map_or(text.len(), |(at, _)| at)
}

/// Whether a text starts with an ASCII word, whatever its case.
pub(super) fn starts_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// The tag that begins at `start`.
fn tag(html: &str, start: usize) -> Tag {
    let mut rest = Rest { html, at: start + 1 };
    let name = rest.until(|c| c.is_ascii_whitespace() || c == '/' || c == '>').to_ascii_lowercase();
    let mut attributes = Vec::new();
    loop {
        rest.until(|c| !c.is_ascii_whitespace() && c != '/');
        match rest.peek() {
            None => break,
            Some('>') => {
                rest.at += 1;
                break;
            }
            Some('=') => rest.at += 1,
            Some(_) => {
                let name = rest.until(|c| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/')).to_ascii_lowercase();
                attributes.push((name, rest.value()));
            }
        }
    }
    Tag { name, attributes, at: start..rest.at }
}

struct Rest<'a> {
    html: &'a str,
    at: usize,
}

impl<'a> Rest<'a> {
    fn peek(&self) -> Option<char> {
        self.html[self.at..].chars().next()
    }

    /// Up to the first character that is so.
    fn until(&mut self, stop: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.html[self.at..];
        let end = rest.find(stop).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// What follows the name of an attribute.
    fn value(&mut self) -> String {
        let before = self.at;
        self.until(|c| !c.is_ascii_whitespace());
        if self.peek() != Some('=') {
            self.at = before;
            return String::new();
        }
        self.at += 1;
        self.until(|c| !c.is_ascii_whitespace());
        let value = match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.at += 1;
                let value = self.until(|c| c == quote);
                self.at = (self.at + 1).min(self.html.len());
                value
            }
            _ => self.until(|c| c.is_ascii_whitespace() || c == '>'),
        };
        value.replace("&amp;", "&")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(html: &str) -> Vec<Tag> {
        let tag = |piece| if let Piece::Tag(tag) = piece { Some(tag) } else { None };
        pieces(html).into_iter().filter_map(tag).collect()
    }

    #[test]
    fn attributes_are_found_however_they_are_written() {
        let html = "<IMG src=a.png ALT='a \"b\"' width = \"10\" hidden/><p>";
        let found = tags(html);
        assert_eq!(found.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["img", "p"]);
        assert_eq!(found[0].get("src"), Some("a.png"));
        assert_eq!(found[0].get("alt"), Some("a \"b\""));
        assert_eq!((found[0].get("width"), found[0].get("hidden")), (Some("10"), Some("")));
        assert_eq!(&html[found[1].at.clone()], "<p>");
    }

    #[test]
    fn comments_are_passed_over_and_styles_are_taken_as_they_are() {
        let html = "<!--[if mso]><table><![endif]--><style>a > b { c: \"<p>\" }</style>1 < 2<b>x</b>";
        let found = pieces(html);
        assert!(found.contains(&Piece::Raw { element: "style".into(), text: "a > b { c: \"<p>\" }" }));
        assert_eq!(tags(html).iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["style", "b"]);
        let text: String = found.iter().map(|p| if let Piece::Text(text) = p { text } else { "" }).collect();
        assert_eq!(text, "1 < 2x");
    }

    #[test]
    fn what_is_cut_off_anywhere_still_ends() {
        let html = "<!DOCTYPE html><ä><a href=\"ö\" title='ü'>ß</a><!-- x --><style>é</style><img alt=";
        for (end, _) in html.char_indices() {
            let found = pieces(&html[..end]);
            assert!(found.len() <= end, "{end}: {found:?}");
        }
    }
}
