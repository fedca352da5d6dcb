//! What a route says of its envelopes and of where its connections come from.

use std::net::IpAddr;

use hapax_relay::EnvelopeSender;

use super::reader::Section;

/// `envelope_sender`, if there is one.
pub(super) fn sender(section: &mut Section<'_>) -> Option<EnvelopeSender> {
    let given = section.take("envelope_sender");
    section.show("envelope_sender", given.as_ref(), None);
    let given = given?;
    match EnvelopeSender::parse(&given.text) {
        Ok(pattern) => Some(pattern),
        Err((message, hint)) => {
            section.refuse_with("envelope_sender", &given, message, &hint);
            None
        }
    }
}

/// `local_address`, if there is one.
pub(super) fn local_address(section: &mut Section<'_>) -> Option<IpAddr> {
    let given = section.take("local_address");
    section.show("local_address", given.as_ref(), None);
    let given = given?;
    let hint = "an address that this machine has, without a port: 203.0.113.5, or 2001:db8::5";
    match given.text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address)
            if address.is_unspecified()
                || address.is_multicast()
                || matches!(address, IpAddr::V4(four) if four.is_broadcast()) =>
        {
            let message = "is no address of one machine";
            section.refuse_with("local_address", &given, message, "leave it out: any address will do then");
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            section.refuse_with("local_address", &given, "is not an IP address", hint);
            None
        }
    }
}
