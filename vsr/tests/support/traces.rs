//! Scripts of steps whose printed trace is the expected result.
//!
//! A line of a file that begins with `>` is a step; the lines after it are what it led to. `#`
//! begins a comment; blank lines stand where they stood. With `UPDATE_SCENARIOS=1` in the
//! environment the files are rewritten with what happens now, to be read before they are committed.

use std::path::Path;

/// What plays the steps of a script.
pub(crate) trait Play {
    /// Plays one, and adds what it leads to to the trace.
    fn run(&mut self, step: &str);
    /// What has been printed so far.
    fn trace(&mut self) -> &mut String;
}

/// The script with the trace that its steps give now.
fn replayed(mut play: impl Play, text: &str) -> String {
    let mut kept_blank = true;
    for line in text.lines() {
        let step = line.strip_prefix('>');
        if step.is_some() || line.starts_with('#') || (line.is_empty() && !kept_blank) {
            *play.trace() += line;
            *play.trace() += "\n";
        }
        if let Some(step) = step {
            play.run(step);
        }
        kept_blank = line.is_empty();
    }
    std::mem::take(play.trace())
}

fn assert_same(actual: &str, expected: &str, path: &Path) {
    let mut lines = actual.lines().zip(expected.lines()).enumerate();
    let different = lines.find(|(_, (actual, expected))| actual != expected);
    if let Some((index, (actual, expected))) = different {
        panic!("{}:{}:\nexpected {expected}\nactual   {actual}", path.display(), index + 1);
    }
    assert_eq!(actual.lines().count(), expected.lines().count(), "{}", path.display());
}

/// Plays every script of a folder below the tests', `least` of them at least, each from its own
/// start.
pub(crate) fn assert_replayed<P: Play>(folder: &str, least: usize, start: impl Fn() -> P) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let mut count = 0;
    for path in paths.filter(|path| path.is_file()) {
        let expected = std::fs::read_to_string(&path).expect("it is text");
        let actual = replayed(start(), &expected);
        if update {
            std::fs::write(&path, &actual).expect("it can be written");
        } else {
            assert_same(&actual, &expected, &path);
        }
        count += 1;
    }
    assert!(count >= least, "only {count} scripts were found");
}
