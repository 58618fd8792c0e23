//! House style that a formatter and a linter do not check.
//!
//! Each rule walks the sources and documents of the repository and lists what breaks it, with file
//! and line. The rules are few on purpose: they keep a reader's attention, they are no taste.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its sources has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Longer lines do not fit beside each other on a screen.
const LINE_WIDTH_MAX: usize = 100;
/// A function that does not fit on a screen has more than one idea.
const FUNCTION_LINES_MAX: usize = 70;
/// A file that takes an hour to read has grown past its idea.
const FILE_LINES_MAX: usize = 900;

const FOLDERS: [&str; 10] =
    ["ioring", "wire", "lsm", "vsr", "node", "client", "bench", "sim", "tools", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    FOLDERS.iter().for_each(|folder| files(&root().join(folder), "rs", &mut paths));
    assert!(paths.len() > 20, "the sources were not found under {}", root().display());
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn lines_fit() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (index, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_WIDTH_MAX && !line.contains("https://") {
                broken.push(format!("{}:{}", path.display(), index + 1));
            }
        }
    }
    report("a line is at most 100 characters", &broken);
}

#[test]
fn functions_and_files_fit() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            broken.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
            // The formatter puts the closing brace at the indentation of the function.
            let indent = line.len() - line.trim_start().len();
            let closing = format!("{}}}", " ".repeat(indent));
            let rest = lines[start..].iter();
            let length = rest.take_while(|line| !line.starts_with(&closing)).count() + 1;
            if length > FUNCTION_LINES_MAX && !line.ends_with('}') && !line.ends_with(';') {
                broken.push(format!("{}:{}: {length} lines", path.display(), start + 1));
            }
        }
    }
    report("a function is at most 70 lines, a file at most 900", &broken);
}

fn is_function(line: &str) -> bool {
    let trimmed = line.trim_start();
    let head = trimmed.split('(').next().unwrap_or_default();
    let prefixes = ["fn ", "pub ", "pub(", "async ", "const ", "unsafe ", "extern "];
    prefixes.iter().any(|prefix| trimmed.starts_with(prefix))
        && (head.starts_with("fn ") || head.contains(" fn ") || trimmed.contains(") fn "))
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let first = text.lines().find(|line| !line.starts_with("#!") && !line.is_empty());
        if !first.is_some_and(|line| line.starts_with("//!")) {
            broken.push(path.display().to_string());
        }
    }
    report("a file opens with //! and what it is for", &broken);
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file does not break its own rule.
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX:"].concat()];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (index, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                broken.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
    report("no unfinished marks", &broken);
}

#[test]
fn links_in_documents_lead_to_files() {
    let mut documents = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut documents);
    let mut broken = Vec::new();
    for document in documents.iter().filter(|document| document.exists()) {
        let text = fs::read_to_string(document).unwrap();
        for piece in text.split("](").skip(1) {
            let target = piece.split([')', '#']).next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if target.is_empty() || outside {
                continue;
            }
            if !document.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    report("a link leads to a file that exists", &broken);
}

#[test]
fn every_module_file_is_part_of_the_program() {
    let mut broken = Vec::new();
    for (path, _) in sources() {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let folder = path.parent().unwrap();
        let in_src = path.components().any(|part| part.as_os_str() == "src");
        if !in_src || ["lib", "main", "mod"].contains(&stem.as_str()) {
            continue;
        }
        // Declared by mod.rs, lib.rs or main.rs beside it, or by the file named as the folder.
        let named = folder.with_extension("rs");
        let parents = [folder.join("mod.rs"), folder.join("lib.rs"), folder.join("main.rs"), named];
        let declaration = format!("mod {stem};");
        let texts = parents.iter().filter_map(|parent| fs::read_to_string(parent).ok());
        let declared = texts
            .into_iter()
            .any(|text| text.lines().any(|line| line.trim_end().ends_with(&declaration)));
        if !declared {
            broken.push(path.display().to_string());
        }
    }
    report("a file that no module declares is dead", &broken);
}
