//! A network between two processes that a test holds in its hand: a proxy of TCP connections.
//!
//! A link is dialed in place of the address it leads to, and carries bytes both ways, each way on a
//! thread of its own for each connection. What it can do to them:
//!
//! | what | like |
//! | --- | --- |
//! | hold them up, until further notice | packets that are all lost: TCP sends them later |
//! | close all connections, and each new one at once | a host that is gone, or a firewall |
//! | delay them, all or one piece in so many | distance; packets that are lost now and then |
//! | change a byte | memory or a network card that does |
//!
//! Of two members each dials the other and sends on what it dialed: so what holds up the link from
//! one to the other loses the messages of that direction, and nothing else.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What a link does to what it carries.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mood {
    /// Nothing arrives.
    pub(crate) stalled: bool,
    /// There are no connections.
    pub(crate) cut: bool,
    /// How long a piece is held up.
    pub(crate) delay: Duration,
    /// Of how many pieces one is; 0 is all of them.
    pub(crate) delay_one_in: u64,
}

struct State {
    mood: Mood,
    /// Bytes to change, each in another piece.
    corrupt: u32,
    pieces: u64,
    open: Vec<TcpStream>,
}

/// A link to one address.
pub(crate) struct Link {
    /// Where it is dialed.
    pub(crate) address: String,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Link {
    /// A link that leads to `target`, for as long as the process lives.
    pub(crate) fn to(target: &str) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = State { mood: Mood::default(), corrupt: 0, pieces: 0, open: Vec::new() };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let (link, target) = (Arc::clone(&shared), target.to_owned());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if !link.0.lock().unwrap().mood.cut {
                    connect(&link, near, &target);
                }
            }
        });
        Link { address, shared }
    }

    /// From now on it is like this.
    pub(crate) fn set(&self, mood: Mood) {
        let mut state = self.shared.0.lock().unwrap();
        state.mood = mood;
        if mood.cut {
            for stream in state.open.drain(..) {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.1.notify_all();
    }

    /// Changes a byte in each of the next pieces.
    pub(crate) fn corrupt(&self, pieces: u32) {
        self.shared.0.lock().unwrap().corrupt = pieces;
    }
}

/// Connects a caller with the target; whoever calls where nobody listens is hung up on.
fn connect(shared: &Arc<(Mutex<State>, Condvar)>, near: TcpStream, target: &str) {
    let Ok(far) = TcpStream::connect(target) else { return };
    for stream in [&near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    let copies = [near.try_clone().unwrap(), far.try_clone().unwrap()];
    shared.0.lock().unwrap().open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
    let [near_too, far_too] = copies;
    for (from, to) in [(near, far_too), (far, near_too)] {
        let shared = Arc::clone(shared);
        thread::spawn(move || carry(&shared, from, to));
    }
}

/// Carries one direction to its end.
fn carry(shared: &(Mutex<State>, Condvar), mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; 32 << 10];
    while let Ok(size @ 1..) = from.read(&mut bytes) {
        let mut state = shared.0.lock().unwrap();
        while state.mood.stalled && !state.mood.cut {
            state = shared.1.wait(state).unwrap();
        }
        state.pieces += 1;
        let mood = state.mood;
        let held_up = mood.delay_one_in == 0 || state.pieces.is_multiple_of(mood.delay_one_in);
        if state.corrupt > 0 {
            state.corrupt -= 1;
            bytes[size / 2] ^= 0x10;
        }
        drop(state);
        if held_up && !mood.delay.is_zero() {
            thread::sleep(mood.delay);
        }
        if to.write_all(&bytes[..size]).is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
