//! Commands on strings: what SET and its relatives mean as operations, and the reads of values.
//!
//! The rules of option parsing are Redis's (`parseExtendedStringArgumentsOrReply`): options in any
//! order and any case, NX excludes XX, one kind of expiry at most (the same kind twice: the last
//! counts), KEEPTTL excludes all of them. SETNX is a conditional put answered with 0 or 1, GETSET a
//! put that returns the old value, GETEX a change of the deadline that returns the value. MSETNX is
//! one request whose conditions hold together or not at all.

use wire::Sink;
use wire::operation::{Flags, Opcode, OperationView};

use super::expiry::Expiry;
use super::plan::{Planned, Planner, TABLE, Work};
use super::read::{Combine, KeyRead, Read};
use super::refusal::{self, NOT_FLOAT, Refusal, SYNTAX};
use super::reply::Shape;
use super::table::Id;

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> OperationView<'a> {
    OperationView::on_key(Opcode::Put, TABLE, key).with_value(value)
}

pub(super) fn plan<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    match planner.spec.id {
        Id::Set => set(planner),
        Id::SetEx => set_expiring(planner, Expiry::Seconds),
        Id::PSetEx => set_expiring(planner, Expiry::Milliseconds),
        Id::SetNx => {
            let operation = put(planner.key(1)?, planner.value(2)?).with_flags(Flags::IF_NONE);
            planner.write(&operation, Shape::Flag)
        }
        Id::GetSet => {
            let operation = put(planner.key(1)?, planner.value(2)?).with_flags(Flags::RETURN_OLD);
            planner.write(&operation, Shape::Value)
        }
        Id::GetDel => {
            let operation = OperationView::on_key(Opcode::Delete, TABLE, planner.key(1)?)
                .with_flags(Flags::RETURN_OLD);
            planner.write(&operation, Shape::Value)
        }
        Id::GetEx => get_and_expire(planner),
        Id::MSet => set_many(planner, Flags::NONE, Shape::AllOk),
        Id::MSetNx => set_many(planner, Flags::IF_NONE, Shape::AllFlag),
        Id::Incr => increment(planner, 1),
        Id::Decr => increment(planner, -1),
        Id::IncrBy => {
            let by = planner.integer(2)?;
            increment(planner, by)
        }
        Id::DecrBy => {
            let by = planner.integer(2)?.checked_neg();
            increment(planner, by.ok_or(Refusal::Text("ERR decrement would overflow"))?)
        }
        Id::IncrByFloat => increment_float(planner),
        Id::Append => {
            let operation = OperationView::on_key(Opcode::Append, TABLE, planner.key(1)?)
                .with_value(planner.value(2)?);
            planner.write(&operation, Shape::Integer)
        }
        Id::SetRange => set_range(planner),
        Id::StrLen => Ok(Work::Read(Read::one(KeyRead::Length, planner.key(1)?))),
        Id::GetRange | Id::SubStr => {
            let what = KeyRead::Range { start: planner.integer(2)?, end: planner.integer(3)? };
            Ok(Work::Read(Read::one(what, planner.key(1)?)))
        }
        Id::MGet => Ok(Work::Read(Read::Many { combine: Combine::Values, keys: planner.keys(1)? })),
        other => unreachable!("{other:?} is no command on strings"),
    }
}

/// The options that SET and GETEX have in common.
#[derive(Default)]
struct Options {
    flags: Flags,
    persist: bool,
    expiry: Option<(Expiry, usize)>,
}

impl Options {
    /// Reads the options from argument `first` on.
    #[inline]
    fn parse<'a, S>(planner: &Planner<'_, 'a, S>, first: usize) -> Result<Options, Refusal<'a>> {
        let is_set = planner.spec.id == Id::Set;
        let mut options = Options::default();
        let mut index = first;
        while index < planner.arguments.len() {
            let option = planner.arguments.at(index);
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            let has = |flag: Flags| options.flags.contains(flag);
            if is_set && is("NX") && !has(Flags::IF_SOME) {
                options.flags = options.flags.or(Flags::IF_NONE);
            } else if is_set && is("XX") && !has(Flags::IF_NONE) {
                options.flags = options.flags.or(Flags::IF_SOME);
            } else if is_set && is("GET") {
                options.flags = options.flags.or(Flags::RETURN_OLD);
            } else if is_set && is("KEEPTTL") && options.expiry.is_none() {
                options.flags = options.flags.or(Flags::KEEP_DEADLINE);
            } else if !is_set && is("PERSIST") && options.expiry.is_none() {
                options.persist = true;
            } else if let Some(kind) = Expiry::named(option)
                && !has(Flags::KEEP_DEADLINE)
                && !options.persist
                && options.expiry.is_none_or(|(before, _)| before == kind)
                && index + 1 < planner.arguments.len()
            {
                options.expiry = Some((kind, index + 1));
                index += 1;
            } else {
                return Err(SYNTAX);
            }
            index += 1;
        }
        Ok(options)
    }
}

fn set<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    let mut operation = put(planner.key(1)?, planner.value(2)?);
    if planner.arguments.len() == 3 {
        return planner.write(&operation, Shape::Ok);
    }
    let options = Options::parse(planner, 3)?;
    operation = operation.with_flags(options.flags);
    if let Some((kind, index)) = options.expiry {
        operation = operation.with_deadline(kind.deadline(planner, index)?);
    }
    let returns_old = options.flags.contains(Flags::RETURN_OLD);
    planner.write(&operation, if returns_old { Shape::Value } else { Shape::Ok })
}

fn set_expiring<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>, kind: Expiry) -> Planned<'a> {
    let deadline = kind.deadline(planner, 2)?;
    let operation = put(planner.key(1)?, planner.value(3)?).with_deadline(deadline);
    planner.write(&operation, Shape::Ok)
}

fn get_and_expire<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    let key = planner.key(1)?;
    let options = Options::parse(planner, 2)?;
    let operation = match options.expiry {
        Some((kind, index)) => OperationView::on_key(Opcode::Expire, TABLE, key)
            .with_deadline(kind.deadline(planner, index)?),
        None if options.persist => OperationView::on_key(Opcode::Persist, TABLE, key),
        None => return Ok(Work::Read(Read::one(KeyRead::Value, key))),
    };
    planner.write(&operation.with_flags(Flags::RETURN_OLD), Shape::Value)
}

fn set_many<'a, S: Sink>(
    planner: &mut Planner<'_, 'a, S>,
    flags: Flags,
    shape: Shape,
) -> Planned<'a> {
    let arguments = planner.arguments;
    if arguments.len().is_multiple_of(2) {
        return Err(Refusal::Arity);
    }
    for index in (1..arguments.len()).step_by(2) {
        planner.key(index)?;
        planner.value(index + 1)?;
    }
    let operations = (1..arguments.len())
        .step_by(2)
        .map(|index| put(arguments.at(index), arguments.at(index + 1)).with_flags(flags));
    planner.write_all(operations, shape, flags.contains(Flags::IF_NONE))
}

fn increment<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>, by: i64) -> Planned<'a> {
    let operation = OperationView::on_key(Opcode::Increment, TABLE, planner.key(1)?)
        .with_argument(by.cast_unsigned());
    planner.write(&operation, Shape::Integer)
}

fn increment_float<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    // What the text is as a number is decided where it is added, by everyone alike; here only
    // what is longer than any number is kept out of the log.
    let by = planner.arguments.at(2);
    if by.len() > crate::machine::float::TEXT_MAX {
        return Err(NOT_FLOAT);
    }
    let operation =
        OperationView::on_key(Opcode::IncrementFloat, TABLE, planner.key(1)?).with_value(by);
    planner.write(&operation, Shape::Float)
}

fn set_range<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    let offset = u64::try_from(planner.integer(2)?)
        .map_err(|_| Refusal::Text("ERR offset is out of range"))?;
    let value = planner.value(3)?;
    let fits = offset.checked_add(value.len() as u64);
    if !value.is_empty() && fits.is_none_or(|end| end > planner.host.value_max as u64) {
        let text = refusal::text(wire::ErrorCode::TooLarge).expect("too large has a text");
        return Err(Refusal::Text(text));
    }
    let operation = OperationView::on_key(Opcode::SetRange, TABLE, planner.key(1)?)
        .with_argument(offset)
        .with_value(value);
    planner.write(&operation, Shape::Integer)
}
