//! Which of a pair's connections a message takes.
//!
//! | class | carries | when it stalls |
//! | --- | --- | --- |
//! | control | heartbeats, votes, acknowledgements, questions, headers | the peer seems dead |
//! | prepares | prepares of the pipeline | the peer falls behind |
//! | transfers | prepares that are repaired, blocks, checkpoints | repair waits |
//! | forwards | writes that a backup passes on, and their outcomes | these writes wait |
//!
//! A question is control also when its answer is a transfer: it is small, and who asks waits for
//! it.

use wire::Command;

/// A class of messages; each has a connection of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// What decides who leads and what is committed.
    Control = 1,
    /// The log as it grows.
    Prepares = 2,
    /// The log and the grid of the past.
    Transfers = 3,
    /// Clients' writes on their way to the primary.
    Forwards = 4,
}

/// How many classes there are.
pub const CLASSES: usize = Class::ALL.len();

impl Class {
    /// Every class, the most urgent first.
    pub const ALL: [Class; 4] =
        [Class::Control, Class::Prepares, Class::Transfers, Class::Forwards];

    /// The class with this number in a Hello.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Class> {
        Class::ALL.into_iter().find(|class| *class as u8 == number)
    }

    /// Its place in tables that have an entry per class.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// The name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Control => "control",
            Class::Prepares => "prepares",
            Class::Transfers => "transfers",
            Class::Forwards => "forwards",
        }
    }

    /// Whether messages of this command may come on a connection of this class.
    #[must_use]
    pub fn carries(self, command: Command) -> bool {
        match command {
            Command::Ping
            | Command::Pong
            | Command::PrepareOk
            | Command::Commit
            | Command::CommitOk
            | Command::PreVote
            | Command::StartViewChange
            | Command::DoViewChange
            | Command::StartView
            | Command::GetView
            | Command::GetHeaders
            | Command::Headers
            | Command::GetPrepare
            | Command::GetBlocks
            | Command::GetCheckpoint
            | Command::GetReadIndex
            | Command::ReadIndex => self == Class::Control,
            Command::Prepare => matches!(self, Class::Prepares | Class::Transfers),
            Command::Forward | Command::Forwarded => self == Class::Forwards,
            Command::Block | Command::Checkpoint => self == Class::Transfers,
            // Of clients, or of the first words on a connection.
            Command::Hello
            | Command::Request
            | Command::Reply
            | Command::Eviction
            | Command::Error => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_class() {
        for class in Class::ALL {
            assert_eq!(Class::from_u8(class as u8), Some(class));
            assert_eq!(Class::ALL[class.index()], class);
        }
        assert_eq!((Class::from_u8(0), Class::from_u8(5)), (None, None));
    }

    #[test]
    fn only_prepares_go_two_ways() {
        for command in Command::ALL {
            let ways = Class::ALL.iter().filter(|class| class.carries(*command)).count();
            assert!(ways <= 1 + usize::from(*command == Command::Prepare), "{command:?}");
        }
    }
}
