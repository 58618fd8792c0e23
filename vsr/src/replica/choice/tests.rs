//! The tables of the choice row by row, and every combination of what three members may say of one
//! op against an independent statement of when it may be dropped.

use super::*;
use wire::message::{Prepare, Purpose};
use wire::{CheckpointId, ClusterId, Draft, Timestamp};

const PIPELINE: usize = 4;

fn prepare(op: u64, view: u32, parent: Checksum) -> Header {
    let prepare = Prepare {
        parent,
        checkpoint: CheckpointId(0),
        op: Op(op),
        commit: Op(0),
        timestamp: Timestamp(1000 * op + u64::from(view)),
        version_count: 1,
        request_count: 1,
        purpose: Purpose::Requests,
    };
    Draft { cluster: ClusterId(7), view: View(view), ..Draft::default() }.seal(&prepare, b"body")
}

/// The prepares of one view from `first` to `last`.
fn chain(first: u64, last: u64, view: u32, mut parent: Checksum) -> Vec<Header> {
    let mut headers = Vec::new();
    for op in first..=last {
        let header = prepare(op, view, parent);
        parent = header.checksum();
        headers.push(header);
    }
    headers
}

/// A vote for a log that has all of these whole.
fn vote(replica: u8, log_view: u32, log: &[Header], commit: u64) -> Vote {
    let headers: Vec<Header> = log.iter().rev().take(PIPELINE + 1).copied().collect();
    Vote {
        replica: ReplicaId(replica),
        log_view: View(log_view),
        op: log.last().map_or(Op(0), |last| Summary::of(last).op),
        commit: Op(commit),
        checkpoint_op: Op(0),
        present: u128::MAX >> (128 - headers.len().max(1)),
        headers,
        nack: 0,
    }
}

impl Vote {
    fn without(mut self, op: u64, nack: bool) -> Vote {
        let bit = 1 << (self.op.0 - op);
        self.present &= !bit;
        self.nack |= if nack { bit } else { 0 };
        self
    }

    fn unlisted(mut self, op: u64) -> Vote {
        self.headers.retain(|header| Summary::of(header).op != Op(op));
        self
    }
}

fn chosen(members: u8, votes: &[Vote]) -> Choice {
    let votes: Vec<&Vote> = votes.iter().collect();
    choose(&votes, Quorums::of(members), PIPELINE)
}

fn head_of(choice: Choice) -> Op {
    match choice {
        Choice::Log(log) => log.head,
        Choice::Undecided(op) => panic!("undecided at op {op}"),
    }
}

const ROOT: Checksum = Checksum(1);

#[test]
fn row_empty_logs() {
    let log = NewLog { head: Op(0), headers: Vec::new(), commit_max: Op(0) };
    assert_eq!(chosen(3, &[vote(0, 0, &[], 0), vote(1, 0, &[], 0)]), Choice::Log(log));
}

#[test]
fn row_present_is_kept_even_if_others_never_had_it() {
    let log = chain(1, 3, 1, ROOT);
    let Choice::Log(new) = chosen(3, &[vote(0, 1, &log, 0), vote(1, 1, &log[..1], 0)]) else {
        panic!("one has it all")
    };
    assert_eq!((new.head, new.headers.len()), (Op(3), 3));
    assert_eq!(new.headers[0], log[2], "from the head down");
}

#[test]
fn row_lists_that_meet_make_no_list_longer_than_what_may_be_in_doubt() {
    let log = chain(1, 10, 1, ROOT);
    let votes = [vote(0, 1, &log, 0), vote(1, 1, &log[..5], 0), vote(2, 1, &log[..2], 0)];
    let Choice::Log(new) = chosen(5, &votes) else { panic!("one has it all") };
    let expected: Vec<Header> = log[5..].iter().rev().copied().collect();
    assert_eq!((new.head, new.headers), (Op(10), expected), "a superblock has room for no more");
}

#[test]
fn row_the_highest_log_view_counts() {
    let old = chain(1, 4, 1, ROOT);
    let new = [&old[..1], &chain(2, 2, 2, old[0].checksum())].concat();
    let votes = [vote(0, 1, &old, 1), vote(1, 2, &new, 1)];
    let Choice::Log(log) = chosen(3, &votes) else { panic!("one has it all") };
    assert_eq!((log.head, log.headers[0]), (Op(2), new[1]), "the longer log is the older one");
}

#[test]
fn row_a_nack_quorum_drops_an_op_and_all_above() {
    let log = chain(1, 4, 1, ROOT);
    let named = vote(0, 1, &log, 1).without(3, true);
    assert_eq!(head_of(chosen(3, &[named.clone(), vote(1, 1, &log[..2], 1)])), Op(2));
    // Of five, two of three voters are too few.
    let votes = [named, vote(1, 1, &log[..2], 1), vote(2, 1, &log, 1).without(3, false)];
    assert_eq!(chosen(5, &votes), Choice::Undecided(Op(3)));
    let more = [&votes[..], &[vote(3, 1, &log[..2], 1)]].concat();
    assert_eq!(head_of(chosen(5, &more)), Op(2));
}

#[test]
fn row_damage_is_neither_present_nor_denied() {
    let log = chain(1, 2, 1, ROOT);
    let damaged = vote(0, 1, &log, 0).without(2, false);
    let away = vote(1, 1, &log[..1], 0);
    assert_eq!(chosen(3, &[damaged.clone(), away.clone()]), Choice::Undecided(Op(2)));
    let all = [damaged, away, vote(2, 0, &log, 0)];
    assert_eq!(head_of(chosen(3, &all)), Op(2), "an older log's frame is as good");
}

#[test]
fn row_what_is_committed_is_kept() {
    let log = chain(1, 6, 1, ROOT);
    // By a commit number of an older view, by a checkpoint, by the distance from the head.
    let absent = |op| vote(0, 1, &log, 0).without(op, true);
    assert_eq!(head_of(chosen(3, &[absent(3), vote(1, 0, &[], 3)])), Op(6));
    let checkpointed = Vote { checkpoint_op: Op(3), op: Op(3), ..vote(1, 0, &[], 0) };
    assert_eq!(head_of(chosen(3, &[absent(3), checkpointed])), Op(6));
    assert_eq!(head_of(chosen(3, &[absent(2), vote(1, 0, &[], 0)])), Op(6));
    assert_eq!(head_of(chosen(3, &[absent(3), vote(1, 0, &[], 0)])), Op(2));
}

#[test]
fn row_no_log_reaches_a_known_commit_number() {
    let log = chain(1, 2, 1, ROOT);
    let votes = [vote(0, 1, &log, 0), vote(1, 0, &[], 5)];
    assert_eq!(chosen(3, &votes), Choice::Undecided(Op(5)));
}

#[test]
fn row_a_header_that_is_missing_is_found_by_its_successor() {
    let log = chain(1, 3, 2, ROOT);
    let hole = vote(0, 2, &log, 0).without(2, false).unlisted(2);
    let other = vote(1, 1, &chain(1, 1, 1, ROOT), 0);
    assert_eq!(chosen(3, &[hole.clone(), other]), Choice::Undecided(Op(2)));
    let Choice::Log(new) = chosen(3, &[hole, vote(1, 1, &log[..2], 0)]) else {
        panic!("an older vote has the header and the prepare")
    };
    assert_eq!(new.headers.len(), 3);
    let never = vote(0, 2, &log, 0).without(2, true).unlisted(2);
    assert_eq!(head_of(chosen(3, &[never, vote(1, 2, &log[..1], 0)])), Op(1));
}

#[test]
fn row_another_version_is_a_nack() {
    let old = chain(1, 2, 1, ROOT);
    let new = [&old[..1], &chain(2, 2, 2, old[0].checksum())].concat();
    let named = vote(0, 2, &new, 0).without(2, true);
    assert_eq!(head_of(chosen(3, &[named, vote(1, 1, &old, 0)])), Op(1));
}

#[test]
fn row_two_versions_in_one_view_are_undecided() {
    let log = chain(1, 2, 1, ROOT);
    let other = [&log[..1], &[prepare(2, 0, log[0].checksum())]].concat();
    let choice = chosen(3, &[vote(0, 1, &log, 0), vote(1, 1, &other, 0)]);
    assert_eq!(choice, Choice::Undecided(Op(2)));
    let parent = [&other[1..], &chain(3, 3, 1, log[1].checksum())].concat();
    let choice = chosen(3, &[vote(0, 1, &log[..1], 0), vote(1, 1, &parent, 0)]);
    assert_eq!(choice, Choice::Undecided(Op(2)), "one log that is no chain");
}

/// What a member may say of op 1, the only one.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Says {
    Below,
    Present,
    Damaged,
    Named,
    LostHeader,
    Hole,
}

const SAYS: [Says; 6] =
    [Says::Below, Says::Present, Says::Damaged, Says::Named, Says::LostHeader, Says::Hole];

#[test]
fn every_combination_of_three_members() {
    let log = chain(1, 1, 1, ROOT);
    let says = |replica, says| match says {
        Says::Below => vote(replica, 1, &[], 0),
        Says::Present => vote(replica, 1, &log, 0),
        Says::Damaged => vote(replica, 1, &log, 0).without(1, false),
        Says::Named => vote(replica, 1, &log, 0).without(1, true),
        Says::LostHeader => vote(replica, 1, &log, 0).without(1, false).unlisted(1),
        Says::Hole => vote(replica, 1, &log, 0).without(1, true).unlisted(1),
    };
    let mut rows = 0;
    for code in 0..7 * 6 * 6 {
        let (a, b, c) = (SAYS[code % 6], SAYS[code / 6 % 6], SAYS.get(code / 36));
        let said: Vec<Says> = [Some(a), Some(b), c.copied()].into_iter().flatten().collect();
        let votes: Vec<Vote> =
            said.iter().enumerate().map(|(replica, one)| says(replica as u8, *one)).collect();
        let any = |wanted| said.contains(&wanted);
        // Who may have acknowledged it: all but those who certainly did not.
        let denied = said.iter().filter(|s| matches!(s, Says::Below | Says::Named | Says::Hole));
        let may_be_committed = 3 - denied.count() >= 2;
        match chosen(3, &votes) {
            Choice::Log(log) if log.head == Op(1) => assert!(any(Says::Present), "{said:?}"),
            Choice::Log(_) => {
                assert!(!may_be_committed && !any(Says::Present), "{said:?}");
            }
            Choice::Undecided(op) => {
                assert_eq!(op, Op(1));
                assert!(may_be_committed && !any(Says::Present), "{said:?}");
            }
        }
        rows += 1;
    }
    assert_eq!(rows, 252);
}
