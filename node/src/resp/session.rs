//! What a connection knows about itself: protocol version, name, library, whether it wants replies.
//!
//! A few bytes for most connections: names are kept only by those that give one. Everything here is
//! set by HELLO, CLIENT and RESET, and read when a reply is encoded or CLIENT LIST is asked.
//!
//! **Replies off.** `CLIENT REPLY OFF` mutes the connection from that command on, `ON` (which is
//! answered) ends it, `SKIP` mutes itself and the next command. `Session::begin` is called
//! once for each command, in order, and says whether that command's reply is to be dropped; what
//! the command itself does to the mode applies after that.

use super::encode::Protocol;

/// Whether commands are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replies {
    #[default]
    On,
    Off,
    /// Off for the next command.
    SkipNext,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    /// Never given twice by a node.
    pub(super) id: u64,
    pub(super) protocol: Protocol,
    pub(super) replies: Replies,
    /// The command at hand is answered whatever the mode was before it.
    pub(super) answered: bool,
    pub(super) no_evict: bool,
    pub(super) name: Option<Box<str>>,
    pub(super) library_name: Option<Box<str>>,
    pub(super) library_version: Option<Box<str>>,
    pub(super) last_command: &'static str,
}

impl Session {
    /// The state of a connection that was just accepted.
    #[must_use]
    pub fn new(id: u64) -> Session {
        Session {
            id,
            protocol: Protocol::default(),
            replies: Replies::default(),
            answered: false,
            no_evict: false,
            name: None,
            library_name: None,
            library_version: None,
            last_command: "NULL",
        }
    }

    /// The connection's number, as CLIENT ID reports it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The version replies are encoded in from here on.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The name given by CLIENT SETNAME; empty without one.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }

    /// Starts a command: whether its reply is to be dropped.
    pub(super) fn begin(&mut self) -> bool {
        self.answered = false;
        match self.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext => {
                self.replies = Replies::On;
                true
            }
        }
    }

    /// RESET: as it was when accepted. The library's name stays, as in Redis.
    pub(super) fn reset(&mut self) {
        self.protocol = Protocol::default();
        self.replies = Replies::default();
        self.no_evict = false;
        self.name = None;
    }

    /// Appends what CLIENT INFO and LIST say about the connection, without a line end.
    pub fn describe(&self, peer: &Peer<'_>, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let resp = if self.protocol == Protocol::Resp3 { 3 } else { 2 };
        let flags = if self.no_evict { "e" } else { "N" };
        write!(
            out,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 \
             ssub=0 multi=-1 qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 \
             omem={} tot-mem={} events=r cmd={} user=default redir=-1 resp={resp} lib-name={} \
             lib-ver={}",
            self.id,
            peer.address,
            peer.local_address,
            self.name(),
            peer.age_s,
            peer.idle_s,
            peer.input_bytes,
            peer.output_bytes,
            peer.input_bytes + peer.output_bytes,
            self.last_command,
            self.library_name.as_deref().unwrap_or(""),
            self.library_version.as_deref().unwrap_or(""),
        )
        .expect("writing to a vector cannot fail");
    }
}

/// What only the connection's owner knows about it, for CLIENT INFO and LIST.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The client's address.
    pub address: &'a str,
    /// The address it connected to.
    pub local_address: &'a str,
    /// Seconds since it was accepted.
    pub age_s: u64,
    /// Seconds since its last command.
    pub idle_s: u64,
    /// Bytes received and not yet used.
    pub input_bytes: usize,
    /// Bytes of replies not yet sent.
    pub output_bytes: usize,
}
