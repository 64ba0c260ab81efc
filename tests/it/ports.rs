//! Ports for programs that must be told where to listen before they do.

use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;

use protem_clock::random;

/// A port that nothing else is given while this process lives, so that a program may end and come back to it. It lies below those that
/// the system gives away by itself, to whoever asks for any and to every connection that goes out, and in a block that no other
/// run of these tests has.
pub fn free_port() -> u16 {
    // All of them are ours to the end: programs come back to their ports.
    static BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());
    // Who failed to get one keeps nobody from trying again.
    let mut blocks = BLOCKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        match blocks.last_mut().and_then(|block| block.left.next()) {
            // Some service of this machine may have it.
            Some(port) if TcpListener::bind(("127.0.0.1", port)).is_ok() => return port,
            Some(_) => {}
            None => blocks.push(Block::claim()),
        }
    }
}

/// Ports in a row.
struct Block {
    left: std::ops::Range<u16>,
    /// The first port, for UDP, which no program here speaks: who holds it has the block, and no longer than the process lives.
    _claim: UdpSocket,
}

/// Ports of a block.
const SIZE: u16 = 256;
/// Below it are the ports that services are known by.
const LEAST: u16 = 10_240;
/// Where the system begins to give ports away by itself, unless it says otherwise.
const USUAL: u16 = 32_768;

impl Block {
    fn claim() -> Self {
        let blocks = (first_of_the_system() - LEAST) / SIZE;
        // Anywhere, so that two runs that begin together seldom want the same.
        let from = u16::from_be_bytes(random::bytes()) % blocks;
        let claim = |at: u16| {
            let first = LEAST + (from + at) % blocks * SIZE;
            let claim = UdpSocket::bind(("127.0.0.1", first)).ok()?;
            Some(Self { left: first..first + SIZE, _claim: claim })
        };
        (0..blocks).find_map(claim).expect("every block of ports is taken")
    }
}

/// Where the system's own ports begin. On a machine where they leave no room a port is as likely taken as any.
fn first_of_the_system() -> u16 {
    let said = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = said.ok().and_then(|said| said.split_whitespace().next()?.parse().ok());
    first.filter(|first| *first >= LEAST + SIZE).unwrap_or(USUAL)
}
