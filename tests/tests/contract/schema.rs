//! Published JSON Schemas: what SQL judges and what the `jsonschema` crate judges is the same, and where a schema is
//! enforced every door refuses what does not fit, in the same words, without repeating a value.

use serde_json::Value;
use tokio_postgres::Client;

use super::support::{Outbox, Refusal, everything_said, texts};

/// Schemas, each with payloads of which some fit and some do not.
#[rustfmt::skip]
const CORPUS: &[(&str, &[&str])] = &[
    (r#"{"type": "object"}"#, &["{}", "[]", "1", "null", r#""x""#, "true"]),
    (r#"{"type": "integer"}"#, &["1", "1.0", "1.5", "-3", r#""1""#, "1e2", "0", "12345678901234567890", "1e-1"]),
    (r#"{"type": "number"}"#, &["1", "1.5", r#""1""#, "null"]),
    (r#"{"type": ["string", "null"]}"#, &["null", r#""""#, "0", "{}", "false"]),
    (r#"{"type": ["integer", "boolean"]}"#, &["2.0", "2.5", "true", "[]"]),
    (r#"{"enum": [1, "a", null, {"x": [1]}, [2, 3]]}"#,
        &["1", "1.0", r#""a""#, "null", r#"{"x": [1]}"#, r#"{"x": [1], "y": 1}"#, r#"{"x": []}"#, "[2, 3]", "[3, 2]", "[2]", "2", "true", r#""1""#]),
    (r#"{"enum": [false]}"#, &["false", "0", "[]", "true"]),
    (r#"{"const": {"a": 1, "b": [true]}}"#, &[r#"{"b": [true], "a": 1.0}"#, r#"{"a": 1}"#, "null"]),
    (r#"{"const": null}"#, &["null", "0", "{}"]),
    (r#"{"properties": {"a": {"type": "integer"}, "b": {}}}"#, &["{}", r#"{"a": 1}"#, r#"{"a": "1"}"#, r#"{"b": 1, "c": 2}"#, "[]", "3"]),
    (r#"{"properties": {"a": false, "b": true}}"#, &["{}", r#"{"a": 1}"#, r#"{"b": null}"#]),
    (r#"{"required": ["a", "b/c", ""]}"#, &[r#"{"a": 1, "b/c": null, "": 2}"#, r#"{"a": 1}"#, "{}", "1", r#"{"a": 1, "": 2}"#]),
    (r#"{"properties": {"a": {}}, "additionalProperties": false}"#, &["{}", r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#, r#"{"A": 1}"#]),
    (r#"{"properties": {"a": {}}, "additionalProperties": {"type": "string"}}"#, &[r#"{"a": 1, "b": "x"}"#, r#"{"a": 1, "b": 2}"#]),
    (r#"{"patternProperties": {"^x-": {"type": "integer"}, "y$": {"minimum": 3}}, "additionalProperties": false}"#,
        &["{}", r#"{"x-a": 1}"#, r#"{"x-a": "1"}"#, r#"{"x-y": 2}"#, r#"{"x-y": 3}"#, r#"{"z": 3}"#, r#"{"ay": 4}"#]),
    (r#"{"minProperties": 1, "maxProperties": 2}"#, &["{}", r#"{"a": 1}"#, r#"{"a": 1, "b": 1}"#, r#"{"a": 1, "b": 1, "c": 1}"#, "[]"]),
    (r#"{"propertyNames": {"maxLength": 2, "pattern": "^[a-z]+$"}}"#, &["{}", r#"{"ab": 1}"#, r#"{"abc": 1}"#, r#"{"A": 1}"#]),
    (r#"{"dependentRequired": {"a": ["b", "c"]}}"#, &["{}", r#"{"a": 1}"#, r#"{"a": 1, "b": 2, "c": 3}"#, r#"{"b": 1}"#]),
    (r#"{"dependentSchemas": {"a": {"required": ["b"]}, "c": false}}"#, &["{}", r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#, r#"{"c": 1}"#]),
    (r#"{"items": {"type": "integer"}}"#, &["[]", "[1, 2]", r#"[1, "2"]"#, "{}", r#""x""#]),
    (r#"{"items": false}"#, &["[]", "[1]"]),
    (r#"{"prefixItems": [{"type": "integer"}, {"type": "string"}]}"#, &["[]", "[1]", r#"[1, "a", null]"#, r#"["a"]"#, "[1, 2]"]),
    (r#"{"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}"#, &[r#"[1, "a"]"#, "[1, 2]", "[1]", r#"["a"]"#]),
    (r#"{"minItems": 1, "maxItems": 2}"#, &["[]", "[1]", "[1, 2]", "[1, 2, 3]", "{}"]),
    (r#"{"uniqueItems": true}"#, &["[]", "[1, 2]", "[1, 1.0]", r#"[1, "1"]"#, r#"[{"a": 1, "b": 2}, {"b": 2, "a": 1}]"#, "[[1], [1]]", "[0, false]", "[null, null]"]),
    (r#"{"uniqueItems": false, "maxItems": 3}"#, &["[1, 1]", "[1, 1, 1, 1]"]),
    (r#"{"contains": {"type": "integer"}}"#, &["[]", "[1]", r#"["a"]"#, r#"["a", 1]"#, "{}"]),
    (r#"{"contains": {"minimum": 5}, "minContains": 2, "maxContains": 3}"#, &["[5]", "[5, 6, 1]", "[5, 6, 7, 8]", "[5, 6, 7]"]),
    (r#"{"contains": {"type": "null"}, "minContains": 0, "maxContains": 1}"#, &["[]", "[null]", "[null, null]"]),
    (r#"{"minLength": 2, "maxLength": 3}"#, &[r#""a""#, r#""ab""#, r#""äöü""#, r#""😀😀😀""#, r#""😀""#, r#""abcd""#, "1"]),
    (r#"{"minLength": 2.0}"#, &[r#""a""#, r#""ab""#]),
    (r#"{"pattern": "^[A-Z]{3}-\\d+$"}"#, &[r#""ABC-12""#, r#""ABC-""#, r#""abc-1""#, r#""ABC-١""#, r#""ABC-1\n""#, "3"]),
    (r#"{"pattern": "b.d"}"#, &[r#""abide""#, r#""b\nd""#, r#""bd""#, r#""b😀d""#]),
    (r#"{"pattern": "^(?:foo|bar)*$"}"#, &[r#""""#, r#""foobar""#, r#""fo""#]),
    (r#"{"pattern": "^[\\w.+-]+@[\\w-]+(\\.[\\w-]+)+$"}"#, &[r#""a.b+c@x-y.org""#, r#""a@b""#, r#""ä@b.de""#]),
    (r#"{"pattern": "^\\S+\\s\\S+$"}"#, &[r#""a b""#, r#""a\u00a0b""#, r#""a\u3000b""#, r#""ab""#, r#""a  b""#]),
    (r#"{"pattern": "[^a-c\\s]"}"#, &[r#""abc""#, r#""a b""#, r#""d""#, r#""[""#]),
    (r#"{"pattern": "^[[\\]x]+$"}"#, &[r#""[x]""#, r#""y""#, r#""""#]),
    (r#"{"pattern": "^\\u00e4\\x41?\\/\\.$"}"#, &[r#""äA/.""#, r#""ä/.""#, r#""ä/x""#]),
    (r#"{"pattern": "\\bcat\\b"}"#, &[r#""a cat!""#, r#""concat""#]),
    (r#"{"pattern": "^a+?b{2,}c{1,2}$"}"#, &[r#""aabbc""#, r#""abc""#, r#""abbccc""#]),
    (r#"{"minimum": 1.5, "maximum": 3}"#, &["1.5", "1.4", "3.0", "3.01", r#""9""#]),
    (r#"{"exclusiveMinimum": 0, "exclusiveMaximum": 10}"#, &["0", "0.001", "10", "9.99", "-1"]),
    (r#"{"multipleOf": 0.01}"#, &["19.99", "19.999", "0", "-3.5", "4.35"]),
    (r#"{"multipleOf": 3}"#, &["9", "10", "9.0", "-6", "1.5"]),
    (r#"{"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]}"#, &[r#"{"a": 1}"#, "{}", r#"{"a": "x"}"#]),
    (r#"{"anyOf": [{"type": "integer"}, {"minLength": 3}]}"#, &["1", r#""abc""#, r#""ab""#, "1.5", "null"]),
    (r#"{"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}"#, &["2", "3", "6", "5", "9"]),
    (r#"{"not": {"type": "string"}}"#, &["1", r#""a""#]),
    (r#"{"not": {}}"#, &["1"]),
    (r#"{"if": {"properties": {"a": {"const": 1}}, "required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}}"#,
        &[r#"{"a": 1, "b": 2}"#, r#"{"a": 1}"#, r#"{"a": 2, "c": 1}"#, r#"{"a": 2}"#, r#"{"c": 1}"#]),
    (r#"{"if": {"type": "string"}, "then": {"minLength": 2}}"#, &[r#""a""#, r#""ab""#, "1"]),
    (r#"{"then": false, "else": false, "type": "integer"}"#, &["1", r#""a""#]),
    (r##"{"$ref": "#/$defs/a~1b", "maximum": 5, "$defs": {"a/b": {"type": "integer"}}}"##, &["1", r#""a""#, "6"]),
    (r##"{"properties": {"child": {"$ref": "#"}, "n": {"type": "integer"}}}"##, &[r#"{"child": {"child": {"n": 1}}}"#, r#"{"child": {"child": {"n": "x"}}}"#]),
    (r##"{"definitions": {"x": {"minimum": 2}}, "items": {"$ref": "#/definitions/x"}}"##, &["[2, 3]", "[1]"]),
    (r##"{"prefixItems": [{"type": "null"}, {"$ref": "#/prefixItems/0"}]}"##, &["[null, null]", "[null, 1]"]),
    (r#"{"format": "email", "type": "string", "title": "t", "description": "d", "default": 1, "examples": [1], "$comment": "c", "deprecated": true,
         "readOnly": true, "writeOnly": false, "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://shop.example/x"}"#, &[r#""no address""#, "1"]),
    ("true", &["1", "{}"]),
    ("false", &["1", "{}"]),
    ("{}", &["1", "null"]),
    (r##"{"type": "object", "required": ["order_id", "items"], "additionalProperties": false, "$defs": {"money": {"type": "string", "pattern": "^\\d+\\.\\d{2}$"}},
         "properties": {"order_id": {"type": "integer", "minimum": 1}, "total": {"$ref": "#/$defs/money"}, "items": {"type": "array", "minItems": 1, "items":
         {"type": "object", "required": ["name", "price"], "properties": {"name": {"type": "string", "minLength": 1}, "price": {"$ref": "#/$defs/money"}}}}}}"##,
        &[r#"{"order_id": 1, "items": [{"name": "x", "price": "1.00"}], "total": "1.00"}"#, r#"{"order_id": 1, "items": [{"name": "x", "price": "1.0"}]}"#,
          r#"{"order_id": 0, "items": [{"name": "x", "price": "1.00"}]}"#, r#"{"order_id": 1, "items": []}"#, r#"{"order_id": 1, "items": [{"name": "x"}]}"#,
          r#"{"order_id": 1, "items": [{"name": "", "price": "1.00"}]}"#, r#"{"order_id": 1, "items": [{"name": "x", "price": "1.00"}], "extra": 1}"#]),
];

#[tokio::test]
async fn sql_and_the_jsonschema_crate_judge_alike() {
    let outbox = Outbox::new().await;
    let sql =
        "SELECT outbox.schema_problem($1::text::jsonb), outbox.payload_violation($1::text::jsonb, $2::text::jsonb)";
    let (mut wrong, mut fits, mut violates) = (Vec::new(), 0, 0);
    for (schema, payloads) in CORPUS {
        let validator = jsonschema::draft202012::new(&serde_json::from_str(schema).unwrap()).unwrap();
        for payload in *payloads {
            let expected = validator.is_valid(&serde_json::from_str(payload).unwrap());
            let row = outbox.db.query_one(sql, &[schema, payload]).await.unwrap_or_else(|e| panic!("{schema}: {e:?}"));
            let (problem, violation): (Option<String>, Option<String>) = (row.get(0), row.get(1));
            *(if expected { &mut fits } else { &mut violates }) += 1;
            if expected != violation.is_none() || problem.is_some() {
                wrong.push(format!("{schema}: {payload}: the crate says {expected}; {violation:?}, {problem:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} pairs, {fits} fit, {violates} do not", fits + violates);
    assert!(fits >= 90 && violates >= 90, "{fits} {violates}");
}

/// A keyword in a schema for `x`, a value that fits, one that does not, and what is said of it.
#[rustfmt::skip]
const KEYWORDS: &[(&str, &str, &str, &str)] = &[
    (r#"{"type": "number"}"#, "1", r#""canary""#, "/x: must be a number (type)"),
    (r#"{"type": ["integer", "null"]}"#, "1.0", "1.5", "/x: must be an integer or null (type)"),
    (r#"{"enum": ["a", "b"]}"#, r#""a""#, r#""canary""#, "/x: must be one of the values that are allowed (enum)"),
    (r#"{"const": 1}"#, "1", r#""canary""#, "/x: must be the value that is allowed (const)"),
    (r#"{"properties": {"y": {"type": "null"}}}"#, "{}", r#"{"y": "canary"}"#, "/x/y: must be null (type)"),
    (r#"{"properties": {"a/b~c": {"type": "null"}}}"#, "{}", r#"{"a/b~c": "canary"}"#, "/x/a~1b~0c: must be null (type)"),
    (r#"{"required": ["y"]}"#, r#"{"y": 1}"#, r#"{"canary": 1}"#, "/x: must have y (required)"),
    (r#"{"additionalProperties": false}"#, "{}", r#"{"canary@example.org": 1}"#, "/x/*: is not allowed (additionalProperties)"),
    (r#"{"additionalProperties": false}"#, "{}", r#"{"misspelt_name": 1}"#, "/x/misspelt_name: is not allowed (additionalProperties)"),
    (r#"{"additionalProperties": {"type": "null"}}"#, "{}", r#"{"4canary": 1}"#, "/x/*: must be null (type)"),
    (r#"{"patternProperties": {"^y": {"maximum": 1}}}"#, r#"{"y": 1}"#, r#"{"y": 2}"#, "/x/y: must be at most 1 (maximum)"),
    (r#"{"minProperties": 1}"#, r#"{"y": 1}"#, "{}", "/x: must have at least 1 names (minProperties)"),
    (r#"{"maxProperties": 0}"#, "{}", r#"{"canary": 1}"#, "/x: must have at most 0 names (maxProperties)"),
    (r#"{"propertyNames": {"maxLength": 1}}"#, r#"{"y": 1}"#, r#"{"yy": 1}"#, "/x/yy: has a name that is not allowed (propertyNames)"),
    (r#"{"dependentRequired": {"y": ["z"]}}"#, "{}", r#"{"y": "canary"}"#, "/x: must have z (dependentRequired)"),
    (r#"{"dependentSchemas": {"y": {"required": ["z"]}}}"#, "{}", r#"{"y": "canary"}"#, "/x: must have z (required)"),
    (r#"{"items": {"type": "integer"}}"#, "[1]", r#"[1, "canary"]"#, "/x/1: must be an integer (type)"),
    (r#"{"prefixItems": [{"type": "integer"}]}"#, r#"[1, "a"]"#, r#"["canary"]"#, "/x/0: must be an integer (type)"),
    (r#"{"minItems": 1}"#, "[1]", "[]", "/x: must have at least 1 elements (minItems)"),
    (r#"{"maxItems": 1}"#, "[1]", r#"[1, "canary"]"#, "/x: must have at most 1 elements (maxItems)"),
    (r#"{"uniqueItems": true}"#, "[1]", r#"["canary", "canary"]"#, "/x: must not have an element twice (uniqueItems)"),
    (r#"{"contains": {"type": "null"}}"#, "[null]", r#"["canary"]"#, "/x: has too few elements that fit (contains, minContains)"),
    (r#"{"contains": true, "maxContains": 1}"#, "[1]", r#"["canary", 1]"#, "/x: has too many elements that fit (maxContains)"),
    (r#"{"minLength": 7}"#, r#""1234567""#, r#""canary""#, "/x: must have at least 7 characters (minLength)"),
    (r#"{"maxLength": 5}"#, r#""12345""#, r#""canary""#, "/x: must have at most 5 characters (maxLength)"),
    (r#"{"pattern": "^\\d+$"}"#, r#""1""#, r#""canary""#, "/x: must match its pattern (pattern)"),
    (r#"{"minimum": 2}"#, "2", "1.5", "/x: must be at least 2 (minimum)"),
    (r#"{"maximum": 2}"#, "2", "2.5", "/x: must be at most 2 (maximum)"),
    (r#"{"exclusiveMinimum": 2}"#, "3", "2", "/x: must be more than 2 (exclusiveMinimum)"),
    (r#"{"exclusiveMaximum": 2}"#, "1", "2", "/x: must be less than 2 (exclusiveMaximum)"),
    (r#"{"multipleOf": 0.5}"#, "1.5", "1.25", "/x: must be a multiple of 0.5 (multipleOf)"),
    (r#"{"allOf": [{"type": "integer"}, {"minimum": 2}]}"#, "2", "1", "/x: must be at least 2 (minimum)"),
    (r#"{"anyOf": [{"type": "integer"}, {"type": "null"}]}"#, "null", r#""canary""#, "/x: fits none of the alternatives (anyOf)"),
    (r#"{"oneOf": [{"type": "integer"}, {"minimum": 2}]}"#, "1", "2", "/x: fits more than one of the alternatives (oneOf)"),
    (r#"{"not": {"type": "string"}}"#, "1", r#""canary""#, "/x: fits what it must not be (not)"),
    (r#"{"if": {"type": "string"}, "then": {"maxLength": 1}, "else": {"type": "null"}}"#, r#""a""#, r#""canary""#, "/x: must have at most 1 characters (maxLength)"),
    (r##"{"$ref": "#/$defs/id"}"##, "1", r#""canary""#, "/x: must be an integer (type)"),
    ("false", "", "1", "/x: is not allowed (false)"),
];

/// Each way to enqueue `$payload`, and how the door calls itself.
const DOORS: &[(&str, &str)] = &[
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '$payload')", "outbox.enqueue"),
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '$payload'::json)", "outbox.enqueue"),
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '$payload'::jsonb)", "outbox.enqueue"),
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '$payload', dedup_key => 'k')", "outbox.enqueue"),
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '$payload', ordering_key => 'o')", "outbox.enqueue"),
    (
        "SELECT outbox.enqueue('greeting', '{a@example.org}', '$payload'::json, cc => '{b@example.org}')",
        "outbox.enqueue",
    ),
    (
        "INSERT INTO outbox.notification (kind, recipients, payload) VALUES ('greeting', '{a@example.org}', '$payload')",
        "outbox.notification",
    ),
    (
        "INSERT INTO outbox.notification (kind, recipients, bcc, payload) \
         VALUES ('greeting', '{a@example.org}', '{b@example.org}', '$payload')",
        "outbox.notification",
    ),
    ("SELECT outbox.enqueue_many('[$free, {$to, \"payload\": $payload}]')", "outbox.enqueue_many: element 2"),
    ("SELECT outbox.enqueue_many('[$free, {$to, \"payload\": $payload}]'::jsonb)", "outbox.enqueue_many: element 2"),
    (
        "SELECT outbox.enqueue_many('[$free, {$to, \"payload\": $payload, \"tenant\": \"t\"}]'::json)",
        "outbox.enqueue_many: element 2",
    ),
    (
        "SELECT outbox.enqueue_many('[$free, {$to, \"payload\": $payload, \"cc\": [\"b@example.org\"]}]')",
        "outbox.enqueue_many: element 2",
    ),
];

fn through(door: &str, payload: &str) -> String {
    let to = r#""kind": "greeting", "recipients": ["a@example.org"]"#;
    let free = r#"{"kind": "free", "recipients": ["a@example.org"], "payload": {"x": "canary"}}"#;
    door.replace("$to", to).replace("$free", free).replace("$payload", payload)
}

/// Publishes a schema of `greeting` and has it enforced.
async fn enforce(db: &Client, schema: &str) {
    db.execute("SELECT outbox.publish_schema('greeting', $1::text::json)", &[&schema]).await.unwrap();
    db.execute("SELECT outbox.enforce_schema('greeting', true, 'a reason')", &[]).await.unwrap();
}

#[tokio::test]
async fn every_keyword_is_enforced_at_every_door_in_the_same_words() {
    let outbox = Outbox::new().await;
    let stored = "(SELECT count(*) FROM outbox.message) + (SELECT count(*) FROM outbox.queue) \
                  + (SELECT count(*) FROM outbox.dedup_key)";
    for (rule, fits, violates, problem) in KEYWORDS {
        let schema = format!(r#"{{"properties": {{"x": {rule}}}, "$defs": {{"id": {{"type": "integer"}}}}}}"#);
        enforce(&outbox.db, &schema).await;
        for (door, called) in DOORS {
            let before = outbox.number(stored).await;
            let statement = through(door, &format!(r#"{{"x": {violates}}}"#));
            let Err(error) = outbox.db.batch_execute(&statement).await else { panic!("{rule}: accepted: {statement}") };
            assert_eq!(
                Refusal::of(&error),
                Refusal {
                    code: "22H18".to_owned(),
                    message: format!("{called}: payload: does not fit the schema of its kind: {problem}"),
                    column: "payload".to_owned(),
                    hint: "see schema.json of kind greeting, and compare: hapax template check; \
                           an operator may turn it off: outbox.enforce_schema()"
                        .to_owned(),
                },
                "{statement}"
            );
            assert!(!everything_said(&error).contains("canary"), "{error:?}");
            assert_eq!(outbox.number(stored).await, before, "{statement}");
            let payload = if fits.is_empty() { "{}".to_owned() } else { format!(r#"{{"x": {fits}}}"#) };
            let statement = format!("BEGIN; {}; ROLLBACK", through(door, &payload));
            outbox.db.batch_execute(&statement).await.unwrap_or_else(|e| panic!("{rule}: {statement}: {e:?}"));
        }
    }
    println!("{} keywords x {} doors", KEYWORDS.len(), DOORS.len());
}

#[tokio::test]
async fn only_an_enforced_schema_refuses_and_only_payloads_of_its_kind() {
    let outbox = Outbox::new().await;
    let published = r#"{"type": "object", "required": ["id"]}"#;
    let publish = "SELECT outbox.publish_schema('greeting', $1::text::json, 'a reason')";
    let said = outbox.db.query_one(publish, &[&published]).await.unwrap();
    assert_eq!(said.get::<_, String>(0), "published");
    let all = |payload: &str| DOORS.iter().map(|(door, _)| through(door, payload)).collect::<Vec<_>>();
    for statement in all("{}") {
        outbox.db.batch_execute(&statement).await.unwrap();
    }
    let before = outbox.number("SELECT count(*) FROM outbox.message").await;
    let enforce = "SELECT outbox.enforce_schema('greeting', true, 'a reason')";
    assert_eq!(outbox.texts(enforce).await, ["true"]);
    assert_eq!(outbox.texts(enforce).await, ["false"], "it was on");
    for statement in all("{}") {
        let error = outbox.db.batch_execute(&statement).await.expect_err(&statement);
        assert_eq!(Refusal::of(&error).code, "22H18", "{statement}");
    }
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, before);
    // Other kinds, and notifications with ready texts, are none of its business.
    outbox.db.batch_execute("SELECT outbox.enqueue('other', '{a@example.org}', '{}')").await.unwrap();
    outbox.enqueue(", subject => 'Hello', body_text => 'World'").await;
    // Published anew: the new one counts at once; the same, in another notation, is none.
    let said = outbox.db.query_one(publish, &[&r#"{"required":["id"],"type":"object"}"#]).await.unwrap();
    assert_eq!(said.get::<_, String>(0), "unchanged");
    assert_eq!(outbox.db.query_one(publish, &[&"{}"]).await.unwrap().get::<_, String>(0), "published");
    outbox.enqueue(", payload => '{}'").await;
    outbox.db.query_one(publish, &[&published]).await.unwrap();
    let error = super::support::enqueue(&outbox.db, ", payload => '{}'").await.expect_err("enforced still");
    assert_eq!(Refusal::of(&error).code, "22H18");
    assert_eq!(outbox.texts("SELECT outbox.withdraw_schema('greeting', 'a reason')").await, ["true"]);
    assert_eq!(outbox.texts("SELECT outbox.withdraw_schema('greeting', 'a reason')").await, ["false"]);
    outbox.enqueue(", payload => '{}'").await;
    let audit = "SELECT regexp_replace(action || '; ' || before || '; ' || after, '[0-9a-f]{12}', '#', 'g') FROM outbox.audit ORDER BY id";
    assert_eq!(
        outbox.texts(audit).await,
        [
            "publish schema; greeting: no schema; greeting: schema #",
            "enforce schema; greeting: not enforced; greeting: enforced",
            "publish schema; greeting: schema #; greeting: schema #",
            "publish schema; greeting: schema #; greeting: schema #",
            "withdraw schema; greeting: schema #, enforced; greeting: no schema",
        ]
    );
}

/// A schema that the database could not check by, and why.
#[rustfmt::skip]
const UNPUBLISHABLE: &[(&str, &str)] = &[
    (r#"{"propertys": {}}"#, "#/propertys: is a keyword that is not known here"),
    (r#"{"properties": {"a": {"unevaluatedProperties": false}}}"#, "#/properties/a/unevaluatedProperties: is a keyword that is not known here"),
    (r##"{"$dynamicRef": "#x"}"##, "#/$dynamicRef: is a keyword that is not known here"),
    (r#"{"$anchor": "x"}"#, "#/$anchor: is a keyword that is not known here"),
    (r#"{"items": {"$ref": "https://example.org/x"}}"#, "#/items/$ref: is outside of this document"),
    (r#"{"$ref": "other.json"}"#, "#/$ref: is outside of this document"),
    (r##"{"$ref": "#name"}"##, "#/$ref: is outside of this document"),
    (r##"{"$ref": "#/$defs/nobody"}"##, "#/$ref: refers to no schema of this document"),
    (r##"{"$ref": "#/default", "default": {}}"##, "#/$ref: refers to no schema of this document"),
    (r##"{"$ref": "#"}"##, "#: refers to itself for the same value, without an end"),
    (r##"{"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}"##, "#/$defs/a: refers to itself for the same value, without an end"),
    (r#"{"pattern": "(?=a)"}"#, r"#/pattern: has a pattern that Postgres reads otherwise (look-around, back reference, \p, named group)"),
    (r#"{"pattern": "(?<!a)b"}"#, r"#/pattern: has a pattern that Postgres reads otherwise (look-around, back reference, \p, named group)"),
    (r#"{"pattern": "\\p{L}"}"#, r"#/pattern: has a pattern that Postgres reads otherwise (look-around, back reference, \p, named group)"),
    (r#"{"pattern": "(a)\\1"}"#, r"#/pattern: has a pattern that Postgres reads otherwise (look-around, back reference, \p, named group)"),
    (r#"{"pattern": "a{1,300}"}"#, "#/pattern: has a pattern that Postgres cannot read (a bound above 255, a class with a range that is none)"),
    (r#"{"pattern": "a("}"#, "#/pattern: has a pattern that Postgres cannot read (a bound above 255, a class with a range that is none)"),
    (r#"{"patternProperties": {"(?=a)": {}}}"#, r"#/patternProperties: has a pattern that Postgres reads otherwise (look-around, back reference, \p, named group)"),
    (r#"{"type": "float"}"#, "#/type: names no type"),
    (r#"{"type": []}"#, "#/type: names no type"),
    (r#"{"required": "a"}"#, "#/required: must be an array of strings"),
    (r#"{"minLength": -1}"#, "#/minLength: must be a whole number"),
    (r#"{"multipleOf": 0}"#, "#/multipleOf: must be more than 0"),
    (r#"{"minimum": "1"}"#, "#/minimum: must be a number"),
    (r#"{"properties": {"a": 1}}"#, "#/properties/a: is not a schema (an object, true or false)"),
    (r#"{"items": [{}]}"#, "#/items: is not a schema (an object, true or false)"),
    (r#"{"allOf": {}}"#, "#/allOf: must be an array of schemas"),
    (r#"{"enum": 1}"#, "#/enum: must be an array"),
    (r#"{"$schema": "http://json-schema.org/draft-07/schema#"}"#, "#/$schema: is not draft 2020-12"),
    (r#"{"items": {"$id": "x"}}"#, "#/items/$id: is known at the top only"),
    ("[]", "#: is not a schema (an object, true or false)"),
];

#[tokio::test]
async fn what_the_database_could_not_check_by_is_not_published() {
    let outbox = Outbox::new().await;
    let publish = "SELECT outbox.publish_schema('greeting', $1::text::json)";
    for (schema, problem) in UNPUBLISHABLE {
        let Err(error) = outbox.db.query_one(publish, &[schema]).await else { panic!("published: {schema}") };
        let refusal = Refusal::of(&error);
        let expected = ("22H57", "schema", format!("outbox.publish_schema: schema: {problem}"));
        assert_eq!((refusal.code.as_str(), refusal.column.as_str(), refusal.message.clone()), expected, "{schema}");
        assert!(refusal.hint.starts_with("the database checks by the keywords of JSON Schema 2020-12"), "{refusal:?}");
    }
    for kind in ["NULL", "'Greeting'", "''", "repeat('k', 64)"] {
        let sql = format!("SELECT outbox.publish_schema({kind}, '{{}}')");
        let error = outbox.db.batch_execute(&sql).await.expect_err(&sql);
        assert_eq!(
            (Refusal::of(&error).code.as_str(), Refusal::of(&error).column.as_str()),
            ("22H01", "kind"),
            "{sql}"
        );
    }
    for (sql, code) in [
        ("SELECT outbox.enforce_schema('greeting', true, 'a reason')", "22H58"),
        ("SELECT outbox.enforce_schema('greeting', NULL, 'a reason')", "22H58"),
        ("SELECT outbox.enforce_schema('greeting', true, ' ')", "22H50"),
        ("SELECT outbox.withdraw_schema('greeting', NULL)", "22H50"),
    ] {
        let error = outbox.db.batch_execute(sql).await.expect_err(sql);
        assert_eq!(Refusal::of(&error).code, code, "{sql}");
    }
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.payload_schema").await, 0);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.audit").await, 0);
}

#[tokio::test]
async fn a_payload_nested_without_end_is_refused_before_the_stack_is_full() {
    let outbox = Outbox::new().await;
    enforce(&outbox.db, r##"{"additionalProperties": {"$ref": "#"}}"##).await;
    let nested = |levels: usize| format!("{}{{}}{}", r#"{"x": "#.repeat(levels), "}".repeat(levels));
    let enqueue = "SELECT outbox.enqueue('greeting', '{a@example.org}', $1::text)";
    outbox.db.query_one(enqueue, &[&nested(40)]).await.unwrap();
    let error = outbox.db.query_one(enqueue, &[&nested(3000)]).await.expect_err("too deep");
    let refusal = Refusal::of(&error);
    assert_eq!(refusal.code, "22H18");
    assert!(refusal.message.ends_with(": is nested more than 100 levels deep"), "{refusal:?}");
    assert!(refusal.message.len() < 400, "{refusal:?}");
}

#[tokio::test]
async fn producers_are_checked_by_a_schema_that_they_can_neither_read_nor_change() {
    let outbox = Outbox::new().await;
    let operator = outbox.member_of("outbox_operator").await;
    enforce(&operator, r#"{"type": "object", "required": ["id"]}"#).await;
    let viewer = outbox.member_of("outbox_viewer").await;
    let seen =
        texts(&viewer, "SELECT kind || ' ' || enforced || ' ' || length(sha256) FROM outbox.payload_schemas").await;
    assert_eq!(seen.unwrap(), ["greeting true 64"]);
    let producer = outbox.member_of("outbox_producer").await;
    for (door, _) in DOORS {
        let statement = through(door, "{}");
        let error = producer.batch_execute(&statement).await.expect_err(&statement);
        assert_eq!(Refusal::of(&error).code, "22H18", "{statement}");
        producer.batch_execute(&through(door, r#"{"id": 1}"#)).await.unwrap();
    }
    for statement in [
        "SELECT * FROM outbox.payload_schemas",
        "SELECT * FROM outbox.payload_schema",
        "SELECT outbox.publish_schema('greeting', '{}')",
        "SELECT outbox.enforce_schema('greeting', false, 'a reason')",
        "SELECT outbox.withdraw_schema('greeting', 'a reason')",
        "SELECT outbox.payload_violation('{}', '{}')",
    ] {
        let error = producer.batch_execute(statement).await.expect_err(statement);
        assert_eq!(Refusal::of(&error).code, "42501", "{statement}");
    }
    // The application's own tests see the refusal and what came through.
    let sql = "BEGIN; SELECT outbox.enqueue('greeting', '{a@example.org}', '{\"id\": 7}'); \
               SELECT outbox_test.assert_enqueued('greeting', 'a@example.org', payload => '{\"id\": 7}', times => 1); ROLLBACK";
    producer.batch_execute(sql).await.unwrap();
}

#[test]
fn the_corpus_is_json() {
    for (schema, payloads) in CORPUS {
        for text in std::iter::once(schema).chain(*payloads) {
            assert!(serde_json::from_str::<Value>(text).is_ok(), "{text}");
        }
    }
}
