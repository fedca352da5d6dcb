//! What can be typed about templates: `hapax template ...` and `hapax send-test`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

pub(super) const TEMPLATE: &str = "\
Checks, renders, shows and publishes the templates of a directory: that of --templates, else templates.directory of the \
configuration. Needs no database (publish does) and sends nothing.

Examples:
  hapax template preview
  hapax template check --json
  hapax template render order_confirmed --locale de --part eml > order.eml";

/// `hapax template ...`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Template {
    /// Render every kind in every locale with every sample, and list what is wrong
    #[command(long_about = TEMPLATE_CHECK)]
    Check(TemplateCheck),
    /// Render one message to standard output
    #[command(long_about = TEMPLATE_RENDER)]
    Render(TemplateRender),
    /// Show all templates on a local page that follows every edit
    #[command(long_about = TEMPLATE_PREVIEW)]
    Preview(TemplatePreview),
    /// Put the JSON Schemas of the kinds into the database, to check payloads when they are enqueued
    #[command(long_about = TEMPLATE_PUBLISH)]
    Publish(TemplatePublish),
}

const TEMPLATE_CHECK: &str = "\
Renders every kind in every locale with every sample (sample.json, sample.NAME.json) and lists what is wrong, each with \
its file and line, one a line as compilers do. Exit code 1 when something is.

Examples:
  hapax template check
  hapax template check --templates mail/ order_confirmed password_reset
  hapax template check --json | jq '.problems[].file'";

const TEMPLATE_RENDER: &str = "\
Renders one message and prints one part of it. The payload is that of --data (- is standard input), else the kind's \
sample.

Examples:
  hapax template render order_confirmed --part text
  hapax template render order_confirmed --data order.json --part html
  hapax template render order_confirmed --sample long --part eml > order.eml";

const TEMPLATE_PREVIEW: &str = "\
Serves a page on this machine that shows every kind with its samples and locales: as a desktop, a phone and a dark \
reader show it, as text, as source, and its headers; with sizes and warnings about what mail readers do not understand. \
It follows every edit without being reloaded, and shows errors with file, line and source. What you type as payload is \
rendered, never saved. Messages are shown without scripts, and nothing is loaded from elsewhere.

The address is printed on standard output. Only browsers of this machine are answered, until Ctrl-C.

Examples:
  hapax template preview
  hapax template preview --templates deploy/templates
  hapax template preview --listen 127.0.0.1:0      any free port";

const TEMPLATE_PUBLISH: &str = "\
Puts the schema.json of each kind into the database, where payloads are then checked when they are enqueued.

Examples:
  hapax template publish --database-url postgres://owner@db/shop
  hapax template publish order_confirmed";

/// `hapax template check`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TemplateCheck {
    /// Only these kinds
    #[arg(value_name = "KIND")]
    pub(crate) kinds: Vec<String>,
    #[command(flatten)]
    pub(crate) place: TemplatePlace,
    #[command(flatten)]
    pub(crate) json: super::Json,
}

/// `hapax template render`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TemplateRender {
    /// The kind
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// The payload: a file with a JSON object, - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "sample")]
    pub(crate) data: Option<PathBuf>,
    /// Which sample: NAME is sample.NAME.json [default: sample.json]
    #[arg(long, value_name = "NAME")]
    pub(crate) sample: Option<String>,
    /// Which locale: de, pt-BR [default: the kind's]
    #[arg(long, value_name = "LOCALE")]
    pub(crate) locale: Option<String>,
    /// What to print
    #[arg(long, value_name = "PART", default_value = "eml")]
    pub(crate) part: TemplatePart,
    /// The recipient
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<String>,
    /// The sender [default: that of the default route]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) place: TemplatePlace,
}

/// What `hapax template render` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TemplatePart {
    /// The subject
    Subject,
    /// The plain text
    Text,
    /// The HTML
    Html,
    /// The whole message
    Eml,
}

/// `hapax template preview`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TemplatePreview {
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7878")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) place: TemplatePlace,
}

/// `hapax template publish`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TemplatePublish {
    /// Only these kinds
    #[arg(value_name = "KIND")]
    pub(crate) kinds: Vec<String>,
    #[command(flatten)]
    pub(crate) place: TemplatePlace,
}

/// `--templates`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TemplatePlace {
    /// The template directory [default: templates.directory of the configuration]
    #[arg(long, value_name = "DIR")]
    pub(crate) templates: Option<PathBuf>,
}

pub(super) const SEND_TEST: &str = "\
Renders a kind with the configured templates and sends one message through a route, now, past the outbox: nothing is \
recorded, and nothing is repeated, also when nobody can know whether the server took it. Each phase and the server's \
reply are printed. guards.recipients_allow and guards.redirect_all_to apply.

Exit code 0 when the server accepted it, 1 when it did not, or nobody knows.

Examples:
  hapax send-test order_confirmed --to me@example.com
  hapax send-test order_confirmed --to me@example.com --sample long --locale de
  hapax send-test order_confirmed --to me@example.com --data order.json --route marketing";

/// `hapax send-test`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SendTest {
    /// The kind
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Who gets it
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: String,
    /// Which route [default: the one called default, else the first by name]
    #[arg(long, value_name = "ROUTE")]
    pub(crate) route: Option<String>,
    /// Which sample: NAME is sample.NAME.json [default: sample.json]
    #[arg(long, value_name = "NAME")]
    pub(crate) sample: Option<String>,
    /// The payload: a file with a JSON object, - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "sample")]
    pub(crate) data: Option<PathBuf>,
    /// Which locale: de, pt-BR [default: the kind's]
    #[arg(long, value_name = "LOCALE")]
    pub(crate) locale: Option<String>,
    #[command(flatten)]
    pub(crate) place: TemplatePlace,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_short_enough_not_to_be_wrapped() {
        let all = [TEMPLATE, TEMPLATE_CHECK, TEMPLATE_RENDER, TEMPLATE_PREVIEW, TEMPLATE_PUBLISH, SEND_TEST];
        for help in all {
            let (_, examples) = help.split_once("Examples:\n").expect("examples");
            let long: Vec<&str> = examples.lines().filter(|line| line.len() >= 78).collect();
            assert!(long.is_empty(), "{long:?}");
        }
    }
}
