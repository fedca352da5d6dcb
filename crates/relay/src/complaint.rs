//! Saying that something goes on to fail: at once when it begins, then now and then, not at every try.

use std::time::{Duration, Instant};

/// Between two lines that say the same.
const INTERVAL: Duration = Duration::from_secs(10);

/// When it was said last; nothing while all is well.
#[derive(Debug, Default)]
pub(crate) struct Complaint(Option<Instant>);

impl Complaint {
    /// Whether it is to be said (again), which it then is.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= INTERVAL);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }

    /// All is well: the next time is a beginning.
    pub(crate) fn is_over(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_then_now_and_then_and_at_once_again_after_it_was_over() {
        let mut complaint = Complaint::default();
        assert_eq!([complaint.is_due(), complaint.is_due(), complaint.is_due()], [true, false, false]);
        complaint.is_over();
        assert!(complaint.is_due());
        complaint.0 = Instant::now().checked_sub(INTERVAL);
        assert_eq!([complaint.is_due(), complaint.is_due()], [true, false]);
    }
}
