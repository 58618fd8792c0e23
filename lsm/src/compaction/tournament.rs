//! Which of a merge's streams comes first: a tree of losers.
//!
//! Every inner node of a binary tree keeps the loser of the match played there; the winner goes on
//! to the match above (Knuth, "The Art of Computer Programming", volume 3, 5.4.1). When the winning
//! stream has advanced, only the matches on its way up are played again: one comparison per level,
//! where a walk over all streams would take one per stream.
//!
//! Nearly all matches are decided by eight bytes: the keys of a merge share a prefix (that of the
//! smallest and the largest of them), and behind it the next eight, as a number, order as the keys
//! do. They are kept here, apart from the streams, and only ties look at keys and versions.

use super::stream::Stream;
use crate::page::common_prefix_len;

/// What a stream stands at, as far as a match needs it.
#[derive(Clone, Copy)]
struct Head {
    bytes: u64,
    /// A stream at its end loses against all others.
    ended: bool,
}

pub(crate) struct Tournament {
    /// Bytes that all keys share.
    prefix_len: usize,
    heads: Vec<Head>,
    /// Per inner node the stream that lost there; the children of node n are 2n and 2n + 1, the
    /// streams stand behind the last inner node. Place 0 has the winner of all.
    losers: Vec<usize>,
}

impl Tournament {
    /// Plays all matches between streams that stand at their first entries. `bounds` are below and
    /// above all keys; none if that is not known.
    pub(crate) fn new(streams: &[Stream], bounds: Option<(&[u8], &[u8])>) -> Tournament {
        let prefix_len = bounds.map_or(0, |(first, last)| common_prefix_len(first, last));
        let mut tournament =
            Tournament { prefix_len, heads: Vec::new(), losers: vec![usize::MAX; streams.len()] };
        let heads = streams.iter().map(|stream| tournament.head(stream)).collect();
        tournament.heads = heads;
        for stream in 0..streams.len() {
            tournament.enter(streams, stream);
        }
        tournament
    }

    /// The stream that comes first; none if all are at their end.
    #[inline]
    pub(crate) fn first(&self) -> Option<usize> {
        let first = *self.losers.first()?;
        (!self.heads[first].ended).then_some(first)
    }

    /// The first stream has advanced: plays its matches again.
    #[inline]
    pub(crate) fn advanced(&mut self, streams: &[Stream]) {
        let mut winner = self.losers[0];
        self.heads[winner] = self.head(&streams[winner]);
        let mut node = (winner + self.losers.len()) / 2;
        while node > 0 {
            let loser = self.losers[node];
            if self.beats(streams, loser, winner) {
                self.losers[node] = winner;
                winner = loser;
            }
            node /= 2;
        }
        self.losers[0] = winner;
    }

    /// A stream's first matches: it waits at the first node where nobody is yet.
    fn enter(&mut self, streams: &[Stream], stream: usize) {
        let mut winner = stream;
        let mut node = (stream + self.losers.len()) / 2;
        while node > 0 {
            let other = self.losers[node];
            if other == usize::MAX {
                self.losers[node] = winner;
                return;
            }
            if self.beats(streams, other, winner) {
                self.losers[node] = winner;
                winner = other;
            }
            node /= 2;
        }
        self.losers[0] = winner;
    }

    #[inline]
    fn beats(&self, streams: &[Stream], a: usize, b: usize) -> bool {
        let (head_a, head_b) = (self.heads[a], self.heads[b]);
        if head_a.ended || head_b.ended {
            return head_b.ended && !head_a.ended;
        }
        if head_a.bytes != head_b.bytes {
            return head_a.bytes < head_b.bytes;
        }
        // No two streams hold the same version of a key.
        streams[a].position() < streams[b].position()
    }

    #[inline]
    fn head(&self, stream: &Stream) -> Head {
        let Some(position) = stream.position() else { return Head { bytes: 0, ended: true } };
        // A separator may end within the prefix; it stands before all keys that it is a prefix of.
        let behind = position.key.get(self.prefix_len..).unwrap_or(&[]);
        let bytes = match behind.first_chunk::<8>() {
            Some(chunk) => u64::from_be_bytes(*chunk),
            None => {
                let mut chunk = [0; 8];
                chunk[..behind.len()].copy_from_slice(behind);
                u64::from_be_bytes(chunk)
            }
        };
        Head { bytes, ended: false }
    }
}
