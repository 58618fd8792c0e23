//! CONFIG GET: the few parameters that Redis clients and tools ask for, as they are in effect here.
//!
//! They describe this node in Redis's words: an append-only file that is synced before every reply
//! is what a replicated, durable write amounts to. The node's own settings are not among them, and
//! cannot be changed here: they come from flags, environment and file when it starts.

use wire::Sink;

use super::encode::Encoder;
use super::glob;
use super::number::Digits;
use super::parser::Arguments;
use super::plan::{Planned, Planner, Work};
use super::refusal::Refusal;

/// Parameters with a value that is the same on every node.
const FIXED: &[(&str, &str)] = &[
    ("appendfsync", "always"),
    ("appendonly", "yes"),
    ("cluster-enabled", "no"),
    ("databases", "1"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("save", ""),
    ("timeout", "0"),
];

const UNSUPPORTED: &[(&str, &str)] = &[
    ("help", "CONFIG HELP"),
    ("resetstat", "CONFIG RESETSTAT"),
    ("rewrite", "CONFIG REWRITE"),
    ("set", "CONFIG SET"),
];

pub(super) fn plan<'a, S: Sink>(
    planner: &Planner<'_, 'a, S>,
    encoder: &mut Encoder<'_>,
) -> Planned<'a> {
    let subcommand = planner.arguments.at(1);
    if !subcommand.eq_ignore_ascii_case(b"GET") {
        return Err(Refusal::of_subcommand(subcommand, UNSUPPORTED));
    }
    let patterns = planner.arguments.from(2);
    if patterns.is_empty() {
        return Err(Refusal::ArityOf("config|get"));
    }
    let value_max = Digits::of_u64(planner.host.value_max as u64);
    let value_max = std::str::from_utf8(value_max.as_bytes()).expect("digits are text");
    let parameters = FIXED.iter().copied().chain([("proto-max-bulk-len", value_max)]);
    let wanted = parameters.filter_map(|(name, value)| Some((shown(name, patterns)?, value)));
    encoder.map(wanted.clone().count());
    for (name, value) in wanted {
        encoder.bulk(name);
        encoder.bulk(value.as_bytes());
    }
    Ok(Work::Replied)
}

/// The name as the reply has it if any pattern matches: a plain name in the spelling of the
/// request.
fn shown<'a>(name: &'a str, patterns: Arguments<'a>) -> Option<&'a [u8]> {
    let name = name.as_bytes();
    let plain = patterns.iter().find(|pattern| pattern.eq_ignore_ascii_case(name));
    let matched = patterns.iter().any(|pattern| glob::matches_any_case(pattern, name));
    plain.or(matched.then_some(name))
}
