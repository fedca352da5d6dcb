//! What a message would load from elsewhere when it is read: found without loading any of it.

use super::markup::{Piece, Tag, starts_with_word};

/// Something that lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Remote {
    /// `image`, `style sheet`, `font` and so on.
    pub(super) what: &'static str,
    /// Where it lies.
    pub(super) url: String,
}

/// Everything that lies elsewhere, in the order of the document.
pub(super) fn remote(pieces: &[Piece<'_>]) -> Vec<Remote> {
    let mut found = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Tag(tag) => of_tag(tag, &mut found),
            Piece::Raw { element, text } if element == "style" => of_style(text, &mut found),
            _ => {}
        }
    }
    found
}

/// Whether a URL leads to another machine.
pub(super) fn is_remote(url: &str) -> bool {
    ["http:", "https:", "//", "ftp:"].iter().any(|scheme| starts_with_word(url.trim(), scheme))
}

fn of_tag(tag: &Tag, found: &mut Vec<Remote>) {
    let what = match tag.name.as_str() {
        "img" | "input" | "picture" | "source" | "image" | "v:fill" | "v:image" => "image",
        "script" => "script",
        "iframe" | "frame" | "embed" | "object" => "frame",
        "video" | "audio" | "track" => "media",
        "link" => "style sheet",
        _ => "image",
    };
    let mut push = |url: &str| {
        if is_remote(url) {
            found.push(Remote { what, url: url.trim().to_owned() });
        }
    };
    for name in ["src", "background", "poster", "data"] {
        tag.get(name).iter().for_each(|url| push(url));
    }
    if let Some(set) = tag.get("srcset") {
        set.split(',').filter_map(|one| one.split_whitespace().next()).for_each(&mut push);
    }
    if let Some(url) = tag.get("href").filter(|_| tag.name == "link") {
        push(url);
    }
    if let Some(style) = tag.get("style") {
        of_style(style, found);
    }
}

/// `url(...)` and `@import "..."`.
fn of_style(style: &str, found: &mut Vec<Remote>) {
    let lower = style.to_ascii_lowercase();
    for (at, _) in lower.match_indices("url(") {
        let inner = style[at + 4..].split(')').next().unwrap_or_default();
        let url = inner.trim().trim_matches(['"', '\'']);
        let before = lower[..at].trim_end();
        let what = match () {
            () if before.ends_with("@import") => "style sheet",
            () if before.rfind("@font-face").is_some_and(|face| !before[face..].contains('}')) => "font",
            () => "image",
        };
        if is_remote(url) {
            found.push(Remote { what, url: url.to_owned() });
        }
    }
    for (at, _) in lower.match_indices("@import") {
        let rest = style[at + 7..].trim_start();
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let url = rest[1..].split(quote).next().unwrap_or_default();
            if is_remote(url) {
                found.push(Remote { what: "style sheet", url: url.to_owned() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preview::markup::pieces;

    #[test]
    fn every_way_to_load_something_is_found() {
        let html = "<link rel=stylesheet href=https://a/1.css><style>@import 'http://a/2.css'; @import url(//a/3.css);\
                    @font-face { src: url(\"https://a/4.woff\") } p { background: url( 'https://a/5.png' ) }</style>\
                    <body background=http://a/6.png><img src=HTTPS://a/7.png srcset='https://a/8.png 2x, cid:x 3x'>\
                    <p style='background:url(https://a/9.png)'><script src=//a/10.js></script>\
                    <img src=cid:logo><img src=data:image/png;base64,x><a href=https://a/no>no</a>";
        let found: Vec<(&str, String)> =
            remote(&pieces(html)).into_iter().map(|remote| (remote.what, remote.url.to_lowercase())).collect();
        let expected = [
            ("style sheet", "https://a/1.css"),
            ("style sheet", "//a/3.css"),
            ("font", "https://a/4.woff"),
            ("image", "https://a/5.png"),
            ("style sheet", "http://a/2.css"),
            ("image", "http://a/6.png"),
            ("image", "https://a/7.png"),
            ("image", "https://a/8.png"),
            ("image", "https://a/9.png"),
            ("script", "//a/10.js"),
        ];
        assert_eq!(found, expected.map(|(what, url)| (what, url.to_owned())));
    }
}
