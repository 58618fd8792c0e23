//! The `quorate` command: argument parsing and presentation, nothing else.

fn main() {}
