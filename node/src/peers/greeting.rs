//! The first words on a connection: who is there, and whether the two fit.
//!
//! Whoever dials sends a `Hello`, whoever accepted answers with one or with an `Error`, and the
//! dialer may still answer that with an `Error`. Nothing else is believed before, and nothing at
//! all of who does not fit: cluster, protocol, configuration, number and incarnation are compared
//! in this order, so that the first difference, which explains the others, is the one that is
//! named.
//!
//! An incarnation is compared with what is *known* of the member, which is nothing until the log
//! has said it: see [`Known`].

use std::cell::Cell;

use wire::message::{Error, Hello};
use wire::{
    Checksum, ClientId, ClusterId, Command, Draft, Header, Incarnation, PROTOCOL, Release,
    ReplicaId, RequestNumber,
};

use super::class::Class;
use super::fault::{Fault, Refusal};

/// Bytes of the sentence in an `Error`; a longer one is cut.
pub(super) const SENTENCE_MAX: usize = 1024;

/// Who this node is among its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The cluster.
    pub cluster: ClusterId,
    /// The number of this node.
    pub replica: ReplicaId,
    /// How many members the cluster has.
    pub replica_count: u8,
    /// The fingerprint of what the cluster was formatted with.
    pub configuration: Checksum,
    /// This node's incarnation.
    pub incarnation: Incarnation,
}

/// The incarnations of the members, as far as they are known.
#[derive(Debug)]
pub(super) struct Known(Vec<Cell<Option<Incarnation>>>);

impl Known {
    pub(super) fn new(members: u8) -> Known {
        Known((0..members).map(|_| Cell::new(None)).collect())
    }

    pub(super) fn learn(&self, replica: ReplicaId, incarnation: Incarnation) {
        self.0[usize::from(replica.0)].set(Some(incarnation));
    }
}

/// A peer whose greeting fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    pub(super) replica: ReplicaId,
    pub(super) class: Class,
}

impl Member {
    fn draft(&self) -> Draft {
        let Member { cluster, replica, .. } = *self;
        Draft { cluster, replica, release: Release::CURRENT, ..Draft::default() }
    }

    /// This node's greeting on a connection of a class.
    pub(super) fn hello(&self, class: Class) -> Header {
        let hello = Hello {
            incarnation: self.incarnation,
            configuration: self.configuration,
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            release_max: Release::CURRENT,
            replica_count: self.replica_count,
            client: false,
            class: class as u8,
        };
        self.draft().seal(&hello, &[])
    }

    /// A refusal as it goes to the other side.
    pub(super) fn error(&self, code: wire::ErrorCode, sentence: &str) -> Vec<u8> {
        let mut end = sentence.len().min(SENTENCE_MAX);
        while !sentence.is_char_boundary(end) {
            end -= 1;
        }
        let error = Error {
            client: ClientId(0),
            number: RequestNumber(0),
            code,
            retry_after_ms: 0,
            primary: ReplicaId(0),
            primary_known: false,
        };
        let body = &sentence.as_bytes()[..end];
        [&self.draft().seal(&error, body).bytes()[..], body].concat()
    }

    /// Whether the one who sent this first message fits, and who it is.
    pub(super) fn judge(
        &self,
        known: &Known,
        header: &Header,
        body: &[u8],
    ) -> Result<Greeting, Refusal> {
        if let Some(error) = header.tail::<Error>() {
            let sentence = String::from_utf8_lossy(body).escape_debug().to_string();
            return Err(Refusal::Theirs { code: error.code, sentence });
        }
        let Some(hello) = header.tail::<Hello>() else {
            let command = header.command();
            return Err(Fault::Unexpected { command, place: "greetings" }.into());
        };
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        if !(min..=max).contains(&PROTOCOL) {
            return Err(Refusal::Protocol { min, max });
        }
        if hello.client {
            return Err(Refusal::Client);
        }
        if header.cluster() != self.cluster {
            return Err(Refusal::Cluster { ours: self.cluster, theirs: header.cluster() });
        }
        let same_count = hello.replica_count == self.replica_count;
        if hello.configuration != self.configuration || !same_count {
            let (ours, theirs) = (self.configuration, hello.configuration);
            return Err(Refusal::Configuration { ours, theirs });
        }
        let replica = self.judge_number(known, header.replica(), hello.incarnation)?;
        let class = Class::from_u8(hello.class).ok_or(Refusal::Class(hello.class))?;
        Ok(Greeting { replica, class })
    }

    fn judge_number(
        &self,
        known: &Known,
        theirs: ReplicaId,
        incarnation: Incarnation,
    ) -> Result<ReplicaId, Refusal> {
        if theirs.0 >= self.replica_count {
            return Err(Refusal::Replica { theirs, problem: "and the cluster has no such member" });
        }
        if theirs == self.replica {
            return Err(Refusal::Replica { theirs, problem: "and so is this node" });
        }
        if incarnation == self.incarnation {
            let problem = "and has this node's incarnation: one directory is a copy of the other";
            return Err(Refusal::Replica { theirs, problem });
        }
        match known.0[usize::from(theirs.0)].get() {
            Some(known) if known != incarnation => {
                Err(Refusal::Incarnation { replica: theirs, known, theirs: incarnation })
            }
            _ => Ok(theirs),
        }
    }
}

/// Whether a message may come before the two have greeted.
pub(super) fn is_greeting(command: Command) -> bool {
    matches!(command, Command::Hello | Command::Error)
}
