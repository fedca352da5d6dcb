//! The proxy is transparent until told otherwise; then it cuts, refuses, stalls and delays.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

use std::time::{Duration, Instant};

use hapax_testkit::{ChaosProxy, Direction, PgCluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that echoes, and its proxy.
async fn echo() -> ChaosProxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    ChaosProxy::start(address)
}

async fn connect(proxy: &ChaosProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn bytes_and_half_closes_pass_through_unchanged() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let ((), count) = tokio::join!(write, reader.read_to_end(&mut received));
    assert!(count.is_ok() && received == sent);
    proxy.wait_until(|counters| counters.open == 0).await;
    let counters = proxy.counters();
    assert_eq!((counters.accepted, counters.bytes_to_server, counters.bytes_to_client), (1, 1_000_000, 1_000_000));
}

#[tokio::test]
async fn cut_all_resets_what_is_open_and_spares_what_comes_later() {
    let proxy = echo().await;
    let (mut first, mut second) = (connect(&proxy).await, connect(&proxy).await);
    for stream in [&mut first, &mut second] {
        stream.write_all(b"x").await.unwrap();
        read(stream, 1).await;
    }
    proxy.cut_all().await;
    assert!(first.read(&mut [0]).await.is_err() && second.read(&mut [0]).await.is_err());
    assert_eq!((proxy.counters().cut, proxy.counters().open), (2, 0));
    let mut third = connect(&proxy).await;
    third.write_all(b"y").await.unwrap();
    assert_eq!(read(&mut third, 1).await, b"y");
}

#[tokio::test]
async fn refused_connections_fail_and_open_ones_live_on() {
    let proxy = echo().await;
    let mut open = connect(&proxy).await;
    proxy.wait_until(|counters| counters.open == 1).await;
    proxy.refuse_new(true).await;
    assert!(TcpStream::connect(proxy.address()).await.is_err());
    open.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut open, 1).await, b"x");
    proxy.refuse_new(false).await;
    connect(&proxy).await;
}

#[tokio::test]
async fn a_stalled_direction_holds_its_bytes_until_it_goes_on() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.stall(Direction::ToClient, true);
    stream.write_all(b"hello").await.unwrap();
    proxy.wait_until(|counters| counters.bytes_to_server == 5).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), stream.readable()).await.is_err());
    assert_eq!(proxy.counters().bytes_to_client, 0);
    proxy.stall(Direction::ToClient, false);
    assert_eq!(read(&mut stream, 5).await, b"hello");
    proxy.stall_all(true);
    stream.write_all(b"again").await.unwrap();
    proxy.cut_all().await;
    assert_eq!(proxy.counters().bytes_to_server, 5, "a cut drops what was stalled");
}

#[tokio::test]
async fn a_delay_is_latency_and_costs_no_throughput() {
    let proxy = echo().await;
    let delay = Duration::from_millis(50);
    proxy.delay(Direction::ToServer, delay);
    proxy.delay(Direction::ToClient, delay);
    let mut stream = connect(&proxy).await;
    stream.set_nodelay(true).unwrap();
    let started = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        for number in 0..200_u8 {
            writer.write_all(&[number]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let mut received = vec![0; 200];
    let ((), count) = tokio::join!(write, reader.read_exact(&mut received));
    count.unwrap();
    let took = started.elapsed();
    assert_eq!(received, (0..200).collect::<Vec<u8>>());
    assert!(took >= 2 * delay && took < 20 * delay, "{took:?}");
}

#[tokio::test]
async fn a_connection_is_cut_after_exactly_so_many_bytes() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.cut_after_bytes(Direction::ToClient, 7);
    stream.write_all(b"0123456789").await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"0123456");
    drop(stream);
    proxy.wait_until(|counters| counters.cut == 1 && counters.open == 0).await;
    let mut next = connect(&proxy).await;
    next.write_all(b"0123456789").await.unwrap();
    assert_eq!(read(&mut next, 10).await, b"0123456789");
}

#[tokio::test]
async fn an_unreachable_upstream_resets_and_another_one_can_take_over() {
    let proxy = echo().await;
    let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = hapax_testkit::ReservedPort::reserve().unwrap();
    proxy.upstream(closed.address());
    // The reset may be so fast that already the connect reports it.
    if let Ok(mut stream) = TcpStream::connect(proxy.address()).await {
        assert!(stream.read(&mut [0]).await.is_err());
    }
    proxy.wait_until(|counters| counters.upstream_failed == 1).await;
    proxy.upstream(good.local_addr().unwrap());
    let mut stream = connect(&proxy).await;
    good.accept().await.unwrap().0.write_all(b"new").await.unwrap();
    assert_eq!(read(&mut stream, 3).await, b"new");
}

#[tokio::test]
async fn postgres_behind_the_proxy_loses_its_connection_when_it_is_cut() {
    let cluster = PgCluster::builder().fsync(false).start().await.unwrap();
    let proxy = ChaosProxy::start(([127, 0, 0, 1], cluster.port()).into());
    let url = cluster.url().replace(&format!(":{}/", cluster.port()), &format!(":{}/", proxy.port()));
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.simple_query("SELECT 1").await.unwrap();
    proxy.cut_all().await;
    assert!(client.simple_query("SELECT 1").await.is_err());
    assert!(connection.await.unwrap().is_err());
}
