//! A connection that a test can hold up, in one direction or both, and cut: a stalled network, without touching the machine's.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::process::Broker;

/// Passes bytes on to a broker.
pub struct Relay {
    address: String,
    ways: Arc<Ways>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who connects to whom it connects to.
    There,
    /// The answers.
    Back,
}

#[derive(Default)]
struct Ways {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    there: bool,
    back: bool,
    lag: Duration,
    over: bool,
    cut: bool,
    open: Vec<TcpStream>,
}

impl Relay {
    /// Starts it in front of a broker, on the same port of the other loopback address: a development broker answers only to hosts
    /// of its own port.
    pub fn to(broker: &Broker) -> Self {
        let (address, own) = (broker.address(), format!("[::1]:{}", broker.port()));
        let listener = TcpListener::bind(&own).unwrap();
        let ways = Arc::<Ways>::default();
        let shared = Arc::clone(&ways);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut state = shared.state.lock().unwrap();
                if state.over {
                    return;
                }
                // Cut: who comes is turned away at once.
                let (false, Ok(far)) = (state.cut, TcpStream::connect(&address)) else { continue };
                state.open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let pairs = [(Way::There, &near, &far), (Way::Back, &far, &near)];
                for (way, from, to) in pairs {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let ways = Arc::clone(&shared);
                    std::thread::spawn(move || pass(&ways, way, from, to));
                }
            }
        });
        Self { address: own, ways }
    }

    /// `http://[::1]:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that go this way are taken and kept from now on; nothing of them is lost.
    pub fn hold(&self, ways: &[Way]) {
        self.set(|state| {
            state.there |= ways.contains(&Way::There);
            state.back |= ways.contains(&Way::Back);
        });
    }

    /// Bytes that go this way are kept from now on, and what was held the other way goes on.
    pub fn hold_only(&self, way: Way) {
        self.set(|state| (state.there, state.back) = (way == Way::There, way == Way::Back));
    }

    /// What was held goes on, late and in order.
    pub fn release(&self) {
        self.set(|state| (state.there, state.back) = (false, false));
    }

    /// Answers go on so long after they came, from now on.
    pub fn lag(&self, lag: Duration) {
        self.set(|state| state.lag = lag);
    }

    /// Ends every connection, and takes no other.
    pub fn cut(&self) {
        self.set(|state| {
            state.cut = true;
            state.open.drain(..).for_each(|line| drop(line.shutdown(Shutdown::Both)));
        });
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.set(|state| state.cut = false);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.ways.state.lock().unwrap());
        self.ways.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        self.set(|state| state.over = true);
        let _ = TcpStream::connect(&self.address);
    }
}

/// One way of one connection.
fn pass(ways: &Ways, way: Way, mut from: TcpStream, mut to: TcpStream) {
    let (send, kept) = mpsc::channel::<(Instant, Vec<u8>)>();
    // The sender's bytes are taken and acknowledged at once also while they are held, as by a proxy that buffers.
    std::thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            if send.send((Instant::now(), bytes[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    for (came, some) in kept {
        ways.wait(way, came);
        if to.write_all(&some).is_err() {
            break;
        }
    }
    // Also the end of it is news that is held.
    ways.wait(way, Instant::now());
    let _ = to.shutdown(Shutdown::Both);
}

impl Ways {
    /// Waits until what came then may go on.
    fn wait(&self, way: Way, came: Instant) {
        let mut state = self.state.lock().unwrap();
        while !state.over && !state.cut {
            let held = if way == Way::There { state.there } else { state.back };
            let lag = if way == Way::There { Duration::ZERO } else { state.lag };
            let wait = lag.saturating_sub(came.elapsed());
            if !held && wait.is_zero() {
                return;
            }
            let wait = if held { Duration::from_secs(60) } else { wait };
            state = self.changed.wait_timeout(state, wait).unwrap().0;
        }
    }
}
