//! Ports that stay ours while a server is down.
//!
//! A server that is killed and restarted must come back on the same port, and parallel test processes must not steal it
//! meanwhile. Ports are therefore taken below the usual ephemeral range (so that no outgoing connection can land on one)
//! and each is guarded by a file lock that lives as long as the [`ReservedPort`]. The lock is advice between users of
//! this module; everybody else is kept away by the bind probe.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;

const PORT_FIRST: u16 = 15_000;
const PORT_COUNT: u16 = 17_000;
const ATTEMPTS_MAX: u16 = 2_000;

const _: () = assert!(PORT_FIRST as u32 + PORT_COUNT as u32 <= 32_768, "stay below the ephemeral range");

/// A port of 127.0.0.1 that no other user of this crate will take until it is dropped.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    _lock: File,
}

impl ReservedPort {
    /// Reserves a free port.
    ///
    /// # Errors
    /// When no port could be locked and bound, or the lock directory cannot be written.
    pub fn reserve() -> io::Result<Self> {
        let directory = crate::pg::private_directory(&std::env::temp_dir(), "hapax-ports")?;
        let mut random = std::hash::RandomState::new().build_hasher();
        random.write_u32(std::process::id());
        let start = random.finish();
        for attempt in 0..u64::from(ATTEMPTS_MAX) {
            // A stride coprime to the count visits every port once.
            let offset = start.wrapping_add(attempt * 7_919) % u64::from(PORT_COUNT);
            let number = PORT_FIRST + u16::try_from(offset).expect("offset is below PORT_COUNT");
            let path = directory.join(number.to_string());
            let lock = File::options().create(true).append(true).mode(0o600).open(&path)?;
            if lock.try_lock().is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port on 127.0.0.1"))
    }

    /// The port number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The address on loopback.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_differ_and_can_be_bound() {
        let ports: Vec<_> = (0..20).map(|_| ReservedPort::reserve().unwrap()).collect();
        let mut numbers: Vec<_> = ports.iter().map(ReservedPort::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        assert!(ports.iter().all(|port| TcpListener::bind(port.address()).is_ok()));
    }
}
