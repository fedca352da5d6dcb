//! The manual pages: `hapax(1)` and one for each command, from the definition of the command line; `hapax.toml(5)`, from the
//! commented example configuration; `hapax-sql(7)`, which a test writes from the comments of a migrated database.
//!
//! None of them is written by hand, so none can say what is not so.

use std::{fmt::Write as _, path::Path};

use anyhow::Context;
use clap::{Command, CommandFactory};

use crate::{
    cli::{Cli, Completions, Man},
    failure::{Exit, Refusal},
    output,
};

const EXAMPLE: &str = include_str!("../../../deploy/hapax.toml");
const SQL: &str = include_str!("../../../deploy/man/hapax-sql.7");
const SOURCE: &str = concat!("hapax ", env!("CARGO_PKG_VERSION"));

/// A page: its file name and its text.
struct Page {
    name: String,
    text: String,
}

impl Page {
    /// By its file name, with or without the section.
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.rsplit_once('.').is_some_and(|(own, _)| own == name)
    }
}

/// # Errors
/// A page that is not there; a directory that cannot be written.
pub(crate) fn run(options: &Man) -> anyhow::Result<Exit> {
    let pages = pages()?;
    let Some(directory) = &options.dir else {
        let Some(page) = pages.iter().find(|page| page.is_called(&options.page)) else {
            let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
            let hint = format!("one of {}", names.join(", "));
            return Err(Refusal::usage(format!("there is no manual page {}", options.page), &[&hint]).into());
        };
        output::raw(&page.text);
        return Ok(Exit::Done);
    };
    for page in &pages {
        write(directory, page).with_context(|| format!("could not write {} in {}", page.name, directory.display()))?;
    }
    output::line(&format!("{} pages written in {}", pages.len(), directory.display()));
    Ok(Exit::Done)
}

/// Prints what a shell completes with.
pub(crate) fn completions(options: Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "hapax", &mut script);
    output::raw(&String::from_utf8_lossy(&script));
    Exit::Done
}

fn write(directory: &Path, page: &Page) -> std::io::Result<()> {
    let section = page.name.rsplit('.').next().unwrap_or_default();
    let folder = directory.join(format!("man{section}"));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(&page.name), &page.text)
}

fn pages() -> anyhow::Result<Vec<Page>> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    commands(&command, &mut pages)?;
    pages.push(Page { name: "hapax.toml.5".to_owned(), text: configuration(EXAMPLE) });
    pages.push(Page { name: "hapax-sql.7".to_owned(), text: SQL.to_owned() });
    Ok(pages)
}

/// A page for a command, then for those below it.
fn commands(command: &Command, pages: &mut Vec<Page>) -> anyhow::Result<()> {
    let man = clap_mangen::Man::new(command.clone()).source(SOURCE).manual("Hapax");
    let mut bytes = Vec::new();
    man.render(&mut bytes)?;
    let mut text = verbatim(&String::from_utf8(bytes)?);
    text.push_str(".SH \"SEE ALSO\"\n\\fBhapax\\fR(1), \\fBhapax.toml\\fR(5), \\fBhapax\\-sql\\fR(7)\n");
    pages.push(Page { name: man.get_filename(), text });
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        commands(below, pages)?;
    }
    Ok(())
}

/// Examples are indented: they stay as they are, line by line.
fn verbatim(text: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for line in text.lines() {
        let example = line.starts_with("  ");
        if example != inside {
            out.push_str(if example { ".RS 4\n.nf\n" } else { ".fi\n.RE\n" });
            inside = example;
        }
        out.push_str(if example { line.trim_start() } else { line });
        out.push('\n');
    }
    if inside {
        out.push_str(".fi\n.RE\n");
    }
    out
}

/// A text that roff takes as it is.
fn plain(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    if escaped.starts_with('.') { format!("\\&{escaped}") } else { escaped }
}

/// The example configuration as a page: sections, keys with their defaults, and the comments above them.
fn configuration(example: &str) -> String {
    let mut page = format!(
        ".TH HAPAX.TOML 5 \"\" \"{SOURCE}\" Hapax\n.SH NAME\nhapax.toml \\- configuration of \\fBhapax\\fR(1)\n.SH DESCRIPTION\n"
    );
    let (mut comment, mut keys, mut begun) = (Vec::new(), Vec::new(), false);
    for line in example.lines().chain([""]) {
        let bare = line.strip_prefix('#').unwrap_or(line);
        if bare.starts_with('[') && bare.ends_with(']') {
            entry(&mut page, &mut keys, &mut comment);
            page.push_str(if begun { "" } else { ".SH SECTIONS\n" });
            begun = true;
            let _ = writeln!(page, ".SS \"{}\"", plain(bare));
            paragraph(&mut page, &mut comment);
        } else if is_key(bare) {
            keys.push(bare.to_owned());
        } else {
            entry(&mut page, &mut keys, &mut comment);
            match line.strip_prefix("# ") {
                Some(text) => comment.push(text.to_owned()),
                None if !begun => {
                    paragraph(&mut page, &mut comment);
                    page.push_str(".PP\n");
                }
                None => {}
            }
        }
    }
    page.push_str(".SH FILES\n.TP\n\\fI./hapax.toml\\fR, \\fI/etc/hapax/hapax.toml\\fR\nThe first that exists is read, unless \\-\\-config names one.\n");
    page.push_str(".SH \"SEE ALSO\"\n\\fBhapax\\fR(1), \\fBhapax\\-check\\fR(1), \\fBhapax\\-sql\\fR(7)\n");
    page
}

fn is_key(line: &str) -> bool {
    let word =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    line.split_once(" = ").is_some_and(|(name, _)| word(name))
}

/// Keys that follow each other share the comment above them.
fn entry(page: &mut String, keys: &mut Vec<String>, comment: &mut Vec<String>) {
    if keys.is_empty() {
        return;
    }
    for (place, key) in keys.drain(..).enumerate() {
        let (name, value) = key.split_once(" = ").unwrap_or((&key, ""));
        let tag = if place == 0 { ".TP" } else { ".TQ" };
        let _ = writeln!(page, "{tag}\n\\fB{}\\fR = {}", plain(name), plain(value));
    }
    paragraph(page, comment);
}

fn paragraph(page: &mut String, comment: &mut Vec<String>) {
    for line in comment.drain(..) {
        page.push_str(&plain(&line));
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_page_says_who_it_is() {
        let pages = pages().expect("pages");
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        for name in
            ["hapax.1", "hapax-run.1", "hapax-template-check.1", "hapax-migrate-up.1", "hapax.toml.5", "hapax-sql.7"]
        {
            assert!(names.contains(&name), "{name} is not one of {names:?}");
        }
        for page in &pages {
            assert!(page.text.contains(".SH NAME\n") && page.text.contains(".TH "), "{}", page.name);
        }
    }

    #[test]
    fn every_key_and_every_section_of_the_example_is_in_the_page() {
        let page = configuration(EXAMPLE);
        let bare = |line: &'static str| line.strip_prefix('#').unwrap_or(line);
        let keys: Vec<&str> = EXAMPLE.lines().map(bare).filter(|line| is_key(line)).collect();
        let sections = EXAMPLE.lines().map(bare).filter(|line| line.starts_with('[') && line.ends_with(']')).count();
        assert!(keys.len() > 40 && sections > 8, "{} keys, {sections} sections", keys.len());
        assert_eq!(page.matches("\n.TP\n\\fB").count() + page.matches("\n.TQ\n\\fB").count(), keys.len());
        assert_eq!(page.matches(".SS \"").count(), sections);
        assert!(page.contains(".TP\n\\fBlease\\fR = \"2m\"\nHow long a claimed delivery stays"), "{page}");
    }

    #[test]
    fn nothing_in_a_text_is_a_request_to_roff() {
        assert_eq!(plain(".so evil"), "\\&.so evil");
        assert_eq!(plain("'br \\n a-b"), "\\(aqbr \\en a\\-b");
        assert_eq!(verbatim("a\n  b\n  c\nd\n"), "a\n.RS 4\n.nf\nb\nc\n.fi\n.RE\nd\n");
    }

    #[test]
    fn shells_complete_every_command() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hapax", &mut script);
            let script = String::from_utf8(script).expect("text");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
