//! Every bad notification is refused before anything is stored, by both row-wise doors, in the same words.

use super::support::{Outbox, Refusal, everything_said};

/// Replaces arguments of a good notification; what is wrong with the result, and what the producer is told.
struct Case {
    arguments: &'static [(&'static str, &'static str)],
    code: &'static str,
    column: &'static str,
    problem: &'static str,
    hint: &'static str,
}

const fn case(
    arguments: &'static [(&'static str, &'static str)],
    code: &'static str,
    column: &'static str,
    problem: &'static str,
    hint: &'static str,
) -> Case {
    Case { arguments, code, column, problem, hint }
}

/// What each case starts from. Values that must never be repeated contain `canary`.
const GOOD: [(&str, &str); 3] = [("kind", "'greeting'"), ("recipients", "'{a@example.org}'"), ("payload", "'{}'")];

const ONE_KIND: &str = "a-z, 0-9, _ . -, begins with a letter, such as order_confirmed";
const ONE_EACH: &str = "write user@example.org or Name <user@example.org>, one address per element";
const ONE_ONLY: &str = "write one address, user@example.org or Name <user@example.org>, or leave it out";
const ARRAY: &str = "write ARRAY['user@example.org', 'Name <user@example.org>']";
const ONE_FORM: &str = "give exactly one of: payload; subject with body_text and/or body_html; raw_message";
const NAMES: &str = r#"templates need names: {"order_id": 42}"#;
const NO_BREAK: &str = "remove it: a line break would begin another header";
const HEADER: &str = r#"write {"X-Order": "42"}: names and string values"#;
const OURS: &str = "use the arguments recipients, cc, bcc, sender, reply_to, subject; the others cannot be set";
const FILES: &str = r#"write [{"filename": "a.pdf", "content_type": "application/pdf", "content_base64": "..."}]; instead of content_base64 a path or url, with sha256 if you know it"#;
const RAW: &str = "header lines first, then an empty line, then the body";
const FINISHED: &str = "raw_message is finished: it holds its own headers and attachments";
const KEY: &str = "name the event, such as order-42-confirmed, or leave it out";
const ORDER: &str = "name what must stay in order, such as order-42, or leave it out";
const ROUTE: &str = "routes are named in hapax.toml: a-z, 0-9, _ . -, begins with a letter, up to 63 characters";
const TENANT: &str = "letters, digits, _ . : -, begins with a letter or digit, up to 100 characters";
const TRACE: &str = "write 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case, or leave it out";
const CONTROL: &str = "has a control character (a line break, a tab)";
const UNREADABLE: &str = r"has a value that cannot be stored (\u0000, half a surrogate pair, a number out of range)";
const LINK: &str = "send a link instead";

#[rustfmt::skip]
const CASES: &[Case] = &[
    case(&[("kind", "NULL")], "22H01", "kind", "is missing", "name the kind of notification, such as order_confirmed"),
    case(&[("kind", "''")], "22H01", "kind", "is malformed", ONE_KIND),
    case(&[("kind", "'Canary Confirmed'")], "22H01", "kind", "is malformed", ONE_KIND),
    case(&[("kind", "'1canary'")], "22H01", "kind", "is malformed", ONE_KIND),
    case(&[("kind", r"E'canary\nx'")], "22H01", "kind", "is malformed", ONE_KIND),
    case(&[("kind", "'../canary'")], "22H01", "kind", "is malformed", ONE_KIND),
    case(&[("kind", "repeat('k', 64)")], "22H01", "kind", "is longer than 63 characters", ONE_KIND),

    case(&[("recipients", "NULL")], "22H02", "recipients", "is missing", "give at least one address"),
    case(&[("recipients", "'{}'")], "22H02", "recipients", "is empty", "give at least one address"),
    case(&[("recipients", "'{}'"), ("cc", "'{canary@example.org}'")], "22H02", "recipients", "is empty", "give at least one address"),
    case(&[("recipients", "ARRAY['canary@example.org', NULL]")], "22H02", "recipients", "element 2 is NULL", "leave it out of the array"),
    case(&[("recipients", "'{{canary@example.org},{b@example.org}}'")], "22H02", "recipients", "must be a one-dimensional array", ARRAY),
    case(&[("recipients", "array_fill('canary@example.org'::text, ARRAY[1001])")], "22H02", "recipients", "has more than 1,000 addresses, with cc and bcc", "enqueue one notification per person"),
    case(&[("bcc", "array_fill('canary@example.org'::text, ARRAY[1000])")], "22H02", "recipients", "has more than 1,000 addresses, with cc and bcc", "enqueue one notification per person"),
    case(&[("cc", "ARRAY[NULL]::text[]")], "22H02", "cc", "element 1 is NULL", "leave it out of the array"),

    case(&[("recipients", "ARRAY['']")], "22H03", "recipients", "element 1 is empty", ONE_EACH),
    case(&[("recipients", "ARRAY['   ']")], "22H03", "recipients", "element 1 is empty", ONE_EACH),
    case(&[("recipients", "ARRAY['canary']")], "22H03", "recipients", "element 1 has no @", ONE_EACH),
    case(&[("recipients", "ARRAY['a@example.org', 'canary']")], "22H03", "recipients", "element 2 has no @", ONE_EACH),
    case(&[("recipients", "ARRAY['@canary.org']")], "22H03", "recipients", "element 1 has nothing before the @", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@']")], "22H03", "recipients", "element 1 has no domain", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@example@org']")], "22H03", "recipients", "element 1 has more than one @", ONE_EACH),
    case(&[("recipients", "ARRAY['can ary@example.org']")], "22H03", "recipients", "element 1 has a space", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@exam ple.org']")], "22H03", "recipients", "element 1 has a space", ONE_EACH),
    case(&[("recipients", r"ARRAY[U&'can\00A0ary@example.org']")], "22H03", "recipients", "element 1 has a space", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@example.org, b@example.org']")], "22H03", "recipients", "element 1 has a comma or semicolon", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@example.org;b@example.org']")], "22H03", "recipients", "element 1 has a comma or semicolon", ONE_EACH),
    case(&[("recipients", r"ARRAY[E'canary@example.org\r\nRCPT TO:<x@example.org>']")], "22H03", "recipients", "element 1 has a control character (a line break, a tab)", ONE_EACH),
    case(&[("recipients", r"ARRAY[E'canary@example.org\n']")], "22H03", "recipients", "element 1 has a control character (a line break, a tab)", ONE_EACH),
    case(&[("recipients", r"ARRAY[U&'canary\0085@example.org']")], "22H03", "recipients", "element 1 has a control character (a line break, a tab)", ONE_EACH),
    case(&[("recipients", "ARRAY['Canary <canary@example.org']")], "22H03", "recipients", "element 1 has unbalanced < >", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@example.org>']")], "22H03", "recipients", "element 1 has unbalanced < >", ONE_EACH),
    case(&[("recipients", "ARRAY['<canary@example.org> x']")], "22H03", "recipients", "element 1 has unbalanced < >", ONE_EACH),
    case(&[("recipients", "ARRAY['<<canary@example.org>']")], "22H03", "recipients", "element 1 has unbalanced < >", ONE_EACH),
    case(&[("recipients", r#"ARRAY['"Canary <canary@example.org>']"#)], "22H03", "recipients", "element 1 has unbalanced quotes in its name", ONE_EACH),
    case(&[("recipients", "ARRAY['Lovelace, Canary <canary@example.org>']")], "22H03", "recipients", "element 1 has a name that must be quoted as a whole", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@example.org <b@example.org>']")], "22H03", "recipients", "element 1 has a name that must be quoted as a whole", ONE_EACH),
    case(&[("recipients", "ARRAY['.canary@example.org']")], "22H03", "recipients", "element 1 has a misplaced dot before the @", ONE_EACH),
    case(&[("recipients", "ARRAY['can..ary@example.org']")], "22H03", "recipients", "element 1 has a misplaced dot before the @", ONE_EACH),
    case(&[("recipients", "ARRAY['canary.@example.org']")], "22H03", "recipients", "element 1 has a misplaced dot before the @", ONE_EACH),
    case(&[("recipients", "ARRAY['can(ary)@example.org']")], "22H03", "recipients", "element 1 has a character before the @ that must be quoted", ONE_EACH),
    case(&[("recipients", r#"ARRAY['"canary@example.org']"#)], "22H03", "recipients", "element 1 has unbalanced quotes before the @", ONE_EACH),
    case(&[("recipients", r#"ARRAY['""@example.org']"#)], "22H03", "recipients", "element 1 has nothing before the @", ONE_EACH),
    case(&[("recipients", "ARRAY[repeat('a', 65) || '@example.org']")], "22H03", "recipients", "element 1 has more than 64 bytes before the @", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@' || repeat('a.', 130) || 'org']")], "22H03", "recipients", "element 1 is longer than 254 bytes", ONE_EACH),
    case(&[("recipients", "ARRAY[repeat('canary', 200) || '<a@example.org>']")], "22H03", "recipients", "element 1 is longer than 1,000 characters", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@example..org']")], "22H03", "recipients", "element 1 has a domain that is not a host name", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@example.org.']")], "22H03", "recipients", "element 1 has a domain that is not a host name", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@-example.org']")], "22H03", "recipients", "element 1 has a domain that is not a host name", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@exa_mple.org']")], "22H03", "recipients", "element 1 has a domain that is not a host name", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@' || repeat('a', 64) || '.org']")], "22H03", "recipients", "element 1 has a domain that is not a host name", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@[300.1.1.1]']")], "22H03", "recipients", "element 1 has a malformed address literal", ONE_EACH),
    case(&[("recipients", "ARRAY['canary@[IPv6:12345::]']")], "22H03", "recipients", "element 1 has a malformed address literal", ONE_EACH),
    case(&[("cc", "ARRAY['canary']")], "22H03", "cc", "element 1 has no @", ONE_EACH),
    case(&[("bcc", "ARRAY['b@example.org', 'canary']")], "22H03", "bcc", "element 2 has no @", ONE_EACH),
    case(&[("sender", "'canary'")], "22H03", "sender", "has no @", ONE_ONLY),
    case(&[("sender", "''")], "22H03", "sender", "is empty", ONE_ONLY),
    case(&[("sender", r"E'canary@example.org\r\nBcc: x@example.org'")], "22H03", "sender", CONTROL, ONE_ONLY),
    case(&[("reply_to", "'canary@example.org, b@example.org'")], "22H03", "reply_to", "has a comma or semicolon", ONE_ONLY),

    case(&[("payload", "NULL")], "22H04", "payload", "there is no content", ONE_FORM),
    case(&[("payload", "'null'")], "22H04", "payload", "there is no content", ONE_FORM),
    case(&[("subject", "'canary'"), ("body_text", "'x'")], "22H04", "payload", "there is more than one form of content", ONE_FORM),
    case(&[("raw_message", r"'Subject: canary\015\012\015\012'")], "22H04", "payload", "there is more than one form of content", ONE_FORM),
    case(&[("payload", "NULL"), ("body_html", "'canary'"), ("raw_message", "'x'")], "22H04", "raw_message", "there is more than one form of content", ONE_FORM),
    case(&[("payload", "NULL"), ("subject", "'canary'")], "22H04", "body_text", "is missing", "a message with a subject needs body_text or body_html"),
    case(&[("payload", "NULL"), ("body_text", "'canary'")], "22H04", "subject", "is missing", "a message with a body needs a subject"),
    case(&[("payload", "NULL"), ("body_html", "'canary'"), ("subject", "' '")], "22H04", "subject", "is empty", "a message with a body needs a subject"),
    case(&[("payload", "NULL"), ("body_text", "''"), ("subject", "'canary'")], "22H04", "body_text", "is empty", "write a body, or attach something"),
    case(&[("payload", "NULL"), ("raw_message", r"'Subject: x\012\012canary'"), ("headers", r#"'{"X-A": "canary"}'"#)], "22H04", "headers", "cannot be added to raw_message", FINISHED),
    case(&[("payload", "NULL"), ("raw_message", r"'Subject: x\012\012canary'"), ("reply_to", "'canary@example.org'")], "22H04", "reply_to", "cannot be added to raw_message", FINISHED),

    case(&[("payload", "'{canary'")], "22H05", "payload", "is not JSON", r#"write a JSON object: {"order_id": 42}"#),
    case(&[("payload", "''")], "22H05", "payload", "is not JSON", r#"write a JSON object: {"order_id": 42}"#),
    case(&[("payload", r#"'["canary"]'"#)], "22H05", "payload", "is a JSON array, not an object", NAMES),
    case(&[("payload", r#"'"canary"'"#)], "22H05", "payload", "is a JSON string, not an object", NAMES),
    case(&[("payload", "'42'")], "22H05", "payload", "is a JSON number, not an object", NAMES),
    case(&[("payload", r#"'{"canary": "a\u0000b"}'"#)], "22H05", "payload", UNREADABLE, "remove it"),
    case(&[("payload", r#"'{"canary": "\ud83d"}'"#)], "22H05", "payload", UNREADABLE, "remove it"),
    case(&[("payload", r#"json_build_object('canary', repeat('x', 26214400))::text::json"#)], "22H05", "payload", "is longer than 25 MB", LINK),

    case(&[("payload", "NULL"), ("body_text", "'x'"), ("subject", r"E'canary\r\nBcc: x@example.org'")], "22H06", "subject", CONTROL, NO_BREAK),
    case(&[("payload", "NULL"), ("body_text", "'x'"), ("subject", r"E'canary\tx'")], "22H06", "subject", CONTROL, NO_BREAK),
    case(&[("payload", "NULL"), ("body_text", "'x'"), ("subject", "repeat('canary', 200)")], "22H06", "subject", "is longer than 998 characters", "put the rest into the body"),

    case(&[("headers", r#"'["canary"]'"#)], "22H07", "headers", "must be a JSON object", HEADER),
    case(&[("headers", r#"'{"X-A": 42}'"#)], "22H07", "headers", "the value of X-A is not a string", HEADER),
    case(&[("headers", r#"'{"X-A": {"canary": 1}}'"#)], "22H07", "headers", "the value of X-A is not a string", HEADER),
    case(&[("headers", r#"'{"X-A": "canary\r\nBcc: x@example.org"}'"#)], "22H07", "headers", "the value of X-A has a control character (a line break, a tab)", NO_BREAK),
    case(&[("headers", r#"'{"X canary": "x"}'"#)], "22H07", "headers", "a name is empty, longer than 76 characters, or has a character that is not allowed", "names consist of letters, digits and hyphens"),
    case(&[("headers", r#"'{"X-A:canary": "x"}'"#)], "22H07", "headers", "a name is empty, longer than 76 characters, or has a character that is not allowed", "names consist of letters, digits and hyphens"),
    case(&[("headers", r#"'{"": "x"}'"#)], "22H07", "headers", "a name is empty, longer than 76 characters, or has a character that is not allowed", "names consist of letters, digits and hyphens"),
    case(&[("headers", r#"'{"From": "canary@example.org"}'"#)], "22H07", "headers", "from is written by Hapax", OURS),
    case(&[("headers", r#"'{"BCC": "canary@example.org"}'"#)], "22H07", "headers", "bcc is written by Hapax", OURS),
    case(&[("headers", r#"'{"Reply-To": "canary@example.org"}'"#)], "22H07", "headers", "reply-to is written by Hapax", OURS),
    case(&[("headers", r#"'{"Content-Type": "canary"}'"#)], "22H07", "headers", "content-type is written by Hapax", OURS),
    case(&[("headers", "jsonb_build_object('X-A', repeat('canary', 2000))")], "22H07", "headers", "the value of X-A is longer than 8,000 characters", "put data into the body or an attachment"),
    case(&[("headers", "(SELECT jsonb_object_agg('X-' || i, 'canary') FROM generate_series(1, 101) i)")], "22H07", "headers", "has more than 100 names", "put data into the body or an attachment"),

    case(&[("attachments", r#"'{"filename": "canary"}'"#)], "22H08", "attachments", "must be a JSON array", FILES),
    case(&[("attachments", r#"'["canary"]'"#)], "22H08", "attachments", "element 1 is not an object", FILES),
    case(&[("attachments", r#"'[{"content_base64": "Y2FuYXJ5"}]'"#)], "22H08", "attachments", "element 1 has no filename", FILES),
    case(&[("attachments", r#"'[{"filename": "", "content_base64": "Y2FuYXJ5"}]'"#)], "22H08", "attachments", "element 1 has no filename", FILES),
    case(&[("attachments", r#"'[{"filename": "canary"}]'"#)], "22H08", "attachments", "element 1 has none of content_base64, path, url", FILES),
    case(&[("attachments", r#"'[{"filename": "a", "content_base64": "Y2Fu"}, {"filename": "canary", "content_base64": "canary!"}]'"#)], "22H08", "attachments", "element 2 has content_base64 that is not base64", FILES),
    case(&[("attachments", r#"'[{"filename": "canary", "content_base64": "Y2F"}]'"#)], "22H08", "attachments", "element 1 has content_base64 that is not base64", FILES),
    case(&[("attachments", r#"'[{"filename": "canary", "content_base64": "YWJjZB=="}]'"#)], "22H08", "attachments", "element 1 has content_base64 that is not base64", FILES),
    case(&[("attachments", r#"'[{"filename": "canary\r\nX: y", "content_base64": ""}]'"#)], "22H08", "attachments", "element 1 has a control character in filename", FILES),
    case(&[("attachments", r#"'[{"filename": "canary", "content_base64": "", "canary": 1}]'"#)], "22H08", "attachments", "element 1 has a key other than filename, content_type, content_base64, path, url, sha256, content_id", FILES),
    case(&[("attachments", r#"'[{"filename": "a", "path": "/canary"}]'"#)], "22H08", "attachments", "element 1 has a path that is not relative and plain (no /, . or .. to lead elsewhere)", FILES),
    case(&[("attachments", r#"'[{"filename": "a", "path": "canary/../../x"}]'"#)], "22H08", "attachments", "element 1 has a path that is not relative and plain (no /, . or .. to lead elsewhere)", FILES),
    case(&[("attachments", r#"'[{"filename": "a", "path": "canary", "content_base64": ""}]'"#)], "22H08", "attachments", "element 1 has more than one of content_base64, path, url", FILES),
    case(&[("attachments", r#"'[{"filename": "a", "url": "http://canary.example/"}]'"#)], "22H08", "attachments", "element 1 has a url that is not an https address", FILES),
    case(&[("attachments", r#"'[{"filename": "a", "path": "canary", "sha256": "CANARY"}]'"#)], "22H08", "attachments", "element 1 has a sha256 that is not 64 hexadecimal digits in lower case", FILES),
    case(&[("attachments", r#"'[{"filename": "canary", "content_base64": "", "content_type": "canary"}]'"#)], "22H08", "attachments", "element 1 has a malformed content_type", FILES),
    case(&[("attachments", r#"'[{"filename": "canary", "content_base64": "", "content_id": "<canary>"}]'"#)], "22H08", "attachments", "element 1 has a malformed content_id", FILES),
    case(&[("attachments", r#"jsonb_build_array(jsonb_build_object('filename', 'canary', 'content_base64', repeat('AAAA', 8738134)))"#)], "22H08", "attachments", "has more than 25 MB in all", LINK),

    case(&[("payload", "NULL"), ("raw_message", "''")], "22H09", "raw_message", "is empty", "give a finished RFC 5322 message, or leave it out"),
    case(&[("payload", "NULL"), ("raw_message", "'canary'")], "22H09", "raw_message", "does not begin with a header block", RAW),
    case(&[("headers", r#"'{"X-Hapax-Dedup-Key": "canary"}'"#)], "22H07", "headers", "x-hapax-dedup-key would be sent to the recipient", "options are arguments here (dedup_key, not_before, ...); only the mailers of deploy/producers take them from headers"),
    case(&[("payload", "NULL"), ("raw_message", r"'Subject: canary\015\012X-HAPAX-Kind: canary\015\012\015\012'")], "22H09", "raw_message", "has an X-Hapax- header, which would be sent to the recipient", "a mailer takes it out and passes it as an argument (dedup_key, not_before, ...)"),
    case(&[("payload", "NULL"), ("raw_message", r"'Subject: canary\012\012\000'")], "22H09", "raw_message", "has a NUL byte", "let your mail library encode binary parts with base64"),
    case(&[("payload", "NULL"), ("raw_message", r"convert_to(E'Subject: canary\n\n' || repeat('x', 999), 'UTF8')")], "22H09", "raw_message", "has a line longer than 998 bytes", "let your mail library encode long lines: quoted-printable or base64 (RFC 5322 section 2.1.1)"),
    case(&[("payload", "NULL"), ("raw_message", r"'Subject: canary\015\012'")], "22H09", "raw_message", "does not begin with a header block", RAW),
    case(&[("payload", "NULL"), ("raw_message", r"'From canary Mon Jan 1\012Subject: canary\012\012'")], "22H09", "raw_message", "does not begin with a header block", RAW),
    case(&[("payload", "NULL"), ("raw_message", "convert_to(repeat('x', 52428801), 'UTF8')")], "22H09", "raw_message", "is longer than 50 MB", LINK),
    case(&[("payload", "NULL"), ("subject", "'canary'"), ("body_text", "repeat('x', 26214401)")], "22H10", "body_text", "body_text and body_html are longer than 25 MB", LINK),

    case(&[("not_before", "'infinity'")], "22H11", "not_before", "is infinite", "give a point in time, or leave it out"),
    case(&[("not_before", "'-infinity'")], "22H11", "not_before", "is infinite", "give a point in time, or leave it out"),
    case(&[("expires_at", "'infinity'")], "22H11", "expires_at", "is infinite", "leave it out: without it nothing expires"),
    case(&[("expires_at", "now() - interval '1 second'")], "22H11", "expires_at", "is in the past", "it could never be sent; check the time zone"),
    case(&[("expires_at", "now() + interval '1 hour'"), ("not_before", "now() + interval '1 hour'")], "22H11", "expires_at", "is not after not_before", "it could never be sent"),

    case(&[("priority", "'canary'")], "22H12", "priority", "is none of urgent, normal, bulk", "leave it out for normal"),
    case(&[("priority", "''")], "22H12", "priority", "is none of urgent, normal, bulk", "leave it out for normal"),
    case(&[("on_doubt", "'canary'")], "22H12", "on_doubt", "is none of hold, resend, assume_sent", "leave it out for the policy of the kind"),

    case(&[("dedup_key", "''")], "22H13", "dedup_key", "is empty", KEY),
    case(&[("dedup_key", "repeat('k', 513)")], "22H13", "dedup_key", "is longer than 512 characters", KEY),
    case(&[("dedup_key", r"E'canary\n'")], "22H13", "dedup_key", "has a control character", KEY),
    case(&[("dedup_ttl", "'1 day'")], "22H13", "dedup_ttl", "is given without dedup_key", "give both or neither"),
    case(&[("dedup_key", "'canary'"), ("dedup_ttl", "'0'")], "22H13", "dedup_ttl", "is not between 0 and 10 years", "leave it out for 30 days"),
    case(&[("dedup_key", "'canary'"), ("dedup_ttl", "'-1 day'")], "22H13", "dedup_ttl", "is not between 0 and 10 years", "leave it out for 30 days"),
    case(&[("dedup_key", "'canary'"), ("dedup_ttl", "'11 years'")], "22H13", "dedup_ttl", "is not between 0 and 10 years", "leave it out for 30 days"),
    case(&[("ordering_key", "''")], "22H13", "ordering_key", "is empty", ORDER),
    case(&[("ordering_key", "repeat('k', 513)")], "22H13", "ordering_key", "is longer than 512 characters", ORDER),
    case(&[("ordering_key", "chr(31)")], "22H13", "ordering_key", "has a control character", ORDER),

    case(&[("route", "'Canary!'")], "22H14", "route", "is not the name of a route", ROUTE),
    case(&[("route", "''")], "22H14", "route", "is not the name of a route", ROUTE),
    case(&[("tenant", "'canary corp'")], "22H14", "tenant", "is malformed", TENANT),
    case(&[("tenant", "repeat('t', 101)")], "22H14", "tenant", "is malformed", TENANT),
    case(&[("locale", "'de_DE.canary'")], "22H14", "locale", "is malformed", "write a language tag, such as en or pt-BR"),

    case(&[("traceparent", "'canary'")], "22H15", "traceparent", "is malformed", TRACE),
    case(&[("traceparent", "'00-' || repeat('0', 32) || '-' || repeat('1', 16) || '-01'")], "22H15", "traceparent", "is malformed", TRACE),
    case(&[("traceparent", "'00-' || repeat('A', 32) || '-' || repeat('1', 16) || '-01'")], "22H15", "traceparent", "is malformed", TRACE),
    case(&[("traceparent", "'ff-' || repeat('1', 32) || '-' || repeat('1', 16) || '-01'")], "22H15", "traceparent", "is malformed", TRACE),
    case(&[("tracestate", "'canary=1'")], "22H15", "tracestate", "is given without traceparent", "give both or only traceparent"),
    case(&[("traceparent", "'00-' || repeat('1', 32) || '-' || repeat('1', 16) || '-01'"), ("tracestate", r"E'canary\n'")], "22H15", "tracestate", "is malformed", "printable ASCII, up to 512 characters"),
];

impl Case {
    fn all_arguments(&self) -> Vec<(&'static str, &'static str)> {
        let kept = GOOD.into_iter().filter(|(name, _)| self.arguments.iter().all(|(other, _)| other != name));
        kept.chain(self.arguments.iter().copied()).collect()
    }

    fn call(&self) -> String {
        let named: Vec<_> = self.all_arguments().iter().map(|(name, value)| format!("{name} => {value}")).collect();
        format!("SELECT outbox.enqueue({})", named.join(", "))
    }

    fn insert(&self) -> String {
        let (names, values): (Vec<_>, Vec<_>) = self.all_arguments().into_iter().unzip();
        format!("INSERT INTO outbox.notification ({}) VALUES ({})", names.join(", "), values.join(", "))
    }

    fn expected(&self, door: &str) -> Refusal {
        Refusal {
            code: self.code.to_owned(),
            message: format!("{door}: {}: {}", self.column, self.problem),
            column: self.column.to_owned(),
            hint: self.hint.to_owned(),
        }
    }
}

async fn assert_refused(outbox: &Outbox, sql: &str, expected: &Refusal) {
    let error = match outbox.db.query(sql, &[]).await {
        Ok(_) => panic!("accepted: {sql}"),
        Err(error) => error,
    };
    assert_eq!(Refusal::of(&error), *expected, "{sql}\n{error:?}");
    let said = everything_said(&error).to_lowercase();
    assert!(!said.contains("canary"), "a value is repeated to the client: {sql}\n{said}");
}

async fn assert_nothing_stored(outbox: &Outbox) {
    let sql = "SELECT (SELECT count(*) FROM outbox.message) + (SELECT count(*) FROM outbox.queue) \
               + (SELECT count(*) FROM outbox.dedup_key) + (SELECT count(*) FROM outbox.ordering)";
    assert_eq!(outbox.number(sql).await, 0);
}

#[tokio::test]
async fn enqueue_refuses_every_bad_notification_in_exact_words() {
    let outbox = Outbox::new().await;
    for case in CASES {
        assert_refused(&outbox, &case.call(), &case.expected("outbox.enqueue")).await;
    }
    assert_nothing_stored(&outbox).await;
    println!("{} cases", CASES.len());
}

#[tokio::test]
async fn the_view_refuses_the_same_in_the_same_words() {
    let outbox = Outbox::new().await;
    // A column of type json is read by the server before our trigger is asked.
    for case in CASES.iter().filter(|case| case.problem != "is not JSON") {
        assert_refused(&outbox, &case.insert(), &case.expected("outbox.notification")).await;
    }
    assert_nothing_stored(&outbox).await;
}

#[tokio::test]
async fn an_id_from_the_client_is_refused_with_the_remedy() {
    let outbox = Outbox::new().await;
    let sql = "INSERT INTO outbox.notification (id, kind, recipients, payload) \
               VALUES (gen_random_uuid(), 'greeting', '{canary@example.org}', '{}')";
    let expected = Refusal {
        code: "22H16".into(),
        message: "outbox.notification: id: cannot be given".into(),
        column: "id".into(),
        hint: "leave id out, RETURNING id gives it back; in an object mapper mark it as generated by the database (not default=uuid4)".into(),
    };
    assert_refused(&outbox, sql, &expected).await;
    assert_nothing_stored(&outbox).await;
}

#[tokio::test]
async fn every_sqlstate_is_documented() {
    let outbox = Outbox::new().await;
    let manual = "SELECT obj_description('outbox.refuse(text,text,text,text,text)'::regprocedure)";
    let manual = outbox.texts(manual).await.remove(0);
    for case in CASES {
        assert!(manual.contains(case.code), "{} is not in the comment of outbox.refuse()", case.code);
    }
}

#[tokio::test]
async fn the_server_log_of_a_refusal_holds_no_parameter() {
    let outbox = Outbox::new().await;
    let session = outbox.session().await;
    let sql = "SELECT outbox.enqueue(kind => $1, recipients => $2, subject => $3, body_text => $4)";
    let bad: Vec<&str> = vec!["swordfish@example@org"];
    session.query(sql, &[&"greeting", &bad, &"swordfish", &"swordfish"]).await.expect_err("a bad address");
    session.query(sql, &[&"greeting", &vec!["a@example.org"], &"swordfish\n", &"x"]).await.expect_err("a bad subject");
    let log = super::support::cluster().await.log();
    assert!(log.contains("recipients: element 1 has more than one @"), "the refusal is in the log");
    assert!(!log.contains("swordfish"), "a value reached the server's log");
}

/// A session's own settings change neither what the checks mean nor what an address is.
#[tokio::test]
async fn backslashes_mean_the_same_whatever_the_session_has_set() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute("SET standard_conforming_strings = off; SET escape_string_warning = off").await.unwrap();
    for recipient in ["v@example.org\\nBcc:x@evil.org", "two words@example.org", "a@exa mple.org"] {
        let sql = format!(
            "SELECT outbox.enqueue('greeting', ARRAY['a@example.org', E'{recipient}'], subject => 's', body_text => 'b')"
        );
        let error = outbox.db.batch_execute(&sql).await.expect_err(recipient);
        assert_eq!(error.code().unwrap().code(), "22H03", "{recipient}");
    }
    let raw = "SELECT outbox.enqueue('greeting', ARRAY['a@example.org'], raw_message => convert_to(E'Subject: x\\n\\nbody', 'UTF8'))";
    outbox.db.batch_execute(raw).await.expect("a good one is accepted");
}

/// An id is a capability: who has it may ask for the message and cancel it. Guessing keys gives none.
#[tokio::test]
async fn another_users_message_is_not_learnt_by_guessing_its_key() {
    let outbox = Outbox::new().await;
    let (ours, theirs) = (outbox.member_of("outbox_producer").await, outbox.session().await);
    let other = format!("another_of_{}", outbox.name);
    outbox.db.batch_execute(&format!("CREATE ROLE {other} LOGIN IN ROLE outbox_producer")).await.unwrap();
    theirs.batch_execute(&format!("SET SESSION AUTHORIZATION {other}")).await.unwrap();
    let id = super::support::enqueue(&ours, ", payload => '{}', dedup_key => 'k'").await.unwrap().to_string();
    for (session, told) in [(&ours, true), (&theirs, false)] {
        for statement in [
            "SELECT outbox.enqueue('greeting', '{x@example.org}', '{}', dedup_key => 'k')",
            "SELECT outbox.release_key('k')",
        ] {
            let error = session.batch_execute(statement).await.expect_err(statement);
            let detail = error.as_db_error().unwrap().detail().unwrap();
            assert_eq!(detail.contains(&id), told, "{statement}: {detail}");
        }
    }
}
