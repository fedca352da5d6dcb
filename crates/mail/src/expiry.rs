//! When a certificate expires: the one field of X.509 that metrics want (RFC 5280 section 4.1.2.5). Everything else of a
//! certificate is the verifier's business; here an encoding that is not understood is no answer, never an error.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of its validity, in seconds since 1970.
pub(crate) fn expires_at_s(certificate: &[u8]) -> Option<i64> {
    let (whole, _) = expect(certificate, SEQUENCE)?;
    let (mut fields, _) = expect(whole, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (validity, _) = expect(fields, SEQUENCE)?;
    let (tag, time, _) = element(element(validity)?.2)?;
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: i64 = digits(text, 0, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (digits(text, 0, 4)?, text.get(4..)?),
        _ => return None,
    };
    let part = |at| digits(rest, at, 2);
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn digits(text: &str, at: usize, count: usize) -> Option<i64> {
    text.get(at..at + count)?.parse().ok()
}

/// Of the Gregorian calendar, with years that begin in March, so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, month) = (year.div_euclid(400), (month + 9) % 12);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Content of the first element, and what follows it; none if it is something else.
fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(tag, ..)| *tag == wanted).map(|(_, content, rest)| (content, rest))
}

/// Tag and content of the first element, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (long.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["mx.example.org".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, month, day);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signs").der().to_vec()
    }

    #[test]
    fn the_end_of_validity_is_read_in_both_forms() {
        for (date, seconds) in [
            ((2026, 11, 27), 1_795_737_600),
            ((2028, 2, 29), 1_835_395_200),
            ((2049, 12, 31), 2_524_521_600),
            // Beyond 2049 the other form is used.
            ((2051, 1, 1), 2_556_144_000),
        ] {
            assert_eq!(expires_at_s(&made(date.0, date.1, date.2)), Some(seconds), "{date:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_is_no_certificate_has_no_end_and_no_panic() {
        let whole = made(2030, 1, 1);
        for length in 0..whole.len().min(300) {
            let _ = expires_at_s(&whole[..length]);
            let mut broken = whole.clone();
            broken[length] ^= 0xff;
            let _ = expires_at_s(&broken);
        }
        assert_eq!(expires_at_s(b""), None);
        assert_eq!(expires_at_s(&whole[..40]), None);
    }
}
