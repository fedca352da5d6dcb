//! The SQL surface as a file, `migrations/surface.txt`: no change of it without somebody seeing it, and saying so in the
//! CHANGELOG.
//!
//! Made from pg_catalog, piece by piece, so that it is the same on every version of Postgres.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::support::Outbox;

const HEAD: &str = "\
The SQL surface of Hapax: what applications, operators, viewers and monitors may use, and may go on using after an upgrade.
Arguments and columns are in their order, below each object is who may do what with it. PUBLIC may do nothing. Not in
here: what only outbox_relay may use, which goes with the relay. What an object does is in its comment (\\df+, \\d+).

A test writes this file from a migrated database, and compares it. After a change on purpose write it anew with
    HAPAX_WRITE_SURFACE=1 cargo test -p hapax-tests --test contract surface
and say in CHANGELOG.md what changed; the test asks for a line with the checksum of this file there.
";

/// Every line of the surface, in order. An object's lines begin with its name, so sorting keeps them together.
const SURFACE: &str = "
WITH granted AS (
  SELECT 'schema' AS what, n.oid, n.nspacl AS acl FROM pg_namespace n WHERE n.nspname IN ('outbox', 'outbox_test')
  UNION ALL SELECT 'function', p.oid, p.proacl FROM pg_proc p WHERE p.pronamespace::regnamespace::text IN ('outbox', 'outbox_test')
  UNION ALL SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'table' END, c.oid, c.relacl FROM pg_class c
    WHERE c.relnamespace::regnamespace::text IN ('outbox', 'outbox_test')
), allowed AS (
  SELECT g.what, g.oid, a.grantee::regrole::text AS role, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type COLLATE \"C\") AS privileges
  FROM granted g, aclexplode(g.acl) a
  WHERE a.grantee <> 0 AND a.grantee::regrole::text IN ('outbox_producer', 'outbox_operator', 'outbox_viewer', 'outbox_monitor')
  GROUP BY 1, 2, 3
), objects AS (
  SELECT DISTINCT what, oid, CASE what WHEN 'schema' THEN oid::regnamespace::text WHEN 'function' THEN oid::regprocedure::text ELSE oid::regclass::text END AS name
  FROM allowed
), lines AS (
  SELECT o.what, o.name, 0 AS part, 0::bigint AS no, o.what || ' ' || o.name AS line FROM objects o
  UNION ALL
  SELECT o.what, o.name, 1, a.attnum, '    ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
  FROM objects o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE o.what NOT IN ('schema', 'function')
  UNION ALL
  SELECT o.what, o.name, CASE WHEN a.mode IN ('i', 'b', 'v') THEN 1 ELSE 2 END, a.no,
    '    ' || CASE a.mode WHEN 'b' THEN 'inout ' WHEN 'v' THEN 'variadic ' WHEN 'o' THEN 'returns column ' WHEN 't' THEN 'returns column ' ELSE '' END
      || coalesce(a.name || ' ', '') || format_type(a.type, NULL) || coalesce(' DEFAULT ' || regexp_replace(pg_get_function_arg_default(o.oid, a.no::int), '^NULL::.*', 'NULL'), '')
  FROM objects o JOIN pg_proc p ON p.oid = o.oid CROSS JOIN LATERAL (
    SELECT t.type, t.no, p.proargnames[t.no] AS name, coalesce(p.proargmodes[t.no], 'i') AS mode
    FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY t(type, no)) a
  WHERE o.what = 'function'
  UNION ALL
  SELECT o.what, o.name, 2, 0, '    returns ' || CASE WHEN p.proretset THEN 'rows' ELSE format_type(p.prorettype, NULL) END
    || CASE WHEN p.proretset AND p.prorettype <> 'record'::regtype THEN ' of ' || format_type(p.prorettype, NULL) ELSE '' END
  FROM objects o JOIN pg_proc p ON p.oid = o.oid WHERE o.what = 'function'
  UNION ALL
  SELECT o.what, o.name, 3, row_number() OVER (PARTITION BY o.oid ORDER BY a.role COLLATE \"C\"), '    for ' || a.role || ': ' || a.privileges
  FROM objects o JOIN allowed a USING (what, oid)
  UNION ALL
  SELECT 'role', r.rolname::text, 0, 0, 'role ' || r.rolname || CASE WHEN r.rolcanlogin THEN ', may log in' ELSE ', cannot log in itself' END
  FROM pg_roles r WHERE r.rolname IN ('outbox_producer', 'outbox_relay', 'outbox_operator', 'outbox_viewer', 'outbox_monitor')
  UNION ALL
  SELECT 'sqlstate', s[1], 0, 0, 'sqlstate ' || s[1] || ' ' || s[2]
  FROM regexp_matches(obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc'), '\\m([0-9A-Z]{5}) ([^;.]+)', 'g') s
)
SELECT CASE WHEN part = 0 AND (what NOT IN ('role', 'sqlstate') OR name IN ('outbox_monitor', '22H01')) THEN E'\\n' ELSE '' END || line
FROM lines ORDER BY array_position('{role,schema,view,table,sequence,function,sqlstate}', what), name COLLATE \"C\", part, no";

/// What a unified diff shows: removed and added lines, each with its object.
fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // Lengths of the longest common subsequences of the ends.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for (i, before) in old.iter().enumerate().rev() {
        for (j, after) in new.iter().enumerate().rev() {
            common[i][j] =
                if before == after { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines, mut object, mut shown) = (0, 0, Vec::new(), "", "");
    while i < old.len() || j < new.len() {
        let same = i < old.len() && j < new.len() && old[i] == new[j];
        let removed = !same && j == new.len() || i < old.len() && !same && common[i + 1][j] >= common[i][j + 1];
        let line = if same || removed { old[i] } else { new[j] };
        if !line.starts_with(' ') {
            object = line;
        }
        if !same {
            if object != shown && object != line {
                lines.push(format!("  {object}"));
            }
            shown = object;
            lines.push(format!("{} {line}", if removed { '-' } else { '+' }));
        }
        i += usize::from(same || removed);
        j += usize::from(same || !removed);
    }
    lines.join("\n")
}

/// What is wrong with the newest section of a CHANGELOG, if anything.
fn unannounced(changelog: &str, surface: &str) -> Option<String> {
    let checksum: String = Sha256::digest(surface).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let section = changelog.split("\n## [").nth(1).unwrap_or_default();
    let found: Vec<&str> = section.split("SQL surface `").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    (found != [checksum.as_str()]).then(|| {
        format!(
            "The newest section of CHANGELOG.md names the SQL surface {found:?}, migrations/surface.txt is another.\n\
             Say there what changed for those who use it, in their words, and have exactly this line in it, once:\n\n\
             - SQL surface `{checksum}`: what applications may rely on, to the letter, is `migrations/surface.txt`.\n"
        )
    })
}

#[tokio::test]
async fn the_sql_surface_is_written_down_and_its_changes_are_announced() {
    let outbox = Outbox::new().await;
    let made = format!("{HEAD}{}\n", outbox.texts(SURFACE).await.join("\n"));
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = top.join("migrations/surface.txt");
    if std::env::var_os("HAPAX_WRITE_SURFACE").is_some_and(|set| set == "1") {
        std::fs::write(&file, &made).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == made,
        "migrations/surface.txt is not what the migrations make:\n\n{}\n\n\
         Who may break by that? If it is right, write it with\n    HAPAX_WRITE_SURFACE=1 cargo test -p hapax-tests --test contract surface\n\
         and say in CHANGELOG.md what changed.",
        difference(&written, &made)
    );
    if let Some(problem) = unannounced(&std::fs::read_to_string(top.join("CHANGELOG.md")).unwrap(), &made) {
        panic!("{problem}");
    }
}

/// Every object and privilege, by which the doctor knows what was dropped, granted or taken away.
#[tokio::test]
async fn the_objects_of_the_schema_are_written_down_for_the_doctor() {
    let outbox = Outbox::new().await;
    let query = include_str!("../../../crates/store/queries/doctor_objects.sql");
    let made = format!("{}\n", outbox.texts(query).await.join("\n"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/objects.txt");
    if std::env::var_os("HAPAX_WRITE_SURFACE").is_some_and(|set| set == "1") {
        std::fs::write(&file, &made).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == made,
        "migrations/objects.txt is not what the migrations make:\n\n{}\n\nWrite it, and build again:\n    \
         HAPAX_WRITE_SURFACE=1 cargo test -p hapax-tests --test contract surface",
        difference(&written, &made)
    );
}

/// What is raised and what the comment of outbox.refuse lists, which is the surface's list, are the same.
#[tokio::test]
async fn every_sqlstate_that_is_raised_is_listed() {
    let outbox = Outbox::new().await;
    let raised = "SELECT DISTINCT s[1] COLLATE \"C\" FROM pg_proc, regexp_matches(prosrc, '(?:ERRCODE = |refuse\\()''([^'']+)''', 'g') s \
                  WHERE pronamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) ORDER BY 1";
    let listed = "SELECT s[1] COLLATE \"C\" FROM regexp_matches(obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc'), '\\m([0-9A-Z]{5}) ', 'g') s ORDER BY 1";
    assert_eq!(outbox.texts(raised).await, outbox.texts(listed).await);
    // Raised without an ERRCODE it would be P0001, which says nothing.
    let anonymous = "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) \
                     AND prosrc ~ 'RAISE EXCEPTION' AND prosrc !~ 'RAISE EXCEPTION USING\\s+ERRCODE = '";
    assert_eq!(outbox.texts(anonymous).await, Vec::<String>::new());
}

#[test]
fn a_difference_names_the_object_and_a_changelog_without_the_line_is_seen() {
    let old = "head\n\nfunction f(a)\n    a text\n    b text\n\nview v\n    x int\n";
    assert_eq!(
        difference(old, &old.replace("    b text\n", "    b uuid\n    c int\n")),
        "  function f(a)\n-     b text\n+     b uuid\n+     c int"
    );
    assert_eq!(difference(old, &old.replace("\nview v\n    x int\n", "")), "- \n- view v\n-     x int");
    assert_eq!(difference("", "a\n"), "+ a");
    assert_eq!(difference(old, old), "");

    let checksum = "ba7816bf8f01"; // of "abc"
    let changelog = |newest: &str| {
        format!("# Changelog\n\n## [Unreleased]\n\n{newest}\n\n## [0.1.0]\n\n- SQL surface `{checksum}`: x\n")
    };
    assert_eq!(unannounced(&changelog(&format!("- SQL surface `{checksum}`: x")), "abc"), None);
    for wrong in [
        "",
        "- SQL surface `000000000000`: x",
        &format!("- SQL surface `{checksum}`: x\n- SQL surface `000000000000`: x"),
    ] {
        assert!(unannounced(&changelog(wrong), "abc").is_some_and(|said| said.contains(checksum)), "{wrong}");
    }
}
