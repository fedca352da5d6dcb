//! The ways to be let in that a DBA may ask for: with the server verified (`sslmode=verify-full`) a password by SCRAM and a
//! certificate of one's own, and on the same machine a Unix-domain socket.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use hapax_testkit::{HapaxProcess, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names, no bad name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A server with a certificate for `localhost`, and files of whoever connects.
struct Gate {
    stage: Stage,
    files: TempDir,
    people: Authority,
}

impl Gate {
    async fn set() -> Self {
        let (stage, files) = (Stage::set().await, tempfile::tempdir().expect("a directory"));
        let (servers, people) = (authority("servers"), authority("people"));
        let data = stage.cluster.data_directory();
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = certificate.signed_by(&key, &servers).expect("a certificate");
        for (name, pem) in
            [("server.crt", certificate.pem()), ("server.key", key.serialize_pem()), ("people.crt", people.pem())]
        {
            secret(&data.join(name), &pem, &data);
        }
        fs::write(files.path().join("servers.crt"), servers.pem()).expect("written");
        fs::write(files.path().join("others.crt"), authority("others").pem()).expect("written");
        let rules = data.join("pg_hba.conf");
        let others = fs::read_to_string(&rules).expect("readable");
        let first = "hostssl all relay 127.0.0.1/32 scram-sha-256\nhostnossl all relay,carded 127.0.0.1/32 reject\n\
                     hostssl all carded 127.0.0.1/32 cert\n";
        fs::write(&rules, format!("{first}{others}")).expect("written");
        stage
            .sql
            .batch_execute("ALTER ROLE relay PASSWORD 'open sesame'; CREATE ROLE carded LOGIN IN ROLE outbox_relay")
            .await
            .expect("roles");
        for set in ["ssl_ca_file = 'people.crt'", "ssl = on"] {
            stage.sql.batch_execute(&format!("ALTER SYSTEM SET {set}")).await.expect("sets");
        }
        stage.sql.batch_execute("SELECT pg_reload_conf()").await.expect("reloads");
        let on = "SELECT count(*) FROM pg_settings WHERE name = 'ssl' AND setting = 'on'";
        eventually(PATIENCE, async || {
            let fresh = stage.cluster.client("postgres").await.expect("it takes a client");
            fresh.query_one(on, &[]).await.expect("reads").get::<_, i64>(0) == 1
        })
        .await;
        Self { stage, files, people }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Writes a certificate and its key.
    fn card(&self, name: &str, holder: &str, by: &Authority) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, holder);
        let certificate = params.signed_by(&key, by).expect("a certificate");
        fs::write(self.file(&format!("{name}.crt")), certificate.pem()).expect("written");
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    /// For this user, with the server's authority in this file, and further parameters.
    fn settings(&self, user: &str, authority: &str, more: &str) -> Settings {
        let (port, root) = (self.stage.cluster.port(), self.file(authority));
        let url = format!(
            "postgres://{user}@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={}{more}",
            root.display()
        );
        self.stage.settings().set("database.url", url)
    }

    fn with_card(&self, name: &str) -> Settings {
        let (certificate, key) = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        let more = format!("&sslcert={}&sslkey={}", certificate.display(), key.display());
        self.settings("carded", "servers.crt", &more)
    }

    async fn refused(&self, settings: &Settings, words: &str) {
        let (code, said) = settings.command(["migrate", "status"]).await;
        assert!(code != 0 && said.contains(words), "{code}: {said}");
        assert!(!said.contains("sesame") && !said.contains("PRIVATE"), "{said}");
    }

    /// Delivers; every connection of this user is encrypted.
    async fn delivers(&self, user: &str, already: i64) {
        self.stage.enqueue(5).await;
        self.stage.until("sent", already + 5).await;
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.usename = '{user}' AND NOT s.ssl"
        );
        assert_eq!(self.stage.count(&open).await, 0);
    }

    /// How many different certificates the connections of `carded` have shown.
    async fn cards(&self) -> Vec<String> {
        let sql = "SELECT DISTINCT s.client_serial::text FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'carded'";
        let rows = self.stage.sql.query(sql, &[]).await.expect("reads");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// A file of the server's user, which nobody else reads.
fn secret(path: &Path, text: &str, beside: &Path) {
    fs::write(path, text).expect("written");
    let owner = fs::metadata(beside).expect("it is there");
    let file = File::open(path).expect("opens");
    file.set_permissions(fs::Permissions::from_mode(0o600)).expect("nobody else reads it");
    fchown(&file, Some(owner.uid()), Some(owner.gid())).expect("given");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_socket_everything_goes_as_by_tcp_and_nothing_is_encrypted() {
    let gate = Gate::set().await;
    let (directory, port) = (gate.stage.cluster.socket_directory().to_owned(), gate.stage.cluster.port());
    let directory = directory.display();
    for url in [
        format!("postgres:///postgres?host={directory}&port={port}&user=relay"),
        format!("postgres://relay@{}:{port}/postgres", directory.to_string().replace('/', "%2F")),
        format!("host={directory} port={port} user=relay dbname=postgres sslmode=verify-full"),
    ] {
        let settings = gate.stage.settings().set("database.url", &url);
        let (code, said) = settings.command(["migrate", "status"]).await;
        assert_eq!(code, 0, "{url}: {said}");
        let relay = settings.run().await;
        let already = gate.stage.count("SELECT count(*) FROM outbox.done").await;
        gate.stage.enqueue(5).await;
        gate.stage.until("sent", already + 5).await;
        let by_tcp = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'relay' AND client_addr IS NOT NULL";
        assert_eq!(gate.stage.count(by_tcp).await, 0, "{url}");
        ends(relay).await;
        let (_, said) = settings.command(["doctor", "--verbose"]).await;
        assert!(said.contains("not encrypted, on this machine"), "{url}: {said}");
    }
}

async fn ends(mut relay: HapaxProcess) {
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_scram_with_the_server_verified() {
    let gate = Gate::set().await;
    let settings = gate.settings("relay", "servers.crt", "");
    gate.refused(&settings, "password").await;
    for (name, password) in [("wrong", "open barley"), ("right", "open sesame")] {
        fs::write(gate.file(name), password).expect("written");
        fs::set_permissions(gate.file(name), fs::Permissions::from_mode(0o600)).expect("nobody else reads it");
    }
    let settings = |name: &str| settings.clone().set("database.password_file", gate.file(name).display());
    gate.refused(&settings("wrong"), "password").await;
    let settings = settings("right");
    let relay = settings.run().await;
    gate.delivers("relay", 0).await;
    ends(relay).await;
    // A server that nobody vouches for gets no password, nor does one of another name.
    let other = gate.settings("relay", "others.crt", "").set("database.password_file", gate.file("right").display());
    gate.refused(&other, "certificate").await;
    let port = gate.stage.cluster.port();
    let root = gate.file("servers.crt");
    let by_number =
        format!("postgres://relay@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={}", root.display());
    gate.refused(&other.set("database.url", by_number), "certificate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_certificate_with_the_server_verified_and_by_the_next_one_when_it_is_renewed() {
    let gate = Gate::set().await;
    gate.refused(&gate.settings("carded", "servers.crt", ""), "certificate").await;
    gate.card("stranger", "carded", &authority("strangers"));
    gate.refused(&gate.with_card("stranger"), "error").await;
    gate.card("somebody", "somebody", &gate.people);
    gate.refused(&gate.with_card("somebody"), "carded").await;
    gate.refused(&gate.with_card("missing"), "sslcert=").await;

    gate.card("own", "carded", &gate.people);
    let relay = gate.with_card("own").run().await;
    gate.delivers("carded", 0).await;
    let first = gate.cards().await;
    assert_eq!(first.len(), 1);
    // Renewed while it runs; what connects from now on shows the new one.
    gate.card("own", "carded", &gate.people);
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'carded'";
    assert!(gate.stage.count(cut).await > 0);
    gate.delivers("carded", 5).await;
    eventually(PATIENCE, async || {
        let now = gate.cards().await;
        (now.len() == 1 && now != first).then_some(()).ok_or(now)
    })
    .await;
    ends(relay).await;
}
