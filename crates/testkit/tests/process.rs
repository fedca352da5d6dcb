//! The harness runs, listens, signals and reaps; /bin/sh stands in for hapax.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use hapax_testkit::{HapaxProcess, eventually};

const DEADLINE: Duration = Duration::from_secs(10);

fn shell(script: &str) -> HapaxProcess {
    HapaxProcess::builder().binary("/bin/sh").args(["-c", script]).env("GIVEN", "value").spawn()
}

#[tokio::test]
async fn lines_of_both_streams_and_the_exit_code_are_kept() {
    let mut process = shell("echo out $GIVEN; echo err >&2; printf unfinished; exit 3");
    assert_eq!(process.wait_exit(DEADLINE).await.code(), Some(3));
    assert_eq!((process.stdout().as_str(), process.stderr().as_str()), ("out value\nunfinished\n", "err\n"));
    assert_eq!(process.lines().len(), 3);
    assert!(process.report().contains("out| out value"));
}

#[tokio::test]
async fn a_line_is_waited_for_and_marks_skip_the_old_ones() {
    let process = shell("echo ready 1; read -r never < /dev/null; echo ready 2; exec sleep 60");
    assert_eq!(process.wait_for_line(|line| line.starts_with("ready")).await, "ready 1");
    assert_eq!(process.wait_for_line_after(1, |line| line.starts_with("ready")).await, "ready 2");
}

#[tokio::test]
#[should_panic(expected = "ended without that line")]
async fn waiting_for_a_line_ends_with_the_process() {
    shell("echo only this").wait_for_line(|line| line == "something else").await;
}

#[tokio::test]
#[should_panic(expected = "out| going nowhere")]
async fn a_missed_deadline_shows_the_output() {
    let mut process = shell("echo going nowhere; exec sleep 60");
    process.wait_for_line(|_| true).await;
    process.wait_exit(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn signals_arrive() {
    let mut process = shell("trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    process.wait_for_line(|line| line == "ready").await;
    process.sigterm();
    assert_eq!(process.wait_exit(DEADLINE).await.code(), Some(7));
    // Nothing to signal any more, and no harm done.
    process.sigterm();

    let mut process = shell("echo ready; exec sleep 60");
    process.wait_for_line(|line| line == "ready").await;
    process.sigkill();
    assert_eq!(process.wait_exit(DEADLINE).await.signal(), Some(9));
}

#[tokio::test]
async fn a_stopped_process_stands_still_until_it_continues() {
    let mut process = shell("trap 'echo term; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    process.wait_for_line(|line| line == "ready").await;
    process.sigstop();
    let stat = format!("/proc/{}/stat", process.id());
    let state = || std::fs::read_to_string(&stat).unwrap().rsplit_once(')').unwrap().1.trim().chars().next();
    eventually(DEADLINE, async || state() == Some('T')).await;
    process.sigterm();
    assert_eq!(process.status(), None);
    process.sigcont();
    assert!(process.wait_exit(DEADLINE).await.success());
}

#[tokio::test]
async fn dropping_the_harness_kills_even_a_stopped_process_and_cleans_up() {
    let process = shell("echo ready; exec sleep 60");
    process.wait_for_line(|line| line == "ready").await;
    process.sigstop();
    let (id, directory) = (process.id(), process.directory().to_owned());
    drop(process);
    assert!(!Path::new("/proc").join(id.to_string()).exists() && !directory.exists());
}

#[tokio::test]
async fn the_configuration_is_a_file_named_before_the_arguments() {
    let mut process = HapaxProcess::builder().binary("/bin/echo").config("a = 1\n").arg("run").spawn();
    process.wait_exit(DEADLINE).await;
    let path = process.directory().join("hapax.toml");
    assert_eq!(process.stdout(), format!("--config {} run\n", path.display()));
    assert_eq!(std::fs::read_to_string(path).unwrap(), "a = 1\n");
}

#[tokio::test]
async fn eventually_yields_the_value_of_options_and_results() {
    let mut count = 0;
    let mut next = || {
        count += 1;
        count
    };
    assert_eq!(eventually(DEADLINE, async || Some(next()).filter(|count| *count > 2)).await, 3);
    assert_eq!(eventually(DEADLINE, async || if next() > 5 { Ok("done") } else { Err("not yet") }).await, "done");
}

#[tokio::test]
#[should_panic(expected = "tests/process.rs")]
async fn eventually_panics_with_the_place_of_its_caller() {
    eventually(Duration::ZERO, async || false).await;
}
