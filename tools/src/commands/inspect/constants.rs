//! `quorate inspect constants`.

use node::config::compression::format_compression;
use serde_json::{Map, Value, json};
use vsr::format::inspect::{DirectoryReport, constants};

use crate::outcome::{Outcome, print, print_line};

/// Shows the release's constants and, where a directory can be read, its format-time values.
pub(super) fn show(report: Option<&DirectoryReport>, as_json: bool) -> Outcome {
    let fixed = constants();
    let state = report.and_then(|report| report.state.as_ref());
    let formatted: Vec<(&str, u64)> =
        state.map(|state| state.configuration.values().collect()).unwrap_or_default();
    if as_json {
        let object = |values: &[(&str, u64)]| {
            let pairs = values.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        print_line(json!({ "release": object(&fixed), "directory": object(&formatted) }));
        return Ok(());
    }
    let line = |&(name, value): &(&str, u64)| match name {
        // Eight bytes, which say nothing as one number.
        "compression" => format!("  {name:<32}{:>20}\n", format_compression(&value.to_le_bytes())),
        _ => format!("  {name:<32}{value:>20}\n"),
    };
    let list = |values: &[(&str, u64)]| values.iter().map(line).collect::<String>();
    print(format_args!("this release\n{}", list(&fixed)));
    if !formatted.is_empty() {
        print(format_args!("\nthis directory, since it was formatted\n{}", list(&formatted)));
    }
    Ok(())
}
