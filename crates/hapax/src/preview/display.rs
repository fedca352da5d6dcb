//! The copy of a body that the page shows in a frame. What is sent is never changed by this.
//!
//! Invariants: the copy refers to nothing but this server and `data:` (its Content-Security-Policy forbids the rest
//! again); a rule for a colour scheme applies by what the page asks for, never by what the system prefers.

use std::fmt::Write;

use super::markup::{Piece, pieces};

/// How a body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// As light readers show it.
    Light,
    /// With its own rules for dark readers, else with all colours inverted.
    Dark,
}

/// Heights that are told apart, in pixels: from, to, step.
const HEIGHTS: (usize, usize, usize) = (40, 10_000, 20);

/// A body for a frame. `base` is where its parts and heights are served, `cids` the Content-IDs of its inline parts.
pub(super) fn display(html: &str, base: &str, cids: &[String], scheme: Scheme) -> String {
    let own_rules = has_dark_rules(html);
    let mut shown = with_parts(&without_links(html), base, cids);
    shown = with_scheme(&shown, scheme);
    let end = shown.to_ascii_lowercase().rfind("</body").unwrap_or(shown.len());
    let mut extra = probe(base);
    if scheme == Scheme::Dark {
        extra.push_str(if own_rules {
            "<style>html{color-scheme:dark}</style>"
        } else {
            "<style>html{background:#fff;filter:invert(1) hue-rotate(180deg)}\
             img,video,[background]{filter:invert(1) hue-rotate(180deg)}</style>"
        });
    }
    shown.insert_str(end, &extra);
    shown
}

/// Whether a body says how it wants to look in a dark reader.
pub(super) fn has_dark_rules(html: &str) -> bool {
    schemes(html).iter().any(|(_, dark)| *dark)
}

/// `<link>` could open connections that no policy forbids; `<base>` and `<meta http-equiv>` could lead elsewhere.
fn without_links(html: &str) -> String {
    let mut shown = String::with_capacity(html.len());
    let mut copied = 0;
    for piece in pieces(html) {
        let Piece::Tag(tag) = piece else { continue };
        let away = matches!(tag.name.as_str(), "link" | "base" | "portal")
            || (tag.name == "meta" && tag.get("http-equiv").is_some());
        if away {
            shown.push_str(&html[copied..tag.at.start]);
            copied = tag.at.end;
        }
    }
    shown.push_str(&html[copied..]);
    shown
}

/// `cid:` becomes this server's own address of the part. The longest first: one may begin like another.
fn with_parts(html: &str, base: &str, cids: &[String]) -> String {
    let mut order: Vec<(usize, &String)> = cids.iter().enumerate().collect();
    order.sort_by_key(|(_, cid)| std::cmp::Reverse(cid.len()));
    let mut shown = html.to_owned();
    for (number, cid) in order {
        let part = format!("{base}/part/{number}");
        shown = shown.replace(&format!("cid:{cid}"), &part).replace(&format!("cid:{}", cid.replace('@', "%40")), &part);
    }
    shown
}

/// Where a media query asks for a colour scheme: the range of the expression in its parentheses, and whether for dark.
fn schemes(html: &str) -> Vec<(std::ops::Range<usize>, bool)> {
    let lower = html.to_ascii_lowercase();
    let mut found = Vec::new();
    for (at, feature) in lower.match_indices("prefers-color-scheme") {
        let Some(end) = lower[at..].find(')').map(|end| at + end) else { continue };
        let value = lower[at + feature.len()..end].trim_start().strip_prefix(':').unwrap_or_default().trim();
        if value == "dark" || value == "light" {
            found.push((at..end, value == "dark"));
        }
    }
    found
}

fn with_scheme(html: &str, scheme: Scheme) -> String {
    let mut shown = html.to_owned();
    for (range, dark) in schemes(html).into_iter().rev() {
        let applies = dark == (scheme == Scheme::Dark);
        shown.replace_range(range, if applies { "min-width:0" } else { "max-width:0" });
    }
    shown
}

/// A frame without scripts cannot say how tall its message is. This asks for it: as many container queries as there are
/// heights, of which the last that matches loads a picture named after it.
fn probe(base: &str) -> String {
    let mut css = String::from(
        "<style>html{position:relative!important;height:auto!important;min-height:0!important}\
         body{min-height:0!important}\
         #hapax-probe{all:initial;position:absolute;top:0;bottom:0;left:0;width:1px;pointer-events:none;opacity:0;\
         container:hapax-probe/size}#hapax-probe i{display:block;width:1px;height:1px}",
    );
    let (from, to, step) = HEIGHTS;
    for height in (from..=to).step_by(step) {
        // Writing to a String cannot fail.
        let _ = write!(
            css,
            "@container hapax-probe (min-height:{height}px){{#hapax-probe i{{background:url({base}/height/{height})}}}}"
        );
    }
    css.push_str("</style><div id=\"hapax-probe\"><i></i></div>");
    css
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_parts_come_from_this_server_and_links_lead_nowhere() {
        let html = "<head><link rel=preconnect href=https://x><meta http-equiv=refresh content='0;url=//x'><base href=//x>\
                    <meta charset=utf-8></head><img src=\"cid:logo@h\"><img src=cid:logo><img src=cid:logo%40h></body>";
        let shown = display(html, "/shown/1", &["logo".to_owned(), "logo@h".to_owned()], Scheme::Light);
        assert!(shown.starts_with("<head><meta charset=utf-8></head>"), "{shown}");
        assert!(shown.contains("<img src=\"/shown/1/part/1\"><img src=/shown/1/part/0><img src=/shown/1/part/1>"));
        assert!(shown.ends_with("<div id=\"hapax-probe\"><i></i></div></body>"));
    }

    #[test]
    fn rules_for_a_colour_scheme_apply_by_the_view_and_not_by_the_system() {
        let html =
            "<style>@media (Prefers-Color-Scheme : dark) {a{}} @media (prefers-color-scheme:light) {b{}}</style>";
        let light = display(html, "", &[], Scheme::Light);
        assert!(light.starts_with("<style>@media (max-width:0) {a{}} @media (min-width:0) {b{}}</style>"), "{light}");
        let dark = display(html, "", &[], Scheme::Dark);
        assert!(dark.starts_with("<style>@media (min-width:0) {a{}} @media (max-width:0) {b{}}</style>"), "{dark}");
        assert!(!dark.contains("invert"));
        assert!(display("<p>plain</p>", "", &[], Scheme::Dark).contains("invert"));
        assert!(!display("<p>plain</p>", "", &[], Scheme::Light).contains("invert"));
    }
}
