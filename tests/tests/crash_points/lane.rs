//! One stage on which cells are played one after another. Each cell has recipients of a domain of its own, so that it is
//! judged by itself.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hapax_testkit::smtp::{Hold, Phase};
use hapax_testkit::{ChaosProxy, Direction, HapaxProcess, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage, running};
use hapax_tests::verdict::Verdict;

use super::cell::{Action, Cell, DELIVERIES, HELD, IN_FLIGHT, Life};

/// Intents that were committed while their answer was lost.
pub(crate) static INTENTS_WITHOUT_ANSWER: AtomicUsize = AtomicUsize::new(0);

/// Dialogues at once.
const CONNECTIONS: usize = 12;

pub(crate) struct Lane {
    stage: Stage,
    /// Between the relay that is driven to the point and its database. Everybody else has a way of his own.
    proxy: ChaosProxy,
    directory: tempfile::TempDir,
    played: usize,
}

/// One cell being played.
struct Play {
    cell: &'static Cell,
    action: Action,
    domain: String,
    /// Made by the relay when it has reached the point; it goes on when this is gone.
    file: PathBuf,
    victim: Option<HapaxProcess>,
    others: Vec<HapaxProcess>,
}

impl Lane {
    pub(crate) async fn set() -> Self {
        let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(5)).start();
        let stage = Stage::with(server).await;
        let proxy = ChaosProxy::start(([127, 0, 0, 1], stage.cluster.port()).into());
        Self { stage, proxy, directory: tempfile::tempdir().expect("a directory"), played: 0 }
    }

    fn settings(&self, action: Action) -> Settings {
        // Asleep for longer than each of these; otherwise longer than any outage here.
        let (dead_after, deadline) = if action == Action::Stop { ("800ms", "1s") } else { ("2s", "30s") };
        self.stage
            .settings()
            .set("relay.lease", if action == Action::Stop { "1s" } else { "3s" })
            .set("relay.dead_after", dead_after)
            .set("relay.transmit_deadline", deadline)
            .set("relay.final_reply_timeout", "60s")
            .set("relay.shutdown_grace", "60s")
            .set("relay.max_in_flight", IN_FLIGHT)
            // Few, so that there are several claims.
            .set("relay.prefetch", 4)
            .set("routes.default.max_connections", CONNECTIONS)
    }

    /// Plays a cell to its end and judges it.
    pub(crate) async fn run(&mut self, cell: &'static Cell, action: Action) -> Verdict {
        self.played += 1;
        println!("{action:?} at {cell} ...");
        let domain = format!("@c{}.example", self.played);
        let file = self.directory.path().join(format!("reached-{}", self.played));
        let mut play = Play { cell, action, domain, file, victim: None, others: Vec::new() };
        let hold = self.prepare(&mut play).await;
        self.reach(&mut play, hold).await;
        self.act(&mut play).await;
        self.settle(&mut play).await;
        let verdict = Verdict::of_those(&self.stage.sql, &self.stage.server.ledger(), &play.domain).await;
        let context = format!("{action:?} at {cell}: {verdict}");
        assert!(verdict.wrong.is_empty(), "{context}\n{}", verdict.wrong.join("\n"));
        assert_eq!(verdict.states.values().sum::<usize>(), DELIVERIES as usize, "nothing is lost: {context}");
        // What an operator has called failed is a doubt, too, until the late reply says otherwise.
        let doubts = verdict.count("in_doubt") + verdict.count("failed");
        let allowed = cell.doubts(action);
        assert!(allowed.contains(&doubts), "{doubts} in doubt, allowed are {allowed:?}: {context}");
        assert_eq!(verdict.count("sent") + doubts, DELIVERIES as usize, "{context}");
        if cell.life != Life::Resend {
            assert!(verdict.twice.is_empty(), "{context}");
        }
        assert!(verdict.twice.iter().all(|(_, accepted, resends)| *accepted == 2 && *resends == 1), "{context}");
        verdict
    }

    /// Everything before the relay that is driven to the point starts.
    async fn prepare(&self, play: &mut Play) -> Option<Hold> {
        let policy = if play.cell.life == Life::Policy { "assume_sent" } else { "hold" };
        let sql = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, on_doubt)
                   SELECT 'note', ARRAY['r' || i || $2], 'Hello', E'one\\n.two\\n', $3 FROM generate_series(1, $1) i";
        let count = self.stage.sql.execute(sql, &[&DELIVERIES, &play.domain, &policy]).await.expect("enqueues");
        assert_eq!(count, DELIVERIES as u64);
        match play.cell.life {
            Life::Work | Life::Shutdown => None,
            Life::Slow => Some(self.stage.server.hold(Phase::Data)),
            Life::Late => Some(self.stage.server.hold_final_reply()),
            Life::AfterDeath | Life::Policy => {
                self.die_with_replies_outstanding(play).await;
                None
            }
            Life::Resend => {
                self.die_with_replies_outstanding(play).await;
                let mut successor = self.settings(play.action).run().await;
                self.until_moving_stops(play).await;
                successor.sigterm();
                assert!(successor.wait_exit(PATIENCE).await.success(), "{}", successor.report());
                self.resolve_all(play, "resend").await;
                None
            }
        }
    }

    async fn die_with_replies_outstanding(&self, play: &Play) {
        let hold = self.stage.server.hold_final_reply();
        let mut first = self.settings(play.action).set("routes.default.max_connections", HELD).run().await;
        hold.wait_for(HELD).await;
        first.sigkill();
        first.wait_exit(PATIENCE).await;
        hold.release();
        if play.cell.life == Life::Policy {
            self.no_grace().await;
        }
    }

    /// Policies wait for as long as a vanished attempt might still be alive: here it is known that it is not.
    async fn no_grace(&self) {
        let sql = "UPDATE outbox.relay SET doubt_grace = interval '0'";
        self.stage.sql.execute(sql, &[]).await.expect("a superuser may");
    }

    async fn resolve_all(&self, play: &Play, decision: &str) {
        let sql =
            "SELECT i.token::text FROM outbox.in_doubt i JOIN outbox.deliveries d USING (message_id, recipient_no)
                   WHERE right(d.recipient, length($1)) = $1";
        let rows = self.stage.sql.query(sql, &[&play.domain]).await.expect("doubts can be read");
        let tokens: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(tokens.len(), HELD);
        let tail = [decision, "--force", "--reason", "the relay is gone"];
        let arguments = ["resolve"].into_iter().chain(tokens.iter().map(String::as_str)).chain(tail);
        let (code, output) = self.stage.settings_of("operator").command(arguments).await;
        assert_eq!(code, 0, "{output}");
    }

    /// Starts the relay and drives it to its point.
    async fn reach(&self, play: &mut Play, hold: Option<Hold>) {
        let word = if play.action == Action::Kill { "kill" } else { "stop" };
        let url = format!("postgres://relay@127.0.0.1:{}/postgres", self.proxy.port());
        let settings = self.settings(play.action).set("relay.name", "victim").set("database.url", url);
        let settings =
            if play.cell.life == Life::Late { settings.set("routes.default.max_connections", HELD) } else { settings };
        let mut victim = HapaxProcess::builder()
            .config(settings.toml())
            .env("HAPAX_FAULT", format!("{}:{word}:{}", play.cell.point, play.cell.nth))
            .env("HAPAX_FAULT_FILE", &play.file)
            .arg("run")
            .spawn();
        let hold = match play.cell.life {
            Life::Shutdown => {
                let taken = self.stage.server.with_ledger(|ledger| ledger.totals().accepted) + 10;
                self.stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= taken).await;
                victim.sigterm();
                hold
            }
            Life::Late => {
                let hold = hold.expect("replies are held");
                hold.wait_for(HELD).await;
                victim.sigstop();
                victim.wait_stopped(PATIENCE).await;
                hold.release();
                play.others.push(self.settings(play.action).set("relay.name", "other").run().await);
                self.until_moving_stops(play).await;
                self.resolve_all(play, "failed").await;
                victim.sigcont();
                None
            }
            _ => hold,
        };
        if play.action == Action::Kill {
            victim.wait_exit(PATIENCE).await;
        } else {
            let reached = eventually(PATIENCE, async || {
                assert!(victim.status().is_none(), "it ended before the point\n{}", victim.report());
                play.file.exists().then_some(()).ok_or(format!("{} was not reached", play.cell))
            });
            reached.await;
            victim.wait_stopped(PATIENCE).await;
        }
        drop(hold);
        play.victim = Some(victim);
    }

    /// What happens at the point, until everything that was taken away is back.
    async fn act(&mut self, play: &mut Play) {
        let other = self.settings(play.action).set("relay.name", "other");
        match play.action {
            Action::Kill => {
                if play.cell.life == Life::Policy {
                    self.no_grace().await;
                }
                play.others.push(other.run().await);
            }
            Action::Stop => {
                if play.others.is_empty() {
                    play.others.push(other.run().await);
                }
                self.until_moving_stops(play).await;
                self.go_on(play);
            }
            Action::LoseDatabase => {
                self.stage.cluster.kill_immediate().await.expect("killed");
                self.go_on(play);
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.stage.cluster.restart().await.expect("restarted");
                self.stage.reconnect().await;
            }
            Action::LoseAnswer => self.lose_answers(play).await,
        }
    }

    fn go_on(&self, play: &Play) {
        std::fs::remove_file(&play.file).expect("the relay has made it");
        play.victim.as_ref().expect("it lives").sigcont();
    }

    /// Statements arrive and are executed, and their answers never come.
    async fn lose_answers(&self, play: &Play) {
        let before = self.proxy.counters().bytes_to_server;
        self.proxy.stall(Direction::ToClient, true);
        self.go_on(play);
        self.proxy.wait_until(|counters| counters.bytes_to_server > before).await;
        // Whatever has arrived is executed to its end.
        let (mut last, mut quiet) = (0, 0);
        eventually(PATIENCE, async || {
            let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'relay' AND state <> 'idle'";
            let (active, now) = (self.stage.count(busy).await, self.proxy.counters().bytes_to_server);
            quiet = if active == 0 && now == last { quiet + 1 } else { 0 };
            last = now;
            quiet >= 5
        })
        .await;
        if play.cell.point == "intend_sent" {
            // The intents are committed, and nobody is told: unless every connection of the pool was waiting for an answer
            // already, as may be when the relay has just started. What was quiet so far may have been others' statements.
            let mut intents = 0;
            for _ in 0..30 {
                intents = self.count(play, "state = 'sending'").await;
                if intents > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            INTENTS_WITHOUT_ANSWER.fetch_add(usize::try_from(intents).unwrap_or_default(), Ordering::Relaxed);
        }
        self.proxy.cut_all().await;
        self.proxy.stall(Direction::ToClient, false);
    }

    /// Lets everything come to rest, and ends every relay.
    async fn settle(&self, play: &mut Play) {
        let mut victim = play.victim.take().expect("it was started");
        let ends_itself = play.cell.life == Life::Shutdown && play.action != Action::Kill;
        if ends_itself {
            victim.wait_exit(PATIENCE).await;
        }
        if victim.status().is_some() && play.others.is_empty() {
            play.others.push(self.settings(play.action).run().await);
        }
        let allowed = play.cell.doubts(play.action);
        eventually(PATIENCE, async || {
            // One statement, or a doubt that becomes pending in between is in neither count.
            let sql = "SELECT count(*) FILTER (WHERE state IN ('pending', 'claimed', 'sending')),
                              count(*) FILTER (WHERE state IN ('in_doubt', 'failed'))
                       FROM outbox.deliveries WHERE right(recipient, length($1)) = $1";
            let row = self.stage.sql.query_one(sql, &[&play.domain]).await.expect("states can be read");
            let (moving, doubts): (i64, i64) = (row.get(0), row.get(1));
            let at_rest = moving == 0 && doubts <= i64::try_from(*allowed.end()).expect("few");
            at_rest.then_some(()).ok_or((moving, doubts, victim.report()))
        })
        .await;
        for relay in play.others.iter_mut().chain((victim.status().is_none()).then_some(&mut victim)) {
            running(relay).await;
            relay.sigterm();
            assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
        }
    }

    /// Waits until the cell's deliveries are terminal or in doubt.
    async fn until_moving_stops(&self, play: &Play) {
        eventually(PATIENCE, async || {
            let moving = self.count(play, "state IN ('pending', 'claimed', 'sending')").await;
            if moving == 0 { Ok(()) } else { Err(moving) }
        })
        .await;
    }

    async fn count(&self, play: &Play, condition: &str) -> i64 {
        let sql =
            format!("SELECT count(*) FROM outbox.deliveries WHERE recipient LIKE '%{}' AND {condition}", play.domain);
        self.stage.count(&sql).await
    }
}
