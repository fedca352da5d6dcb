//! From which of the machine's addresses a connection comes (`local_address` of a route): bound before it connects.
//!
//! Invariant: where an address is given, no connection leaves from another.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{TcpSocket, TcpStream};

/// Connects.
///
/// # Errors
/// The system's; where the local address is at fault, they say so.
pub(crate) async fn connect(server: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(local) = local else { return TcpStream::connect(server).await };
    let (socket, family) = match server {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, "IPv4"),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, "IPv6"),
    };
    if local.is_ipv4() != server.is_ipv4() {
        let text = format!("local_address {local} cannot reach {server}, which is {family}");
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
    }
    socket.bind(SocketAddr::new(local, 0)).map_err(|error| {
        let text = format!("local_address {local} cannot be used: {error} (is it an address of this machine?)");
        io::Error::new(error.kind(), text)
    })?;
    socket.connect(server).await
}

/// Those of a server's addresses that can be reached from the local one; all where none can, so that one of them says so.
pub(crate) fn within_reach(mut addresses: Vec<SocketAddr>, local: Option<IpAddr>) -> Vec<SocketAddr> {
    let fits = |address: &SocketAddr| local.is_none_or(|local| local.is_ipv4() == address.is_ipv4());
    if addresses.iter().any(fits) {
        addresses.retain(fits);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_comes_from_the_address_that_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = listener.local_addr().expect("an address");
        for local in ["127.0.0.2", "127.0.0.3"] {
            let local: IpAddr = local.parse().expect("an address");
            let connected = connect(server, Some(local)).await.expect("connects");
            let (_accepted, peer) = listener.accept().await.expect("a connection");
            assert_eq!((peer.ip(), peer), (local, connected.local_addr().expect("an address")));
        }
    }

    #[tokio::test]
    async fn an_address_of_another_machine_or_family_is_named_with_its_key() {
        let said = async |server: &str, local: &str| {
            let (server, local) = (server.parse().expect("an address"), local.parse().expect("an address"));
            connect(server, Some(local)).await.expect_err("cannot").to_string()
        };
        let foreign = said("127.0.0.1:9", "203.0.113.5").await;
        assert!(foreign.starts_with("local_address 203.0.113.5 cannot be used: "), "{foreign}");
        let family = said("[::1]:9", "127.0.0.2").await;
        assert_eq!(family, "local_address 127.0.0.2 cannot reach [::1]:9, which is IPv6");
        let family = said("127.0.0.1:9", "::1").await;
        assert_eq!(family, "local_address ::1 cannot reach 127.0.0.1:9, which is IPv4");
    }

    #[test]
    fn addresses_of_another_family_are_passed_over_while_there_are_others() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<_>>();
        let (both, six) = (addresses(&["[::1]:25", "127.0.0.1:25"]), addresses(&["[::1]:25"]));
        let local = "127.0.0.2".parse().ok();
        assert_eq!(within_reach(both.clone(), local), addresses(&["127.0.0.1:25"]));
        assert_eq!(within_reach(six.clone(), local), six);
        assert_eq!(within_reach(both.clone(), None), both);
    }
}
