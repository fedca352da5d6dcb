//! What people name on the command line: messages and deliveries.

use uuid::Uuid;

use crate::failure::Refusal;

/// `ID` or `ID/NO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) id: Uuid,
    pub(crate) recipient_no: Option<i32>,
}

impl Target {
    /// # Errors
    /// Exit code 64.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            let hint = "write a message id (a uuid), or a message id, a slash and a recipient number from 1: ID/1";
            Refusal::usage(format!("{text:?} is neither a message nor a delivery"), &[hint])
        };
        let (id, number) = match text.split_once('/') {
            Some((id, number)) => (id, Some(number)),
            None => (text, None),
        };
        let id = id.parse().map_err(|_| wrong())?;
        let recipient_no = number.map(|number| number.parse().ok().filter(|number| *number >= 1).ok_or_else(wrong));
        Ok(Self { id, recipient_no: recipient_no.transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_deliveries_are_told_apart() {
        let id = "0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d";
        let target = Target::parse(id).expect("a message");
        assert_eq!((target.id.to_string().as_str(), target.recipient_no), (id, None));
        assert_eq!(Target::parse(&format!("{id}/2")).expect("a delivery").recipient_no, Some(2));
        for wrong in
            ["", "x", "0199aa3e", &format!("{id}/0"), &format!("{id}/-1"), &format!("{id}/x"), &format!("{id}/")]
        {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
