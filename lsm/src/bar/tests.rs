//! The schedule's bounds, its independence of when reports arrive, and replay.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    memtable_bytes: 64 << 10,
    memtable_bytes_max: 1 << 20,
    log_bytes_max: 2 << 20,
    prepare_bytes_max: 16 << 10,
    effects_bytes_max: 24 << 10,
    pipeline: 4,
};

fn limits() -> Limits {
    let limits = Limits { memtable_bytes_max: LIMITS.memtable_bytes_needed(), ..LIMITS };
    limits.validate().unwrap();
    limits
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![
        1 => Just(Weight { log_bytes: 4096, memtable_bytes: 0, effects_bytes: 0, pulse: true }),
        4 => (0..24_u64 << 10, 1..4_u64).prop_map(|(memtable_bytes, frames)| Weight {
            log_bytes: frames * 4096,
            memtable_bytes: memtable_bytes / 2,
            effects_bytes: memtable_bytes - memtable_bytes / 2,
            pulse: false
        }),
    ]
}

/// Runs a log from right after `start`; every report arrives `delay` ops late if it can.
/// Two shards: ops alternate between them.
fn run(ops: &[Weight], start: u64, delay: usize) -> Vec<(u64, Step)> {
    let mut schedule = Schedule::new(limits(), start);
    let mut memtables = [0_u64; 2];
    let mut waiting: Vec<(usize, u64, u64)> = Vec::new();
    let mut steps = Vec::new();
    for (index, weight) in ops.iter().enumerate().skip(start as usize) {
        let mut deliver = |schedule: &mut Schedule, all: bool| {
            waiting.retain(|(at, group, bytes)| {
                let due = all || at + delay <= index;
                if due {
                    schedule.report(*group, *bytes);
                }
                !due
            });
        };
        deliver(&mut schedule, false);
        if !schedule.ready(weight) {
            deliver(&mut schedule, true);
        }
        assert!(schedule.ready(weight));
        let op = index as u64 + 1;
        memtables[index % 2] += weight.bytes_max();
        let memtable_max = memtables[0].max(memtables[1]);
        assert!(memtable_max <= limits().memtable_bytes_max, "a memtable overflowed");
        let step = schedule.dispatch(op, weight);
        if let Some(group) = step.group_end {
            waiting.push((index, group, memtable_max));
        }
        if step.bar_end.is_some() {
            memtables = [0; 2];
        }
        steps.push((op, step));
    }
    steps
}

proptest! {
    #![proptest_config(crate::testing::cases(64))]
    #[test]
    fn decisions_do_not_depend_on_when_reports_arrive(
        ops in vec(weight(), 0..1500),
        delay in 1..40_usize,
    ) {
        prop_assert_eq!(run(&ops, 0, 0), run(&ops, 0, delay));
    }

    #[test]
    fn replay_from_any_checkpoint_decides_as_before(ops in vec(weight(), 500..2500)) {
        let all = run(&ops, 0, 0);
        let ends = all.iter().filter_map(|(_, step)| step.bar_end);
        for end in ends {
            let Some(checkpoint) = end.checkpoint else { continue };
            let again = run(&ops, checkpoint, 3);
            // Up to its trigger the replay knows the checkpoint already; all else is the same.
            for ((op, before), (op_again, after)) in all[checkpoint as usize..].iter().zip(&again) {
                prop_assert_eq!(op, op_again);
                if *op == end.op {
                    let bar_end = after.bar_end.expect("the bar ends here again");
                    let end = (bar_end.op, bar_end.checkpoint, bar_end.free);
                    prop_assert_eq!(end, (*op, None, None));
                    continue;
                }
                prop_assert_eq!(before.progress, after.progress);
                prop_assert_eq!(before.bar_end, after.bar_end);
                prop_assert_eq!(before.group_end.is_some(), after.group_end.is_some());
            }
        }
    }

    #[test]
    fn the_log_never_outgrows_its_budget(ops in vec(weight(), 0..2500)) {
        let (mut bars, mut kept, mut durable_from) = (Vec::new(), 0, 0);
        for ((op, step), weight) in run(&ops, 0, 0).into_iter().zip(&ops) {
            kept += weight.log_bytes;
            let bytes_max = LIMITS.log_bytes_max;
            prop_assert!(kept <= bytes_max, "op {op}: {kept} bytes since {durable_from}");
            let Some(end) = step.bar_end else { continue };
            bars.push(end);
            // Only what became durable by its F(C) lets the log forget.
            if let Some(free) = end.free {
                durable_from = free;
                kept = ops[free as usize..op as usize].iter().map(|w| w.log_bytes).sum();
            }
        }
        // F(C) is the end of the bar after the trigger.
        for pair in bars.windows(2) {
            prop_assert_eq!(pair[0].checkpoint, pair[1].free);
        }
    }
}

#[test]
fn pulses_alone_end_a_bar() {
    let pulse = Weight { log_bytes: 4096, memtable_bytes: 0, effects_bytes: 0, pulse: true };
    let steps = run(&[pulse; 100], 0, 0);
    let first = steps.iter().find(|(_, step)| step.bar_end.is_some()).unwrap();
    assert!(first.0 <= u64::from(PULSES_PER_BAR), "{first:?}");
    assert_eq!(first.1.progress, Progress::WHOLE);
}

#[test]
fn progress_is_whole_before_a_full_bar_ends() {
    let put = Weight { log_bytes: 4096, memtable_bytes: 1000, effects_bytes: 0, pulse: false };
    let steps = run(&[put; 400], 0, 0);
    let ends: Vec<_> = steps.iter().filter(|(_, step)| step.bar_end.is_some()).collect();
    assert!(ends.len() >= 2, "{ends:?}");
    assert!(ends.iter().all(|(_, step)| step.progress == Progress::WHOLE));
}

#[test]
fn limits_that_do_not_hold_are_refused() {
    let small = Limits { memtable_bytes_max: LIMITS.memtable_bytes, ..LIMITS };
    assert!(matches!(small.validate(), Err(LimitsError::Memtable { .. })));
    let small = Limits { log_bytes_max: 100 << 10, ..limits() };
    assert!(matches!(small.validate(), Err(LimitsError::Log { .. })));
}
