//! What becomes of HTML after its template: MJML is translated, style sheets go to the elements, a text is derived.
//!
//! Invariants: nothing is loaded, from no disk and no network; the same HTML gives the same bytes. Elements nested too
//! deeply are refused before anything that recurses sees them.

use std::{borrow::Cow, sync::LazyLock};

use css_inline::CSSInliner;
use html2text::config;
use memchr::memmem;

use crate::error::Problem;

/// How deep elements may be nested.
const DEPTH_MAX: usize = 256;
/// The largest HTML a text is derived from.
const TEXT_SOURCE_BYTES_MAX: usize = 512 << 10;
/// Columns of a derived text.
const TEXT_WIDTH: usize = 72;

/// Elements that have no end, or that end by themselves.
const UNCOUNTED: [&str; 26] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr", "p", "li",
    "td", "th", "tr", "dt", "dd", "option", "thead", "tbody", "tfoot", "html", "body",
];

static INLINER: LazyLock<CSSInliner<'static>> = LazyLock::new(|| {
    let options = CSSInliner::options().load_remote_stylesheets(false).keep_link_tags(true).keep_at_rules(true);
    options.build()
});
/// MJML's own style sheets are for readers that need them in the head.
static KEEPING_INLINER: LazyLock<CSSInliner<'static>> = LazyLock::new(|| {
    let options = CSSInliner::options().load_remote_stylesheets(false).keep_link_tags(true).keep_at_rules(true);
    options.keep_style_tags(true).build()
});
static RENDER_OPTIONS: LazyLock<mrml::prelude::render::RenderOptions> = LazyLock::new(Default::default);

/// Whether elements are nested so deeply that programs that recurse over them might fall.
pub(super) fn is_too_deep(html: &str) -> bool {
    let bytes = html.as_bytes();
    let mut depth = 0_usize;
    for at in memchr::memchr_iter(b'<', bytes) {
        let rest = &bytes[at + 1..];
        let (closes, name) = match rest.first() {
            Some(b'/') => (true, &rest[1..]),
            Some(byte) if byte.is_ascii_alphabetic() => (false, rest),
            _ => continue,
        };
        let length = name.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
        let name = &name[..length.min(16)];
        if UNCOUNTED.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes())) {
            continue;
        }
        if closes {
            depth = depth.saturating_sub(1);
            continue;
        }
        let ends_itself = memchr::memchr(b'>', rest).is_some_and(|end| end > 0 && rest[end - 1] == b'/');
        depth += usize::from(!ends_itself);
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// MJML to HTML. `source` is the template's text: where it has no blocks, lines of the output are lines of the file.
pub(super) fn from_mjml(file: &str, source: &str, mjml: &str) -> Result<String, Problem> {
    if is_too_deep(mjml) {
        return Err(too_deep(file));
    }
    let parsed = mrml::parse(mjml).map_err(|error| mjml_problem(file, source, mjml, &error))?;
    let html = parsed.element.render(&RENDER_OPTIONS);
    let html = html.map_err(|_| Problem::new(file, None, "this mjml cannot be translated to html"))?;
    // What it does not know it leaves as it is, and no reader of mail knows it either.
    if let Some(at) = memmem::find(html.as_bytes(), b"<mj-") {
        return Err(unknown_element(file, source, &html[at + 1..]));
    }
    // A style that the template's author wrote; MJML's own are where they belong already.
    if !contains(mjml, b"<mj-style") {
        return Ok(html);
    }
    KEEPING_INLINER.inline(&html).map_err(|_| bad_css(file))
}

/// Named only where the template's own text has it.
fn unknown_element(file: &str, source: &str, rest: &str) -> Problem {
    let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'-').count();
    let name = &rest[..length];
    match source.find(&format!("<{name}")) {
        Some(at) => {
            let line = 1 + source[..at].matches('\n').count();
            Problem::new(file, Some(line), format!("bad mjml: there is no <{name}> here"))
        }
        None => Problem::new(file, None, "bad mjml: an element that mjml does not have here"),
    }
}

fn mjml_problem(file: &str, source: &str, mjml: &str, error: &mrml::prelude::parser::Error) -> Problem {
    use mrml::prelude::parser::Error;
    let (what, at) = match error {
        Error::UnexpectedElement { position, .. } => ("an element that does not belong here", Some(position.start)),
        Error::UnexpectedToken { position, .. } => ("something that does not belong here", Some(position.start)),
        Error::MissingAttribute { position, .. } => ("an attribute is missing", Some(position.start)),
        Error::InvalidAttribute { position, .. } => ("an attribute is not valid", Some(position.start)),
        Error::InvalidFormat { position, .. } => ("a value is not valid", Some(position.start)),
        Error::EndOfStream { .. } => ("it ends before its last element does", Some(mjml.trim_end().len())),
        Error::ParserError { source, .. } => {
            let row = usize::try_from(source.pos().row).unwrap_or(1).saturating_sub(1);
            let start: usize = mjml.split_inclusive('\n').take(row).map(str::len).sum();
            ("it is not well-formed", Some(start))
        }
        Error::IncludeLoaderError { position, .. } => {
            ("mj-include loads nothing here: use {% include %}", Some(position.start))
        }
        Error::NoRootNode => ("there is no <mjml> element", None),
        _ => ("it is not well-formed", None),
    };
    let line = at.map(|at| 1 + mjml.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count());
    // Up to there the template has said the same: the line is the file's.
    let same = line.filter(|line| source.lines().take(*line).eq(mjml.lines().take(*line)));
    let after = match (line, same) {
        (Some(line), None) => format!(" (in line {line} of what the template wrote)"),
        _ => String::new(),
    };
    Problem::new(file, same, format!("bad mjml: {what}{after}"))
}

/// HTML with its style sheets at the elements; `@media` rules stay in the head.
pub(super) fn inlined<'a>(file: &str, html: &'a str) -> Result<Cow<'a, str>, Problem> {
    if !contains(html, b"<style") {
        return Ok(Cow::Borrowed(html));
    }
    if is_too_deep(html) {
        return Err(too_deep(file));
    }
    INLINER.inline(html).map(Cow::Owned).map_err(|_| bad_css(file))
}

/// What readers of plain text get where nobody wrote it.
pub(super) fn to_text(file: &str, html: &str) -> Result<String, Problem> {
    if is_too_deep(html) {
        return Err(too_deep(file));
    }
    if html.len() > TEXT_SOURCE_BYTES_MAX {
        let what = format!("more than {TEXT_SOURCE_BYTES_MAX} bytes, too many to derive a text from: write a body.txt");
        return Err(Problem::new(file, None, what));
    }
    let html = without_preview(html);
    let text = config::plain()
        .raw_mode(true)
        .no_table_borders()
        .allow_width_overflow()
        .link_footnotes(true)
        .string_from_read(html.as_bytes(), TEXT_WIDTH);
    let text = text.map_err(|_| Problem::new(file, None, "no text can be derived from this html: write a body.txt"))?;
    let mut out = String::with_capacity(text.len());
    for line in text.trim().lines() {
        let line = line.trim_end();
        // Layout leaves gaps.
        if !(line.is_empty() && out.ends_with("\n\n")) {
            out.push_str(line);
            out.push('\n');
        }
    }
    Ok(out)
}

/// Without the hidden line that mail programs show in their lists.
fn without_preview(html: &str) -> Cow<'_, str> {
    const HIDDEN: &str = "<div style=\"display:none";
    let Some(from) = html.find(HIDDEN) else {
        return Cow::Borrowed(html);
    };
    match html[from..].find("</div>") {
        Some(length) if !html[from + 1..from + length].contains("<div") => {
            Cow::Owned([&html[..from], &html[from + length + "</div>".len()..]].concat())
        }
        _ => Cow::Borrowed(html),
    }
}

fn contains(text: &str, what: &[u8]) -> bool {
    memmem::find(text.as_bytes(), what).is_some()
}

fn too_deep(file: &str) -> Problem {
    Problem::new(file, None, format!("elements are nested more than {DEPTH_MAX} deep"))
}

fn bad_css(file: &str) -> Problem {
    Problem::new(file, None, "its style sheets cannot be moved to the elements")
}
