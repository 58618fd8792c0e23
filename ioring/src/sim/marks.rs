//! Coverage marks: proof that rare paths are reached.
//!
//! Code says `mark!("torn_tail_forgotten")` where something rare happens. In builds with debug
//! assertions each hit is counted for the thread that runs it (a simulation is one thread); in
//! release builds the macro is nothing. A test over many seeds asks [`hits`], or [`never_hit`] with
//! the folders whose sources it means to cover.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

thread_local! {
    static HITS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts that this place was reached; nothing in release builds.
#[macro_export]
macro_rules! mark {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::sim::marks::hit($name);
        }
    };
}

/// What [`mark!`](crate::mark) calls.
pub fn hit(name: &'static str) {
    HITS.with_borrow_mut(|hits| *hits.entry(name).or_default() += 1);
}

/// Marks that this thread has hit since the last [`reset`], and how often.
pub fn hits() -> BTreeMap<&'static str, u64> {
    HITS.with_borrow(BTreeMap::clone)
}

/// Forgets this thread's hits.
pub fn reset() {
    HITS.with_borrow_mut(BTreeMap::clear);
}

/// Marks that stand in the Rust sources below `folder` and were not hit by this thread.
///
/// # Errors
/// If the folder cannot be read.
pub fn never_hit(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut missing = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                missing.extend(marks_in(&std::fs::read_to_string(path)?));
            }
        }
    }
    HITS.with_borrow(|hits| missing.retain(|name| !hits.contains_key(name.as_str())));
    Ok(missing)
}

/// Names in `mark!("…")`, outside comments.
fn marks_in(source: &str) -> impl Iterator<Item = String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter_map(|line| {
        let after = line.split_once("mark!(\"")?.1;
        Some(after.split_once('"')?.0.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_and_missing_ones_named() {
        reset();
        crate::mark!("seen_here");
        crate::mark!("seen_here");
        assert_eq!(hits().get("seen_here"), cfg!(debug_assertions).then_some(&2));
        let folder = tempfile::tempdir().unwrap();
        let source = ["mark!(\"seen_here\");", "ioring::mark!(\"rare\");", "// mark!(\"no\");"];
        std::fs::create_dir(folder.path().join("src")).unwrap();
        std::fs::write(folder.path().join("src/a.rs"), source.join("\n")).unwrap();
        let missing = never_hit(folder.path()).unwrap();
        assert!(missing.contains("rare") && !missing.contains("no"));
        reset();
    }
}
