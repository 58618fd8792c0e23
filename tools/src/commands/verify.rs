//! `quorate verify`: reads every byte that matters, reports every fault, changes nothing.

mod grids;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::json;
use vsr::format::inspect::DirectoryReport;

use crate::commands::inspect;
use crate::commands::inspect::fault::Fault;
use crate::outcome::{Failure, Outcome, print_line};

/// How long the lock is tried for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Read every byte that matters and report every fault; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate verify --dir /var/lib/quorate/0\n\nExit code 0 on an \
                        undamaged directory, 4 on a damaged one.")]
pub(crate) struct Arguments {
    /// The data directory; no node may have it open
    #[arg(long, value_name = "FOLDER", default_value = "./quorate-dev")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let dir = &arguments.dir;
    let _lock = lock(dir)?;
    let report = inspect::read(dir, true)?;
    let mut faults = faults(&report);
    let prepares = report.journal.as_ref().map_or(0, |journal| journal.ops.len());
    let state = report.state.filter(|state| state.configuration.validate().is_ok());
    let grids = match &state {
        Some(state) => grids::verify(dir, state)?,
        None => grids::Report::default(),
    };
    let grids::Report { shards, tables, bytes, faults: found } = grids;
    faults.extend(found);
    if arguments.json {
        print_line(json!({
            "dir": dir,
            "prepares": prepares,
            "shards": shards,
            "tables": tables,
            "grid_bytes": bytes,
            "faults": faults,
        }));
    } else {
        print_line(format_args!(
            "superblock   8 copies read\njournal      {prepares} prepares read\ngrids        \
             {shards} shards, {tables} tables, {bytes} bytes read"
        ));
        faults.iter().for_each(|fault| print_line(format_args!("FAULT        {fault}")));
    }
    match faults.len() {
        0 => {
            if !arguments.json {
                print_line("undamaged");
            }
            Ok(())
        }
        count => Err(Failure::Corrupt(anyhow!(
            "{count} faults in {}: keep a copy of the directory before anything else; a replica \
             of a cluster can be rebuilt from the others",
            dir.display()
        ))),
    }
}

/// The lock that a node holds: files that change while they are read look damaged. A directory
/// without a lock file has no node; it is read as it is, and nothing is made in it. The kernel
/// takes a moment to close the rings of a process that has ended, and its lock with them.
fn lock(dir: &Path) -> Result<Option<File>, Failure> {
    let Ok(file) = File::open(dir.join(vsr::format::LOCK)) else { return Ok(None) };
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Refused(anyhow!(
                    "{} is open in another process: stop the node first",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::Failed(anyhow!(error))),
        }
    }
}

fn faults(report: &DirectoryReport) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |offset: Option<u64>, what: String| {
        let file = vsr::format::JOURNAL.to_owned();
        faults.push(Fault { file, offset, what, ..Fault::default() });
    };
    for (slot, reading) in report.readings.copies.iter().enumerate() {
        if let Err(fault) = reading {
            let offset = (slot * vsr::superblock::COPY_SIZE) as u64;
            add(Some(offset), format!("superblock copy {slot} {fault}"));
        }
    }
    if let Err(error) = &report.decision {
        add(None, error.to_string());
    }
    if report.missing > 0 {
        add(None, format!("the file is {} bytes too short", report.missing));
    }
    if let Some(journal) = &report.journal {
        for damaged in &journal.damaged {
            add(Some(damaged.offset), format!("op {} was durable once, now damaged", damaged.op));
        }
        if let Some(contradiction) = &journal.contradiction {
            add(None, contradiction.to_string());
        }
    }
    faults
}
