//! `hapax-sql(7)`, the manual page of the SQL contract: made from the comments of a migrated database, compared with the
//! file that the binary carries.

use std::fmt::Write as _;
use std::path::Path;

use super::support::Outbox;

/// Object by object: what it is, its name, its comment, and who may use it.
const OBJECTS: &str = "
WITH granted AS (
  SELECT 'function' AS what, p.oid, p.oid::regproc::text AS name, p.proacl AS acl, obj_description(p.oid, 'pg_proc') AS comment
  FROM pg_proc p WHERE p.pronamespace::regnamespace::text IN ('outbox', 'outbox_test')
  UNION ALL SELECT 'view', c.oid, c.oid::regclass::text, c.relacl, obj_description(c.oid, 'pg_class')
  FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace::regnamespace::text IN ('outbox', 'outbox_test')
), allowed AS (
  SELECT g.what, g.oid, g.name, g.comment, string_agg(DISTINCT a.grantee::regrole::text, ', ' ORDER BY a.grantee::regrole::text) AS roles
  FROM granted g, aclexplode(g.acl) a
  WHERE a.grantee <> 0 AND a.grantee::regrole::text IN ('outbox_producer', 'outbox_operator', 'outbox_viewer', 'outbox_monitor')
  GROUP BY 1, 2, 3, 4
)
SELECT json_build_object('what', what, 'name', name, 'comment', comment, 'roles', roles, 'parts', CASE what WHEN 'view' THEN (
  SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), col_description(o.oid, a.attnum)) ORDER BY a.attnum)
  FROM pg_attribute a WHERE a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped)
ELSE (
  SELECT coalesce(json_agg(json_build_array(p.proargnames[t.no], format_type(t.type, NULL), regexp_replace(pg_get_function_arg_default(o.oid, t.no::int), '^NULL::.*', 'NULL')) ORDER BY t.no), '[]')
  FROM pg_proc p, unnest(p.proargtypes::oid[]) WITH ORDINALITY t(type, no) WHERE p.oid = o.oid)
END, 'returns', (SELECT CASE WHEN proretset THEN 'rows' ELSE format_type(prorettype, NULL) END FROM pg_proc WHERE oid = o.oid))::text
FROM allowed o ORDER BY what DESC, name COLLATE \"C\", oid::regclass::text COLLATE \"C\"";

const STATES: &str = "
SELECT s[1] || ' ' || s[2]
FROM regexp_matches(obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc'), '\\m([0-9A-Z]{5}) ([^;.]+)', 'g') s
ORDER BY s[1] COLLATE \"C\"";

/// What each role is for; that there are no others is tested elsewhere.
const ROLES: [&str; 4] = [
    "outbox_producer may enqueue and ask what became of a message, nothing else.",
    "outbox_operator sees everything, addresses included, and decides.",
    "outbox_viewer sees everything, with addresses masked.",
    "outbox_monitor sees numbers only, never an address.",
];

const HEAD: &str = r#".\" Written by a test from the comments of a migrated database; see tests/tests/contract/manual.rs.
.TH HAPAX\-SQL 7 "" Hapax Hapax
.SH NAME
hapax\-sql \- the SQL that applications and operators use with Hapax
.SH DESCRIPTION
Everything lives in the schema outbox, made by
.BR hapax\-migrate (1).
Tables are private; the functions and views below are the contract.
Applications enqueue notifications inside their own transactions; the relay,
.BR hapax\-run (1),
delivers each of them once.
"#;

/// A text that roff takes as it is.
fn plain(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    let lines: Vec<String> = escaped.lines().map(|line| format!("\\&{}", line.trim())).collect();
    lines.join("\n").replace("\n\\&\n", "\n.PP\n")
}

fn object(page: &mut String, value: &serde_json::Value) {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let is_view = text("what") == "view";
    let _ = writeln!(page, ".SS {}\n{}", text("name").replace('-', "\\-"), plain(text("comment")));
    for part in value["parts"].as_array().unwrap() {
        let field = |place: usize| part[place].as_str();
        let default = if is_view { None } else { field(2) };
        let default = default.map(|value| format!(" = {}", plain(value).replace("\\&", ""))).unwrap_or_default();
        let _ = writeln!(page, ".TP\n\\fB{}\\fR {}{default}", field(0).unwrap_or("\\(em"), field(1).unwrap());
        page.push_str(&field(2).filter(|_| is_view).map(|comment| plain(comment) + "\n").unwrap_or_default());
    }
    if !is_view {
        let _ = writeln!(page, ".PP\nReturns {}.", text("returns"));
    }
    let _ = writeln!(page, ".PP\nFor {}.", text("roles").replace('-', "\\-"));
}

async fn page(outbox: &Outbox) -> String {
    let objects: Vec<serde_json::Value> =
        outbox.texts(OBJECTS).await.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let mut page = HEAD.to_owned();
    let listed = |page: &mut String, title: &str, lines: Vec<String>| {
        let _ = writeln!(page, ".SH {title}");
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let _ = writeln!(page, ".TP\n\\fB{word}\\fR\n{}", plain(rest));
        }
    };
    listed(&mut page, "ROLES", ROLES.map(str::to_owned).to_vec());
    for (title, what) in [("VIEWS", "view"), ("FUNCTIONS", "function")] {
        let _ = writeln!(page, ".SH {title}");
        objects.iter().filter(|one| one["what"] == what).for_each(|one| object(&mut page, one));
    }
    listed(&mut page, "ERRORS", outbox.texts(STATES).await);
    page.push_str(".SH \"SEE ALSO\"\n.BR hapax (1),\n.BR hapax.toml (5)\n");
    page
}

#[tokio::test]
async fn the_manual_page_of_the_sql_is_what_the_comments_say() {
    let outbox = Outbox::new().await;
    let made = page(&outbox).await;
    assert!(made.matches(".SS outbox.").count() > 20 && made.contains(".SS outbox.enqueue\n"), "{made}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/man/hapax-sql.7");
    if std::env::var_os("HAPAX_WRITE_MAN").is_some_and(|set| set == "1") {
        std::fs::write(&file, &made).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    let different = written.lines().zip(made.lines()).find(|(old, new)| old != new);
    assert!(
        written == made,
        "deploy/man/hapax-sql.7 is not what the comments say: {different:?}\nwrite it with\n    \
         HAPAX_WRITE_MAN=1 cargo test -p hapax-tests --test contract manual"
    );
}
