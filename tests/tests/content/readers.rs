//! Two readers that know nothing of Hapax and nothing of each other: Python's `email` (read.py) and mail-parser. Both
//! say the same of a mail, as a JSON object: `subject`, `from`, `to`, `cc`, `reply_to` (lists of name and address),
//! `text`, `html` (line ends as LF), `tree` (media types), `attachments` (name, type, parameters, disposition, content
//! id, digest), `headers` (lower case name to list of values), `fields` (every field's name, in order), `defects`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mail_parser::{Address, HeaderForm, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde_json::{Value, json};

use super::corpus::{digest, normal};

/// Debian's, whatever else is installed: its modules are there (python3-dkim).
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// What Python sees of each file.
pub(crate) fn python(files: &[PathBuf]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/content/read.py");
    let paths: Vec<&str> = files.iter().map(|path| path.to_str().expect("a UTF-8 path")).collect();
    let output = run(Command::new(PYTHON).arg(script), paths.join("\n").as_bytes());
    let seen: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect();
    assert_eq!(seen.len(), files.len(), "one line for each file: {output}");
    seen
}

/// Runs a program with this input; answers its output.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> String {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).expect("it reads"));
        child.wait_with_output().expect("it ends")
    });
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// What mail-parser sees of a mail.
pub(crate) fn mail_parser(bytes: &[u8]) -> Value {
    let parser = MessageParser::default();
    let Some(message) = parser.parse(bytes) else { return json!({"error": "not a message"}) };
    let mut seen = json!({"text": null, "html": null, "attachments": []});
    let tree = tree(&message, message.root_part(), &mut seen);
    seen["tree"] = json!(tree);
    seen["subject"] = json!(message.subject());
    let root = message.root_part();
    let lists =
        [("from", message.from()), ("to", message.to()), ("cc", message.cc()), ("reply_to", message.reply_to())];
    for (key, list) in lists {
        seen[key] = list.map_or_else(|| json!([]), people);
    }
    seen["fields"] = root.headers.iter().map(mail_parser::Header::name).collect();
    let mut headers = json!({});
    for header in &root.headers {
        let values = message.header_as(header.name.clone(), HeaderForm::Text);
        let values: Vec<&str> = values.iter().map(|value| value.as_text().unwrap_or_default()).collect();
        headers[header.name().to_ascii_lowercase()] = json!(values);
    }
    seen["headers"] = headers;
    let broken = message.parts.iter().filter(|part| part.is_encoding_problem);
    seen["defects"] = broken.map(|part| format!("{:?}", part.headers)).collect();
    seen
}

fn people(list: &Address<'_>) -> Value {
    // An empty group (`undisclosed-recipients:;`) has nobody in it.
    let all = list.iter().filter(|one| one.address.is_some());
    all.map(|one| json!([one.name().unwrap_or_default(), one.address().unwrap_or_default()])).collect()
}

fn tree(message: &Message<'_>, part: &MessagePart<'_>, seen: &mut Value) -> String {
    let media_type = part.content_type().map_or_else(
        || "text/plain".to_owned(),
        |found| format!("{}/{}", found.ctype(), found.subtype().unwrap_or_default()).to_ascii_lowercase(),
    );
    if let PartType::Multipart(children) = &part.body {
        let children = children.iter().map(|child| &message.parts[*child as usize]);
        let children: Vec<String> = children.map(|child| tree(message, child, seen)).collect();
        return format!("{media_type}({})", children.join(","));
    }
    let key = match media_type.as_str() {
        "text/plain" => "text",
        "text/html" => "html",
        _ => "",
    };
    let disposition = part.content_disposition();
    if !key.is_empty() && disposition.is_none() && seen[key].is_null() {
        seen[key] = json!(normal(part.text_contents().unwrap_or_default()));
        return media_type;
    }
    let parameters = part.content_type().and_then(|found| found.attributes()).unwrap_or_default();
    let parameters: serde_json::Map<String, Value> =
        parameters.iter().map(|one| (one.name.to_string(), json!(one.value))).collect();
    let attachment = json!({
        "name": disposition.and_then(|found| found.attribute("filename")),
        "type": media_type,
        "parameters": parameters,
        "disposition": disposition.map(|found| found.ctype().to_ascii_lowercase()),
        "content_id": part.content_id(),
        "sha256": digest(&content(message, part)),
    });
    seen["attachments"].as_array_mut().expect("a list").push(attachment);
    media_type
}

/// The bytes of a file. mail-parser hands out text files as UTF-8 text, so theirs are taken from the message.
fn content(message: &Message<'_>, part: &MessagePart<'_>) -> Vec<u8> {
    match (&part.body, part.encoding) {
        (PartType::Text(_) | PartType::Html(_), mail_parser::Encoding::Base64) => {
            let body = &message.raw_message()[part.raw_body_offset() as usize..part.raw_end_offset() as usize];
            mail_parser::decoders::base64::base64_decode(body).unwrap_or_default()
        }
        _ => part.contents().to_vec(),
    }
}

/// How exactly a reader reads the names before addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Letter by letter.
    Exact,
    /// But for spaces. Python's parser of addresses takes the space between two encoded words for one of the name,
    /// against RFC 2047 section 6.2, and every run of spaces for one. mail-parser must then see the name as it was
    /// meant.
    ButForSpaces,
}

fn is_equal(key: &str, seen: &Value, expected: &Value, names: Names) -> bool {
    if names == Names::Exact || !matches!(key, "from" | "to" | "cc" | "reply_to") {
        return seen == expected;
    }
    let without = |people: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let people = people.as_array().into_iter().flatten();
        people.map(|person| (text(&person[0]).split_whitespace().collect(), text(&person[1]))).collect()
    };
    without(seen) == without(expected)
}

/// Where what was seen is not what must be seen; nothing when all is well.
pub(crate) fn differences(expected: &Value, seen: &Value, names: Names) -> Vec<String> {
    let mut wrong = Vec::new();
    let short = |value: &Value| value.to_string().chars().take(300).collect::<String>();
    for (key, expected) in expected.as_object().expect("an object") {
        if key == "headers" {
            for (name, expected) in expected.as_object().expect("an object") {
                let seen = &seen["headers"][name.to_ascii_lowercase()];
                if *seen != json!([expected]) {
                    wrong.push(format!("header {name}: {} instead of {}", short(seen), short(expected)));
                }
            }
        } else if !is_equal(key, &seen[key], expected, names) {
            wrong.push(format!("{key}: {} instead of {}", short(&seen[key]), short(expected)));
        }
    }
    let defects = seen["defects"].as_array().map_or(0, Vec::len);
    if defects > 0 || !seen["error"].is_null() {
        wrong.push(format!("defects: {} {}", short(&seen["defects"]), seen["error"]));
    }
    wrong
}
