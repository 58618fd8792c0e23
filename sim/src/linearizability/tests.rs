//! The search against trying every order, and histories that are known to be right or wrong.

use std::mem::discriminant;

use proptest::prelude::*;

use super::*;

fn operation(input: Input, called: u64, answer: Option<(u64, Output)>) -> Operation {
    Operation { input, called, answer }
}

/// Whether some order of all answered operations and any of the others explains the answers.
fn by_trying_all(operations: &[Operation]) -> bool {
    fn go(operations: &[Operation], taken: u32, value: Value) -> bool {
        let open = |index: &usize| taken & 1 << index == 0;
        let left = (0..operations.len()).filter(open);
        let mut answered = left.clone().filter_map(|index| operations[index].answer);
        let Some(first) = answered.next() else { return true };
        // Nothing that was called after an answer may happen before its operation.
        let horizon = answered.fold(first.0, |horizon, (at, _)| horizon.min(at));
        left.clone().any(|index| {
            let Operation { input, called, answer } = operations[index];
            let (after, output) = apply(value, input);
            called <= horizon
                && answer.is_none_or(|(_, told)| told == output)
                && go(operations, taken | 1 << index, after)
        })
    }
    go(operations, 0, None)
}

fn is_linearizable(operations: &[Operation]) -> bool {
    match check(operations) {
        Ok(()) => true,
        Err(Stuck::NoOrder { .. }) => false,
        Err(Stuck::Undecided { steps }) => panic!("undecided after {steps} steps"),
    }
}

fn input() -> impl Strategy<Value = Input> {
    let few = 0..3i64;
    prop_oneof![
        3 => Just(Input::Get),
        2 => few.clone().prop_map(Input::Set),
        1 => few.clone().prop_map(Input::Swap),
        1 => few.clone().prop_map(Input::SetIfAbsent),
        1 => (few.clone(), few)
            .prop_map(|(expected, value)| Input::SetIfEquals { expected, value }),
        1 => Just(Input::Delete),
        2 => (1..3i64).prop_map(Input::Add),
    ]
}

fn output(input: Input) -> BoxedStrategy<Output> {
    let value = prop::option::of(0..4i64);
    match input {
        Input::Get | Input::Swap(_) => value.prop_map(Output::Value).boxed(),
        Input::Set(_) => Just(Output::Done).boxed(),
        Input::Add(_) => (0..6i64).prop_map(Output::Sum).boxed(),
        _ => any::<bool>().prop_map(Output::Applied).boxed(),
    }
}

/// Operations with any answers at any times, some without one.
fn any_history(most: usize) -> impl Strategy<Value = Vec<Operation>> {
    let parts = (input(), 0..12u64, 0..6u64, 0..8u8);
    let answered = parts.prop_flat_map(|(input, called, took, known)| {
        output(input).prop_map(move |output| {
            operation(input, called, (known > 0).then_some((called + took, output)))
        })
    });
    prop::collection::vec(answered, 0..most)
}

/// A history as clients of a correct register would see it: each operation happens at a moment of
/// its own between call and answer.
fn true_history(most: usize, spread: u64) -> impl Strategy<Value = Vec<Operation>> {
    let parts = (input(), 0..spread, 0..spread, 0..10u8);
    prop::collection::vec(parts, 0..most).prop_map(move |parts| {
        let mut value = None;
        let happen = |(index, (input, before, after, fate)): (usize, (Input, u64, u64, u8))| {
            let now = 10 * (index as u64 + spread);
            let called = now - 10 * before.min(now / 10);
            if fate == 0 {
                return operation(input, called, None);
            }
            let (next, output) = apply(value, input);
            value = next;
            let answer = (fate > 1).then_some((now + 10 * after, output));
            operation(input, called, answer)
        };
        parts.into_iter().enumerate().map(happen).collect()
    })
}

proptest! {
    #[test]
    fn it_says_what_trying_all_orders_says(operations in any_history(7)) {
        prop_assert_eq!(is_linearizable(&operations), by_trying_all(&operations));
    }

    #[test]
    fn and_of_true_histories_with_one_answer_changed(
        operations in true_history(8, 4),
        which: prop::sample::Index,
        other in any_history(9),
    ) {
        prop_assert!(is_linearizable(&operations), "it happened");
        let mut operations = operations;
        let same = |kind: &Operation| {
            other.iter().find(|other| discriminant(&other.input) == discriminant(&kind.input))
        };
        if !operations.is_empty() {
            let place = which.index(operations.len());
            let changed = same(&operations[place]).and_then(|other| other.answer);
            if let (Some((_, told)), Some((_, output))) = (changed, &mut operations[place].answer) {
                *output = told;
            }
        }
        prop_assert_eq!(is_linearizable(&operations), by_trying_all(&operations));
    }

    #[test]
    fn long_true_histories_are_accepted(operations in true_history(600, 6)) {
        prop_assert!(is_linearizable(&operations));
    }
}

#[test]
fn a_stale_read_is_named_with_what_came_before_it() {
    let mut history = History::default();
    for key in ["a", "b"] {
        let set = history.call(key, 0, Input::Set(1));
        history.answer(&set, 2, Output::Done);
    }
    let set = history.call("b", 3, Input::Set(2));
    history.answer(&set, 4, Output::Done);
    let get = history.call("b", 5, Input::Get);
    history.check().unwrap();
    history.answer(&get, 6, Output::Value(Some(1)));
    let violation = history.check().unwrap_err();
    let Violation::NoOrder { key, culprit, before } = &violation else { panic!("{violation}") };
    assert_eq!((*key, culprit.input, *before), ("b", Input::Get, 2));
    assert!(violation.to_string().contains("\"b\" is not linearizable"));
}

#[test]
fn an_unknown_outcome_may_show_late_or_never_but_not_come_and_go() {
    let lost = operation(Input::Set(7), 0, None);
    let get = |at, value| operation(Input::Get, at, Some((at + 1, Output::Value(value))));
    assert!(is_linearizable(&[lost, get(10, None), get(20, Some(7)), get(30, Some(7))]));
    assert!(is_linearizable(&[lost, get(10, None), get(20, None)]));
    assert!(!is_linearizable(&[lost, get(10, Some(7)), get(20, None)]));
    let add = operation(Input::Add(1), 0, None);
    let twice = operation(Input::Add(1), 5, Some((9, Output::Sum(3))));
    assert!(!is_linearizable(&[add, twice]), "executed twice");
}

#[test]
fn what_certainly_did_not_happen_is_seen_by_nobody() {
    let mut history = History::default();
    let refused = history.call(1, 0, Input::Set(7));
    history.did_not_happen(&refused);
    let get = history.call(1, 5, Input::Get);
    history.answer(&get, 6, Output::Value(Some(7)));
    history.check().unwrap_err();
}

/// Many clients on one key for a long time, a few of whose calls are never answered: what the
/// memory is for.
#[test]
fn histories_of_many_clients_are_decided_quickly() {
    let mut operations = Vec::new();
    let mut value = None;
    for round in 0..2_000u64 {
        for client in 0..8u64 {
            let now = round * 100 + client;
            let input = match (round + client) % 4 {
                0 => Input::Get,
                1 => Input::Add(1),
                2 => Input::Set((round * 8 + client) as i64),
                _ => Input::SetIfEquals { expected: round as i64, value: 5 },
            };
            if (round * 8 + client) % 6_000 == 77 {
                operations.push(operation(input, now, None));
                continue;
            }
            let (next, output) = apply(value, input);
            value = next;
            operations.push(operation(input, now, Some((round * 100 + 50, output))));
        }
    }
    assert!(is_linearizable(&operations));
    let last = operations.iter_mut().rev().find(|o| o.input == Input::Get).unwrap();
    last.answer = Some((last.answer.unwrap().0, Output::Value(Some(-1))));
    assert!(!is_linearizable(&operations));
}
