//! `deploy/systemd` by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use hapax_testkit::find_hapax;

/// The exposure that the unit may have at most, times ten.
const EXPOSURE_MAX: &str = "11";

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The unit in a directory of its own, with the binary of this build in the place of the installed one.
fn placed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let unit = text("hapax.service").replace("/usr/bin/hapax", find_hapax().to_str().expect("a path is text"));
    std::fs::write(directory.path().join("hapax.service"), unit).expect("the unit can be written");
    directory
}

fn analyze(arguments: &[&str], directory: &Path) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(arguments).arg(directory.join("hapax.service")).env("SYSTEMD_PAGER", "cat").output();
    let output = output.expect("systemd-analyze is installed (tests/setup)");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// What is wrong with how a file explains itself: each setting follows a comment, or another assignment of the same one.
fn unexplained(text: &str) -> Vec<&str> {
    let mut before = "";
    let mut found = Vec::new();
    for line in text.lines() {
        let is_setting = line.contains('=') && !line.starts_with('#') && !line.starts_with('[');
        if is_setting && !before.starts_with("# ") {
            found.push(line);
        }
        before = line;
    }
    found
}

#[test]
fn every_setting_has_a_comment_of_its_own() {
    for name in ["hapax.service", "hapax.service.d/notify-reload.conf"] {
        assert_eq!(unexplained(&text(name)), Vec::<&str>::new(), "{name}");
        assert!(text(name).lines().filter(|line| line.contains('=')).count() > 2, "{name} has settings");
    }
    assert_eq!(unexplained("# why\nA=1\nB=2\n\nC=3"), ["B=2", "C=3"], "and this test can fail");
}

#[test]
fn systemd_analyze_finds_nothing_wrong_with_the_unit() {
    let directory = placed();
    let (good, said) = analyze(&["verify", "--man=no"], directory.path());
    assert!(good && said.is_empty(), "{said}");
    let broken = text("hapax.service").replace("WatchdogSec=60s", "WatchdogSek=60s");
    std::fs::write(directory.path().join("hapax.service"), broken).expect("the unit can be written");
    let (_, said) = analyze(&["verify", "--man=no"], directory.path());
    assert!(said.contains("WatchdogSek"), "and this test can fail: {said}");
}

#[test]
fn its_exposure_is_one_point_one_at_most() {
    let directory = placed();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let (good, said) = analyze(&["security", "--offline=true", "--no-pager", &threshold], directory.path());
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(good, "{said}");
    let open = text("hapax.service").replace("SystemCallFilter=@system-service", "");
    std::fs::write(directory.path().join("hapax.service"), open).expect("the unit can be written");
    let (good, _) = analyze(&["security", "--offline=true", "--no-pager", &threshold], directory.path());
    assert!(!good, "and this test can fail");
}

#[test]
fn the_drop_in_replaces_what_the_unit_does_for_a_reload() {
    let drop_in = text("hapax.service.d/notify-reload.conf");
    let settings: Vec<&str> = drop_in.lines().filter(|line| line.contains('=') && !line.starts_with('#')).collect();
    assert_eq!(settings, ["Type=notify-reload", "ReloadSignal=SIGHUP", "ExecReload="]);
    let unit = text("hapax.service");
    assert!(unit.contains("\nType=notify\n") && unit.contains("\nExecReload=/bin/kill -HUP $MAINPID\n"));
}

#[test]
fn the_exit_codes_that_no_restart_repairs_are_those_of_the_command_line() {
    let unit = text("hapax.service");
    let codes = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).expect("it names them");
    let hapax = |arguments: &[&str]| {
        let mut command = Command::new(find_hapax());
        let status = command.args(arguments).current_dir("/").env_remove("HAPAX__DATABASE__URL").output();
        status.expect("it runs").status.code().expect("a code").to_string()
    };
    let (usage, configuration) = (hapax(&["run", "--what"]), hapax(&["run", "--config", "/nowhere/hapax.toml"]));
    assert_eq!(codes.split(' ').collect::<Vec<_>>(), [usage, configuration]);
}
