//! How the server and the user are set: judged from facts that were read before. Pure, but for asking who we are.

use hapax_relay::AfterFailover;
use hapax_store::inspect::doctor::{Asked, Role, SearchPath, Server};
use rustix::time::{ClockId, clock_gettime};

use super::{
    database::Patient,
    finding::{Finding, told},
    intact,
};
use crate::config::Database;

/// The clocks may differ by so much, in seconds; nothing but dates and ages rests on it.
const SKEW_S_MAX: f64 = 2.0;
/// The oldest version.
const VERSION_MIN: i32 = 150_000;
/// A shorter pause within a transaction may happen while a large message is read.
const IDLE_IN_TRANSACTION_MS_MIN: i64 = 60_000;
/// A relay's connections are idle for longer at night.
const IDLE_SESSION_MS_MIN: i64 = 24 * 3_600_000;

/// Everything about the server itself.
pub(super) fn examine(server: &Server, database: &Database, asked: Option<Asked>, local: bool) -> Vec<Finding> {
    let mut findings = vec![version(server), clock(server, now_s())];
    findings.extend(recovery(server));
    findings.extend(durability(server));
    findings.extend(synchronous(server, database.after_failover));
    findings.push(encryption(server, asked, local));
    findings.push(connections(server, database.pool_size_max));
    findings.push(limits(server, database));
    findings.push(match server.autovacuum {
        true => Finding::ok("database.autovacuum", "on"),
        false => Finding::error(
            "database.autovacuum",
            "autovacuum is off for the whole server: the queue's dead rows are never cleaned, and it gets slower \
             by the hour",
            "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
        ),
    });
    findings
}

fn version(server: &Server) -> Finding {
    if server.version_num < VERSION_MIN {
        let remedy = "upgrade the database server: Postgres 15 is the oldest supported";
        return Finding::error("database.version", format!("Postgres {}", server.version), remedy);
    }
    Finding::ok("database.version", format!("Postgres {}", server.version))
}

fn recovery(server: &Server) -> Option<Finding> {
    let remedy = "name the primary, or several hosts with target_session_attrs=read-write; or promote it";
    if server.in_recovery {
        let evidence = "the server is a standby: nothing can be written to it";
        return Some(Finding::error("database.recovery", evidence, remedy));
    }
    server.read_only.then(|| {
        let evidence = "transactions of this user are read-only (default_transaction_read_only)";
        Finding::error("database.recovery", evidence, "ALTER ROLE ... RESET default_transaction_read_only")
    })
}

fn clock(server: &Server, here_s: f64) -> Finding {
    let skew = server.now_s - here_s;
    let evidence = format!("the database's clock is {:.1} s {} this machine's", skew.abs(), {
        if skew < 0.0 { "behind" } else { "ahead of" }
    });
    if skew.abs() > SKEW_S_MAX {
        let remedy = "synchronise both machines' clocks (timedatectl, chronyc tracking): due times are the database's";
        return Finding::warning("database.clock", evidence, remedy);
    }
    Finding::ok("database.clock", evidence)
}

fn now_s() -> f64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn durability(server: &Server) -> Vec<Finding> {
    if !server.fsync {
        let evidence = "fsync is off: the server loses what it promised when its machine crashes, and every lost \
                        intent is a duplicate; hapax run refuses it";
        let remedy = "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();";
        return vec![Finding::error("database.fsync", evidence, remedy)];
    }
    if !server.full_page_writes {
        let evidence = "full_page_writes is off: a crash of the machine may leave torn pages";
        let remedy =
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf(); unless the disk writes whole pages";
        return vec![Finding::warning("database.fsync", evidence, remedy)];
    }
    vec![Finding::ok("database.fsync", "fsync and full_page_writes are on")]
}

fn synchronous(server: &Server, after: AfterFailover) -> Option<Finding> {
    let name = "database.synchronous";
    let names = &server.synchronous_standby_names;
    if server.in_recovery {
        return None;
    }
    if after == AfterFailover::Continue && names.is_empty() {
        let evidence = "database.after_failover is continue, but no standby is synchronous: a failover loses the last \
                        commits, and what they recorded as sent is sent again";
        let remedy = "set synchronous_standby_names on the server, or after_failover = \"hold\"";
        return Some(Finding::error(name, evidence, remedy));
    }
    if !names.is_empty() && server.standbys == 0 {
        let evidence =
            format!("synchronous_standby_names is {names:?} and no standby is attached: commits wait for ever");
        let remedy = "start the standby, or take it out of synchronous_standby_names";
        return Some(Finding::error(name, evidence, remedy));
    }
    let standbys = if names.is_empty() { "none" } else { names.as_str() };
    let after = if after == AfterFailover::Continue { "continue" } else { "hold" };
    let commit = &server.synchronous_commit;
    let evidence = format!(
        "synchronous standbys: {standbys}; after_failover: {after}; synchronous_commit of this user: {commit} \
         (hapax sets what each statement needs)"
    );
    Some(Finding::ok(name, evidence))
}

fn encryption(server: &Server, asked: Option<Asked>, local: bool) -> Finding {
    let name = "database.tls";
    let version = if server.ssl { server.ssl_version.as_str() } else { "not encrypted" };
    if local {
        return Finding::ok(name, format!("{version}, on this machine"));
    }
    let remedy = "sslmode=verify-full in database.url (and sslrootcert=FILE for an authority of one's own)";
    match asked {
        Some(Asked::Verified) => Finding::ok(name, format!("{version}, the server's certificate is checked")),
        _ if server.ssl => {
            let evidence = format!("{version}, but the server's certificate is not checked: anybody could be it");
            Finding::warning(name, evidence, remedy)
        }
        _ => Finding::warning(name, "messages and passwords cross the network unencrypted", remedy),
    }
}

fn connections(server: &Server, pool: usize) -> Finding {
    let name = "database.connections";
    // One more hears wake-ups.
    let needed = i32::try_from(pool).unwrap_or(i32::MAX).saturating_add(1);
    let free = server.connections_usable - server.connections_used;
    let evidence = format!(
        "{} of {} used; a relay needs {needed} (database.pool_size_max and one)",
        server.connections_used, server.connections_usable
    );
    let own = [server.role_limit, server.database_limit].into_iter().filter(|limit| *limit >= 0).min();
    if let Some(limit) = own.filter(|limit| *limit < needed) {
        let evidence = format!("the user or the database may have {limit} connections; a relay needs {needed}");
        let remedy = "ALTER ROLE ... CONNECTION LIMIT -1 (or ALTER DATABASE), or a smaller database.pool_size_max";
        return Finding::warning(name, evidence, remedy);
    }
    if free < needed {
        let remedy = "raise max_connections, close idle connections of others, or put a pooler in front of them";
        return Finding::warning(name, evidence, remedy);
    }
    Finding::ok(name, evidence)
}

fn limits(server: &Server, database: &Database) -> Finding {
    let own_ms = i64::try_from(database.statement_timeout.as_millis()).unwrap_or(i64::MAX);
    let is_short = |limit_ms: i64, least_ms: i64| limit_ms > 0 && limit_ms < least_ms;
    let mut hurt = Vec::new();
    if is_short(server.statement_timeout_ms, own_ms) {
        hurt.push((
            "statement_timeout",
            server.statement_timeout_ms,
            "the server cancels what hapax would still wait for",
        ));
    }
    if is_short(server.transaction_timeout_ms, own_ms) {
        hurt.push((
            "transaction_timeout",
            server.transaction_timeout_ms,
            "as statement_timeout, and it ends the connection",
        ));
    }
    if is_short(server.idle_in_transaction_ms, IDLE_IN_TRANSACTION_MS_MIN) {
        let why = "a large message is read piece by piece in a transaction";
        hurt.push(("idle_in_transaction_session_timeout", server.idle_in_transaction_ms, why));
    }
    if is_short(server.idle_session_ms, IDLE_SESSION_MS_MIN) {
        let why = "it closes idle connections, that which hears wake-ups too";
        hurt.push(("idle_session_timeout", server.idle_session_ms, why));
    }
    let words = |(what, ms, why): &(&str, i64, &str)| format!("{what} is {}: {why}", told(*ms as f64 / 1e3));
    match hurt.as_slice() {
        [] => Finding::ok("database.timeouts", "no time-out of this user is shorter than hapax's own"),
        hurt => {
            let evidence = hurt.iter().map(words).collect::<Vec<_>>().join("; ");
            let set: Vec<String> = hurt.iter().map(|(what, ..)| format!("ALTER ROLE ... SET {what} = 0")).collect();
            Finding::warning("database.timeouts", evidence, format!("for the relay's user: {}", set.join("; ")))
        }
    }
}

/// Where statements find functions and operators of Postgres. Hapax asks for pg_catalog alone, which a pooler may not pass on.
pub(super) fn search_path(path: &SearchPath) -> Finding {
    let name = "database.search_path";
    let is_temporary = |schema: &str| schema.starts_with("pg_temp_");
    let before = path.schemas.iter().take_while(|schema| *schema != "pg_catalog").find(|schema| !is_temporary(schema));
    let open = path.open.iter().find(|schema| !is_temporary(schema));
    let role = &path.role;
    let why = match (before, open) {
        (Some(schema), _) => format!("schema {schema} comes before pg_catalog"),
        (None, Some(schema)) => format!("anybody may make functions in schema {schema}"),
        (None, None) => return Finding::ok(name, "functions and operators of Postgres are those of pg_catalog"),
    };
    let evidence = format!("{why}: what has a name of Postgres there may be called instead, as {role}");
    let (role, database) = (quoted(role), quoted(&path.database));
    let remedy = format!(
        "ALTER ROLE {role} IN DATABASE {database} SET search_path = pg_catalog; and let the pooler reconnect. Or connect \
         past it: hapax asks for it itself, which a pooler in transaction mode does not pass on"
    );
    Finding::warning(name, evidence, remedy)
}

/// As SQL writes a name.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// Who asks and may do what; and whether there is anything else to ask: it may enter the schema, and no rows are hidden from it.
pub(super) async fn role(patient: &Patient<'_>) -> (Vec<Finding>, bool) {
    let console = match patient.console("database.role").await {
        Ok(console) => console,
        Err(findings) => return (findings, false),
    };
    match console.doctor_role().await {
        Ok(role) if !role.usage => (judge(&role), false),
        Ok(role) => {
            let (secured, misleads) = intact::row_security(patient, &console).await;
            (judge(&role).into_iter().chain(secured).collect(), !misleads)
        }
        Err(error) => (vec![patient.failed("database.role", &error)], true),
    }
}

fn judge(role: &Role) -> Vec<Finding> {
    let name = &role.name;
    let narrow = format!(
        "give the relay a user of its own: CREATE ROLE hapax LOGIN PASSWORD '...' IN ROLE outbox_relay; \
         {name} is too much"
    );
    let who = if role.superuser {
        Finding::warning(
            "database.role",
            format!("{name} is a superuser: whoever has its password has the server"),
            narrow,
        )
    } else if !role.excess.is_empty() {
        Finding::warning("database.role", format!("{name} {}", role.excess.join(", ")), narrow)
    } else {
        Finding::ok("database.role", format!("{name} has no more than a relay needs"))
    };
    let grant = format!("GRANT outbox_relay TO {name}; and, as the schema's owner, SELECT outbox.grant_roles();");
    let may = if !role.usage {
        Finding::error("database.privileges", format!("{name} may not use schema outbox"), grant)
    } else if !role.lacking.is_empty() {
        Finding::error("database.privileges", format!("{name} lacks {}", role.lacking.join(", ")), grant)
    } else {
        Finding::ok("database.privileges", format!("{name} may do everything a relay does"))
    };
    vec![who, may]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn server() -> Server {
        Server {
            version_num: 160_001,
            version: "16.1".to_owned(),
            in_recovery: false,
            port: 5432,
            database: "shop".to_owned(),
            ssl: true,
            ssl_version: "TLSv1.3".to_owned(),
            now_s: 1e9,
            fsync: true,
            full_page_writes: true,
            autovacuum: true,
            synchronous_commit: "on".to_owned(),
            synchronous_standby_names: String::new(),
            standbys: 0,
            connections_max: 100,
            connections_usable: 97,
            connections_used: 10,
            role_limit: -1,
            database_limit: -1,
            statement_timeout_ms: 0,
            lock_timeout_ms: 0,
            idle_in_transaction_ms: 0,
            transaction_timeout_ms: 0,
            idle_session_ms: 0,
            read_only: false,
            has_schema: true,
        }
    }

    #[test]
    fn an_old_server_a_clock_that_is_wrong_and_too_few_connections_are_told() {
        assert_eq!(version(&Server { version_num: 140_009, ..server() }).severity, Severity::Error);
        assert_eq!(clock(&server(), 1e9 + 1.0).severity, Severity::Ok);
        let behind = clock(&server(), 1e9 + 75.0);
        assert_eq!((behind.severity, behind.name.as_str()), (Severity::Warning, "database.clock"));
        assert!(behind.evidence.contains("75.0 s behind"), "{}", behind.evidence);
        assert!(clock(&server(), 1e9 - 75.0).evidence.contains("75.0 s ahead of"));
        assert_eq!(connections(&server(), 8).severity, Severity::Ok);
        assert_eq!(connections(&Server { connections_used: 90, ..server() }, 8).severity, Severity::Warning);
    }

    #[test]
    fn what_crosses_the_network_to_the_database_is_encrypted_and_the_server_is_known() {
        let plain = Server { ssl: false, ..server() };
        let of = |server: &Server, asked, local| encryption(server, Some(asked), local).severity;
        assert_eq!(of(&plain, Asked::Plain, true), Severity::Ok);
        assert_eq!(of(&plain, Asked::Opportunistic, false), Severity::Warning);
        assert_eq!(of(&server(), Asked::Unverified, false), Severity::Warning);
        assert_eq!(of(&server(), Asked::Verified, false), Severity::Ok);
    }
}
