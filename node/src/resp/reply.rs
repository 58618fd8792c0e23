//! From outcomes of operations to the reply of the command that asked for them.
//!
//! An outcome says what happened in the few types that all protocols share ([`wire::Value`]); a
//! [`Shape`] says how the command that caused it is answered: DEL adds up, SETNX answers 0 or 1,
//! SET with NX answers null where SETNX answers 0. A shape is one byte that the connection keeps
//! with its request while that is on its way.

use lsm::lookup::CorruptRead;
use wire::{ErrorCode, Outcome, Value};

use super::encode::Encoder;
use super::plan::Form;
use super::refusal;

/// How the outcomes of a command become its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `+OK`, or null when a condition did not hold.
    Ok,
    /// 1, or 0 when nothing was changed.
    Flag,
    /// The number.
    Integer,
    /// The number in decimal, as a bulk string.
    Float,
    /// The value, or null.
    Value,
    /// How many operations found their key.
    Sum,
    /// `+OK` for several operations.
    AllOk,
    /// 1 when all operations were done, 0 when none was.
    AllFlag,
}

/// The command's outcome is unknown to its client: close the connection without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl Shape {
    /// Appends the reply to the outcomes of a command's operations, in their order.
    ///
    /// # Errors
    /// [`Unknown`] when the command may have been carried out and this cannot be said in a reply.
    #[inline]
    pub fn append<'a>(
        self,
        outcomes: impl Iterator<Item = Outcome<'a>>,
        form: Form,
        out: &mut Vec<u8>,
    ) -> Result<(), Unknown> {
        let mut results = outcomes.map(|outcome| outcome.result);
        let first = results.next().expect("a request has at least one operation");
        // Parts of an all-or-none request are all done or all not: the first speaks for them. The
        // first error is the answer of any request.
        let mut sum = i64::from(is_yes(first));
        let mut all = first;
        for result in results {
            sum += i64::from(is_yes(result));
            if all.is_ok() && result.is_err() {
                all = result;
            }
        }
        let value = match all {
            Ok(value) => value,
            Err(code) => return self.append_error(code, form, out),
        };
        if form.muted {
            return Ok(());
        }
        let encoder = &mut Encoder::new(out, form.protocol);
        match (self, value) {
            (Shape::Sum, _) => encoder.integer(sum),
            (Shape::AllOk, _) => encoder.ok(),
            (Shape::AllFlag | Shape::Flag, value) => encoder.integer(i64::from(is_yes(Ok(value)))),
            (Shape::Ok, Value::Nil) => encoder.null(),
            (Shape::Ok, _) => encoder.ok(),
            (Shape::Integer, Value::Integer(number)) => encoder.integer(number),
            (Shape::Value | Shape::Float, Value::Bytes(bytes)) => encoder.bulk(bytes),
            (Shape::Value, _) => encoder.null(),
            (Shape::Integer | Shape::Float, other) => {
                unreachable!("{self:?} is asked of operations that answer it, not with {other:?}")
            }
        }
        Ok(())
    }

    /// Appends an error that concerns the command as a whole.
    ///
    /// # Errors
    /// [`Unknown`] when the command may have been carried out.
    pub fn append_error(
        self,
        code: ErrorCode,
        form: Form,
        out: &mut Vec<u8>,
    ) -> Result<(), Unknown> {
        let text = match (self, code) {
            (Shape::Float, ErrorCode::OutOfRange) => "ERR increment would produce NaN or Infinity",
            _ => refusal::text(code).ok_or(Unknown)?,
        };
        if !form.muted {
            Encoder::new(out, form.protocol).error(text);
        }
        Ok(())
    }
}

fn is_yes(result: Result<Value<'_>, ErrorCode>) -> bool {
    matches!(result, Ok(Value::Ok | Value::Bool(true)))
}

/// Appends the reply to a read of one key that stands in a corrupt block: where that is.
pub fn append_corrupt(fault: &CorruptRead, form: Form, out: &mut Vec<u8>) {
    let CorruptRead { shard, tree, level, table, block, .. } = fault;
    let text = format!(
        "ERR corrupt_block: shard {shard}, tree {tree:?}, level {level}, table {table}: \
         block {block} is damaged and could not be repaired"
    );
    if !form.muted {
        Encoder::new(out, form.protocol).error(&text);
    }
}

/// Appends the reply to a read or another command without a shape that failed.
///
/// # Errors
/// [`Unknown`] when only closing the connection is honest.
pub fn append_error(code: ErrorCode, form: Form, out: &mut Vec<u8>) -> Result<(), Unknown> {
    Shape::Ok.append_error(code, form, out)
}
