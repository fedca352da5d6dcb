//! `hapax template check` and `hapax template render`: what people who write templates, and their CI, see of them.
//!
//! Invariants: nothing is sent and no database is needed. Results go to stdout; what is wrong is named with its file
//! and line, one a line. Both render exactly as the relay does.

pub(crate) mod publish;

use std::{io::Read, path::PathBuf, time::Duration};

use hapax_core::{
    MessageId, Priority, Recipient,
    envelope::{Content, Notification},
};
use hapax_render::{Error, KIND_FILE, Options, Problem, Renderer, Templates, UnsubscribeKey};
use serde_json::json;

use crate::{
    cli::template::{TemplateCheck, TemplatePart, TemplatePlace, TemplateRender},
    config::{Loaded, nearest},
    failure::{Exit, Refusal},
    output,
};

/// Who a message comes from and goes to where nobody says.
const SENDER: &str = "sender@example.com";
const RECIPIENT: &str = "recipient@example.com";
/// How many kinds a hint names.
const NAMED_MAX: usize = 12;
/// The largest payload that is read.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

/// `hapax template check`.
///
/// # Errors
/// No template directory; a kind that there is not.
pub(crate) fn check(loaded: &Loaded, options: &TemplateCheck) -> anyhow::Result<Exit> {
    let renderer = renderer(directory(loaded, &options.place)?);
    known(&renderer, &options.kinds)?;
    let wanted = |name: &str| options.kinds.is_empty() || options.kinds.iter().any(|kind| kind == name);
    let kinds: Vec<String> = renderer.kinds().into_iter().map(|kind| kind.name).filter(|name| wanted(name)).collect();
    let problems: Vec<Problem> = match options.kinds.is_empty() {
        true => renderer.check(),
        false => kinds.iter().flat_map(|kind| renderer.check_kind(kind)).collect(),
    };
    let unsigned = unsigned(loaded, options, &renderer);
    let problems: Vec<Problem> = unsigned.iter().filter(|_| is_run(loaded, options)).cloned().chain(problems).collect();
    let is_shared = |problem: &Problem| problem.file.starts_with('_');
    let is_told = |problem: &&Problem| is_shared(problem) || kinds.iter().any(|kind| problem.is_of(kind));
    let unsigned = unsigned.iter().filter(|_| !is_run(loaded, options));
    let warnings: Vec<&Problem> = renderer.warnings().iter().chain(unsigned).filter(is_told).collect();
    if options.json.json {
        let told = |problem: &Problem| json!({ "file": problem.file, "line": problem.line, "what": problem.what });
        let warnings: Vec<_> = warnings.into_iter().map(told).collect();
        let problems: Vec<_> = problems.iter().map(told).collect();
        let ok = problems.is_empty();
        output::json(&json!({ "ok": ok, "kinds": kinds, "problems": problems, "warnings": warnings }))?;
        return Ok(if ok { Exit::Done } else { Exit::Failed });
    }
    for warning in warnings {
        output::line(&output::one_line(&format!("warning: {warning}")));
    }
    for problem in &problems {
        output::line(&output::one_line(&problem.to_string()));
    }
    if problems.is_empty() {
        let count = match kinds.len() {
            0 => "no kinds: a kind is a folder with subject.txt and body.html".to_owned(),
            1 => "1 kind".to_owned(),
            more => format!("{more} kinds"),
        };
        output::line(&format!("ok: {count}"));
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Whether it is the directory that `hapax run` would use, with the configuration it would use.
fn is_run(loaded: &Loaded, options: &TemplateCheck) -> bool {
    options.place.templates.is_none() && !loaded.problems.iter().any(|problem| problem.path.starts_with("templates"))
}

/// The kinds whose links nobody could sign: `hapax run` refuses them.
fn unsigned(loaded: &Loaded, options: &TemplateCheck, renderer: &Renderer) -> Vec<Problem> {
    if loaded.settings.unsubscribe_key.is_some() {
        return Vec::new();
    }
    let wanted = |name: &String| options.kinds.is_empty() || options.kinds.contains(name);
    let kinds = renderer.kinds().into_iter().filter(|kind| kind.unsubscribe_url && wanted(&kind.name));
    let what = "[unsubscribe]: its links are signed, and there is no key: `hapax run` needs \
                templates.unsubscribe_key_file (openssl rand -hex 32 makes one)";
    let problem = |file: String| Problem { file, line: None, what: what.to_owned() };
    kinds.map(|kind| problem(format!("{}/{KIND_FILE}", kind.name))).collect()
}

/// `hapax template render`.
///
/// # Errors
/// No such kind or sample, a payload that cannot be read, a message that cannot be rendered, a part it does not have.
pub(crate) fn render(loaded: &Loaded, options: &TemplateRender) -> anyhow::Result<Exit> {
    let renderer = renderer(directory(loaded, &options.place)?);
    known(&renderer, std::slice::from_ref(&options.kind))?;
    let payload = payload(&renderer, options)?;
    let to = options.to.as_deref().unwrap_or(RECIPIENT);
    Recipient::parse(to).map_err(|why| Refusal::usage(format!("--to is not usable: {why}"), &[]))?;
    let route = loaded.settings.routes.iter().find(|route| route.name == "default").or(loaded.settings.routes.first());
    let from = options.from.as_deref().or(route.map(|route| route.from.as_str())).unwrap_or(SENDER);
    let one = notification(options, payload, to);
    let rendered = renderer
        .render(&one, from, None)
        .map_err(|error| refusal(&error, "hapax template preview shows it with its source"))?;
    let part = match options.part {
        TemplatePart::Eml => Some(String::from_utf8_lossy(&rendered.bytes).into_owned()),
        part => find(&rendered.bytes, part),
    };
    let Some(part) = part else {
        return Err(Refusal::failed("this kind does not have that part", &[]).into());
    };
    output::raw(&part);
    Ok(Exit::Done)
}

/// The directory of `--templates`, else of the configuration.
fn directory(loaded: &Loaded, place: &TemplatePlace) -> Result<PathBuf, Refusal> {
    place.templates.clone().or_else(|| loaded.settings.templates.clone()).ok_or_else(|| {
        let hint = "hapax template check --templates DIR, or set templates.directory";
        Refusal::setup("no template directory", &[hint])
    })
}

/// Of all kinds that are not broken.
fn renderer(directory: PathBuf) -> Renderer {
    let unsubscribe_key = Some(UnsubscribeKey::for_show());
    Renderer::lenient(&Options { templates: Templates::from_dir(directory), unsubscribe_key, ..Options::default() })
}

/// Why a message was not rendered, one problem a line.
pub(crate) fn refusal(error: &Error, hint: &str) -> Refusal {
    match error {
        Error::Templates { problems, .. } => {
            Refusal::lines(1, problems.iter().map(|problem| (problem.to_string(), vec![hint.to_owned()])).collect())
        }
        other => Refusal::of_error(1, other, &[hint]),
    }
}

/// A misspelt kind, or a directory that cannot be read, is no reason to say that all is well.
pub(crate) fn known(renderer: &Renderer, kinds: &[String]) -> Result<(), Refusal> {
    if let Some(problem) = renderer.problems().iter().find(|problem| problem.file == ".") {
        return Err(Refusal::setup(format!("the template directory cannot be read: {}", problem.what), &[]));
    }
    let all = renderer.kinds();
    match kinds.iter().find(|kind| !all.iter().any(|own| own.name == **kind)) {
        None => Ok(()),
        Some(kind) => {
            let names: Vec<&str> = all.iter().map(|kind| kind.name.as_str()).collect();
            let hint = match nearest(kind, names.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None if names.is_empty() => {
                    "there are none: a kind is a folder with subject.txt and body.html".to_owned()
                }
                None if names.len() > NAMED_MAX => {
                    let first = names[..NAMED_MAX].join(", ");
                    format!("there are {} kinds, such as {first}", names.len())
                }
                None => format!("there are: {}", names.join(", ")),
            };
            Err(Refusal::failed(format!("no templates for kind {kind:?}"), &[hint.as_str()]))
        }
    }
}

fn payload(renderer: &Renderer, options: &TemplateRender) -> Result<String, Refusal> {
    let Some(path) = &options.data else {
        let name = options.sample.as_deref().unwrap_or_default();
        let sample = renderer.sample(&options.kind, name).map(str::to_owned);
        return sample.ok_or_else(|| {
            let file = if name.is_empty() { "sample.json".to_owned() } else { format!("sample.{name}.json") };
            Refusal::failed(format!("{}/{file}: missing", options.kind), &["give a payload: --data FILE, or --data -"])
        });
    };
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().take(PAYLOAD_BYTES_MAX).read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|file| file.take(PAYLOAD_BYTES_MAX).read_to_string(&mut text)),
    };
    read.map_err(|error| Refusal::failed(format!("{}: {}", path.display(), error.to_string().to_lowercase()), &[]))?;
    Ok(text)
}

/// Always the same id and date, so that two renders can be compared.
fn notification(options: &TemplateRender, payload: String, to: &str) -> Notification {
    Notification {
        id: MessageId(uuid::Uuid::nil()),
        created_at_us: 0,
        kind: options.kind.clone(),
        sender: None,
        reply_to: None,
        recipients: vec![to.to_owned()],
        cc: vec![],
        bcc: vec![],
        content: Content::Payload(payload),
        headers: vec![],
        attachments: vec![],
        attachments_later: false,
        priority: Priority::Normal,
        expires_in: None,
        age: Duration::ZERO,
        on_doubt: None,
        route: None,
        tenant: None,
        locale: options.locale.clone(),
    }
}

/// A part as a reader would see it, with line ends of text files.
fn find(message: &[u8], part: TemplatePart) -> Option<String> {
    let message = mail_parser::MessageParser::default().parse(message)?;
    let text = match part {
        TemplatePart::Subject => return message.subject().map(|subject| format!("{subject}\n")),
        // Only what is there: the parser would make one out of the other.
        TemplatePart::Text => body(&message, &message.text_body, |part| part.is_text() && !part.is_text_html()),
        TemplatePart::Html => body(&message, &message.html_body, |part| part.is_text_html()),
        TemplatePart::Eml => None,
    };
    text.map(|text| text.replace("\r\n", "\n"))
}

fn body<'a>(
    message: &'a mail_parser::Message<'_>,
    parts: &[mail_parser::MessagePartId],
    is_wanted: impl Fn(&mail_parser::MessagePart<'_>) -> bool,
) -> Option<&'a str> {
    let part = parts.iter().filter_map(|id| message.part(*id)).find(|part| is_wanted(part))?;
    part.text_contents()
}
