//! Read indexes: how far to apply the log before a read is answered, asked of the replica.
//!
//! What was acknowledged by another member of the cluster may not be here yet, and what is here may
//! be of a primary that is none any more. So in a cluster every read first asks for an index
//! ([`vsr::replica::ReadIndex`]), and is answered as of an op that this node was given later than
//! that. One question serves all that wait for it: whoever comes while one is out waits for the
//! next, of whichever core.
//!
//! 1. A reader notes the number of the question after the last one asked, which nobody has an
//!    answer to yet, and asks it if none is out.
//! 2. The answer says how far the log has to be given out. When it is, the newest op given out is
//!    what all that waited read as of: it contains everything acknowledged before they came.
//! 3. A question or its answer may be lost, or there is no primary: it is asked again, with the
//!    same number, every [`AGAIN`]. An answer to an earlier asking is as good, because all that
//!    wait for this number came before it was first asked.
//!    Numbers begin at random in each life, so that an answer to a question of the life before is
//!    not taken for one to a question of this.
//! 4. Readers give up after a while, by name. Nothing is left behind but the question.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ioring::sync::Event;
use ioring::{Either, Queue, spawn};
use vsr::replica::Replica;
use wire::{ClientTag, ErrorCode, Op};

use super::ReplicaCore;
use super::member::PATIENCE;
use crate::core::Core;
use crate::mesh::ReadIndex;
use crate::mesh::batch::Reply;
use crate::topology::CoreIndex;

/// How long an unanswered question waits before it is asked again.
const AGAIN: Duration = Duration::from_millis(20);

/// See the module's text.
pub struct Rounds {
    /// The number that this life began with.
    first: u64,
    asked: Cell<u64>,
    answered: Cell<u64>,
    /// The answer to the last question, while the log is not given out so far.
    until: Cell<Option<Op>>,
    index: Cell<ReadIndex>,
    came: Event,
    out: Event,
    /// Other cores: the question they wait for, and their own round.
    far: RefCell<Vec<(u64, CoreIndex, u64)>>,
}

impl Rounds {
    /// Nothing is asked.
    pub(super) fn new() -> Rounds {
        let first = ioring::random("read indexes").next_u64() >> 1;
        Rounds {
            first,
            asked: Cell::new(first),
            answered: Cell::new(first),
            until: Cell::default(),
            index: Cell::default(),
            came: Event::new(),
            out: Event::new(),
            far: RefCell::default(),
        }
    }

    /// Starts the task that asks again.
    pub(super) fn start(core: &Rc<Core>) {
        let core = core.clone();
        let again = async move {
            let this = core.replica();
            loop {
                this.rounds.out.wait().await;
                while this.rounds.is_out() {
                    ioring::sleep(AGAIN).await;
                    this.rounds.question(this);
                }
            }
        };
        spawn(Queue::Foreground, "read indexes", again).detach();
    }

    /// Questions since the start.
    pub(super) fn asked_total(&self) -> u64 {
        self.asked.get() - self.first
    }

    fn is_out(&self) -> bool {
        self.asked.get() > self.answered.get()
    }

    /// Asks the question that is out, unless it waits for the log only.
    fn question(&self, this: &ReplicaCore) {
        if self.is_out() && self.until.get().is_none() {
            // Without a primary there is no answer now; the question is asked again.
            let _ = this.replica.borrow_mut().read_index(ClientTag(self.asked.get()));
            this.work.notify();
        }
    }

    /// The number of the question whose answer is good for whoever comes now; asks it if it can be.
    fn join(&self, this: &ReplicaCore) -> u64 {
        let wanted = self.asked.get() + 1;
        self.ask_next(this, wanted);
        wanted
    }

    fn ask_next(&self, this: &ReplicaCore, wanted: u64) {
        if !self.is_out() && self.answered.get() < wanted {
            self.asked.set(self.asked.get() + 1);
            self.question(this);
            self.out.notify();
        }
    }

    /// Another core asks.
    pub fn ask_far(&self, this: &ReplicaCore, core: CoreIndex, round: u64) {
        let wanted = self.join(this);
        self.far.borrow_mut().push((wanted, core, round));
    }

    /// An index for a reader of this core.
    ///
    /// # Errors
    /// [`ErrorCode::NotPrimary`] when none comes.
    pub async fn index(&self, this: &ReplicaCore) -> Result<ReadIndex, ErrorCode> {
        let deadline = ioring::now() + PATIENCE;
        let wanted = self.join(this);
        while self.answered.get() < wanted {
            self.ask_next(this, wanted);
            let came = ioring::select(self.came.wait(), ioring::sleep_until(deadline)).await;
            if let Either::Second(()) = came {
                return Err(ErrorCode::NotPrimary);
            }
        }
        Ok(self.index.get())
    }

    /// Takes the replica's answers.
    pub(super) fn take(&self, replica: &mut Replica) {
        while let Some(answer) = replica.next_read_index() {
            if self.is_out() && answer.tag.0 == self.asked.get() && answer.commit.is_some() {
                self.until.set(answer.commit);
            }
        }
    }

    /// Looks whether what was given out is as far as the answer says.
    pub(super) fn look(&self, core: &Core, this: &ReplicaCore) {
        let newest = core.applier.newest();
        if self.until.get().is_none_or(|until| newest.op < until) {
            return;
        }
        self.until.set(None);
        self.answered.set(self.asked.get());
        self.index.set(newest);
        self.came.notify();
        let answered = self.answered.get();
        self.far.borrow_mut().retain(|&(wanted, to, round)| {
            if wanted <= answered {
                core.mesh.reply(to, |batch| batch.items.push(Reply::Index(round, newest)));
            }
            wanted > answered
        });
        if !self.far.borrow().is_empty() {
            self.ask_next(this, answered + 1);
        }
    }
}
