//! The cells of one stage: a scripted server and a route for each, so that faults before MAIL can be told apart.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hapax_testkit::smtp::{Action, Fault, Hold, Phase, TlsMode};
use hapax_testkit::{Script, SmtpServer};
use hapax_tests::stage::Settings;

use super::table::{Actor, Place, place};

/// Where and when the fault happened: connection and transaction.
type Fired = Arc<Mutex<Vec<(usize, usize)>>>;

pub(crate) struct Cell {
    pub(crate) phase: Phase,
    pub(crate) fault: Fault,
    pub(crate) recipient: String,
    pub(crate) route: String,
    pub(crate) server: SmtpServer,
    fired: Fired,
}

impl Cell {
    pub(crate) fn fired(&self) -> Vec<(usize, usize)> {
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many dialogues there were for it, as the server counts them.
    pub(crate) fn attempts(&self) -> usize {
        self.server.with_ledger(|ledger| ledger.connections().len().max(ledger.count_mail_commands()))
    }
}

pub(crate) struct Theatre {
    pub(crate) cells: Vec<Cell>,
    directory: tempfile::TempDir,
}

impl Theatre {
    pub(crate) fn build(actor: Actor, cells: Vec<(Phase, Fault)>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("password"), "password").expect("written");
        let mut built = Vec::new();
        for (number, (phase, fault)) in cells.into_iter().enumerate() {
            let recipient = format!("c{number}@example.org");
            let fired = Fired::default();
            let builder = if needs_tls(phase) {
                SmtpServer::builder().tls(TlsMode::StartTls).credentials("user", "password")
            } else {
                SmtpServer::builder()
            };
            let server = builder.script(script(phase, &fault, actor.times(), &fired)).start();
            built.push(Cell { phase, fault, recipient, route: format!("c{number}"), server, fired });
        }
        Self { cells: built, directory }
    }

    /// The routes.
    pub(crate) fn routes(&self, mut settings: Settings) -> Settings {
        for cell in &self.cells {
            let name = &cell.route;
            if needs_tls(cell.phase) {
                let file = self.directory.path().join(format!("{name}.pem"));
                std::fs::write(&file, cell.server.ca_pem()).expect("written");
                settings = route(settings, name, &cell.server, "required")
                    .set(
                        &format!("routes.{name}.url"),
                        format!("smtp://user@127.0.0.1:{}?starttls=required", cell.server.port()),
                    )
                    .set(&format!("routes.{name}.ca_file"), file.display())
                    .set(&format!("routes.{name}.password_file"), self.password_file().display());
            } else {
                settings = route(settings, name, &cell.server, "none");
            }
            settings = settings.set(&format!("routes.{name}.max_connections"), 1);
            if cell.phase == (Phase::EndMarker { took: true }) {
                // These servers say 4xx and take the message nevertheless.
                settings = settings.set(&format!("routes.{name}.trust_4xx_after_data"), false);
            }
            if cell.phase == Phase::Quit {
                // So that QUIT follows the delivery at once.
                settings = settings.set(&format!("routes.{name}.messages_per_connection_max"), 1);
            }
        }
        // Each route gets an equal share of the permits: one.
        settings.set("relay.max_in_flight", self.cells.len() + 1)
    }

    fn password_file(&self) -> std::path::PathBuf {
        Path::new(self.directory.path()).join("password")
    }

    /// Closes a gate before each cell's fault.
    pub(crate) fn hold(&self) -> Vec<(Hold, String)> {
        let hold = |cell: &Cell| (cell.server.hold(cell.phase), format!("{:?} {:?}", cell.phase, cell.fault));
        self.cells.iter().map(hold).collect()
    }

    /// How many cells stand at such a place.
    pub(crate) fn count(&self, at: impl Fn(Place) -> bool) -> i64 {
        let count = self.cells.iter().filter(|cell| at(place(cell.phase))).count();
        i64::try_from(count).expect("few")
    }
}

fn needs_tls(phase: Phase) -> bool {
    matches!(phase, Phase::Tls | Phase::StartTls | Phase::Auth)
}

fn route(settings: Settings, name: &str, server: &SmtpServer, starttls: &str) -> Settings {
    settings
        .set(&format!("routes.{name}.url"), format!("smtp://127.0.0.1:{}?starttls={starttls}", server.port()))
        .set(&format!("routes.{name}.from"), "Shop <no-reply@shop.example>")
}

fn fire(fired: &Fired, times: usize, at: (usize, usize)) -> bool {
    let mut fired = fired.lock().unwrap_or_else(PoisonError::into_inner);
    if fired.len() == times {
        return false;
    }
    fired.push(at);
    true
}

fn script(phase: Phase, fault: &Fault, times: usize, fired: &Fired) -> Script {
    let (fault, fired) = (fault.clone(), fired.clone());
    let decide = move |context: &hapax_testkit::smtp::Context| {
        if !phase.same_step(context.phase) || !fire(&fired, times, (context.connection, context.transaction)) {
            return Action::Proceed;
        }
        let took = phase == Phase::EndMarker { took: true };
        if took { Action::TakeThen(fault.clone()) } else { Action::Fault(fault.clone()) }
    };
    let percents = if let Phase::Body { percent } = phase { vec![percent] } else { Vec::new() };
    Script::from_fn(decide).body_percents(percents)
}
