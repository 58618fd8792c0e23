//! The tasks of the mesh: a flusher for each lane that leaves a core, a receiver for each that
//! arrives. Only the receiver of writes ever waits for anything but its lane.

use std::rc::Rc;

use ioring::{Inbox, Queue, spawn};
use wire::{Outcome, Requests};

use super::batch::{Answer, Ask, Batch, Query, Reply};
use super::post::Incoming;
use super::{Commit, Inboxes, Report, Role};
use crate::connection;
use crate::core::{Core, damage, walk};
use crate::repair;
use crate::topology::CoreIndex;

/// Starts all of them.
pub(super) fn start(core: &Rc<Core>, inboxes: Inboxes) {
    flush(core);
    for (from, inbox) in (0..).map(CoreIndex).zip(inboxes.peers) {
        let Some((asks, replies)) = inbox else { continue };
        receive(core, "asks", asks, move |core, batch| take_asks(core, from, batch));
        receive(core, "replies", replies, take_replies);
    }
    for (from, inbox) in (0..).map(CoreIndex).zip(inboxes.first) {
        let Some((writes, reports)) = inbox else { continue };
        receive(core, "reports", reports, move |core, batch| take_reports(core, from, batch));
        let core = core.clone();
        let take = async move { take_writes(&core, writes).await };
        spawn(Queue::Foreground, "writes", take).detach();
    }
    if let Some((commits, connections)) = inboxes.other {
        let of_core = core.clone();
        let take = async move { take_commits(&of_core, commits).await };
        spawn(Queue::Foreground, "commits", take).detach();
        let core = core.clone();
        let take = async move {
            while let Some(accepted) = connections.recv().await {
                connection::adopt(&core, accepted);
            }
        };
        spawn(Queue::Foreground, "connections", take).detach();
    }
}

/// Starts the flushers.
fn flush(core: &Rc<Core>) {
    for (number, peer) in core.mesh.peers.iter().enumerate() {
        if peer.is_none() {
            continue;
        }
        let flush = |name, replies: bool| {
            let core = core.clone();
            let flush = async move {
                let peer = core.mesh.peers[number].as_ref().expect("seen above");
                if replies { peer.replies.flush().await } else { peer.asks.flush().await }
            };
            spawn(Queue::Foreground, name, flush).detach();
        };
        flush("flush asks", false);
        flush("flush replies", true);
    }
    if let Role::First { .. } = core.mesh.role {
        return;
    }
    let flush = |name, of_reports: bool| {
        let core = core.clone();
        let flush = async move {
            let Role::Other { writes, reports, .. } = &core.mesh.role else { return };
            if of_reports { reports.flush().await } else { writes.flush().await }
        };
        spawn(Queue::Foreground, name, flush).detach();
    };
    flush("flush writes", false);
    flush("flush reports", true);
}

/// Starts a receiver that never waits for anything else.
fn receive<I: Send + 'static>(
    core: &Rc<Core>,
    name: &'static str,
    inbox: Incoming<I>,
    take: impl Fn(&Core, &mut Batch<I>) + 'static,
) {
    let core = core.clone();
    let receive = async move {
        while let Some(mut batch) = inbox.receive().await {
            take(&core, &mut batch);
            inbox.give_back(batch);
        }
        core.mesh.end();
    };
    spawn(Queue::Foreground, name, receive).detach();
}

/// Hands writes of another core over to the log; waits while it has no room.
async fn take_writes(core: &Core, inbox: Incoming<()>) {
    while let Some(batch) = inbox.receive().await {
        core.take_writes(&batch.bytes).await;
        inbox.give_back(batch);
    }
}

async fn take_commits(core: &Core, inbox: Inbox<Commit>) {
    let Role::Other { durable, became_durable, .. } = &core.mesh.role else { return };
    while let Some(commit) = inbox.recv().await {
        match commit {
            Commit::Prepare(committed) => {
                core.raise_clock(committed.timestamp);
                core.commit(committed);
            }
            Commit::Durable(op) => {
                durable.set(op);
                became_durable.notify();
            }
            Commit::Stop => core.mesh.stop.notify(),
            Commit::Open(_) => unreachable!("a core opens its shards once"),
        }
    }
    core.mesh.end();
}

fn take_reports(core: &Core, from: CoreIndex, batch: &mut Batch<Report>) {
    let mesh = &core.mesh;
    let Role::First { seen, .. } = &mesh.role else { return };
    let Batch { items, bytes } = batch;
    for report in items.drain(..) {
        match report {
            Report::Outcome(op, first, index, place) => {
                let (outcome, _) = Outcome::decode(&bytes[place]).expect("it was encoded so");
                core.log().sessions.take(core, op, first, index, &outcome);
            }
            Report::Group(group, bytes) => core.log().dispatch.report(core, group, bytes),
            Report::Root(op, shard, root) => core.on_root(op, shard, root),
            Report::Summary(summary) => {
                seen.borrow_mut()[from.index()] = summary;
                core.judge_space();
                core.on_applied_elsewhere();
            }
            Report::Opened(sessions) => {
                if !sessions.is_empty() {
                    core.log().sessions_at_open.replace(sessions);
                }
                mesh.opened.set(mesh.opened.get() + 1);
            }
            Report::Quiet => mesh.quiet.set(mesh.quiet.get() + 1),
        }
    }
    core.log().go_on(core);
    mesh.progressed.notify();
}

fn take_replies(core: &Core, batch: &mut Batch<Reply>) {
    let mesh = &core.mesh;
    let Batch { items, bytes } = batch;
    let mut voted = false;
    for reply in items.drain(..) {
        match reply {
            Reply::Outcome(tag, index, packed) => {
                core.runs.complete(tag, index, &packed.outcome(bytes));
            }
            Reply::Stale(tag) => core.runs.stale(tag),
            Reply::Ballot(ballot) => {
                core.applier.count(&ballot);
                voted = true;
            }
            Reply::Index(round, index) => {
                mesh.indexes.answered.set(round);
                mesh.indexes.index.set(index);
                mesh.indexes.came.notify();
            }
            Reply::Answer(number, answer) => {
                let asker = mesh.queries.borrow_mut().remove(&number);
                // Whoever asked may be gone.
                drop(asker.map(|asker| asker.send(answer)));
            }
        }
    }
    if voted {
        core.advance();
    }
}

fn take_asks(core: &Core, from: CoreIndex, batch: &mut Batch<Ask>) {
    // Look-ups are judged by this core's clock, which nobody here may have looked at for long.
    let _ = core.host();
    let Batch { items, bytes } = batch;
    for ask in items.drain(..) {
        match ask {
            Ask::Lookup(lookup) => core.reads.answer_far(core, &lookup, bytes),
            Ask::Index(round) if core.clustered => core.replica().read_index_for(from, round),
            Ask::Index(round) => {
                let index = core.applier.newest();
                core.mesh.reply(from, |batch| batch.items.push(Reply::Index(round, index)));
            }
            // Whoever asks asks again as long as it has to.
            Ask::Time(deadline) => drop(core.replica().request_time(deadline)),
            Ask::Query(number, query) => answer(core, from, number, query),
        }
    }
}

fn answer(core: &Core, from: CoreIndex, number: u64, query: Query) {
    let answer = match query {
        Query::Walk { shard, from: key, limit } => {
            let core = core.this();
            let walk = async move {
                let walked = walk::step(&core, shard, key, limit).await;
                reply(&core, from, number, Answer::Walked(walked));
            };
            spawn(Queue::Foreground, "walk", walk).detach();
            return;
        }
        Query::Readable(request) => {
            let core = core.this();
            let look = async move {
                let mut requests = Requests::of_body(&request);
                let request = requests.next().expect("it was asked about a request");
                let readable = damage::is_readable_here(&core, &request).await;
                reply(&core, from, number, Answer::Readable(readable));
            };
            spawn(Queue::Foreground, "damage", look).detach();
            return;
        }
        Query::Fetch(wanted, patience) => {
            let core = core.this();
            let fetch = async move {
                let copy = core.repairs.fetch(&core, wanted, patience).await;
                reply(&core, from, number, Answer::Block(copy));
            };
            spawn(Queue::Replication, "fetch", fetch).detach();
            return;
        }
        Query::Copy(wanted) => {
            let core = core.this();
            let read = async move {
                let copy = repair::copy_here(&core, wanted).await;
                reply(&core, from, number, Answer::Block(copy));
            };
            spawn(Queue::Replication, "block for a peer", read).detach();
            return;
        }
        Query::Cursor(cursor) => Answer::Cursor(core.walks.position(cursor)),
        Query::Clients => Answer::Clients(core.clients.lines(ioring::now())),
        Query::Report => Answer::Report(Box::new(core.report())),
    };
    reply(core, from, number, answer);
}

fn reply(core: &Core, to: CoreIndex, number: u64, answer: Answer) {
    core.mesh.reply(to, |batch| batch.items.push(Reply::Answer(number, answer)));
}
