//! Random histories against a model that is a vector: appends of any size, checkpoints, pauses,
//! clean stops, kills and losses of power, each followed by recovery.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::{Config, Crash, World};
use proptest::prelude::*;
use wire::Op;

use super::support::{self, TestLog};

const DIR: &str = "/replica";

#[derive(Clone, Debug)]
enum Action {
    Append(usize),
    /// The checkpoint moves to this many ops behind the head.
    Checkpoint(u64),
    Pause(u64),
}

/// How a process ends.
#[derive(Clone, Debug)]
enum End {
    Clean,
    /// At this step, if it comes to that.
    Crash(u64, bool),
}

/// What must be there: sizes of all acknowledged prepares from op 1 on, and the one in flight.
#[derive(Clone, Default)]
struct Model {
    sizes: Vec<usize>,
    in_flight: Option<usize>,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0..7_900_usize).prop_map(Action::Append),
        2 => (2..8_u64).prop_map(Action::Checkpoint),
        1 => (1..15_u64).prop_map(Action::Pause),
    ];
    prop::collection::vec(action, 0..25)
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Clean),
        (1..400_u64, any::<bool>()).prop_map(|(step, power)| End::Crash(step, power)),
    ]
}

/// Recovers, compares with the model, then acts on both.
async fn live(model: Rc<RefCell<Model>>, actions: Vec<Action>, clean: bool) {
    let mut log = TestLog::open(Path::new(DIR)).await.expect("nothing is damaged");
    {
        let mut model = model.borrow_mut();
        let found = log.head.0 as usize;
        if let Some(size) = model.in_flight.take()
            && found == model.sizes.len() + 1
        {
            model.sizes.push(size);
        }
        assert_eq!(found, model.sizes.len());
    }
    log.check().await;
    for op in log.directory.superblock.state().checkpoint.op.0 + 1..=log.head.0 {
        let frame = log.read(Op(op)).await;
        let header = wire::Header::verify(&frame[crate::journal::FRAME_HEADER_SIZE..]);
        let expected = model.borrow().sizes[op as usize - 1];
        assert_eq!(header.expect("a prepare").body_size(), expected);
    }
    for action in actions {
        match action {
            Action::Append(size) => {
                // A replica gives no op beyond the budget.
                let (used, budget) = log.journal.budget();
                if used + support::FRAME_MAX > budget {
                    continue;
                }
                model.borrow_mut().in_flight = Some(size);
                log.append(size).await;
                let mut model = model.borrow_mut();
                model.in_flight = None;
                model.sizes.push(size);
            }
            Action::Checkpoint(behind) => {
                let op = log.head.0.saturating_sub(behind);
                if op > log.directory.superblock.state().checkpoint.op.0 {
                    log.checkpoint(Op(op)).await;
                }
            }
            Action::Pause(ms) => ioring::sleep(Duration::from_millis(ms)).await,
        }
    }
    log.stop(clean).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_vector(
        seed in any::<u64>(),
        lives in prop::collection::vec((actions(), end()), 1..8),
    ) {
        let mut world = World::new(seed, Config::default());
        let node = world.add_node("model");
        world.run(node, || support::make(Path::new(DIR))).unwrap();
        let model = Rc::new(RefCell::new(Model::default()));
        for (actions, end) in lives {
            if let End::Crash(step, power) = end {
                world.crash_at(node, step, if power { Crash::Power } else { Crash::Process });
            }
            let (this, clean) = (model.clone(), matches!(end, End::Clean));
            let _ = world.run(node, move || live(this, actions, clean));
            world.crash_never(node);
        }
        world.run(node, move || live(model, Vec::new(), true)).unwrap();
    }
}
