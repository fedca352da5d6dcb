//! What is known to go wrong with HTML in mail readers: a pure function from a body to sentences. It judges what can be
//! seen in the markup, and no more: it is no replacement for a look into real readers.

use std::collections::BTreeMap;

use super::{
    markup::{Piece, Tag, pieces},
    remote::{is_remote, remote},
};

/// Gmail shows no more of a body than this and hides the rest behind a link.
const GMAIL_BYTES_MAX: usize = 102 * 1024;
/// Filters become suspicious of bodies with hardly any words: fewer letters than this, in a thousand bytes.
const LETTERS_PER_MILLE_MIN: usize = 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Weight {
    /// It does not work in readers many people use.
    Problem,
    /// It looks different, or worse, in some.
    Warning,
    /// Good to know.
    Note,
}

/// One thing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Advice {
    /// How bad it is.
    pub(super) weight: Weight,
    /// What it is.
    pub(super) what: String,
    /// What to do, in a sentence.
    pub(super) remedy: &'static str,
}

/// Everything that is known to be doubtful in a body, the worst first.
pub(super) fn advice(html: &str) -> Vec<Advice> {
    let pieces = pieces(html);
    let mut found = Found::default();
    found.whole(html, &pieces);
    let mut counts = Counts::default();
    for piece in &pieces {
        match piece {
            Piece::Tag(tag) => counts.tag(tag),
            Piece::Raw { element, text } if element == "style" => counts.sheet(text),
            _ => {}
        }
    }
    counts.report(&mut found);
    let images = remote(&pieces).iter().filter(|remote| remote.what == "image").count();
    if images > 0 {
        found.say(
            Weight::Note,
            format!("{} from elsewhere", plural(images, "image")),
            "Most readers block them at first: the message must make sense without them, or they belong into the \
             kind's folder as cid: images.",
        );
    }
    found.0.sort_by_key(|advice| advice.weight);
    found.0
}

#[derive(Default)]
struct Found(Vec<Advice>);

impl Found {
    fn say(&mut self, weight: Weight, what: impl Into<String>, remedy: &'static str) {
        self.0.push(Advice { weight, what: what.into(), remedy });
    }

    /// What concerns the body as a whole.
    fn whole(&mut self, html: &str, pieces: &[Piece<'_>]) {
        if html.len() > GMAIL_BYTES_MAX {
            let what = format!("{} KB of HTML: Gmail clips it at 102 KB", html.len() / 1024);
            self.say(Weight::Problem, what, "Shorten it, or move styles and repetition into fewer rules.");
        }
        let root = pieces.iter().find_map(|p| if let Piece::Tag(tag) = p { Some(tag) } else { None });
        let root = root.filter(|tag| tag.name == "html");
        if root.and_then(|tag| tag.get("lang")).is_none_or(str::is_empty) {
            let remedy = "Write <html lang=\"en\">: screen readers need it to pronounce the text.";
            self.say(Weight::Warning, "no language", remedy);
        }
        let title = |piece: &Piece<'_>| matches!(piece, Piece::Raw { element, text } if element == "title" && !text.trim().is_empty());
        if !pieces.iter().any(title) {
            let remedy = "Write <title>: it names the message in browsers and to screen readers.";
            self.say(Weight::Note, "no title", remedy);
        }
        let letters: usize =
            pieces
                .iter()
                .map(|piece| {
                    if let Piece::Text(text) = piece { text.chars().filter(|c| c.is_alphanumeric()).count() } else { 0 }
                })
                .sum();
        if letters * 1000 < html.len() * LETTERS_PER_MILLE_MIN {
            let what = format!("hardly any text: {letters} letters in {} bytes of HTML", html.len());
            self.say(
                Weight::Warning,
                what,
                "Say it in words: filters distrust messages that are all markup or images.",
            );
        }
    }
}

/// How often what was seen.
#[derive(Default)]
struct Counts(BTreeMap<Seen, usize>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Script,
    Handler,
    Form,
    Frame,
    StyleSheet,
    Position,
    FlexOrGrid,
    NoAlt,
    NoWidth,
    Insecure,
    Background,
    Relative,
    Svg,
}

impl Counts {
    fn add(&mut self, seen: Seen) {
        *self.0.entry(seen).or_default() += 1;
    }

    fn tag(&mut self, tag: &Tag) {
        match tag.name.as_str() {
            "script" => self.add(Seen::Script),
            "form" | "input" | "button" | "select" | "textarea" => self.add(Seen::Form),
            "iframe" | "object" | "embed" | "video" | "audio" => self.add(Seen::Frame),
            "svg" => self.add(Seen::Svg),
            "link" if tag.get("rel").is_some_and(|rel| rel.eq_ignore_ascii_case("stylesheet")) => {
                self.add(Seen::StyleSheet);
            }
            "img" => self.image(tag),
            _ => {}
        }
        if tag.attributes.iter().any(|(name, _)| name.len() > 2 && name.starts_with("on")) {
            self.add(Seen::Handler);
        }
        let links = ["href", "src", "background", "action"].iter().filter_map(|name| tag.get(name));
        let insecure = links.filter(|url| super::markup::starts_with_word(url, "http:")).count();
        (0..insecure).for_each(|_| self.add(Seen::Insecure));
        if tag.get("background").is_some() {
            self.add(Seen::Background);
        }
        if let Some(style) = tag.get("style") {
            self.inline(style);
        }
    }

    fn image(&mut self, tag: &Tag) {
        if tag.get("alt").is_none() {
            self.add(Seen::NoAlt);
        }
        if tag.get("width").is_none() {
            self.add(Seen::NoWidth);
        }
        let known = |url: &str| is_remote(url) || url.starts_with("cid:") || url.starts_with("data:");
        if tag.get("src").is_some_and(|url| !url.is_empty() && !known(url)) {
            self.add(Seen::Relative);
        }
        if tag
            .get("src")
            .is_some_and(|url| url.to_ascii_lowercase().ends_with(".svg") || url.starts_with("data:image/svg"))
        {
            self.add(Seen::Svg);
        }
    }

    fn inline(&mut self, style: &str) {
        for declaration in style.split(';') {
            let (name, value) = declaration.split_once(':').unwrap_or_default();
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_ascii_lowercase());
            match name.as_str() {
                "position" if value != "static" => self.add(Seen::Position),
                "display" if value.contains("flex") || value.contains("grid") => self.add(Seen::FlexOrGrid),
                "background" | "background-image" if value.contains("url(") => self.add(Seen::Background),
                _ => {}
            }
        }
    }

    fn sheet(&mut self, text: &str) {
        if text.to_ascii_lowercase().contains("@import") {
            self.add(Seen::StyleSheet);
        }
    }

    fn report(&self, found: &mut Found) {
        for (seen, &count) in &self.0 {
            let (weight, what, remedy) = words(*seen, count);
            found.say(weight, what, remedy);
        }
    }
}

fn words(seen: Seen, count: usize) -> (Weight, String, &'static str) {
    use Weight::{Note, Problem, Warning};
    match seen {
        Seen::Script => {
            (Problem, plural(count, "script"), "Remove it: no reader runs scripts, and filters reject them.")
        }
        Seen::Handler => {
            (Problem, plural(count, "event handler"), "Remove onclick and the like: no reader runs scripts.")
        }
        Seen::Form => {
            (Problem, plural(count, "form field"), "Link to a page with the form: readers drop or disable it.")
        }
        Seen::Frame => {
            (Problem, plural(count, "embedded frame or medium"), "Link to it, with an image: readers drop it.")
        }
        Seen::StyleSheet => (
            Problem,
            plural(count, "external style sheet"),
            "Put the rules into <style> of the template: readers load no style sheets.",
        ),
        Seen::Position => {
            (Warning, format!("{count} × position in a style"), "Use tables and padding: Gmail and Outlook ignore it.")
        }
        Seen::FlexOrGrid => (
            Warning,
            format!("{count} × display: flex or grid"),
            "Use tables (MJML makes them): Outlook and older readers stack everything.",
        ),
        Seen::NoAlt => (
            Warning,
            format!("{} without alt", plural(count, "image")),
            "Write alt=\"...\", or alt=\"\" where it is decoration: many people read without images.",
        ),
        Seen::NoWidth => (
            Warning,
            format!("{} without width", plural(count, "image")),
            "Write width=\"...\" in pixels: Outlook shows the file's own size otherwise.",
        ),
        Seen::Insecure => (
            Warning,
            format!("{count} × http: instead of https:"),
            "Use https: readers and filters distrust http links.",
        ),
        Seen::Background => (
            Warning,
            plural(count, "background image"),
            "Set a background colour too, on which the text can be read: Outlook shows no background images.",
        ),
        Seen::Relative => (
            Problem,
            format!("{} with a relative address", plural(count, "image")),
            "Write https://..., or cid:FILE for an image of the kind's folder: a message has no place of its own.",
        ),
        Seen::Svg => (Note, plural(count, "SVG image"), "Use PNG: Gmail and Outlook show no SVG."),
    }
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(body: &str) -> String {
        let text = "A sentence that says what this message is about, so that there are enough letters. ".repeat(20);
        format!("<!doctype html><html lang=\"en\"><head><title>T</title></head><body>{text}{body}</body></html>")
    }

    fn said(html: &str) -> Vec<String> {
        advice(html).into_iter().map(|advice| advice.what).collect()
    }

    #[test]
    fn a_decent_body_gets_no_advice() {
        let body = "<table style=\"position: static\"><tr><td><img src=\"cid:logo.png\" alt=\"\" width=\"40\"></td></tr></table>";
        assert_eq!(advice(&document(body)), []);
    }

    #[test]
    fn each_doubtful_thing_is_named_once_with_its_number() {
        let cases = [
            ("<script>1</script><script></script>", "2 scripts"),
            ("<p onclick=x>", "1 event handler"),
            ("<form><input></form>", "2 form fields"),
            ("<iframe></iframe>", "1 embedded frame or medium"),
            ("<link rel=stylesheet href=x.css>", "1 external style sheet"),
            ("<style>@import 'x.css';</style>", "1 external style sheet"),
            ("<p style='top:0; Position : absolute'>", "1 × position in a style"),
            ("<p style='display:inline-flex'><p style='display:GRID'>", "2 × display: flex or grid"),
            ("<img src=cid:x width=1>", "1 image without alt"),
            ("<img src=cid:x alt=x>", "1 image without width"),
            ("<a href=http://example.org>x</a>", "1 × http: instead of https:"),
            ("<td background='https://x/y.png'>", "1 background image"),
            ("<td style='background-image:url(cid:x)'>", "1 background image"),
            ("<img src='https://x/y.png' alt='' width=1>", "1 image from elsewhere"),
            ("<img src='logo.png' alt='' width=1>", "1 image with a relative address"),
            ("<img src='cid:logo.svg' alt='' width=1>", "1 SVG image"),
        ];
        for (body, what) in cases {
            let said = said(&document(body));
            assert_eq!(said.iter().filter(|said| *said == what).count(), 1, "{body}: {said:?}");
        }
    }

    #[test]
    fn what_the_whole_lacks_is_said_and_the_worst_comes_first() {
        assert_eq!(said("<p>x</p>"), ["no language", "no title"]);
        let bare = format!("<html lang=en><title>t</title><p>{}</p>", "<b></b>".repeat(100));
        assert!(said(&bare)[0].starts_with("hardly any text: "), "{:?}", said(&bare));
        let long = document(&"words and words ".repeat(7_000));
        assert!(said(&long)[0].contains("Gmail clips it at 102 KB"), "{:?}", said(&long));
        let mixed = advice(&document("<img src=https://x/y.png width=1><script></script>"));
        assert!(mixed.is_sorted_by_key(|advice| advice.weight), "{mixed:?}");
        assert!(mixed.iter().all(|advice| advice.remedy.ends_with('.')));
    }
}
