//! What a test does to a network from outside, and how it looks at it.

use super::weather::{Disturbance, Sky, Weather};
use super::{Due, End, NetConfig, SimNet, Socket};

impl SimNet {
    /// Blocks or opens the way from one node to another (one direction).
    pub fn set_blocked(&mut self, from: usize, to: usize, blocked: bool) {
        self.links.set_blocked(from, to, blocked);
    }

    /// Cuts every link between the two groups, both ways.
    pub fn partition(&mut self, left: &[usize], right: &[usize]) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.links.set_blocked(a, b, true);
            self.links.set_blocked(b, a, true);
        }
    }

    /// Makes a link slower by a factor (one direction).
    pub fn set_slower(&mut self, from: usize, to: usize, factor: u64) {
        self.links.set_slower(from, to, factor);
    }

    /// Opens all links and ends all slowness.
    pub fn heal(&mut self) {
        self.links.heal();
    }

    /// Replaces delays, loss, window and bandwidth for what is sent from now on.
    pub fn set_config(&mut self, config: NetConfig) {
        self.links.config = config;
    }

    /// Lets disturbances come and go by themselves from now on, or, with none, ends them. Time
    /// never stands still in a world with weather.
    pub fn set_weather(&mut self, weather: Option<Weather>) {
        let now = self.now;
        self.links.sky = weather.map(|weather| Sky::new(weather, self.seed, now));
        if let Some(sky) = &self.links.sky {
            let next = sky.next_change();
            self.at(next, Due::Weather);
        }
    }

    /// How many disturbances of each kind the present weather has brought.
    pub fn weather_counts(&self) -> Vec<(Disturbance, u64)> {
        let counts = self.links.sky.as_ref().map_or_else(Default::default, |sky| sky.counts);
        Disturbance::ALL.into_iter().zip(counts).collect()
    }

    pub(super) fn weather_changes(&mut self, now: u64) {
        let Some(sky) = &mut self.links.sky else { return };
        // What is left of weather that was replaced finds nothing due.
        let reset = sky.change(now);
        let next = sky.next_change();
        if !self.due.values().any(|due| matches!(due, Due::Weather)) {
            self.at(next, Due::Weather);
        }
        if let Some((a, b)) = reset {
            self.reset_connections(a, b);
        }
    }

    /// Breaks every connection between two nodes: both ends see a reset.
    pub fn reset_connections(&mut self, a: usize, b: usize) {
        let between: Vec<Socket> = self
            .ends
            .iter()
            .filter(|(_, end)| {
                (end.node, end.peer_node) == (a, b) || (end.node, end.peer_node) == (b, a)
            })
            .map(|(socket, _)| *socket)
            .collect();
        for socket in between {
            self.break_end(socket, libc::ECONNRESET);
        }
    }

    /// Connections that have both ends.
    pub fn connections(&self) -> usize {
        self.ends.values().filter(|end| end.connected && end.peer.is_some()).count() / 2
    }

    /// Bytes in transit, waiting for room, or unread.
    pub fn bytes_held(&self) -> usize {
        let held = |end: &End| {
            let waiting: usize = end.waiting.iter().map(|w| w.data.len()).sum();
            end.arrived_bytes + end.transit_bytes + waiting
        };
        self.ends.values().map(held).sum()
    }
}
