//! Known answers from the RFCs, every way to cut a body, and dkimpy as an independent verifier.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::KeySize,
    signature::Ed25519KeyPair,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;

/// RFC 8463 appendix A.2: the seed of its Ed25519 key, in front of it what makes it PKCS#8.
const RFC_8463_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";

/// RFC 8463 appendix A.3.
const RFC_8463_HEADER: &str = "From: Joe SixPack <joe@football.example.com>\r\n\
    To: Suzie Q <suzie@shopping.example.net>\r\nSubject: Is dinner ready?\r\n\
    Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
    Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n";
const RFC_8463_BODY: &str = "Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";

/// A key of 1024 bits that dkimpy publishes with its tests.
const SMALL_PEM: &str = "-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQC6aakWzruYAKX9OdOdSHMemqVdGQurNYLC1H7O/T2LQIHVbkKF
6KKjlgFM7lr8skfZMhJe/KRGMvVjCV5ZakZIGeP3Hi1qXCEvmjS4ElpMPMPyPrZi
gt95ipqywPYZJWHbRiJ085VdkSCtLUvo5sypA0nTJeynEouAN+/wBaCO6QIDAQAB
AoGBALdQsLd9FX2lJZagBznkxVCTQ4sJ1i/Hr49o6EslPiByjzsT8tc8rrOwEBdX
TqKxr3Ynh2lhiSp/clCyJdZIbFNKwXnqdN6DaA+aVRKT5n2YxmZr1AGp8VdOX56a
+JTWDFSrDBUeNgG0xU7ywJjAYpj5gWk4rwsaA0ez/7Kb/5sBAkEA9H3Rxmyi0T5z
IqOpAMOg0oHJRk0gGbJ6etKVPsghd+PDU+gfz69Ga2eEpPBIGFv8SXAeBlWyQCAK
SXIkEREn7wJBAMMv+nWQsjf71BmdFULvUrHux2eHE6R18+CIYak8xs8sEJuprjQf
7QfznUBaDqAww7+XufofdSrU1AcfEsXWnqcCQQDgeSCACMAYUzkMhaymSfa/L3An
vqoJTefMGsnyQXcRByoQQJ/sY+XIuNt9QCtBSjtBBdJbSJUG8SPguQ5KKTE7AkBz
RXJ02+9kgKTSO6LC1PPRgWLiETPYfJB6mhCTEgGXeD6Wr67hubkSaR0FVCovEJ2K
GOEMhmd71BUj34YGsKkhAkBKkdEwDWSvPDCfmyBzgCKufu1tZzphRtxoL6Z6Vlcj
0/SRmoG8S1uQKzkm7z7ekRMLIl9UlUlKUvxF6oblccUo
-----END RSA PRIVATE KEY-----
";

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A fresh RSA key: as PKCS#8 and, without what PKCS#8 writes in front of it, as PKCS#1.
fn rsa_pems(size: KeySize) -> (String, String) {
    let pair = aws_lc_rs::rsa::KeyPair::generate(size).expect("a key");
    let der: Pkcs8V1Der<'_> = pair.as_der().expect("DER");
    (pem("PRIVATE KEY", der.as_ref()), pem("RSA PRIVATE KEY", &der.as_ref()[26..]))
}

fn ed25519(domain: &str, selector: &str) -> Key {
    Key::new(domain, selector, RFC_8463_PEM).expect("a key")
}

fn hash(body: &[u8]) -> BodyHash {
    let mut hasher = BodyHasher::new();
    hasher.update(body);
    hasher.finish()
}

fn signed(header: &str, body: &str, keys: &[Key]) -> String {
    let fields = sign(header.as_bytes(), &hash(body.as_bytes()), 1_763_851_753, keys).expect("signed");
    String::from_utf8(fields).expect("ASCII")
}

/// What dkimpy says of each signature of a message; `None` where it is not installed.
fn dkimpy(message: &str, keys: &[Key]) -> Option<Vec<bool>> {
    const SCRIPT: &str = "\
import dkim, json, sys
records = dict(zip(sys.argv[1::2], sys.argv[2::2]))
look = lambda name, timeout=5: records.get(name.decode().rstrip('.'), '').encode()
message = sys.stdin.buffer.read()
count = sum(1 for name, _ in dkim.DKIM(message).headers if name.lower() == b'dkim-signature')
def ok(index):
    try:
        return dkim.DKIM(message).verify(idx=index, dnsfunc=look)
    except Exception:
        return False
print(json.dumps([ok(index) for index in range(count)]))
";
    let records = keys.iter().flat_map(|key| [key.record_name(), key.record().expect("a record")]);
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", SCRIPT])
        .args(records)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // It may end before it has read everything: then its output says why.
    let _ = child.stdin.take().expect("piped").write_all(message.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains("No module named 'dkim'"), "{why}");
        return None;
    }
    Some(serde_json::from_slice(&output.stdout).expect("a list"))
}

fn assert_verified(message: &str, keys: &[Key], expected: &[bool]) {
    match dkimpy(message, keys) {
        Some(found) => assert_eq!(found, expected, "{message}"),
        None => assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "python3-dkim is not installed"),
    }
}

#[test]
fn the_example_of_rfc_8463_has_its_body_hash_and_its_signature() {
    let body = hash(RFC_8463_BODY.as_bytes());
    assert_eq!(STANDARD.encode(body.0), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
    let unsigned = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n \
        d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n \
        subject : date : message-id : from : subject : date;\r\n \
        bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    let names = ["from", "to", "subject", "date", "message-id", "from", "subject", "date"];
    let data = field::signed_data(&field::split(RFC_8463_HEADER.as_bytes()), &names, unsigned);
    let key = ed25519("football.example.com", "brisbane");
    assert_eq!(
        STANDARD.encode(key.sign(&data).expect("signed")),
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    );
    assert_eq!(key.record().expect("a record"), "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    assert_eq!(key.record_name(), "brisbane._domainkey.football.example.com");
}

#[test]
fn the_canonical_forms_are_those_of_rfc_6376() {
    // Section 3.4.5, and the hash of an empty body in section 3.4.4.
    let fields = field::split(b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\n");
    let mut header = Vec::new();
    for field in &fields {
        field::relaxed(field, &mut header);
        header.extend_from_slice(b"\r\n");
    }
    assert_eq!(String::from_utf8_lossy(&header), "a:X\r\nb:Y Z\r\n");
    let same: [(&str, &str); 7] = [
        (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
        ("a", "a\r\n"),
        ("a\r\n \t\r\n\t\r\n", "a\r\n"),
        ("\r\n\r\n \r\n", ""),
        ("\r\n\r\na\r\n", "\r\n \r\na\r\n"),
        ("a  \t b", "a b\r\n"),
        ("a\r\n\r\n\r\nb\r\n\r\n", "a\r\n\r\n\r\nb\r\n"),
    ];
    for (one, other) in same {
        assert_eq!(hash(one.as_bytes()), hash(other.as_bytes()), "{one:?}");
    }
    assert_ne!(hash(b" a\r\n"), hash(b"a\r\n"), "white space at the start of a line becomes one space");
    assert_eq!(STANDARD.encode(hash(b"").0), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

/// The rule of section 3.4.4, line by line.
fn relaxed_plainly(body: &str) -> String {
    let ended = format!("{body}\r\n");
    let lines = ended.split("\r\n").map(|line| {
        let spaced = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        if line.starts_with([' ', '\t']) && !spaced.is_empty() { format!(" {spaced}") } else { spaced }
    });
    let text = lines.collect::<Vec<_>>().join("\r\n");
    let text = text.trim_end_matches("\r\n");
    if text.is_empty() { String::new() } else { format!("{text}\r\n") }
}

proptest! {
    #[test]
    fn a_body_has_one_hash_however_it_is_cut(
        body in "([ \ta.é]|\r\n|a{70}\r\n|b{3000}){0,16}",
        cuts in proptest::collection::vec(0.0..1.0_f64, 0..12),
    ) {
        let bytes = body.as_bytes();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let mut at: Vec<usize> = cuts.iter().map(|cut| (cut * bytes.len() as f64) as usize).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let mut hasher = BodyHasher::new();
        at.windows(2).for_each(|cut| hasher.update(&bytes[cut[0]..cut[1]]));
        let mut single = BodyHasher::new();
        bytes.iter().for_each(|byte| single.update(&[*byte]));
        let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, relaxed_plainly(&body).as_bytes());
        prop_assert_eq!(&hasher.finish().0[..], expected.as_ref());
        prop_assert_eq!(&single.finish().0[..], expected.as_ref());
    }
}

#[test]
fn a_signature_is_the_same_at_every_attempt_and_its_lines_are_short() {
    let (pkcs8, _) = rsa_pems(KeySize::Rsa4096);
    let keys = [Key::new("Exämple.org", "S1.mail", &pkcs8).expect("a key"), ed25519("xn--exmple-cua.org", "s2")];
    let fields = signed(RFC_8463_HEADER, RFC_8463_BODY, &keys);
    assert_eq!(fields, signed(RFC_8463_HEADER, RFC_8463_BODY, &keys));
    assert_eq!(fields.matches("DKIM-Signature: v=1; a=").count(), 2);
    assert_eq!(fields.matches(" d=xn--exmple-cua.org;").count(), 2, "{fields}");
    assert!(fields.contains(" s=s1.mail; t=1763851753;"), "{fields}");
    assert!(fields.ends_with("==\r\n"), "{fields}");
    assert!(fields.lines().all(|line| line.len() <= 76 && !line.trim().is_empty()), "{fields}");
    assert!(fields.split_inclusive("\r\n").all(|line| line.starts_with("DKIM-Signature") || line.starts_with(' ')));
    assert!(!signed(RFC_8463_HEADER, "another", &keys).contains("2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="));
}

#[test]
fn fields_are_signed_as_often_as_they_are_there_and_the_chief_ones_once_more() {
    let header = "Received: x\r\nReferences: <a@b>\r\nLIST-UNSUBSCRIBE: <https://x.example>\r\nSubject: a\r\n\
        subject: b\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nX-Own: y\r\nFrom: a@example.org\r\n";
    let text = signed(header, "", &[ed25519("example.org", "s")]).replace("\r\n ", "");
    let names = text.split("h=").nth(1).and_then(|rest| rest.split(';').next()).expect("h=");
    assert_eq!(
        names,
        "From:From:To:Subject:Subject:Subject:Date:Message-ID:Reply-To:References:List-Unsubscribe:\
         List-Unsubscribe-Post"
    );
}

#[test]
fn a_domain_and_selector_that_have_signed_already_do_not_sign_again() {
    let there = "DKIM-Signature: v=1; d=Example.org;\r\n\ts = S1 ; b=abc\r\nFrom: a@example.org\r\n";
    assert_eq!(signed(there, "", &[ed25519("example.org", "s1")]), "");
    assert_ne!(signed(there, "", &[ed25519("example.org", "s2")]), "");
    assert_ne!(signed(there, "", &[ed25519("sub.example.org", "s1")]), "");
}

#[test]
fn a_key_signs_for_its_domain_and_those_below_it() {
    let key = ed25519("Example.org.", "s");
    assert_eq!((key.domain(), key.selector(), key.bits()), ("example.org", "s", 256));
    for (domain, fits) in [
        ("example.org", true),
        ("EXAMPLE.ORG", true),
        ("mail.example.org", true),
        ("badexample.org", false),
        ("org", false),
        ("example.org.evil.example", false),
        ("", false),
    ] {
        assert_eq!(key.signs_for(domain), fits, "{domain}");
    }
}

#[test]
fn what_is_no_key_is_refused_and_no_error_or_debug_repeats_it() {
    let (pkcs8, pkcs1) = rsa_pems(KeySize::Rsa2048);
    let ok = |pem: &str| Key::new("example.org", "s", pem).map(|key| key.bits());
    assert_eq!((ok(&pkcs8), ok(&pkcs1)), (Ok(2048), Ok(2048)));
    assert_eq!(ok(&format!("a comment\n{}", pkcs1.replace('\n', "\r\n"))), Ok(2048));
    let damaged = pkcs8.replacen("MII", "MIA", 1);
    for (pem, why) in [
        ("", Error::Pem),
        ("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=", Error::Pem),
        ("-----BEGIN PRIVATE KEY-----\nnot base64!\n-----END PRIVATE KEY-----\n", Error::Damaged),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v", Error::Damaged),
        ("MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v\n-----END PRIVATE KEY-----\n", Error::Damaged),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", Error::Public),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", Error::OpenSsh),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
             -----END RSA PRIVATE KEY-----\n",
            Error::Encrypted,
        ),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", Error::Encrypted),
        ("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", Error::Kind),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Error::Public),
        (damaged.as_str(), Error::Kind),
        (SMALL_PEM, Error::Small),
    ] {
        assert_eq!(ok(pem), Err(why), "{pem}");
    }
    for domain in ["", "exa mple.org", "[192.0.2.1]", "a@b.org"] {
        assert_eq!(Key::new(domain, "s", RFC_8463_PEM).err(), Some(Error::Domain), "{domain}");
    }
    let long = "a".repeat(64);
    for selector in ["", "a.", ".a", "a b", "a;b", "-a", "ä", long.as_str()] {
        assert_eq!(Key::new("example.org", selector, RFC_8463_PEM).err(), Some(Error::Selector), "{selector}");
    }
    let key = Key::new("example.org", "s", &pkcs8).expect("a key");
    assert_eq!(format!("{key:?}"), "Key { domain: \"example.org\", selector: \"s\", .. }");
}

#[test]
fn dkimpy_verifies_what_was_signed_and_nothing_that_was_changed() {
    let (pkcs8, pkcs1) = rsa_pems(KeySize::Rsa2048);
    let fresh = Ed25519KeyPair::generate().expect("a key").to_pkcs8v1().expect("DER");
    let keys = [
        Key::new("football.example.com", "rsa8", &pkcs8).expect("a key"),
        Key::new("example.com", "rsa1", &pkcs1).expect("a key"),
        ed25519("football.example.com", "brisbane"),
        Key::new("football.example.com", "fresh", &pem("PRIVATE KEY", fresh.as_ref())).expect("a key"),
    ];
    let header = format!(
        "{RFC_8463_HEADER}List-Unsubscribe:  <https://x.example/u?a=b>,\r\n\t<mailto:u@x.example>\r\n\
         List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nContent-Type: text/plain; charset=utf-8\r\n\
         MIME-Version: 1.0\r\nX-Own: 1\r\n"
    );
    let body = format!(" {RFC_8463_BODY}\t \r\ntrailing  \t\r\n{}\r\n\r\n \r\n\r\n", "x y\t".repeat(200));
    let message = format!("{}{header}\r\n{body}", signed(&header, &body, &keys));
    assert_verified(&message, &keys, &[true; 4]);
    assert_verified(&format!("Received: from a\r\n by b\r\n{message}"), &keys, &[true; 4]);
    assert_verified(&message.replace("X-Own: 1", "X-Own: 2"), &keys, &[true; 4]);
    for (from, to) in [
        ("Subject: Is", "Subject: Was"),
        ("Joe SixPack <joe", "Joe SixPack <jim"),
        ("u@x.example", "v@x.example"),
        ("lost", "won"),
        ("MIME-Version: 1.0", "MIME-Version: 1.0\r\nSubject: another"),
        ("MIME-Version: 1.0", "MIME-Version: 1.0\r\nFrom: another@example.org"),
        ("MIME-Version: 1.0", "MIME-Version: 1.0\r\nReply-To: another@example.org"),
        ("To: Suzie", "To: a@example.org\r\nTo: Suzie"),
    ] {
        let changed = message.replacen(from, to, 1);
        assert_ne!(changed, message);
        assert_verified(&changed, &keys, &[false; 4]);
    }
    let empty = format!("{}{header}\r\n", signed(&header, "", &keys));
    assert_verified(&empty, &keys, &[true; 4]);
}
