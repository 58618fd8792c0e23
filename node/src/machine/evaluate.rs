//! Evaluation, one opcode after the other. The module above says how it is used.
//!
//! Each function takes the entry that lives (or none), and returns the effect with the value of its
//! outcome, or the error that leaves everything as it was. Results follow Redis: strings that are
//! integers only in their canonical form, sums that leave 64 bits refused, APPEND and SETRANGE
//! on a missing key starting from an empty value, and counters and edits keeping the deadline.

use wire::operation::{Flags, Opcode, OperationView};
use wire::{ErrorCode, Outcome, Timestamp, Value, Version};

use super::float::{Extended, Parsed};
use super::{Budget, Context, Effect, Entry, Evaluated, Scratch, Verdict, Vote};
use crate::resp::number::{Digits, parse_i64};

type Done<'a> = Result<(Effect<'a>, Value<'a>), ErrorCode>;

/// What `operation` does to the entry of its key. `current` is the entry as far as [`super::needs`]
/// wants it; one that has expired may be given or left out.
pub fn evaluate<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
    context: &Context,
    budget: &mut Budget,
    scratch: &'a mut Scratch,
) -> Evaluated<'a> {
    let now = context.timestamp;
    let budget_before = *budget;
    let current = current.filter(|entry| entry.lives_at(now));
    let done = match context.verdict {
        Verdict::Fails(Some(code)) => Err(code),
        Verdict::Fails(None) => Ok((Effect::None, Value::Nil)),
        Verdict::Own | Verdict::Holds => match operation.opcode {
            Opcode::Put => Ok(put(operation, current, context)),
            Opcode::Delete => Ok(delete(operation, current)),
            Opcode::Increment => increment(operation, current, scratch),
            Opcode::IncrementFloat => increment_float(operation, current, budget, scratch),
            Opcode::Append | Opcode::SetRange => edit(operation, current, context, budget, scratch),
            Opcode::Expire => expire(operation, current, context, budget),
            Opcode::Persist => persist(operation, current, budget),
            Opcode::Flush => Ok((Effect::Flush, Value::Ok)),
            Opcode::Register | Opcode::Hold | Opcode::Refuse => Err(ErrorCode::Unsupported),
        },
    };
    match done.and_then(|done| pay_for_old_value(operation, done, budget)) {
        Ok((effect, value)) => {
            let before = current.map_or(Version(0), |entry| entry.version);
            let version = match effect {
                Effect::None => before,
                Effect::Put { .. } | Effect::SetDeadline(_) => context.version,
                Effect::Delete | Effect::Flush => Version(0),
            };
            (effect, Outcome::done(value, version))
        }
        Err(code) => {
            *budget = budget_before;
            (Effect::None, Outcome::failed(code))
        }
    }
}

/// A value that is answered has to be held until its reply is sent: a request of a few bytes may
/// not make the node hold any number of megabytes.
fn pay_for_old_value<'a>(
    operation: &OperationView<'_>,
    done: (Effect<'a>, Value<'a>),
    budget: &mut Budget,
) -> Done<'a> {
    if let Value::Bytes(value) = done.1
        && operation.flags.contains(Flags::RETURN_OLD)
    {
        budget.take(value.len() as u64)?;
    }
    Ok(done)
}

/// What `operation` votes on the all-or-none request that it is part of. `budget` is what the
/// shard's part of the request has left; it is taken from as if the operation were done.
pub fn vote(
    operation: &OperationView<'_>,
    current: Option<Entry<'_>>,
    context: &Context,
    budget: &mut Budget,
    scratch: &mut Scratch,
) -> Vote {
    let current = current.filter(|entry| entry.lives_at(context.timestamp));
    let own = Context { verdict: Verdict::Own, ..*context };
    let (_, outcome) = evaluate(operation, current, &own, budget, scratch);
    let holds = match operation.opcode {
        Opcode::Put => put_condition_holds(operation.flags, current),
        Opcode::Expire => expire_condition_holds(operation, current),
        _ => true,
    };
    match outcome.result {
        Err(code) => Vote::Refused(code),
        Ok(_) if holds => Vote::Yes,
        Ok(_) => Vote::No,
    }
}

fn put_condition_holds(flags: Flags, current: Option<Entry<'_>>) -> bool {
    !(flags.contains(Flags::IF_NONE) && current.is_some()
        || flags.contains(Flags::IF_SOME) && current.is_none())
}

/// An entry as its operation sets it: deleted when its deadline has passed already.
fn stored(value: &[u8], deadline: u64, now: Timestamp) -> Effect<'_> {
    if deadline != 0 && deadline <= now.0 {
        Effect::Delete
    } else {
        Effect::Put { value, deadline }
    }
}

fn put<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
    context: &Context,
) -> (Effect<'a>, Value<'a>) {
    let returns_old = operation.flags.contains(Flags::RETURN_OLD);
    let old = current.map_or(Value::Nil, |entry| Value::Bytes(entry.value));
    let checked = context.verdict == Verdict::Holds;
    if !checked && !put_condition_holds(operation.flags, current) {
        return (Effect::None, if returns_old { old } else { Value::Nil });
    }
    let keeps = operation.flags.contains(Flags::KEEP_DEADLINE);
    let kept = current.filter(|_| keeps).map(|entry| entry.deadline);
    let deadline = kept.unwrap_or(operation.deadline);
    let effect = stored(operation.value, deadline, context.timestamp);
    (effect, if returns_old { old } else { Value::Ok })
}

fn delete<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
) -> (Effect<'a>, Value<'a>) {
    let returns_old = operation.flags.contains(Flags::RETURN_OLD);
    match current {
        Some(entry) if returns_old => (Effect::Delete, Value::Bytes(entry.value)),
        Some(_) => (Effect::Delete, Value::Bool(true)),
        None if returns_old => (Effect::None, Value::Nil),
        None => (Effect::None, Value::Bool(false)),
    }
}

fn increment<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
    scratch: &'a mut Scratch,
) -> Done<'a> {
    let before = match current {
        Some(entry) => parse_i64(entry.value).ok_or(ErrorCode::NotAnInteger)?,
        None => 0,
    };
    let sum = before.checked_add(operation.increment()).ok_or(ErrorCode::OutOfRange)?;
    scratch.value.clear();
    scratch.value.extend_from_slice(Digits::of_i64(sum).as_bytes());
    let deadline = current.map_or(0, |entry| entry.deadline);
    Ok((Effect::Put { value: &scratch.value, deadline }, Value::Integer(sum)))
}

fn increment_float<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
    budget: &mut Budget,
    scratch: &'a mut Scratch,
) -> Done<'a> {
    let Scratch { value, floats } = scratch;
    let mut number = |text: &[u8]| Extended::parse(text, floats).ok_or(ErrorCode::NotAFloat);
    let before = number(current.map_or(b"0", |entry| entry.value))?;
    let by = number(operation.value)?;
    let (Parsed::Finite(before), Parsed::Finite(by)) = (before, by) else {
        return Err(ErrorCode::OutOfRange);
    };
    let sum = before.plus(by).ok_or(ErrorCode::OutOfRange)?;
    value.clear();
    sum.append(value, floats);
    // Six bytes of request can make five thousand digits.
    budget.take(value.len().saturating_sub(operation.value.len()) as u64)?;
    let deadline = current.map_or(0, |entry| entry.deadline);
    Ok((Effect::Put { value, deadline }, Value::Bytes(value)))
}

/// APPEND and SETRANGE: a value written over the current one from some position on.
fn edit<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
    context: &Context,
    budget: &mut Budget,
    scratch: &'a mut Scratch,
) -> Done<'a> {
    let before = current.map_or(&[][..], |entry| entry.value);
    let is_append = operation.opcode == Opcode::Append;
    if operation.value.is_empty() && (!is_append || current.is_some()) {
        // Nothing to write: SETRANGE does not even create the key, as in Redis.
        return Ok((Effect::None, Value::Integer(before.len() as i64)));
    }
    let offset = if is_append { before.len() as u64 } else { operation.argument };
    let end = offset.checked_add(operation.value.len() as u64).ok_or(ErrorCode::TooLarge)?;
    if end > u64::from(context.value_max) {
        return Err(ErrorCode::TooLarge);
    }
    let (start, end) = (offset as usize, end as usize);
    let size = end.max(before.len());
    budget.take((size - operation.value.len()) as u64)?;
    let value = &mut scratch.value;
    value.clear();
    value.extend_from_slice(before);
    value.resize(size, 0);
    value[start..end].copy_from_slice(operation.value);
    let deadline = current.map_or(0, |entry| entry.deadline);
    Ok((Effect::Put { value, deadline }, Value::Integer(size as i64)))
}

fn expire_condition_holds(operation: &OperationView<'_>, current: Option<Entry<'_>>) -> bool {
    let has = |flag| operation.flags.contains(flag);
    let Some(entry) = current else { return false };
    let (before, after) = (entry.deadline, operation.deadline);
    let refused = has(Flags::IF_NONE) && before != 0
        || has(Flags::IF_SOME) && before == 0
        // No deadline counts as infinitely late.
        || has(Flags::IF_GREATER) && (before == 0 || after <= before)
        || has(Flags::IF_LESS) && before != 0 && after >= before;
    !refused
}

fn expire<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
    context: &Context,
    budget: &mut Budget,
) -> Done<'a> {
    let returns_old = operation.flags.contains(Flags::RETURN_OLD);
    let answer = |done: bool| match current {
        Some(entry) if returns_old => Value::Bytes(entry.value),
        None if returns_old => Value::Nil,
        _ => Value::Bool(done),
    };
    let checked = context.verdict == Verdict::Holds && current.is_some();
    if !checked && !expire_condition_holds(operation, current) {
        return Ok((Effect::None, answer(false)));
    }
    if operation.deadline <= context.timestamp.0 {
        return Ok((Effect::Delete, answer(true)));
    }
    Ok((set_deadline(operation.deadline, current, budget)?, answer(true)))
}

/// A change of a deadline writes the entry again, so it costs as much as the value has bytes.
fn set_deadline<'a>(
    deadline: u64,
    current: Option<Entry<'_>>,
    budget: &mut Budget,
) -> Result<Effect<'a>, ErrorCode> {
    budget.take(current.map_or(0, |entry| u64::from(entry.value_size)))?;
    Ok(Effect::SetDeadline(deadline))
}

fn persist<'a>(
    operation: &OperationView<'a>,
    current: Option<Entry<'a>>,
    budget: &mut Budget,
) -> Done<'a> {
    let has_deadline = current.is_some_and(|entry| entry.deadline != 0);
    let effect = if has_deadline { set_deadline(0, current, budget)? } else { Effect::None };
    let value = match current {
        Some(entry) if operation.flags.contains(Flags::RETURN_OLD) => Value::Bytes(entry.value),
        None if operation.flags.contains(Flags::RETURN_OLD) => Value::Nil,
        _ => Value::Bool(has_deadline),
    };
    Ok((effect, value))
}
