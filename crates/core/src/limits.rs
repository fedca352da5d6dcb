//! Limits of the relay, with their defaults and units, and the relations between them that safety rests on.

use std::time::Duration;

/// One timeout per phase, RFC 5321 section 4.5.3.2 where it names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect (and name lookup).
    pub connect: Duration,
    /// TLS handshake, greeting, EHLO, STARTTLS, AUTH, MAIL, RCPT: each.
    pub command: Duration,
    /// DATA to 354.
    pub data: Duration,
    /// Body progress: the longest time without the kernel accepting a byte.
    pub body: Duration,
    /// End marker to its reply.
    pub final_reply: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            command: Duration::from_secs(300),
            data: Duration::from_secs(120),
            body: Duration::from_secs(180),
            final_reply: Duration::from_secs(600),
        }
    }
}

/// Numbers that bound what a relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts under way at once, up to their durable outcomes: bounds open intents and the doubt one crash can leave.
    pub max_in_flight: usize,
    /// Deliveries claimed ahead of that, so that no courier waits for the database; memory is for both.
    pub prefetch: usize,
    /// From asking for the intent to the first byte of the end marker; later the attempt aborts, certainly not sent.
    pub transmit_deadline: Duration,
    /// Between two heartbeats.
    pub heartbeat_interval: Duration,
    /// A heartbeat counter unchanged for so long, with the database reachable throughout, means a dead incarnation.
    pub dead_after: Duration,
    /// How long a claim may be worked on before another relay may take it over (always safe, see the intent's fence).
    pub lease: Duration,
    /// The longest pause between two polls of an idle relay.
    pub poll_interval_max: Duration,
    /// The longest pause between two polls of an idle relay that has asked to be woken, and hears.
    pub poll_interval_asleep: Duration,
    /// The pause between two polls while something happened recently.
    pub poll_interval_min: Duration,
    /// From SIGTERM to giving up on what is between end marker and reply.
    pub shutdown_grace: Duration,
    /// Added to deadlines before another party may act on them.
    pub margin: Duration,
    /// Claims that ended neither in an attempt nor in a release after which a delivery is suspected to kill its relay.
    pub suspect_after_claims: i16,
    /// How many copies policy `resend` may send for one delivery without asking a person.
    pub max_resends: i16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_in_flight: 64,
            prefetch: 64,
            transmit_deadline: Duration::from_secs(60),
            heartbeat_interval: Duration::from_secs(5),
            dead_after: Duration::from_secs(30),
            lease: Duration::from_secs(120),
            poll_interval_max: Duration::from_millis(100),
            poll_interval_asleep: Duration::from_secs(1),
            poll_interval_min: Duration::from_millis(5),
            shutdown_grace: Duration::from_secs(660),
            margin: Duration::from_secs(30),
            suspect_after_claims: 5,
            max_resends: 1,
        }
    }
}

impl Limits {
    /// After a doubt was marked, how long its attempt may still be alive somewhere: nothing is sent again before.
    #[must_use]
    pub fn doubt_grace(&self, timeouts: &Timeouts) -> Duration {
        self.transmit_deadline + timeouts.body + timeouts.final_reply + self.margin
    }
}
