//! A DNS server for one test: it knows a few TXT records and says NXDOMAIN to everything else.
//!
//! UDP only, one answer a question. It ends with its handle.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The longest piece of a TXT record (RFC 1035 section 3.3.14).
const PIECE_BYTES_MAX: usize = 255;

/// A DNS server; see the module.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    records: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    task: JoinHandle<()>,
}

impl DnsServer {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When no socket can be bound.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let records: Arc<Mutex<BTreeMap<String, Vec<String>>>> = Arc::default();
        let known = records.clone();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, asker)) = socket.recv_from(&mut buffer).await {
                let answer = answer(&buffer[..length], &known.lock().expect("nobody panics while he holds it"));
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, asker).await;
                }
            }
        });
        Self { address, records, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the TXT records at a name; none removes it.
    ///
    /// # Panics
    /// Never.
    pub fn set(&self, name: &str, texts: &[&str]) {
        let mut records = self.records.lock().expect("nobody panics while he holds it");
        records.insert(name.to_owned(), texts.iter().map(ToString::to_string).collect());
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to a question; nothing to what is none.
fn answer(question: &[u8], records: &BTreeMap<String, Vec<String>>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // As it was asked, in whatever case.
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let end = at + 4;
    let is_txt = question.get(at..at + 2)? == [0, 16];
    let found = records.get(&labels.join(".")).filter(|found| !found.is_empty());
    let texts = found.filter(|_| is_txt).cloned().unwrap_or_default();
    let code = if found.is_some() { 0 } else { 3 };
    let mut answer = question.get(..2)?.to_vec();
    answer.extend([0x84 | (question[2] & 1), 0x80 | code, 0, 1]);
    answer.extend(u16::try_from(texts.len()).ok()?.to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(question.get(12..end)?);
    for text in texts {
        let data: Vec<u8> = text
            .as_bytes()
            .chunks(PIECE_BYTES_MAX)
            .flat_map(|piece| [&[u8::try_from(piece.len()).unwrap_or(u8::MAX)][..], piece].concat())
            .collect();
        answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 1]);
        answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}
