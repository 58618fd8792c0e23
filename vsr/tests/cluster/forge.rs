//! Messages that no member would send, each with a header whose checksums are right.
//!
//! Two kinds. *Forged* ones have fields that are drawn: of each kind of number those near what the
//! receiver has, those at the ends of its type, and a few of no meaning; lists are chains of
//! headers that may be whole, or have a gap, a wrong parent, another order. *Altered* ones are
//! genuine, but for a few bytes of the tail, the sender, the view or the body, and are sealed
//! again.

use ioring::Random;
use vsr::journal::Summary;
use vsr::replica::Report;
use wire::message::{
    Commit, CommitOk, DoViewChange, GetHeaders, GetPrepare, GetReadIndex, GetView, Headers, Ping,
    Pong, PreVote, Prepare, PrepareOk, Purpose, ReadIndex, StartView, StartViewChange, Tail,
};
use wire::{
    CheckpointId, Checksum, ClientTag, ClusterId, Draft, HEADER_SIZE, Header, Incarnation, Op,
    ReplicaId, Timestamp, View, checksum,
};

/// A message and who brings it.
pub(crate) type Forged = (ReplicaId, Header, Vec<u8>);

/// What a forger knows of whom it writes to.
pub(crate) struct Forger<'a> {
    pub(crate) random: &'a mut Random,
    pub(crate) report: Report,
    pub(crate) cluster: ClusterId,
    pub(crate) members: u8,
    /// Ops that a log holds at most.
    pub(crate) window: u64,
    /// Genuine prepares.
    pub(crate) prepares: &'a [(Header, Vec<u8>)],
}

impl Forger<'_> {
    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.random.below(values.len() as u64) as usize]
    }

    fn op(&mut self) -> Op {
        let Report { op, commit, checkpoint, .. } = self.report;
        let near = [op.0, commit.0, checkpoint.0, checkpoint.0 + self.window];
        let (far, near) = (self.random.chance(6), self.of(&near));
        let off = self.random.below(5);
        let op = near.saturating_add(off).saturating_sub(2);
        Op(if far {
            self.of(&[u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, op.saturating_add(300), 0])
        } else {
            op
        })
    }

    fn view(&mut self) -> View {
        let view = self.report.view.0;
        let log_view = self.report.log_view.0;
        let far = [u32::MAX, u32::MAX - 1, 1 << 31, view.saturating_add(1000), log_view, 0];
        if self.random.chance(12) {
            return View(self.of(&far));
        }
        View(view.saturating_add(self.of(&[0, 1, 1, 1, 1, 2, 3, 4])).saturating_sub(1))
    }

    fn number(&mut self) -> u64 {
        let some = self.random.next_u64();
        self.of(&[0, 1, 2, 3, 1 << 50, 1 << 62, 1 << 63, u64::MAX - 1, u64::MAX, some])
    }

    fn header(&mut self) -> Option<Header> {
        let count = self.prepares.len() as u64;
        (count > 0).then(|| self.prepares[self.random.below(count) as usize].0)
    }

    fn checksum(&mut self) -> Checksum {
        match self.header() {
            Some(header) if !self.random.chance(4) => {
                let parent = header.tail::<Prepare>().expect("they are prepares").parent;
                self.of(&[header.checksum(), parent])
            }
            _ => Checksum(u128::from(self.random.below(3))),
        }
    }

    fn prepare(&mut self, op: Op, parent: Checksum) -> Prepare {
        let commit = self.op();
        let below = Op(op.0.saturating_sub(1 + self.random.below(4)));
        let after = Timestamp(self.report.log_time.0.saturating_add(1 + op.0 % 1000));
        let any = Timestamp(self.number());
        let purposes = [Purpose::Pulse, Purpose::Genesis, Purpose::Reconfigure, Purpose::Upgrade];
        let purpose = if self.random.chance(8) { self.of(&purposes) } else { Purpose::Requests };
        Prepare {
            parent,
            checkpoint: CheckpointId(0),
            op,
            commit: if self.random.chance(4) { commit } else { below },
            timestamp: if self.random.chance(6) { any } else { after },
            version_count: self.of(&[1, 1, 1, 0, 2, u32::MAX]),
            request_count: self.of(&[1, 1, 1, 0, 2, u32::MAX]),
            purpose,
        }
    }

    fn draft(&mut self, view: View, replica: ReplicaId) -> Draft {
        let other = ClusterId(self.cluster.0 ^ 1);
        let cluster = if self.random.chance(40) { other } else { self.cluster };
        Draft { cluster, view, replica, ..Draft::default() }
    }

    fn primary(&self, view: View) -> ReplicaId {
        ReplicaId((view.0 % u32::from(self.members)) as u8)
    }

    /// A prepare with a body, the primary's in name mostly.
    fn prepare_message(&mut self, view: View) -> (Header, Vec<u8>) {
        let named = self.header().filter(|_| self.random.chance(2));
        let (op, parent) = match named {
            Some(header) => (Summary::of(&header).op.next(), header.checksum()),
            None => (self.op(), self.checksum()),
        };
        let tail = self.prepare(op, parent);
        let genuine = self.random.below(self.prepares.len().max(1) as u64) as usize;
        let body = match self.random.below(4) {
            0 => Vec::new(),
            1 => (0..self.random.below(300)).map(|byte| byte as u8).collect(),
            _ => self.prepares.get(genuine).map_or(Vec::new(), |(_, body)| body.clone()),
        };
        let any = ReplicaId(self.random.below(7) as u8);
        let replica = if self.random.chance(10) { any } else { self.primary(view) };
        (self.draft(view, replica).seal(&tail, &body), body)
    }

    /// Headers from `head` down, most often a chain.
    fn list(&mut self, head: Op, view: View) -> Vec<u8> {
        let count = self.of(&[0, 1, 2, 4, 5, 5, 5, 6, 17, 70]);
        let flaw = self.random.below(8);
        let lowest = head.0.saturating_sub(count);
        let first = self.header().map(|h| h.checksum()).unwrap_or_default();
        let (mut chain, mut parent) = (Vec::new(), first);
        for op in (lowest.saturating_add(1)..=head.0).map(Op) {
            let genuine = self.prepares.iter().find(|(header, _)| Summary::of(header).op == op);
            let genuine = genuine.map(|(header, _)| *header).filter(|_| flaw == 7);
            let tail = self.prepare(op, parent);
            let replica = self.primary(view);
            let header = genuine.unwrap_or_else(|| self.draft(view, replica).seal(&tail, b"body"));
            parent = if flaw == 0 { Checksum(5) } else { header.checksum() };
            if flaw != 1 || !self.random.chance(4) {
                chain.push(header);
            }
        }
        if flaw != 2 {
            chain.reverse();
        }
        chain.iter().flat_map(|header| header.bytes()).copied().collect()
    }

    fn seal(&mut self, tail: &impl Tail, view: View, from: ReplicaId, body: Vec<u8>) -> Forged {
        let header = self.draft(view, from).seal(tail, &body);
        (from, header, body)
    }

    /// A message of any command.
    pub(crate) fn forge(&mut self) -> Forged {
        let from = ReplicaId(self.random.below(u64::from(self.members)) as u8);
        let from = if self.random.chance(30) { ReplicaId(200) } else { from };
        let view = self.view();
        let (op, other) = (self.op(), self.op());
        let (prepare, number) = (self.checksum(), self.number());
        let (checkpoint, checkpoint_op) = (CheckpointId(0), self.op());
        let incarnation = Incarnation(1);
        let none = Vec::new;
        match self.random.below(16) {
            0 | 1 => {
                let (header, body) = self.prepare_message(view);
                let to = self.primary(view);
                (if self.random.chance(4) { from } else { to }, header, body)
            }
            2 => {
                let ok = PrepareOk { prepare, op, commit: other, checkpoint, incarnation };
                self.seal(&ok, view, from, none())
            }
            3 | 4 => {
                let (round, timestamp) = (number, Timestamp(number));
                let tail =
                    Commit { prepare, commit: op, checkpoint, checkpoint_op, round, timestamp };
                self.seal(&tail, view, self.primary(view), none())
            }
            5 => self.seal(&CommitOk { round: number, commit: op }, view, from, none()),
            6 => {
                let ping = Ping { monotonic: number, checkpoint, checkpoint_op, op, commit: other };
                self.seal(&ping, view, from, none())
            }
            7 => {
                let pong = Pong { monotonic: number, wall: Timestamp(number) };
                self.seal(&pong, view, from, none())
            }
            8 => {
                let (candidate, log_view) = (self.view(), self.view());
                self.seal(&PreVote { candidate, log_view, op }, view, from, none())
            }
            9 => {
                let log_view = self.view();
                self.seal(&StartViewChange { log_view }, view, from, none())
            }
            10 | 11 => self.do_view_change(view, from, op),
            12 | 13 => {
                let body = self.list(op, view);
                let commit = if self.random.chance(2) { other } else { op };
                let nonce = u128::from(self.random.below(2));
                let start = StartView { op, commit, checkpoint, checkpoint_op, nonce };
                let from = if self.random.chance(4) { from } else { self.primary(view) };
                self.seal(&start, view, from, body)
            }
            14 => {
                let body = self.list(op, view);
                self.seal(&Headers { count: number as u32 }, view, from, body)
            }
            _ => self.question(view, from, op, other),
        }
    }

    fn do_view_change(&mut self, view: View, from: ReplicaId, op: Op) -> Forged {
        let log_view = View(view.0.saturating_sub(self.of(&[1, 1, 2, 0])));
        let (commit, checkpoint_op) = (self.op(), self.op());
        let vote = DoViewChange {
            present: u128::from(self.number()),
            nack: u128::from(self.number()),
            log_view,
            op,
            commit: if self.random.chance(2) { commit } else { Op(op.0.saturating_sub(3)) },
            checkpoint_op: if self.random.chance(4) { checkpoint_op } else { Op(0) },
            incarnation: Incarnation(0),
        };
        let head = if self.random.chance(4) { self.op() } else { op };
        let body = self.list(head, log_view);
        self.seal(&vote, view, from, body)
    }

    fn question(&mut self, view: View, from: ReplicaId, op_min: Op, op_max: Op) -> Forged {
        let (prepare, number) = (self.checksum(), self.number());
        let incarnation = Incarnation(1);
        let none = Vec::new();
        match self.random.below(5) {
            0 => self.seal(&GetView { nonce: number.into(), incarnation }, view, from, none),
            1 => self.seal(&GetHeaders { op_min, op_max }, view, from, none),
            2 => self.seal(&GetPrepare { prepare, op: op_min }, view, from, none),
            3 => self.seal(&GetReadIndex { tag: ClientTag(number) }, view, from, none),
            _ => {
                let (tag, timestamp) = (ClientTag(number), Timestamp(number));
                self.seal(&ReadIndex { tag, commit: op_max, timestamp }, view, from, none)
            }
        }
    }
}

/// Where the numbers of a header's common half are that may be altered, and their sizes.
const VIEW_AND_SENDER: [(usize, usize); 2] = [(52, 4), (63, 1)];
/// Where the tail begins.
const TAIL: usize = 128;

/// A genuine message with something of it altered and sealed again; `None` if that is no message.
pub(crate) fn alter(
    random: &mut Random,
    header: &Header,
    body: &[u8],
) -> Option<(Header, Vec<u8>)> {
    let (mut bytes, mut body) = (*header.bytes(), body.to_vec());
    match random.below(6) {
        0 => {
            let (at, size) = VIEW_AND_SENDER[random.below(2) as usize];
            alter_number(random, &mut bytes[at..at + size]);
        }
        1 if !body.is_empty() && body.len().is_multiple_of(HEADER_SIZE) => {
            alter_list(random, &mut body);
        }
        2 if !body.is_empty() => {
            let at = random.below(body.len() as u64) as usize;
            alter_number(random, &mut body[at..at + 1]);
        }
        _ => {
            let width = [4, 8, 16][random.below(3) as usize];
            let at = TAIL + 4 * random.below(16) as usize;
            alter_number(random, &mut bytes[at..at + width]);
        }
    }
    bytes[16..32].copy_from_slice(&checksum(&body).0.to_le_bytes());
    bytes[48..52].copy_from_slice(&((HEADER_SIZE + body.len()) as u32).to_le_bytes());
    seal(&mut bytes);
    Some((Header::verify(&bytes).ok()?, body))
}

fn alter_number(random: &mut Random, bytes: &mut [u8]) {
    match random.below(4) {
        0 => bytes.fill(0xff),
        1 => bytes.fill(0),
        2 => bytes[0] = bytes[0].wrapping_add(1),
        _ => bytes[0] = bytes[0].wrapping_sub(1),
    }
}

/// Alters a header of a list, or leaves one out.
fn alter_list(random: &mut Random, body: &mut Vec<u8>) {
    let start = HEADER_SIZE * random.below((body.len() / HEADER_SIZE) as u64) as usize;
    if random.chance(3) {
        body.drain(start..start + HEADER_SIZE);
        return;
    }
    let header = &mut body[start..start + HEADER_SIZE];
    let at = TAIL + 4 * random.below(16) as usize;
    alter_number(random, &mut header[at..at + 8]);
    seal(header);
}

/// Puts the right checksum into a header.
fn seal(header: &mut [u8]) {
    let sum = checksum(&header[16..HEADER_SIZE]).0.to_le_bytes();
    header[..16].copy_from_slice(&sum);
}
