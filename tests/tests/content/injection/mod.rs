//! Injection: whatever is written at whatever place of a notification, it is refused with a reason, or it arrives as
//! text: as many mails as were meant, to whom they were meant, with the fields and the tree that a harmless text has
//! there.

mod attacks;

use std::collections::BTreeMap;
use std::fs;

use hapax_tests::mailbox;
use hapax_tests::stage::{Settings, Stage};
use serde_json::Value;

use self::attacks::{DOORS, EVIL, HARMLESS, raw_messages, strings};
use super::corpus::DOMAINS;
use super::readers;
use super::theatre::{delivered, enqueue, postfix, through, with_templates, words};

/// An attack that the database took.
struct Attack {
    name: String,
    /// The kind of what it is compared with; none where the header is the application's own.
    control: Option<&'static str>,
    /// Whether it is a harmless one.
    is_control: bool,
}

/// What became of all attacks.
struct Played {
    /// By message id.
    taken: BTreeMap<String, Attack>,
    refused: usize,
    failed: usize,
    /// Message-ID and recipient of every delivery that was sent.
    sent: Vec<(String, String)>,
}

/// Enqueues every attack, relays what was taken, and checks what was refused.
async fn play(stage: &Stage, settings: Settings) -> Played {
    let (_templates, settings) = with_templates(settings);
    let (mut taken, mut refused) = (BTreeMap::new(), 0);
    let raw = raw_messages().into_iter().enumerate().map(|(number, message)| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let document = serde_json::json!({
            "kind": "raw", "recipients": ["ada@example.org"], "raw_message_base64": STANDARD.encode(message),
        });
        (format!("raw message {number}"), None, false, document)
    });
    let strings = strings();
    let doors = DOORS.iter().flat_map(|door| {
        let control = (!door.own_header).then_some(door.name);
        let attacks = strings.iter().map(String::as_str).chain([HARMLESS]);
        attacks.map(move |text| (format!("{}: {text:?}", door.name), control, text == HARMLESS, (door.build)(text)))
    });
    for (name, control, is_control, document) in doors.chain(raw) {
        match enqueue(stage, &document).await {
            Ok(id) => drop(taken.insert(id.to_string(), Attack { name, control, is_control })),
            Err(error) => {
                let words = words(&error);
                // 22H..: what is wrong, and where. 22P05: Postgres itself, of NUL in JSON.
                assert!(words.starts_with("22H") || words.starts_with("22P05"), "{name}: {words}");
                assert!(!words.contains(EVIL) && !words.contains(['\r', '\n']), "{name} repeats it: {words}");
                assert!(!is_control, "{name}: {words}");
                refused += 1;
            }
        }
    }
    let _relay = settings.run().await;
    stage.until_settled().await;
    let sql = "SELECT d.message_id::text, d.recipient, d.state, coalesce(d.reason, '') FROM outbox.deliveries d";
    let (mut sent, mut failed) = (Vec::new(), 0);
    for row in stage.sql.query(sql, &[]).await.expect("deliveries can be read") {
        let (id, recipient, state, reason): (String, String, String, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        // As it was written; the address stands last.
        let address =
            recipient.rsplit_once('<').map_or(recipient.as_str(), |(_, address)| address.trim_end_matches('>'));
        // IDNA ignores a byte order mark in a domain.
        let recipient = address.trim_end_matches('\u{feff}').to_owned();
        let attack = &taken[&id];
        match state.as_str() {
            "sent" => sent.push((id, recipient)),
            "failed" => {
                assert!(!attack.is_control, "{}: {reason}", attack.name);
                assert!(!reason.is_empty() && !reason.contains(['\r', '\n']), "{}: {reason:?}", attack.name);
                assert!(!reason.contains(EVIL), "{} is repeated: {reason}", attack.name);
                failed += 1;
            }
            other => panic!("{}: {other}, {reason}", attack.name),
        }
    }
    assert!(sent.iter().all(|(_, recipient)| recipient != EVIL), "nobody may write to {EVIL}");
    Played { taken, refused, failed, sent }
}

impl Played {
    /// Compares what arrived (message id, mail) with what arrived of the harmless text at the same place.
    fn compare(&self, mails: &[(String, Vec<u8>)]) {
        let mut wrong = Vec::new();
        let structure = |mail: &[u8]| {
            let seen = readers::mail_parser(mail);
            (field_names(mail), seen["tree"].clone(), seen["attachments"].as_array().map(Vec::len))
        };
        let controls: BTreeMap<&str, _> = mails
            .iter()
            .filter_map(|(id, mail)| self.taken.get(id).filter(|attack| attack.is_control).map(|attack| (attack, mail)))
            .filter_map(|(attack, mail)| Some((attack.control?, structure(mail))))
            .collect();
        for (id, mail) in mails {
            let Some(attack) = self.taken.get(id) else {
                wrong.push(format!("a mail with Message-ID {id} that nobody has enqueued"));
                continue;
            };
            let found = structure(mail);
            if found.0.iter().any(|name| name == "bcc" || name == "resent-bcc") {
                wrong.push(format!("{}: Bcc", attack.name));
            }
            // The name of the header is the attack there.
            let Some(control) = attack.control.filter(|control| *control != "a header's name") else { continue };
            let meant = &controls[control];
            let has_type = matches!(control, "a file's type" | "a file's content id");
            if found.0 != meant.0 || (!has_type && found.1 != meant.1) || found.2 != meant.2 {
                wrong.push(format!("{}:\n  {found:?} instead of\n  {meant:?}", attack.name));
            }
        }
        let mut arrived: Vec<&str> = mails.iter().map(|(id, _)| id.as_str()).collect();
        let mut sent: Vec<&str> = self.sent.iter().map(|(id, _)| id.as_str()).collect();
        arrived.sort_unstable();
        sent.sort_unstable();
        if arrived != sent {
            wrong.push(format!("{} mails for {} deliveries", arrived.len(), sent.len()));
        }
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        println!(
            "{} attacks: {} refused by the database, {} by the relay, {} arrived as text",
            strings().len() * DOORS.len() + raw_messages().len(),
            self.refused,
            self.failed,
            self.sent.len(),
        );
        assert!(self.refused > 500 && self.sent.len() > 300, "both occur");
    }
}

/// The names of the fields, in lower case, as they stand: every line of the header that is no continuation. Received
/// and what a mailbox adds are not of the message.
fn field_names(mail: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for line in mail.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        match line {
            [] => break,
            [b' ' | b'\t', ..] => {}
            line => names
                .push(String::from_utf8_lossy(line.split(|byte| *byte == b':').next().unwrap_or(line)).to_lowercase()),
        }
    }
    names.retain(|name| !matches!(name.as_str(), "received" | "delivered-to" | "x-original-to" | "return-path"));
    names
}

/// The notification's id, from the Message-ID that Hapax made of it.
fn id(mail: &[u8]) -> String {
    let value = mailbox::headers(mail, "Message-ID").first().cloned().unwrap_or_default();
    value.trim().trim_start_matches('<').split('@').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attack_changes_a_mail_at_a_real_postfix() {
    let Some(postfix) = postfix().await else { return };
    let stage = Stage::set().await;
    let played = play(&stage, through(stage.settings(), &postfix)).await;
    let elsewhere = |recipient: &&(String, String)| !DOMAINS.iter().any(|domain| recipient.1.ends_with(domain));
    let elsewhere: Vec<_> = played.sent.iter().filter(elsewhere).collect();
    assert!(elsewhere.is_empty(), "nobody is meant there: {elsewhere:?}");
    let files = delivered(&postfix, played.sent.len()).await;
    let mails: Vec<(String, Vec<u8>)> =
        files.iter().map(|file| fs::read(file).expect("a mail can be read")).map(|mail| (id(&mail), mail)).collect();
    let evil =
        mails.iter().filter(|(_, mail)| mailbox::headers(mail, "Delivered-To").iter().any(|to| to.trim() == EVIL));
    assert_eq!(evil.count(), 0, "nothing for {EVIL}");
    played.compare(&mails);
    // Python, too, can read each of them, but for encoded words that an application has put into headers of its own.
    let seen = readers::python(&files);
    let stumbled = seen.iter().zip(&mails).filter(|(seen, _)| !seen["error"].is_null());
    let stumbled: Vec<(&str, &Value)> =
        stumbled.map(|(seen, (id, _))| (played.taken[id].name.as_str(), &seen["error"])).collect();
    // An address cannot be written in another way; a local part that looks like an encoded word is one for Python.
    let own = [
        "a header's value",
        "a header of a raw message",
        "raw message",
        "the sender's local",
        "a recipient's local",
        "a recipient's quoted local",
    ];
    let unexpected: Vec<_> = stumbled.iter().filter(|(name, _)| !own.iter().any(|own| name.starts_with(own))).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attack_changes_the_dialogue_with_a_server() {
    let stage = Stage::set().await;
    let played = play(&stage, stage.settings()).await;
    let ledger = stage.server.ledger();
    let mails: Vec<(String, Vec<u8>)> = ledger.messages().map(|one| (id(&one.body), one.body.to_vec())).collect();
    played.compare(&mails);
    assert_eq!(ledger.violations().next(), None);
    for connection in ledger.connections() {
        for command in &connection.commands {
            let verb = command.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            assert!(["EHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT"].contains(&verb.as_str()), "{command}");
            assert!(!command.contains(&format!("<{EVIL}>")) && !command.contains(['\r', '\n', '\0']), "{command}");
        }
    }
    let meant: Vec<&String> = played.sent.iter().map(|(_, recipient)| recipient).collect();
    for one in ledger.transactions() {
        assert_eq!(one.recipients.len() + one.recipients_refused.len(), 1, "{:?}", one.recipients);
        assert!(one.recipients.iter().all(|recipient| meant.contains(&recipient)), "{:?}", one.recipients);
        let bare = one.body.windows(2).any(|two| (two[0] == b'\r') != (two[1] == b'\n'));
        assert!(!bare && !one.body.contains(&0), "a bare line end or NUL");
        let longest = one.body.split(|byte| *byte == b'\n').map(<[u8]>::len).max().unwrap_or_default();
        assert!(longest <= 999, "a line of {longest} bytes and its LF");
    }
}
