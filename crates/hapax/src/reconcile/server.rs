//! The names of a mail server. Pure.
//!
//! An attempt knows it as `host:port (name in the greeting)`, a route as its host; a log by the name of the machine, and
//! a person by any of them.

/// A server, as `outbox.in_doubt` has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server<'a> {
    whole: &'a str,
    /// `smtp.example.com:587`.
    host_port: Option<&'a str>,
    host: &'a str,
    greeting: Option<&'a str>,
}

impl<'a> Server<'a> {
    pub(super) fn of(whole: &'a str) -> Self {
        let (address, greeting) = match whole.strip_suffix(')').and_then(|rest| rest.split_once(" (")) {
            Some((address, name)) => (address, Some(name).filter(|name| !name.is_empty() && *name != "-")),
            None => (whole, None),
        };
        let port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        match address.rsplit_once(':') {
            Some((host, digits)) if port(digits) && !host.is_empty() => {
                let host = host.trim_matches(['[', ']']);
                Self { whole, host_port: Some(address), host, greeting }
            }
            _ => Self { whole, host_port: None, host: address, greeting },
        }
    }

    /// Whether a person means it.
    pub(super) fn is(&self, given: &str) -> bool {
        let names = [Some(self.whole), self.host_port, Some(self.host), self.greeting];
        names.into_iter().flatten().any(|name| name.eq_ignore_ascii_case(given))
    }

    /// Whether a log's machine is this one. Every machine calls itself localhost: that says nothing.
    pub(super) fn wrote(&self, machine: &str) -> bool {
        let local = machine.to_ascii_lowercase().starts_with("localhost");
        let names = [Some(self.host), self.greeting];
        !local && names.into_iter().flatten().any(|name| name.eq_ignore_ascii_case(machine))
    }

    /// What to type for it.
    pub(super) fn typed(&self) -> String {
        quoted(self.greeting.unwrap_or(self.host))
    }
}

/// As one word of a shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:-/@%+".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_several_names_and_each_is_exact() {
        let mx1 = Server::of("smtp.example.com:587 (MX1.example.com)");
        for given in
            ["mx1.example.com", "SMTP.example.com", "smtp.example.com:587", "smtp.example.com:587 (mx1.example.com)"]
        {
            assert!(mx1.is(given), "{given}");
        }
        for given in ["mx1", "example.com", "587", "", "smtp.example.com:25", "smtp.example.com:"] {
            assert!(!mx1.is(given), "{given}");
        }
        assert!(
            mx1.wrote("mx1.example.com") && mx1.wrote("smtp.example.com") && !mx1.wrote("mx1") && !mx1.wrote("587")
        );
        assert_eq!(mx1.typed(), "MX1.example.com");
        let silent = Server::of("[2001:db8::1]:25 (-)");
        assert!(silent.is("2001:db8::1") && !silent.is("-") && !silent.wrote("-"));
        assert_eq!(silent.typed(), "2001:db8::1");
        let route = Server::of("smtp.example.com");
        assert!(route.is("smtp.example.com") && route.wrote("smtp.example.com"));
        assert!(!Server::of("localhost:25 (localhost)").wrote("localhost"));
        assert_eq!(quoted("it's (x)"), r"'it'\''s (x)'");
    }
}
