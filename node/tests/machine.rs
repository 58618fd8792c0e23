//! What holds for every operation on every entry, whatever the operation does.

use node::machine::{
    self, Budget, Context, Effect, Entry, Needs, Scratch, Verdict, Vote, evaluate, needs, vote,
};
use proptest::prelude::*;
use wire::operation::{Flags, Opcode, OperationView};
use wire::{ErrorCode, TableId, Timestamp, Value, Version};

const NOW: u64 = 1000;

fn context(verdict: Verdict) -> Context {
    let (timestamp, version) = (Timestamp(NOW), Version(NOW + 3));
    Context { timestamp, version, value_max: 64, verdict }
}

/// An effect and an outcome that own what they hold.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    effect: String,
    outcome: String,
    budget: Budget,
}

fn see(
    operation: &OperationView<'_>,
    current: Option<Entry<'_>>,
    verdict: Verdict,
    mut budget: Budget,
) -> Seen {
    let mut scratch = Scratch::default();
    let (effect, outcome) =
        evaluate(operation, current, &context(verdict), &mut budget, &mut scratch);
    Seen { effect: format!("{effect:?}"), outcome: format!("{outcome:?}"), budget }
}

fn flags() -> impl Strategy<Value = Flags> {
    let flags = [
        Flags::IF_NONE,
        Flags::IF_SOME,
        Flags::RETURN_OLD,
        Flags::KEEP_DEADLINE,
        Flags::IF_GREATER,
        Flags::IF_LESS,
    ];
    prop::sample::subsequence(flags.to_vec(), 0..=2)
        .prop_map(|some| some.into_iter().fold(Flags::NONE, Flags::or))
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(NOW), Just(NOW + 1), NOW - 5..NOW + 50]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "-?[0-9]{1,3}".prop_map(String::into_bytes),
        Just(i64::MAX.to_string().into_bytes()),
        Just(b"1.5".to_vec()),
        Just(b"inf".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

/// Everything an operation can be made of, as parts that can be shrunk.
type Parts = (Opcode, Flags, Vec<u8>, u64, u64);

fn parts() -> impl Strategy<Value = Parts> {
    let opcodes: Vec<Opcode> = Opcode::ALL.iter().copied().filter(|o| o.has_key()).collect();
    let argument = prop_oneof![0u64..70, Just(1 << 63), any::<u64>()];
    (prop::sample::select(opcodes), flags(), text(), argument, time())
        .prop_filter("flags that mean something", |(opcode, flags, ..)| permits(*opcode, *flags))
}

/// The combinations that verification lets through.
fn permits(opcode: Opcode, flags: Flags) -> bool {
    let both = |one: Flags, other: Flags| flags.contains(one) && flags.contains(other);
    opcode.flags_allowed().contains(flags)
        && !both(Flags::IF_NONE, Flags::IF_SOME)
        && !both(Flags::IF_GREATER, Flags::IF_LESS)
        && !both(Flags::IF_NONE, Flags::IF_GREATER)
        && !both(Flags::IF_NONE, Flags::IF_LESS)
}

fn operation((opcode, flags, value, argument, deadline): &Parts) -> OperationView<'_> {
    OperationView::on_key(*opcode, TableId(0), b"key")
        .with_flags(*flags)
        .with_value(value)
        .with_argument(*argument)
        .with_deadline(*deadline)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A shard looks up no more than `needs` says: more could not make a difference.
    #[test]
    fn what_is_not_needed_decides_nothing(
        parts in parts(), value in text(), deadline in time(), verdict in any::<bool>(),
    ) {
        let operation = operation(&parts);
        let verdict = if verdict { Verdict::Own } else { Verdict::Fails(None) };
        let entry = Entry::new(&value, deadline, Version(7));
        let given = match needs(&operation) {
            Needs::Nothing => None,
            Needs::Metadata => Some(Entry { value: b"other", ..entry }),
            Needs::Value => Some(entry),
        };
        let full = see(&operation, Some(entry), verdict, Budget(50));
        let less = see(&operation, given, verdict, Budget(50));
        prop_assert_eq!(&full.effect, &less.effect);
        // The version in an outcome that changed nothing is known only from the entry.
        if needs(&operation) != Needs::Nothing {
            prop_assert_eq!(full, less);
        }
    }

    /// Whether something deleted it already or not, an expired entry does not exist.
    #[test]
    fn an_expired_entry_is_no_entry(parts in parts(), value in text(), deadline in 1..=NOW) {
        let operation = operation(&parts);
        let entry = Entry::new(&value, deadline, Version(7));
        let (with, without) = (
            see(&operation, Some(entry), Verdict::Own, Budget(50)),
            see(&operation, None, Verdict::Own, Budget(50)),
        );
        prop_assert_eq!(with, without);
    }

    /// Nothing is ever stored that has expired already, or is larger than a value may be.
    #[test]
    fn what_is_stored_lives_and_fits(parts in parts(), value in text(), deadline in time()) {
        let operation = operation(&parts);
        let mut scratch = Scratch::default();
        let entry = Some(Entry::new(&value, deadline, Version(7)));
        let mut budget = Budget(50);
        let context = context(Verdict::Own);
        let (effect, outcome) = evaluate(&operation, entry, &context, &mut budget, &mut scratch);
        match effect {
            Effect::Put { value, deadline } => {
                prop_assert!(value.len() <= 64 && (deadline == 0 || deadline > NOW));
                prop_assert_eq!(outcome.version, context.version);
            }
            Effect::SetDeadline(deadline) => prop_assert!(deadline == 0 || deadline > NOW),
            Effect::None | Effect::Delete => {}
            Effect::Flush => prop_assert!(false, "an operation on a key empties no table"),
        }
        if outcome.result.is_err() {
            prop_assert_eq!(effect, Effect::None);
        }
    }

    /// A request whose votes all say yes is done; the verdict no makes every part do nothing.
    #[test]
    fn votes_foretell_what_is_done(parts in parts(), value in text(), deadline in time()) {
        let operation = operation(&parts);
        let entry = Some(Entry::new(&value, deadline, Version(7)));
        let (mut trial, mut scratch) = (Budget(50), Scratch::default());
        let vote =
            vote(&operation, entry, &context(Verdict::Own), &mut trial, &mut scratch);
        let own = see(&operation, entry, Verdict::Own, Budget(50));
        let verdict = vote.count_into(Verdict::Holds);
        let judged = see(&operation, entry, verdict, Budget(50));
        match vote {
            Vote::Yes => prop_assert_eq!(own, judged),
            Vote::No => {
                prop_assert_eq!(verdict, Verdict::Fails(None));
                prop_assert_eq!(own.effect, "None");
                prop_assert_eq!(judged.effect, "None");
            }
            Vote::Refused(code) => {
                prop_assert_eq!(verdict, Verdict::Fails(Some(code)));
                prop_assert_eq!(own.outcome, judged.outcome);
            }
        }
    }
}

#[test]
fn an_operation_beyond_the_budget_is_refused_and_the_next_may_fit() {
    let (mut budget, mut scratch) = (Budget(20), Scratch::default());
    let context = context(Verdict::Own);
    let entry = Entry::new(&[b'x'; 15], 0, Version(1));
    let append = OperationView::on_key(Opcode::Append, TableId(0), b"k").with_value(b"y");
    let mut run = |budget: &mut Budget| {
        let (_, outcome) = evaluate(&append, Some(entry), &context, budget, &mut scratch);
        outcome.result.map(|value| value == Value::Integer(16))
    };
    assert_eq!(run(&mut budget), Ok(true));
    assert_eq!(budget, Budget(5), "15 bytes beyond what the request carried");
    assert_eq!(run(&mut budget), Err(ErrorCode::Overloaded));
    assert_eq!(budget, Budget(5), "what is refused costs nothing");
}

#[test]
fn whatever_is_written_beyond_the_request_is_paid_for() {
    let entry = |value| Some(Entry::new(value, NOW + 9, Version(1)));
    let on_key = |opcode| OperationView::on_key(opcode, TableId(0), b"k");
    let returning = |operation: OperationView<'static>| operation.with_flags(Flags::RETURN_OLD);
    let digits = Budget(100 - (5 - 3));
    let cases = [
        (on_key(Opcode::Append).with_value(b"yy"), entry(&[b'x'; 30][..]), Budget(70)),
        (on_key(Opcode::SetRange).with_value(b"y").with_argument(39), None, Budget(61)),
        (on_key(Opcode::Expire).with_deadline(NOW + 5), entry(&[b'x'; 30]), Budget(70)),
        (on_key(Opcode::Persist), entry(&[b'x'; 30]), Budget(70)),
        (on_key(Opcode::IncrementFloat).with_value(b"1e4"), None, digits),
        (on_key(Opcode::Put).with_value(&[b'y'; 60]), entry(&[b'x'; 30]), Budget(100)),
        (on_key(Opcode::Expire).with_deadline(NOW), entry(&[b'x'; 30]), Budget(100)),
        (on_key(Opcode::Delete), entry(&[b'x'; 30]), Budget(100)),
        (returning(on_key(Opcode::Delete)), entry(&[b'x'; 30]), Budget(70)),
        (returning(on_key(Opcode::Persist)), entry(&[b'x'; 30]), Budget(40)),
    ];
    for (operation, current, left) in cases {
        let seen = see(&operation, current, Verdict::Own, Budget(100));
        assert_eq!(seen.budget, left, "{operation:?}");
        let just = Budget(100 - left.0);
        assert_eq!(see(&operation, current, Verdict::Own, just).effect, seen.effect);
        if just.0 > 0 {
            let refused = see(&operation, current, Verdict::Own, Budget(just.0 - 1));
            assert!(refused.outcome.contains("Overloaded"), "{operation:?}");
            assert_eq!(refused.budget, Budget(just.0 - 1), "what is refused costs nothing");
        }
    }
}

#[test]
fn a_first_refusal_or_no_decides_for_all() {
    let votes = [Vote::Yes, Vote::Refused(ErrorCode::Overloaded), Vote::No];
    let verdict = votes.iter().fold(Verdict::Holds, |verdict, vote| vote.count_into(verdict));
    assert_eq!(verdict, Verdict::Fails(Some(ErrorCode::Overloaded)));
    let flush = OperationView::on_table(Opcode::Flush, TableId(0));
    assert!(!machine::reads_current(&flush));
    assert_eq!(see(&flush, None, Verdict::Own, Budget(0)).effect, "Flush");
}
