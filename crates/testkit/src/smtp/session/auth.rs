//! AUTH PLAIN, LOGIN and XOAUTH2, with or without an initial response.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::script::Phase;
use super::super::steps::Answer;
use super::{Flow, LINE_BYTES_MAX, Session, Stop};

impl Session {
    pub(super) async fn auth(&mut self, line: &str, rest: &str) -> Flow {
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let mechanism = mechanism.to_ascii_uppercase();
        if !self.options().capabilities.auth.contains(&mechanism) {
            return self.refuse("504 5.5.4 no such mechanism").await;
        }
        if self.authenticated {
            return self.refuse("503 5.5.1 AUTH was given already").await;
        }
        // The script speaks first, whatever the mechanism would ask for; a yes of its own ends the exchange.
        let Some(answer) = self.scripted_auth(line).await? else {
            let Some((identity, secret)) = self.exchange(&mechanism, initial).await? else {
                return self.refuse("501 5.5.2 not understood").await;
            };
            let good = self.options().credentials.as_ref();
            let good = good.is_none_or(|(user, password)| *user == identity && *password == secret);
            self.note(&mechanism, identity, good);
            let reply = if good { "235 2.7.0 welcome" } else { "535 5.7.8 wrong credentials" };
            return self.refuse(reply).await;
        };
        if answer == Answer::Yes {
            self.note(&mechanism, String::new(), true);
        }
        Ok(())
    }

    async fn scripted_auth(&mut self, line: &str) -> Flow<Option<Answer>> {
        use super::super::script::{Action, Fault};
        use super::super::steps;
        match self.decide(Phase::Auth, line).await {
            Action::Proceed => Ok(None),
            // Late, but then like any other: the credentials are checked.
            Action::Fault(Fault::DelayedGood(delay)) | Action::TakeThen(Fault::DelayedGood(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(None)
            }
            Action::Fault(fault) | Action::TakeThen(fault) => {
                let (steps, answer) = steps::steps(&fault, Phase::Auth, b"235 2.7.0 welcome\r\n");
                self.perform(steps, answer).await.map(Some)
            }
        }
    }

    fn note(&mut self, mechanism: &str, identity: String, good: bool) {
        self.authenticated |= good;
        let pair = (mechanism.to_owned(), identity);
        self.record(|connection| {
            connection.auth_attempts.push(pair.clone());
            if good {
                connection.auth = Some(pair);
            }
        });
    }

    /// Identity and secret; `None` when they cannot be made out.
    async fn exchange(&mut self, mechanism: &str, initial: &str) -> Flow<Option<(String, String)>> {
        if mechanism == "LOGIN" {
            let user = if initial.is_empty() { self.challenge("VXNlcm5hbWU6").await? } else { decode(initial) };
            let password = self.challenge("UGFzc3dvcmQ6").await?;
            return Ok(user.zip(password));
        }
        let response = if initial.is_empty() { self.challenge("").await? } else { decode(initial) };
        let Some(response) = response else { return Ok(None) };
        if mechanism == "XOAUTH2" {
            // "user=" identity ^A "auth=Bearer " token ^A ^A
            let field =
                |prefix: &str| response.split('\x01').find_map(|field| field.strip_prefix(prefix)).map(str::to_owned);
            return Ok(field("user=").zip(field("auth=Bearer ")));
        }
        let mut fields = response.split('\0').skip(1).map(str::to_owned);
        Ok(fields.next().zip(fields.next()))
    }

    async fn challenge(&mut self, text: &str) -> Flow<Option<String>> {
        self.refuse(&format!("334 {text}")).await?;
        let line = self.reader().line(LINE_BYTES_MAX).await?;
        let line = line.ok_or_else(|| Stop::Io(std::io::ErrorKind::UnexpectedEof.into()))?;
        Ok(decode(&line.text()))
    }
}

fn decode(text: &str) -> Option<String> {
    let text = if text == "=" { "" } else { text };
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}
