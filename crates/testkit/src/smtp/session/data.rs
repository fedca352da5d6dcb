//! DATA, the body, its end marker and the final reply.
//!
//! The order that the oracle rests on: marker read, ledger says so; script decides, ledger says "taken" or not; holds
//! and delays; reply written; ledger says "confirmed".

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hapax_sandbox::smtp::DotDecoder;

use super::super::script::{Action, Phase};
use super::super::steps::{self, Answer, Step};
use super::super::{Shared, lock};
use super::{Flow, Session, Stop};

const BODY_BYTES_GUESS: usize = 1000;
const MARKER_BYTES: usize = 3;
/// RFC 5321 4.5.3.1.6, without its CRLF.
const TEXT_LINE_BYTES_MAX: usize = 998;

/// A body while it comes in.
#[derive(Default)]
struct Body {
    decoder: DotDecoder,
    decoded: Vec<u8>,
    raw_bytes: usize,
}

impl Session {
    pub(super) async fn data(&mut self, line: &str) -> Flow {
        if self.recipients.is_empty() {
            return self.refuse("503 5.5.1 RCPT first").await;
        }
        if self.answer(Phase::Data, line, b"354 go ahead\r\n").await? != Answer::Yes {
            return Ok(());
        }
        self.record_transaction(|transaction| transaction.data_began = true);
        let mut body = Body::default();
        let read = self.read_body(&mut body).await;
        self.keep(body, read.is_ok());
        read?;
        self.finish().await
    }

    async fn read_body(&mut self, body: &mut Body) -> Flow {
        let expected = self.expected_body_bytes();
        let mut points = lock(&self.shared.script).percents().to_vec().into_iter().peekable();
        loop {
            while let Some(percent) = points.next_if(|percent| body.raw_bytes >= expected * usize::from(*percent) / 100)
            {
                self.early(percent, body).await?;
            }
            // Only after the script has had its say: at a point the client may well be waiting for us.
            if self.reader().buffered().is_empty() && self.reader().fill().await? == 0 {
                return Err(Stop::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let until = points.peek().map(|percent| expected * usize::from(*percent) / 100);
            let available = self.reader().buffered().len();
            let most = until.map_or(available, |until| available.min(until - body.raw_bytes));
            let chunk = &self.reader().buffered()[..most];
            let (taken, done) = body.decoder.feed(chunk, &mut body.decoded);
            self.reader().consume(taken);
            body.raw_bytes += taken;
            if done {
                body.raw_bytes -= MARKER_BYTES;
                return Ok(());
            }
            self.record_transaction(|transaction| transaction.body_bytes = body.raw_bytes);
        }
    }

    /// The script's chance in the middle of a body. Replies here are early ones: the body goes on.
    async fn early(&mut self, percent: u8, body: &Body) -> Flow {
        let phase = Phase::Body { percent };
        let action = self.decide(phase, "").await;
        if let Action::Fault(fault) | Action::TakeThen(fault) = action {
            // What was read so far is visible while the server stalls.
            self.record_transaction(|transaction| transaction.body_bytes = body.raw_bytes);
            let (steps, answer) = steps::steps(&fault, phase, b"250 2.0.0 scripted: early\r\n");
            self.perform(steps, answer).await?;
        }
        Ok(())
    }

    fn expected_body_bytes(&self) -> usize {
        let last = Some(self.shared.last_body_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0);
        self.declared_bytes.or(self.options().expected_body_bytes).or(last).unwrap_or(BODY_BYTES_GUESS)
    }

    /// Puts the body into the ledger, whole or in part, and with it the end marker.
    fn keep(&mut self, body: Body, whole: bool) {
        let message_id = hapax_sandbox::smtp::header(&body.decoded, "Message-ID");
        self.note_violations(&body.decoded);
        if whole {
            self.shared.last_body_bytes.store(body.raw_bytes, Ordering::Relaxed);
        }
        let Shared { options, .. } = &*self.shared;
        let decoded = if options.keep_bodies { body.decoded } else { Vec::new() };
        {
            let mut ledger = self.shared.ledger();
            if let Some(transaction) = ledger.connections[self.number - 1].transactions.last_mut() {
                transaction.body_bytes = body.raw_bytes;
                transaction.body = Arc::new(decoded);
                transaction.message_id = message_id;
                transaction.end_marker_read = whole;
            }
            if whole {
                ledger.count(self.number, |counts| counts.end_markers += 1);
            }
        }
        self.shared.notify();
    }

    fn note_violations(&self, body: &[u8]) {
        if !self.eight_bit && !body.is_ascii() {
            self.violation("8-bit body without BODY=8BITMIME".to_owned());
        }
        let mut lines = body.split(|byte| *byte == b'\n');
        // The piece after the last LF is no line.
        lines.next_back();
        let (mut long, mut bare) = (false, false);
        for line in lines {
            bare |= line.last() != Some(&b'\r');
            long |= line.len() > TEXT_LINE_BYTES_MAX + 1;
        }
        if bare {
            self.violation("bare LF in the body".to_owned());
        }
        if long {
            self.violation(format!("a line of the body is longer than {TEXT_LINE_BYTES_MAX} bytes"));
        }
    }

    /// Decides, records, and replies to the end marker.
    async fn finish(&mut self) -> Flow {
        let phase = Phase::EndMarker { took: false };
        let count = if self.options().lmtp { self.recipients.len() } else { 1 };
        let too_big = self.options().capabilities.size.is_some_and(|most| self.body_bytes() > most);
        // Decided before the gate: a server that is stopped while it holds its reply has taken the message.
        let (took, steps) = if too_big {
            (false, vec![Step::Write(b"552 5.3.4 too big\r\n".repeat(count))])
        } else {
            let good = b"250 2.0.0 taken\r\n".repeat(count);
            match self.ask(phase, "") {
                Action::Proceed => (true, vec![Step::Write(good)]),
                Action::Fault(fault) => (fault.means_yes(), steps::steps(&fault, phase, &good).0),
                Action::TakeThen(fault) => (true, steps::steps(&fault, phase, &good).0),
            }
        };
        if took {
            {
                let mut ledger = self.shared.ledger();
                if let Some(transaction) = ledger.connections[self.number - 1].transactions.last_mut() {
                    transaction.took = true;
                }
                ledger.count(self.number, |counts| counts.accepted += 1);
            }
            self.shared.notify();
        }
        self.shared.gates.pass(phase).await;
        let delay = *lock(&self.shared.final_reply_delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.reset();
        for step in steps {
            let yes = matches!(&step, Step::Write(bytes) | Step::WriteSlowly(bytes) if steps::is_whole_yes(bytes));
            self.perform_step(step).await?;
            if yes {
                self.confirm();
            }
        }
        Ok(())
    }

    fn body_bytes(&self) -> usize {
        self.shared.ledger().connections[self.number - 1].transactions.last().map_or(0, |last| last.body_bytes)
    }

    fn confirm(&self) {
        {
            let mut ledger = self.shared.ledger();
            if let Some(transaction) = ledger.connections[self.number - 1].transactions.last_mut() {
                transaction.confirmed = true;
            }
            ledger.count(self.number, |counts| counts.confirmed += 1);
        }
        self.shared.notify();
    }
}
