//! COMMAND: the command table as clients read it.
//!
//! Cluster clients find the keys of a command with it, redis-cli its hints. The rows are Redis's in
//! form and content ([`super::table`]), key specifications in the form of release 7 included.
//! What is left out: the arguments and history of DOCS, the subcommands' own rows, notes to key
//! specifications.

use wire::Sink;

use super::encode::Encoder;
use super::plan::{Planned, Planner, Work};
use super::refusal::{Refusal, SYNTAX};
use super::table::{self, COMMANDS, Spec, category, flag};

/// Subcommands of COMMAND that Redis has and this node does not.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("getkeys", "COMMAND GETKEYS"),
    ("getkeysandflags", "COMMAND GETKEYSANDFLAGS"),
    ("help", "COMMAND HELP"),
];

pub(super) fn plan<'a, S: Sink>(
    planner: &Planner<'_, 'a, S>,
    encoder: &mut Encoder<'_>,
) -> Planned<'a> {
    let arguments = planner.arguments;
    if arguments.len() == 1 {
        encoder.array(COMMANDS.len());
        COMMANDS.iter().for_each(|spec| append_info(spec, encoder));
        return Ok(Work::Replied);
    }
    let subcommand = arguments.at(1);
    let is = |name: &str| subcommand.eq_ignore_ascii_case(name.as_bytes());
    let names = arguments.from(2);
    if is("COUNT") {
        if !names.is_empty() {
            return Err(Refusal::ArityOf("command|count"));
        }
        encoder.integer(COMMANDS.len() as i64);
    } else if is("INFO") {
        let count = if names.is_empty() { COMMANDS.len() } else { names.len() };
        encoder.array(count);
        if names.is_empty() {
            COMMANDS.iter().for_each(|spec| append_info(spec, encoder));
        }
        for name in names.iter() {
            match table::lookup(name) {
                Some(spec) => append_info(spec, encoder),
                None => encoder.null(),
            }
        }
    } else if is("DOCS") {
        let known = names.iter().filter_map(table::lookup);
        if names.is_empty() {
            encoder.map(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| append_docs(spec, encoder));
        } else {
            encoder.map(known.clone().count());
            known.for_each(|spec| append_docs(spec, encoder));
        }
    } else if is("LIST") {
        if !names.is_empty() {
            return Err(SYNTAX);
        }
        encoder.array(COMMANDS.len());
        COMMANDS.iter().for_each(|spec| encoder.bulk(spec.name.as_bytes()));
    } else {
        return Err(Refusal::of_subcommand(subcommand, UNSUPPORTED));
    }
    Ok(Work::Replied)
}

fn append_info(spec: &Spec, encoder: &mut Encoder<'_>) {
    encoder.array(10);
    encoder.bulk(spec.name.as_bytes());
    encoder.integer(spec.arity.into());
    append_set(bits(spec.flags, &flag::NAMES), encoder);
    encoder.integer(spec.first_key().into());
    encoder.integer(spec.last_key.into());
    encoder.integer(spec.key_step.into());
    append_set(categories(spec), encoder);
    encoder.set(spec.tips.len());
    spec.tips.iter().for_each(|tip| encoder.bulk(tip.as_bytes()));
    append_key_specifications(spec, encoder);
    encoder.set(0);
}

fn append_set(names: impl Iterator<Item = &'static str> + Clone, encoder: &mut Encoder<'_>) {
    encoder.set(names.clone().count());
    names.for_each(|name| encoder.simple(name));
}

fn bits(set: u16, names: &'static [&'static str]) -> impl Iterator<Item = &'static str> + Clone {
    let is_set = move |index: &usize| set & 1 << index != 0;
    (0..names.len()).filter(is_set).map(|index| names[index])
}

/// Categories in Redis's order; reading, writing, fast and slow follow from the flags.
fn categories(spec: &Spec) -> impl Iterator<Item = &'static str> + Clone {
    let (flags, categories) = (spec.flags, spec.categories);
    let is_fast = flags & flag::FAST != 0;
    [
        (categories & category::KEYSPACE != 0, "@keyspace"),
        (flags & flag::READONLY != 0, "@read"),
        (flags & flag::WRITE != 0, "@write"),
        (categories & category::STRING != 0, "@string"),
        (is_fast, "@fast"),
        (!is_fast, "@slow"),
        (categories & category::DANGEROUS != 0, "@dangerous"),
        (categories & category::CONNECTION != 0, "@connection"),
    ]
    .into_iter()
    .filter_map(|(applies, name)| applies.then_some(name))
}

/// Where the keys stand: from argument 1 to the last key, in steps.
fn append_key_specifications(spec: &Spec, encoder: &mut Encoder<'_>) {
    if spec.key_flags.is_empty() {
        encoder.set(0);
        return;
    }
    let field = |name: &str, encoder: &mut Encoder<'_>| encoder.bulk(name.as_bytes());
    let number = |name: &str, value: i64, encoder: &mut Encoder<'_>| {
        encoder.bulk(name.as_bytes());
        encoder.integer(value);
    };
    encoder.set(1);
    encoder.map(3);
    field("flags", encoder);
    append_set(spec.key_flags.iter().copied(), encoder);
    field("begin_search", encoder);
    encoder.map(2);
    field("type", encoder);
    field("index", encoder);
    field("spec", encoder);
    encoder.map(1);
    number("index", 1, encoder);
    field("find_keys", encoder);
    encoder.map(2);
    field("type", encoder);
    field("range", encoder);
    field("spec", encoder);
    encoder.map(3);
    // Counted from the first key, or from the end.
    let last = if spec.last_key > 0 { spec.last_key - 1 } else { spec.last_key };
    number("lastkey", last.into(), encoder);
    number("keystep", spec.key_step.into(), encoder);
    number("limit", 0, encoder);
}

fn append_docs(spec: &Spec, encoder: &mut Encoder<'_>) {
    encoder.bulk(spec.name.as_bytes());
    encoder.map(3);
    for (name, text) in [("summary", spec.summary), ("since", spec.since), ("group", spec.group)] {
        encoder.bulk(name.as_bytes());
        encoder.bulk(text.as_bytes());
    }
}
