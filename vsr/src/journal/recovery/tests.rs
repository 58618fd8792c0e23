//! The decision table of `docs/FORMAT.md`, row by row, and all combinations of small logs against
//! an independent statement of what recovery promises.

use super::*;

const ROOT: Checksum = Checksum(0);

/// Builds logs in which checksums follow from op, view and parent, as they do in real ones.
#[derive(Default)]
struct Script {
    evidence: Evidence,
    next_offset: u64,
}

fn prepare(op: u64, view: u32, parent: Checksum, commit: u64) -> Summary {
    let checksum = Checksum((u128::from(op) << 64) + (u128::from(view) << 32) + (parent.0 & 0xff));
    Summary { op: Op(op), view: View(view), checksum, parent, commit: Op(commit) }
}

/// Prepares of one view from `first` on; each knows commits up to `lag` ops behind it.
fn chain(first: u64, last: u64, view: u32, mut parent: Checksum, lag: u64) -> Vec<Summary> {
    let mut ops = Vec::new();
    for op in first..=last {
        let summary = prepare(op, view, parent, op.saturating_sub(lag));
        parent = summary.checksum;
        ops.push(summary);
    }
    ops
}

impl Script {
    fn frame(&mut self, summary: Summary, good: bool) -> u64 {
        self.next_offset += 4096;
        let location = Location {
            offset: self.next_offset,
            length: 4096,
            segment: SegmentId(0),
            epoch: SegmentEpoch(1),
        };
        self.evidence.frames.push(Sighting { summary, location, good });
        self.evidence.commit_max = self.evidence.commit_max.max(summary.commit);
        self.next_offset
    }

    fn frames(&mut self, summaries: &[Summary]) {
        for summary in summaries {
            self.frame(*summary, true);
        }
    }

    fn marker(&mut self, commit: u64, summaries: &[Summary]) {
        self.evidence.vouched.extend_from_slice(summaries);
        self.evidence.commit_max = self.evidence.commit_max.max(Op(commit));
    }
}

fn in_view(log_view: u32, headers: &[Summary]) -> LogView {
    LogView { log_view: View(log_view), headers: headers.to_vec(), ..LogView::default() }
}

fn solo(view: &LogView, script: &Script) -> Result<SoloLog, Vec<DamagedOp>> {
    decide(view, &script.evidence).unwrap().solo(view.checkpoint_checksum)
}

#[test]
fn row_empty_journal() {
    let log = solo(&in_view(0, &[]), &Script::default()).unwrap();
    assert_eq!((log.head, log.head_checksum, log.forgotten), (Op(0), ROOT, 0));
}

#[test]
fn row_present() {
    let ops = chain(1, 5, 1, ROOT, 1);
    let mut script = Script::default();
    script.frames(&ops);
    let log = solo(&in_view(1, &[]), &script).unwrap();
    assert_eq!((log.head, log.head_checksum), (Op(5), ops[4].checksum));
    assert_eq!(log.prefix.len(), 5);
}

#[test]
fn row_present_out_of_order_and_twice() {
    let ops = chain(1, 3, 1, ROOT, 1);
    let mut script = Script::default();
    script.frames(&[ops[1], ops[0], ops[2]]);
    script.frame(ops[1], false);
    let last = script.frame(ops[1], true);
    let log = solo(&in_view(1, &[]), &script).unwrap();
    assert_eq!(log.head, Op(3));
    assert_eq!(log.prefix[1].location.offset, last, "the newest good copy is used");
}

#[test]
fn row_torn_tail_is_forgotten() {
    let ops = chain(1, 5, 1, ROOT, 3);
    for lost in [None, Some(false)] {
        let mut script = Script::default();
        script.frames(&ops[..3]);
        if let Some(good) = lost {
            script.frame(ops[3], good);
        }
        script.frame(ops[4], true);
        let log = solo(&in_view(1, &[]), &script).unwrap();
        assert_eq!((log.head, log.forgotten), (Op(3), 2), "op 5 was in flight with op 4");
    }
}

#[test]
fn row_damaged_by_commit_number_of_a_later_frame() {
    let ops = chain(1, 5, 1, ROOT, 1);
    let mut script = Script::default();
    script.frames(&ops[..2]);
    let offset = script.frame(ops[2], false);
    script.frames(&ops[3..]);
    let damaged = solo(&in_view(1, &[]), &script).unwrap_err();
    assert_eq!(damaged, [DamagedOp { op: Op(3), offset, seen: true }]);
}

#[test]
fn row_damaged_by_the_commit_number_of_a_torn_frame() {
    let ops = chain(1, 3, 1, ROOT, 1);
    let mut script = Script::default();
    script.frames(&ops[..1]);
    script.frame(ops[2], false);
    let damaged = solo(&in_view(1, &[]), &script).unwrap_err();
    assert_eq!(damaged, [DamagedOp { op: Op(2), offset: 8192, seen: false }]);
}

#[test]
fn row_damaged_by_superblock_commit() {
    let ops = chain(1, 2, 1, ROOT, 2);
    let mut script = Script::default();
    script.frames(&ops[..1]);
    let view = LogView { commit_max: Op(2), ..in_view(1, &[]) };
    assert_eq!(solo(&view, &script).unwrap_err()[0].op, Op(2));
}

#[test]
fn row_damaged_by_marker_and_without_it_torn() {
    let ops = chain(1, 3, 1, ROOT, 3);
    let mut script = Script::default();
    script.frames(&ops[..2]);
    let offset = script.frame(ops[2], false);
    assert_eq!(solo(&in_view(1, &[]), &script).unwrap().head, Op(2));
    let mut by_commit = Script { evidence: script.evidence.clone(), ..Script::default() };
    by_commit.marker(3, &[]);
    let mut by_name = script;
    by_name.marker(0, &ops);
    for script in [by_commit, by_name] {
        let damaged = solo(&in_view(1, &[]), &script).unwrap_err();
        assert_eq!(damaged, [DamagedOp { op: Op(3), offset, seen: true }]);
    }
}

#[test]
fn row_damaged_by_view_header() {
    let ops = chain(1, 3, 1, ROOT, 3);
    let mut script = Script::default();
    script.frames(&ops[..2]);
    let damaged = solo(&in_view(2, &ops[2..]), &script).unwrap_err();
    assert_eq!(damaged[0].op, Op(3));
}

#[test]
fn row_void_above_the_view_head() {
    let old = chain(1, 5, 1, ROOT, 5);
    let mut script = Script::default();
    script.frames(&old);
    script.marker(0, &old[3..]);
    // The view began with op 3 as head, whatever was behind it.
    let new = chain(4, 4, 2, old[2].checksum, 1);
    let view = in_view(2, &old[2..3]);
    let log = decide(&view, &script.evidence).unwrap();
    assert_eq!(log.void, 2);
    assert_eq!(log.solo(ROOT).unwrap().head, Op(3));
    script.frames(&new);
    let log = solo(&view, &script).unwrap();
    assert_eq!((log.head, log.head_checksum), (Op(4), new[0].checksum));
}

#[test]
fn row_superseded_below_the_view_head() {
    let old = chain(1, 5, 1, ROOT, 5);
    let new = chain(4, 6, 2, old[2].checksum, 3);
    let mut script = Script::default();
    script.frames(&old);
    script.frames(&new);
    let view = in_view(3, &new[2..]);
    let log = decide(&view, &script.evidence).unwrap();
    assert_eq!(log.superseded, 2);
    assert_eq!(log.solo(ROOT).unwrap().head_checksum, new[2].checksum);
    // The old version does not stand in for the new one that is lost.
    script.evidence.frames.retain(|frame| frame.summary != new[1]);
    let damaged = solo(&view, &script).unwrap_err();
    assert_eq!(damaged[0].op, Op(5));
}

#[test]
fn row_unresolved_below_a_lost_header() {
    let ops = chain(1, 6, 1, ROOT, 1);
    let mut script = Script::default();
    script.frames(&ops[..3]);
    script.frames(&ops[4..]);
    let view = in_view(2, &ops[5..]);
    let log = decide(&view, &script.evidence).unwrap();
    let expected = Some(ops[3].checksum);
    assert_eq!(log.ops[3], OpState::Damaged { expected, offset: None });
    assert_eq!(log.ops[2], OpState::Unresolved);
    assert_eq!(log.solo(ROOT).unwrap_err()[0].op, Op(4));
}

#[test]
fn row_committed_below_a_missing_header() {
    // A member that was away: its old log ends with op 6, of which 5 and 6 were given up.
    let old = chain(1, 6, 1, ROOT, 2);
    let new = chain(5, 9, 2, old[3].checksum, 2);
    let mut script = Script::default();
    script.frames(&old);
    script.frames(&new[4..]);
    let view = LogView { has_peers: true, ..in_view(2, &new[3..4]) };
    let log = decide(&view, &script.evidence).unwrap();
    let present = |op: usize| matches!(log.ops[op - 1], OpState::Present(_));
    assert!((1..=4).all(present), "the old prepares say so");
    assert_eq!((log.ops[4], log.unresolved.len()), (OpState::Unresolved, 2));
    assert_eq!(log.ops[5], OpState::Unresolved);
    // Whoever knows that another version of op 4 was committed is believed as well.
    let other = chain(4, 6, 1, old[2].checksum, 1);
    let mut script = Script::default();
    script.frames(&old[..3]);
    script.frame(Summary { checksum: Checksum(99), ..old[3] }, true);
    script.frames(&other[..2]);
    let log = decide(&view, &script.evidence).unwrap();
    let OpState::Present(frame) = log.ops[3] else { panic!("{:?}", log.ops[3]) };
    assert_eq!(frame.summary.checksum, other[0].checksum);
}

#[test]
fn a_segment_is_expendable_if_others_say_as_much() {
    let ops = chain(1, 5, 1, ROOT, 2);
    let mut script = Script::default();
    script.frames(&ops[..4]);
    script.frame(ops[4], false);
    let place = |script: &mut Script, count: u32| {
        script.evidence.commits = vec![Op(0); count as usize];
        script.evidence.commits[0] = script.evidence.commit_max;
    };
    place(&mut script, 4);
    let stands = |script: &Script, segment| {
        let view = LogView { has_peers: true, ..in_view(1, &[]) };
        let log = decide(&view, &script.evidence).unwrap();
        log.stands_without(&view, &script.evidence, SegmentId(segment))
    };
    assert!(!stands(&script, 0), "it has the frames");
    assert!(stands(&script, 1), "it is empty");
    // A name in a marker makes op 5 damaged; so does a commit number, and either is enough.
    script.evidence.vouched.push(ops[4]);
    script.evidence.vouched_in.push(SegmentId(1));
    assert!(!stands(&script, 1));
    script.evidence.commits[2] = Op(5);
    script.evidence.commit_max = Op(5);
    assert!(stands(&script, 1) && stands(&script, 2));
    script.evidence.vouched.clear();
    script.evidence.vouched_in.clear();
    assert!(stands(&script, 1) && !stands(&script, 2));
    // A second copy elsewhere.
    script.frame(ops[0], true);
    script.evidence.frames[0].location.segment = SegmentId(3);
    assert!(stands(&script, 3));
    script.evidence.frames.pop();
    assert!(!stands(&script, 3));
}

#[test]
fn row_newer_view_is_refused() {
    let ops = chain(1, 2, 5, ROOT, 1);
    let mut script = Script::default();
    script.frames(&ops);
    let error = decide(&in_view(4, &[]), &script.evidence).unwrap_err();
    assert!(matches!(error, Contradiction::NewerView { op: Op(1), view: View(5), .. }));
}

#[test]
fn row_two_versions_in_one_view_are_refused() {
    let ops = chain(1, 2, 1, ROOT, 1);
    let mut script = Script::default();
    script.frames(&ops);
    let other = Summary { checksum: Checksum(99), ..ops[1] };
    script.frame(other, true);
    let error = decide(&in_view(1, &[]), &script.evidence).unwrap_err();
    assert!(matches!(error, Contradiction::TwoVersions { op: Op(2), .. }));
}

#[test]
fn row_broken_chain_is_refused() {
    let mut ops = chain(1, 3, 1, ROOT, 1);
    ops[1].parent = Checksum(99);
    let mut script = Script::default();
    script.frames(&ops);
    let error = decide(&in_view(1, &[]), &script.evidence).unwrap_err();
    assert!(matches!(error, Contradiction::BrokenChain { op: Op(2), .. }));
    let other_root = LogView { checkpoint_checksum: Checksum(5), ..in_view(1, &[]) };
    let error = decide(&other_root, &script.evidence).unwrap_err();
    assert!(matches!(error, Contradiction::BrokenChain { op: Op(1), .. }));
}

#[test]
fn row_checkpoint_covers_what_is_below() {
    let ops = chain(1, 5, 1, ROOT, 1);
    let mut script = Script::default();
    script.frames(&ops[3..]);
    let view = LogView {
        checkpoint_op: Op(3),
        checkpoint_checksum: ops[2].checksum,
        ..in_view(1, &ops[1..2])
    };
    let log = solo(&view, &script).unwrap();
    assert_eq!((log.head, log.prefix.len()), (Op(5), 2));
    let lost = LogView { checkpoint_op: Op(2), checkpoint_checksum: ops[1].checksum, ..view };
    assert_eq!(solo(&lost, &script).unwrap_err()[0].op, Op(3));
}

/// Logs of four ops of one view, each op in any of four shapes, each commit lag, each extent of
/// marker. The oracle: the prefix holds all that is vouched for and intact, or naming the first
/// vouched op without a good frame is refused.
#[test]
fn every_small_log() {
    let mut rows = 0;
    for (lag, shapes, named, superblock) in parameters() {
        let ops = chain(1, 4, 1, ROOT, lag);
        let mut script = Script::default();
        let mut good = [false; 4];
        let mut commit = superblock;
        for (index, summary) in ops.iter().enumerate() {
            let shape = shapes >> (2 * index) & 3;
            good[index] = shape == 1 || shape == 3;
            if shape == 1 || shape == 2 {
                script.frame(*summary, shape == 1);
            } else if shape == 3 {
                script.frame(*summary, false);
                script.frame(*summary, true);
            }
            if shape != 0 {
                commit = commit.max(summary.commit.0);
            }
        }
        let names: Vec<_> = (0..4).filter(|i| named >> i & 1 == 1).map(|i| ops[i]).collect();
        script.marker(0, &names);
        let durable = |op: u64| op <= commit || named >> (op - 1) & 1 == 1;
        let first_bad = (1..=4).find(|&op| !good[op as usize - 1]);
        let view = LogView { commit_max: Op(superblock), ..in_view(1, &[]) };
        match (solo(&view, &script), first_bad) {
            (Ok(log), None) => assert_eq!(log.head, Op(4)),
            (Ok(log), Some(bad)) => {
                assert!(!durable(bad), "{shapes:08b} {named:04b}: op {bad} was durable");
                assert_eq!(log.head, Op(bad - 1));
            }
            (Err(damaged), bad) => {
                assert_eq!(Some(damaged[0].op.0), bad);
                assert!(durable(damaged[0].op.0), "{shapes:08b} {named:04b}: only torn");
            }
        }
        rows += 1;
    }
    assert_eq!(rows, 4 * 256 * 16 * 3);
}

fn parameters() -> impl Iterator<Item = (u64, u32, u32, u64)> {
    let lags = 1..=4;
    lags.flat_map(|lag| {
        (0..256_u32).flat_map(move |shapes| {
            (0..16_u32).flat_map(move |named| {
                [0, 2, 4].into_iter().map(move |superblock| (lag, shapes, named, superblock))
            })
        })
    })
}

/// What a member makes of it: one letter for each op, and whether the head is known. Headers do not
/// matter here; those that are known are all the same.
fn member(view: &LogView, script: &Script) -> (String, bool, usize) {
    let any = wire::Draft::default().seal(
        &wire::message::Prepare {
            parent: ROOT,
            checkpoint: wire::CheckpointId(0),
            op: Op(1),
            commit: Op(0),
            timestamp: wire::Timestamp(1),
            version_count: 1,
            request_count: 1,
            purpose: wire::message::Purpose::Requests,
        },
        b"",
    );
    let view = LogView { has_peers: true, ..view.clone() };
    let log = decide(&view, &script.evidence).unwrap().member(|_| Some(any));
    let letter = |op: &RecoveredOp| match op {
        RecoveredOp::Present(_) => 'p',
        RecoveredOp::Damaged(Some(_)) => 'd',
        RecoveredOp::Damaged(None) => '?',
        RecoveredOp::Absent(Some(_)) => 'a',
        RecoveredOp::Absent(None) => '-',
    };
    (log.ops.iter().map(letter).collect(), log.head_known, log.strays.len())
}

#[test]
fn rows_of_members() {
    let ops = chain(1, 6, 1, ROOT, 3);
    let script = |present: &[usize], bad: &[usize]| {
        let mut script = Script::default();
        for (indexes, good) in [(present, true), (bad, false)] {
            for index in indexes {
                script.frame(ops[index - 1], good);
            }
        }
        script
    };
    let told = |text: &str, head_known, strays| (text.to_owned(), head_known, strays);
    let view = in_view(1, &[]);
    // Torn at the end is forgotten, a hole below what is present is not.
    assert_eq!(member(&view, &script(&[1, 2], &[3])), told("pp", true, 0));
    assert_eq!(member(&view, &script(&[1, 2, 4], &[])), told("pp-p", true, 0));
    assert_eq!(member(&view, &script(&[1, 2, 4], &[3])), told("ppap", true, 0));
    // Durable once: by a commit number, by a marker.
    assert_eq!(member(&view, &script(&[1, 3, 4, 5], &[2])), told("pdppp", true, 0));
    let mut marked = script(&[1, 2], &[3]);
    marked.marker(0, &ops[2..3]);
    assert_eq!(member(&view, &marked), told("ppd", true, 0));
    // Known to be committed, and nothing of it seen: the log may have gone on.
    let mut lost = script(&[1, 2], &[]);
    lost.marker(3, &[]);
    assert_eq!(member(&view, &lost), told("pp?", false, 0));
    // The same, but the end of the journal is seen: op 5 was being written.
    let mut lagging = script(&[1, 2], &[5]);
    lagging.marker(3, &[]);
    assert_eq!(member(&view, &lagging), told("pp?", true, 0));
    // What the view began with is part of the log, here or not.
    let named = in_view(2, &ops[2..4]);
    assert_eq!(member(&named, &script(&[1, 2, 3], &[])), told("pppa", true, 0));
    // Below a break in the chain.
    let broken = in_view(2, &ops[5..]);
    assert_eq!(member(&broken, &script(&[1, 2, 4, 6], &[])), told("????dp", true, 3));
}
