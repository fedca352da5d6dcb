//! `hapax template preview` as people meet it: the real binary on a copy of `deploy/templates`, looked at in a headless
//! Chromium (`tests/preview/drive.js`), which edits templates and leaves screenshots in `target/preview`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use hapax_testkit::HapaxProcess;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::spawn_blocking,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(240);

/// What the driver looks at, in its order.
const CHECKS: [&str; 16] = [
    "the_page_lists_every_kind_and_shows_the_first",
    "desktop_shows_the_message_as_tall_as_it_is",
    "mobile_is_as_wide_as_a_phone",
    "dark_applies_the_rules_of_the_message",
    "text_source_and_headers_show_what_is_sent",
    "another_sample_is_shown",
    "another_locale_is_shown",
    "an_edit_appears_without_a_reload_and_keeps_the_place",
    "an_error_is_shown_with_file_line_and_source_and_goes_away",
    "an_undefined_key_is_named_with_its_line",
    "a_payload_that_is_typed_is_rendered_and_not_saved",
    "nothing_remote_is_asked_for_and_no_script_runs",
    "keys_move_through_kinds_and_views",
    "it_fits_into_900_pixels_and_a_dark_system",
    "other_hosts_and_other_sites_are_refused",
    "the_page_itself_had_nothing_to_complain_about",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// What is missing, when something is.
fn missing() -> Option<String> {
    let setup = Command::new(repository().join("tests/preview/setup")).output().expect("tests/preview/setup runs");
    (!setup.status.success()).then(|| String::from_utf8_lossy(&setup.stderr).into_owned())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

/// A server that notes what it is asked for.
async fn trap() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = format!("http://{}", listener.local_addr().expect("it has an address"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let count = stream.read(&mut bytes).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or("(a connection)").to_owned();
            noted.lock().expect("nobody panics here").push(path);
            // Whether the browser takes the answer is its own affair.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_templates_follows_edits_and_lets_nothing_in_or_out() {
    if let Some(why) = spawn_blocking(missing).await.expect("it does not panic") {
        assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let templates = directory.path().join("templates");
    copy(&repository().join("deploy/templates"), &templates);
    let (trap, asked) = trap().await;
    let hapax = HapaxProcess::builder()
        .args(["template", "preview", "--listen", "127.0.0.1:0", "--templates"])
        .arg(&templates)
        .spawn();
    let page = hapax.wait_for_line(|line| line.starts_with("http://")).await;
    let shots = repository().join("target/preview");
    let driver = tokio::process::Command::new("node")
        .arg(repository().join("tests/preview/drive.js"))
        .args([page.as_str(), &templates.display().to_string(), &trap, &shots.display().to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let driven = timeout(PATIENCE, driver).await.expect("the driver ends in time").expect("node runs");
    let said = String::from_utf8_lossy(&driven.stdout).into_owned();
    assert!(driven.status.success(), "{said}\n{}", String::from_utf8_lossy(&driven.stderr));
    let held: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    assert_eq!(held, CHECKS);
    let asked = asked.lock().expect("nobody panics here").clone();
    assert_eq!(asked.first().map(String::as_str), Some("/control"), "{asked:?}: a message has loaded something");
    // Browsers open connections and look for icons as they like, for a page that people open.
    let others = asked.iter().filter(|path| !["/control", "/favicon.ico", "(a connection)"].contains(&path.as_str()));
    assert_eq!(others.count(), 0, "{asked:?}: a message has loaded something");
}
