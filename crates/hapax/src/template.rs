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
use hapax_render::{Error, Options, Problem, Renderer, Templates, UnsubscribeKey};
use serde_json::json;

use crate::{
    cli::template::{TemplateCheck, TemplatePart, TemplatePlace, TemplateRender},
    config::Loaded,
    failure::{CONFIGURATION, Exit, Refusal},
    output,
};

/// Who a message comes from and goes to where nobody says.
const SENDER: &str = "sender@example.com";
const RECIPIENT: &str = "recipient@example.com";
/// The largest payload that is read.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

/// `hapax template check`.
///
/// # Errors
/// No template directory; a kind that there is not.
pub(crate) fn check(loaded: &Loaded, options: &TemplateCheck) -> anyhow::Result<Exit> {
    let directory = directory(loaded, &options.place)?;
    let (problems, kinds) = match renderer(directory) {
        Ok(renderer) => {
            known(&renderer, &options.kinds)?;
            let wanted = |name: &str| options.kinds.is_empty() || options.kinds.iter().any(|kind| kind == name);
            let kinds: Vec<String> =
                renderer.kinds().into_iter().map(|kind| kind.name).filter(|name| wanted(name)).collect();
            (kinds.iter().flat_map(|kind| renderer.check_kind(kind)).collect(), kinds)
        }
        // What cannot be loaded cannot be rendered: these are all there are to tell.
        Err(Error::Templates { problems, .. }) => (problems, Vec::new()),
        Err(error) => return Err(Refusal::of_error(CONFIGURATION, &error, &[]).into()),
    };
    if options.json.json {
        let told = |problem: &Problem| json!({ "file": problem.file, "line": problem.line, "what": problem.what });
        let problems: Vec<_> = problems.iter().map(told).collect();
        output::json(&json!({ "ok": problems.is_empty(), "kinds": kinds, "problems": problems }))?;
    } else if problems.is_empty() {
        output::line(&format!("ok: {} kinds", kinds.len()));
    } else {
        for problem in &problems {
            output::line(&output::one_line(&problem.to_string()));
        }
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// `hapax template render`.
///
/// # Errors
/// No such kind or sample, a payload that cannot be read, a message that cannot be rendered, a part it does not have.
pub(crate) fn render(loaded: &Loaded, options: &TemplateRender) -> anyhow::Result<Exit> {
    let renderer = renderer(directory(loaded, &options.place)?)
        .map_err(|error| Refusal::of_error(1, &error, &["hapax template check"]))?;
    known(&renderer, std::slice::from_ref(&options.kind))?;
    let payload = payload(&renderer, options)?;
    let to = options.to.as_deref().unwrap_or(RECIPIENT);
    Recipient::parse(to).map_err(|why| Refusal::usage(format!("--to is not usable: {why}"), &[]))?;
    let route = loaded.settings.routes.iter().find(|route| route.name == "default").or(loaded.settings.routes.first());
    let from = options.from.as_deref().or(route.map(|route| route.from.as_str())).unwrap_or(SENDER);
    let one = notification(options, payload, to);
    let rendered = renderer.render(&one, from, None).map_err(|error| Refusal::of_error(1, &error, &[]))?;
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

fn renderer(directory: PathBuf) -> Result<Renderer, Error> {
    let unsubscribe_key = Some(UnsubscribeKey::for_show());
    Renderer::new(Options { templates: Templates::from_dir(directory), unsubscribe_key, ..Options::default() })
}

/// A misspelt kind is no reason to say that all is well.
fn known(renderer: &Renderer, kinds: &[String]) -> Result<(), Refusal> {
    let all = renderer.kinds();
    match kinds.iter().find(|kind| !all.iter().any(|own| own.name == **kind)) {
        None => Ok(()),
        Some(kind) => {
            let names: Vec<&str> = all.iter().map(|kind| kind.name.as_str()).collect();
            let hint = format!("there are: {}", names.join(", "));
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
