//! Commands on keys whatever they hold, and on all keys together.

use wire::Sink;
use wire::operation::{Opcode, OperationView};

use super::number::parse_u64;
use super::plan::{Planned, Planner, TABLE, Work};
use super::read::{Combine, KeyRead, Read, ScanRequest};
use super::refusal::{Refusal, SYNTAX};
use super::reply::Shape;
use super::table::Id;

/// How many keys a step of SCAN looks at unless COUNT says otherwise, and at most.
const COUNT_DEFAULT: usize = 10;
const COUNT_MAX: usize = 10_000;

pub(super) fn plan<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    match planner.spec.id {
        Id::Del | Id::Unlink => {
            let keys = planner.keys(1)?;
            let delete = |key| OperationView::on_key(Opcode::Delete, TABLE, key);
            planner.write_all(keys.iter().map(delete), Shape::Sum, false)
        }
        Id::Exists | Id::Touch => {
            Ok(Work::Read(Read::Many { combine: Combine::Count, keys: planner.keys(1)? }))
        }
        Id::Type => Ok(Work::Read(Read::one(KeyRead::Type, planner.key(1)?))),
        Id::RandomKey => Ok(Work::Read(Read::RandomKey)),
        Id::DbSize => Ok(Work::Read(Read::Size)),
        Id::Keys => Ok(Work::Read(Read::Keys { pattern: planner.arguments.at(1) })),
        Id::Scan => scan(planner),
        Id::FlushAll | Id::FlushDb => flush(planner),
        other => unreachable!("{other:?} is no command on keys"),
    }
}

fn flush<'a, S: Sink>(planner: &mut Planner<'_, 'a, S>) -> Planned<'a> {
    let mode = planner.arguments.from(1);
    // Emptying takes one increment of a generation either way.
    let known =
        |mode: &[u8]| mode.eq_ignore_ascii_case(b"SYNC") || mode.eq_ignore_ascii_case(b"ASYNC");
    if mode.len() > 1 || !mode.iter().all(known) {
        return Err(SYNTAX);
    }
    planner.write(&OperationView::on_table(Opcode::Flush, TABLE), Shape::Ok)
}

fn scan<'a, S: Sink>(planner: &Planner<'_, 'a, S>) -> Planned<'a> {
    let arguments = planner.arguments;
    let cursor = parse_u64(arguments.at(1)).ok_or(Refusal::Text("ERR invalid cursor"))?;
    let mut request = ScanRequest { cursor, pattern: None, count: COUNT_DEFAULT, strings: true };
    let mut index = 2;
    while index < arguments.len() {
        let option = arguments.at(index);
        if index + 1 == arguments.len() {
            return Err(SYNTAX);
        }
        if option.eq_ignore_ascii_case(b"COUNT") {
            let count = planner.integer(index + 1)?;
            request.count = usize::try_from(count).map_err(|_| SYNTAX)?.min(COUNT_MAX);
            if request.count == 0 {
                return Err(SYNTAX);
            }
        } else if option.eq_ignore_ascii_case(b"MATCH") {
            request.pattern = Some(arguments.at(index + 1)).filter(|pattern| *pattern != b"*");
        } else if option.eq_ignore_ascii_case(b"TYPE") {
            request.strings = arguments.at(index + 1).eq_ignore_ascii_case(b"string");
        } else {
            return Err(SYNTAX);
        }
        index += 2;
    }
    Ok(Work::Read(Read::Scan(request)))
}
