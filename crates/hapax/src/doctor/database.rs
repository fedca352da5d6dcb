//! The database: each of its servers is reached, then everything else is asked at once, each on its own connection.
//!
//! Invariant: what the user may not see is a note that says who may, never an error.

use std::time::Duration;

use futures_util::future::join_all;
use hapax_store::{
    ConnectOptions, Error,
    inspect::{
        Console,
        doctor::{Host, SearchPath, Server},
    },
};
use tokio::sync::Semaphore;

use super::{Examination, finding::Finding, horizon, intact, limited, locks, outbox, pooler, schema, server};
use crate::{
    cli::doctor::Doctor,
    config::{Database, Settings},
    connect,
};

/// Examinations at once: a user's own connections may be few.
const CONNECTIONS_AT_ONCE: usize = 4;

/// How often a connection is asked for that there is no room for, and the pause in between.
const CONNECT_TRIES_MAX: u32 = 10;
const CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// There are as many connections as there may be (too_many_connections).
fn is_full(error: &Error) -> bool {
    error.sqlstate().is_some_and(|state| state.code() == "53300")
}

/// What every examination of the database is given.
pub(super) struct Patient<'a> {
    pub(super) settings: &'a Settings,
    pub(super) options: ConnectOptions,
    pub(super) doctor: &'a Doctor,
    /// The server a relay would get.
    pub(super) server: Server,
}

impl Patient<'_> {
    /// A connection of one's own.
    ///
    /// # Errors
    /// One finding.
    pub(super) async fn console(&self, name: &str) -> Result<Console, Vec<Finding>> {
        let mut tries = 1;
        loop {
            match Console::connect(&self.options).await {
                // Where a user may have few the server still counts those of ours that have just ended.
                Err(error) if is_full(&error) && tries < CONNECT_TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
                answer => return answer.map_err(|error| vec![self.failed(name, &error)]),
            }
        }
    }

    /// What an error of a question is: a note where it is about privileges.
    pub(super) fn failed(&self, name: &str, error: &Error) -> Finding {
        if error.sqlstate().is_some_and(|state| state.code() == "42501") {
            let evidence = format!("could not be looked at: {error}");
            return Finding::note(name, evidence, "GRANT outbox_relay TO this user, as the relay needs it");
        }
        refused(name, error, &self.settings.database)
    }
}

/// Everything about the database.
pub(super) async fn examine(settings: &Settings, doctor: &Doctor) -> Vec<Finding> {
    let mut options = settings.database.options("hapax doctor");
    options.statement_timeout = options.statement_timeout.min(doctor.timeout);
    let mut findings = reach(&settings.database, &options, doctor).await;
    // Nothing where it cannot be asked: that has been told. Before anything else, which it could mislead.
    if let Ok(Ok(path)) = tokio::time::timeout(doctor.timeout, search_path(&options)).await {
        findings.push(server::search_path(&path));
    }
    let server = match tokio::time::timeout(doctor.timeout * 2, main_server(&options)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            // One server: it has been told already.
            if findings.iter().all(|finding| finding.severity < super::Severity::Error) {
                findings.push(refused("database.reachable", &error, &settings.database));
            }
            return findings;
        }
        Err(_elapsed) => {
            if findings.iter().all(|finding| finding.severity < super::Severity::Error) {
                findings.push(silent("database.reachable", "the database"));
            }
            return findings;
        }
    };
    let local = options.hosts().is_ok_and(|hosts| hosts.iter().all(|host| host.local));
    findings.extend(server::examine(&server, &settings.database, options.asked().ok(), local));
    let patient = Patient { settings, options, doctor, server };
    if !patient.server.has_schema {
        let remedy = "hapax migrate up, as the user that shall own it; see that database.url names the right database";
        let evidence = format!("there is no outbox in database {}", patient.server.database);
        findings.push(Finding::error("schema.migrations", evidence, remedy));
        return findings;
    }
    findings.extend(questions(&patient).await);
    findings
}

async fn questions(patient: &Patient<'_>) -> Vec<Finding> {
    // First: who may not even enter the schema need not be asked about it; and what hides rows would make a lie of every other answer.
    let (role, goes_on) = match tokio::time::timeout(patient.doctor.timeout * 2, server::role(patient)).await {
        Ok(answered) => answered,
        Err(_elapsed) => (vec![silent("database.role", "the database")], true),
    };
    if !goes_on {
        return role;
    }
    let lacks = |finding: &Finding| finding.name == "database.privileges" && finding.severity == super::Severity::Error;
    let relay_is_told = role.iter().any(lacks);
    let mut examinations: Vec<Examination<'_>> = vec![
        Box::pin(schema::migrations(patient)),
        Box::pin(schema::indexes(patient)),
        Box::pin(schema::tables(patient)),
        Box::pin(intact::examine(patient, relay_is_told)),
        Box::pin(horizon::examine(patient)),
        Box::pin(locks::examine(patient)),
        Box::pin(outbox::states(patient)),
    ];
    let mut names = vec!["schema.migrations", "schema.indexes", "schema.tables", "schema.objects"];
    names.extend(["database.horizon", "database.advisory_locks", "outbox.states"]);
    if !patient.server.in_recovery {
        examinations.push(Box::pin(outbox::arming(patient)));
        examinations.push(Box::pin(pooler::examine(patient)));
        names.extend(["outbox.armed", "database.pooler"]);
    }
    let limit = patient.doctor.timeout;
    let places = Semaphore::new(CONNECTIONS_AT_ONCE);
    let limited = names.into_iter().zip(examinations).map(async |(name, examination)| {
        // Never closed: whoever gets no place goes on without.
        let _place = places.acquire().await;
        limited(name, limit, examination).await
    });
    role.into_iter().chain(join_all(limited).await.into_iter().flatten()).collect()
}

async fn search_path(options: &ConnectOptions) -> Result<SearchPath, Error> {
    Console::connect(options).await?.doctor_search_path().await
}

async fn main_server(options: &ConnectOptions) -> Result<Server, Error> {
    Console::connect(options).await?.doctor_server().await
}

/// Each server of the connection string, whatever it is.
async fn reach(database: &Database, options: &ConnectOptions, doctor: &Doctor) -> Vec<Finding> {
    let hosts = match options.hosts() {
        Ok(hosts) => hosts,
        Err(error) => return vec![refused("database.reachable", &error, database)],
    };
    let asked = hosts.iter().map(|host| async { tokio::time::timeout(doctor.timeout, look(options, host)).await });
    let answers = join_all(asked).await;
    let reached = answers.iter().filter(|answer| matches!(answer, Ok(Ok(_)))).count();
    let name = "database.reachable";
    let told = hosts.iter().zip(answers).map(|(host, answer)| {
        let mut finding = match answer {
            Ok(Ok(server)) => {
                let standby = if server.in_recovery { ", a standby" } else { "" };
                let words =
                    format!("{}: Postgres {}, database {}{standby}", host.name, server.version, server.database);
                return Finding::ok(name, words);
            }
            Ok(Err(Error::Timeout { .. })) | Err(_) => silent(name, &host.name),
            Ok(Err(error)) => refused(name, &error, database),
        };
        if !finding.evidence.contains(&host.name) {
            finding.evidence = format!("{}: {}", host.name, finding.evidence);
        }
        if reached > 0 {
            finding.severity = super::Severity::Warning;
        }
        finding
    });
    told.collect()
}

async fn look(options: &ConnectOptions, host: &Host) -> Result<Server, Error> {
    Console::connect_to(options, host).await?.doctor_server().await
}

fn silent(name: &str, whom: &str) -> Finding {
    let remedy = "see that it runs, that no firewall drops the packets, and who locks what there; or --timeout 1m";
    Finding::error(name, format!("{whom}: no answer in time"), remedy)
}

/// An error of the database, in the words every command has for it.
fn refused(name: &str, error: &Error, database: &Database) -> Finding {
    let refusal = connect::explain(error, database);
    let hints: Vec<&str> = refusal.parts().iter().flat_map(|(_, hints)| hints.iter().map(String::as_str)).collect();
    let no_tls = refusal.to_string().contains("does not support TLS");
    let remedy = match (error, hints.is_empty()) {
        _ if no_tls => {
            "switch ssl on at the database server; sslmode=prefer does without, in a network of one's own".to_owned()
        }
        (Error::Timeout { .. }, _) => {
            "see who locks what there (pg_stat_activity, pg_locks); or --timeout 1m".to_owned()
        }
        (_, true) => "see the log of the database server".to_owned(),
        (_, false) => hints.join("; "),
    };
    Finding::error(name, refusal.to_string(), remedy)
}
