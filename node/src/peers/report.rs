//! What is to be said about the connections: in the status, and as metrics by peer and class.

use serde::Serialize;

use crate::metrics::text::Gauge;

/// How this node and its peers are connected.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeersReport {
    /// Each peer.
    pub peers: Vec<PeerReport>,
    /// Connections that were closed without a greeting that fits.
    pub strangers_refused: u64,
}

/// How this node and a peer are connected.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReport {
    /// The peer.
    pub replica: u8,
    /// Where it is dialed.
    pub address: String,
    /// How long a ping takes there and back, averaged; 0 before the first.
    pub round_trip_ns: u64,
    /// Each class.
    pub classes: Vec<PairReport>,
}

/// How a connection to a peer stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum State {
    /// Being made; why the last attempt failed or the last connection broke, once there was one.
    Connecting(Option<String>),
    /// Refused, by either side; a person has to change something.
    Refused(String),
    /// Greeted: messages are sent.
    Connected,
}

/// What is to be said about one class of one peer.
#[derive(Clone, Debug, Serialize)]
pub struct PairReport {
    /// The class.
    pub class: &'static str,
    /// To the peer.
    pub sending: Sending,
    /// From the peer.
    pub receiving: Receiving,
}

/// What was sent to a peer.
#[derive(Clone, Debug, Serialize)]
pub struct Sending {
    /// How the connection stands.
    #[serde(flatten)]
    pub state: State,
    /// Messages handed to the kernel.
    pub messages: u64,
    /// Bytes handed to the kernel.
    pub bytes: u64,
    /// Sends that took them there.
    pub sends: u64,
    /// Times that a connection was made.
    pub connects: u64,
    /// Messages dropped because the queue was full.
    pub dropped_full: u64,
    /// Messages dropped because there was no connection, or it broke.
    pub dropped_unconnected: u64,
    /// Messages that wait.
    pub queued_messages: u64,
    /// Bytes that wait.
    pub queued_bytes: u64,
}

/// What was received from a peer.
#[derive(Clone, Debug, Serialize)]
pub struct Receiving {
    /// Whether there is a connection.
    pub connected: bool,
    /// Whole messages that arrived.
    pub messages: u64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Times that a body waited for a buffer.
    pub waits: u64,
    /// Connections accepted from it.
    pub accepted: u64,
    /// Connections closed for what came on them.
    pub faults: u64,
}

type OfPair = (&'static str, &'static str, fn(&PairReport) -> u64);

/// What is shown of each class of each peer: name, help, value.
const OF_PAIRS: &[OfPair] = &[
    ("peer_connected", "1 while messages to the peer can be sent.", |pair| {
        u64::from(pair.sending.state == State::Connected)
    }),
    ("peer_refused", "1 while the peer and this node do not fit.", |pair| {
        u64::from(matches!(pair.sending.state, State::Refused(_)))
    }),
    ("peer_connects_total", "Times that a connection to the peer was made.", |pair| {
        pair.sending.connects
    }),
    ("peer_sent_messages_total", "Messages sent to the peer.", |pair| pair.sending.messages),
    ("peer_sent_bytes_total", "Bytes sent to the peer.", |pair| pair.sending.bytes),
    ("peer_sends_total", "Sends that took the messages to the kernel.", |pair| pair.sending.sends),
    ("peer_dropped_full_total", "Messages dropped because too many waited.", |pair| {
        pair.sending.dropped_full
    }),
    ("peer_dropped_unconnected_total", "Messages dropped for want of a connection.", |pair| {
        pair.sending.dropped_unconnected
    }),
    ("peer_queued_messages", "Messages that wait to be sent.", |p| p.sending.queued_messages),
    ("peer_queued_bytes", "Bytes that wait to be sent.", |pair| pair.sending.queued_bytes),
    ("peer_received_messages_total", "Messages received from the peer.", |pair| {
        pair.receiving.messages
    }),
    ("peer_received_bytes_total", "Bytes received from the peer.", |pair| pair.receiving.bytes),
    ("peer_receive_waits_total", "Times that a message waited for a buffer.", |pair| {
        pair.receiving.waits
    }),
    ("peer_faults_total", "Connections of the peer closed for what came on them.", |pair| {
        pair.receiving.faults
    }),
];

/// The metrics of a node's connections.
#[must_use]
pub fn gauges(report: &PeersReport) -> Vec<Gauge> {
    let of_pair = |&(name, help, value): &OfPair| {
        let peers = report.peers.iter();
        let values = peers.flat_map(|peer| {
            let label = |class| format!("peer=\"{}\",class=\"{class}\"", peer.replica);
            peer.classes.iter().map(move |pair| (label(pair.class), value(pair)))
        });
        Gauge { name, help, values: values.collect() }
    };
    let round_trip = |peer: &PeerReport| (format!("peer=\"{}\"", peer.replica), peer.round_trip_ns);
    let mut gauges: Vec<Gauge> = OF_PAIRS.iter().map(of_pair).collect();
    gauges.extend([
        Gauge {
            name: "peer_round_trip_ns",
            help: "How long a ping takes to the peer and back, averaged.",
            values: report.peers.iter().map(round_trip).collect(),
        },
        Gauge {
            name: "peer_strangers_refused_total",
            help: "Connections closed without a greeting that fits.",
            values: vec![(String::new(), report.strangers_refused)],
        },
    ]);
    gauges
}

#[cfg(test)]
mod tests {
    use super::super::Class;
    use super::super::link::Pair;
    use super::*;

    #[test]
    fn every_class_of_every_peer_has_its_series() {
        let peer = |replica| PeerReport {
            replica,
            address: "b:7400".to_owned(),
            round_trip_ns: 70_000,
            classes: Class::ALL.map(|class| Pair::new(class, 4).report()).to_vec(),
        };
        let report = PeersReport { peers: vec![peer(1), peer(2)], strangers_refused: 3 };
        let text = crate::metrics::text::write(&Default::default(), &gauges(&report));
        for line in [
            "quorate_peer_connected{peer=\"2\",class=\"transfers\"} 0",
            "# TYPE quorate_peer_sent_bytes_total counter",
            "quorate_peer_round_trip_ns{peer=\"1\"} 70000",
            "quorate_peer_strangers_refused_total 3",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["peers"][1]["classes"][0]["sending"]["state"], "connecting");
    }
}
