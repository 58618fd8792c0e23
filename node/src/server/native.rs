//! The listener of the native protocol: where the cluster's other replicas connect, and clients of
//! that protocol.
//!
//! What comes there says in its greeting what it is ([`crate::peers`], [`crate::native`]). A node
//! listens there if it is told to (`--listen`). A cluster of one refuses replicas by name; a member
//! of a larger one hands what they say to its own ([`crate::replica::member`]).
//!
//! What the settings say of the cluster is compared with what the directory says before anything is
//! served: a list of another cluster, or this replica in another's place of the list, would
//! otherwise show as replicas that refuse each other.

use std::rc::Rc;

use ioring::{BufferPool, ListenOptions, Listener};
use vsr::journal::frame_size;
use vsr::superblock::State;
use wire::{Header, ReplicaId};

use super::StartError;
use crate::config::Config;
use crate::config::peers::is_own;
use crate::core::Core;
use crate::native;
use crate::peers::{self, Body, Deliver, Member, Peers};
use crate::replica::member::Receiver;

/// Why the settings do not fit the directory.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The list has another number of replicas than the cluster.
    #[error("--peers names {given} replicas, the directory is of a cluster of {replicas}")]
    Count {
        /// How many are named.
        given: usize,
        /// How many there are.
        replicas: u8,
    },
    /// The list says that this replica is elsewhere.
    #[error(
        "this is replica {replica}, which --peers says is at {peer}, and --listen is {listen}: the \
         list has to be in the order of the replicas' numbers, and the same on all"
    )]
    Place {
        /// This replica.
        replica: u8,
        /// Where the list says it is.
        peer: String,
        /// Where it listens.
        listen: String,
    },
    /// A cluster of several, and nobody said where they are.
    #[error(
        "the directory is of a cluster of {replicas} replicas: give --peers all of their addresses \
         in the order of their numbers, and --listen this one's own"
    )]
    Several {
        /// How many there are.
        replicas: u8,
    },
}

/// Prepares that wait for a peer at most, by class.
pub(super) const FRAMES_QUEUED: usize = 8;

/// Compares what the settings say of the cluster with what the directory says.
pub(super) fn check(config: &Config, state: &State) -> Result<(), ClusterError> {
    let (replicas, replica) = (state.configuration.replica_count, state.identity.replica.0);
    let given = config.peers.len();
    if given != 0 && given != usize::from(replicas) {
        return Err(ClusterError::Count { given, replicas });
    }
    if let (Some(peer), Some(listen)) = (config.peers.get(usize::from(replica)), config.listen)
        && !is_own(peer, listen)
    {
        let (peer, listen) = (peer.clone(), listen.to_string());
        return Err(ClusterError::Place { replica, peer, listen });
    }
    let alone = config.peers.is_empty() || config.listen.is_none();
    if replicas > 1 && alone { Err(ClusterError::Several { replicas }) } else { Ok(()) }
}

/// Listens, if told to.
pub(super) fn listen(config: &Config) -> Result<Option<Listener>, StartError> {
    let listen = |address| {
        Listener::bind(address, ListenOptions::default())
            .map_err(|error| StartError::Listen { address, error })
    };
    config.listen.map(listen).transpose()
}

/// A cluster of one has nobody to hear.
struct Alone;

impl Deliver for Alone {
    fn on_message(&self, from: ReplicaId, header: &Header, _body: Body<'_>) {
        unreachable!("a cluster of one let {from} in: {header:?}");
    }
}

/// Serves the listener: from here on peers are dialed and let in.
pub(super) fn serve(core: &Rc<Core>, config: &Config, state: &State, listener: Listener) {
    let configuration = &state.configuration;
    let replica_count = configuration.replica_count;
    let member = Member {
        cluster: state.identity.cluster,
        replica: state.identity.replica,
        replica_count,
        configuration: configuration.fingerprint(),
        incarnation: state.identity.incarnation,
    };
    let alone = replica_count == 1;
    let own = || vec![listener.local_addr().to_string()];
    let addresses = if alone { own() } else { config.peers.clone() };
    let prepare_size_max = configuration.prepare_size_max as usize;
    let config = peers::Config { member, addresses, prepare_size_max, frames_max: FRAMES_QUEUED };
    // A peer's connections for prepares and for transfers receive into one each; alone nobody ever
    // gets as far as to send a prepare.
    let received = 2 * usize::from(replica_count);
    let size = frame_size(prepare_size_max).max(configuration.block_size as usize);
    let pool = BufferPool::new("received prepares", size, received);
    let deliver: Rc<dyn Deliver> =
        if alone { Rc::new(Alone) } else { Rc::new(Receiver(Rc::downgrade(core))) };
    let peers = Peers::start(config, pool, listener, deliver);
    let of_core = core.clone();
    peers.serve_clients(move |newcomer| native::adopt(&of_core, newcomer));
    assert!(core.peers.set(peers).is_ok(), "a node listens once");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use vsr::format::Configuration;
    use vsr::superblock::Identity;
    use wire::{ClusterId, Incarnation};

    fn state(replica: u8, replica_count: u8) -> State {
        let (cluster, incarnation) = (ClusterId(1), Incarnation(2));
        let identity = Identity { cluster, replica: ReplicaId(replica), incarnation };
        State::formatted(identity, Configuration { replica_count, ..Configuration::default() })
    }

    fn check(listen: &str, peers: &str, state: &State) -> Result<(), ClusterError> {
        let mut layers = Layers::default();
        layers.set_flag("listen", listen);
        layers.set_flag("peers", peers);
        super::check(&Config::new(&layers).unwrap(), state)
    }

    #[test]
    fn settings_and_directory_have_to_fit() {
        check("", "", &state(0, 1)).unwrap();
        check("127.0.0.1:7400", "127.0.0.1:7400", &state(0, 1)).unwrap();
        let three = "127.0.0.1:7400,127.0.0.1:7401,127.0.0.1:7402";
        let error = check("127.0.0.1:7400", three, &state(0, 1)).unwrap_err();
        assert!(matches!(error, ClusterError::Count { given: 3, replicas: 1 }));
        let error = check("127.0.0.1:7400", three, &state(1, 3)).unwrap_err();
        assert!(matches!(error, ClusterError::Place { replica: 1, .. }), "{error}");
        check("127.0.0.1:7401", three, &state(1, 3)).unwrap();
        let error = check("", "", &state(0, 3)).unwrap_err();
        assert!(matches!(error, ClusterError::Several { replicas: 3 }));
    }
}
