//! `quorate check-host`: is this machine fit to run a node, and what to do where it is not.
//!
//! Each check looks at one thing, tries it where trying is possible, and says what it found. A
//! *problem* keeps `quorate start` from working or from keeping its promises; a *note* costs speed
//! or comfort. Exit code 3 when there is a problem.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use ioring::uring;
use ioring::{Buffer, Direct, File, OpenOptions};
use node::config::units::format_size;
use serde::Serialize;

use crate::outcome::{Failure, Outcome, print, print_line};
use crate::runtime;

/// Look at kernel, io_uring, memory limits, disk and clock, with a remedy for each problem
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quorate check-host --dir /var/lib/quorate")]
pub(crate) struct Arguments {
    /// Folder in which data will be kept
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Note,
    Problem,
}

/// What one check found.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, found: String, remedy: &'static str) -> Finding {
        let remedy = (verdict != Verdict::Good).then_some(remedy);
        Finding { check, verdict, found, remedy }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let dir = &arguments.dir;
    let mut findings = vec![kernel(&read("/proc/sys/kernel/osrelease")), ring()];
    findings.push(memlock(&read("/proc/self/limits")));
    findings.push(open_files(&read("/proc/self/limits")));
    findings.push(swap(&read("/proc/swaps")));
    findings.push(huge_pages(&read("/sys/kernel/mm/transparent_hugepage/enabled")));
    findings.push(clock(&read("/sys/devices/system/clocksource/clocksource0/current_clocksource")));
    findings.push(direct_io(dir));
    findings.extend(write_cache(dir));
    if arguments.json {
        print_line(serde_json::json!({ "dir": dir, "findings": findings }));
    } else {
        print(render(&findings));
    }
    let problems = findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count();
    if problems > 0 {
        return Err(Failure::Refused(anyhow!("{problems} problems: see the remedies above")));
    }
    Ok(())
}

fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, verdict, found, remedy } in findings {
        let verdict = match verdict {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Problem => "PROBLEM",
        };
        text.push_str(&format!("{verdict:<8} {check:<14} {found}\n"));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:<23} -> {remedy}\n", ""));
        }
    }
    text
}

/// The file's text; nothing when it cannot be read, which each check treats as unknown.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let verdict = match version {
        version if version >= (6, 1) => Verdict::Good,
        version if version >= (5, 19) => Verdict::Note,
        _ => Verdict::Problem,
    };
    let remedy = "run Linux 6.1 or newer; 5.19 is the oldest that has what is needed at all";
    Finding::new("kernel", verdict, format!("Linux {release}"), remedy)
}

fn ring() -> Finding {
    let config = uring::Config { cpus: vec![0], pin: false, ..uring::Config::default() };
    let remedy = "the message says what to change";
    match uring::Runtime::new(config) {
        Ok(runtime) => {
            let flags = runtime.ring_flags();
            let all = [
                ("single issuer", flags.single_issuer),
                ("deferred task work", flags.defer_taskrun),
                ("cooperative task work", flags.coop_taskrun),
                ("task work flag", flags.taskrun_flag),
            ];
            let missing: Vec<&str> =
                all.iter().filter(|(_, on)| !on).map(|(name, _)| *name).collect();
            if missing.is_empty() {
                let found = "a ring can be set up, with every feature".to_owned();
                return Finding::new("io_uring", Verdict::Good, found, remedy);
            }
            let found = format!("a ring can be set up, without {}", missing.join(", "));
            Finding::new("io_uring", Verdict::Note, found, "a newer kernel is faster")
        }
        Err(error) => Finding::new("io_uring", Verdict::Problem, error.to_string(), remedy),
    }
}

/// The soft limit of a line in `/proc/self/limits`: `None` for unlimited.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}

fn memlock(limits: &str) -> Finding {
    // Bit 14 of the effective capabilities is CAP_IPC_LOCK: no limit applies.
    let capabilities = read("/proc/self/status")
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let remedy = "LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited`, or CAP_IPC_LOCK; \
                  `quorate start` locks its memory, `dev` does not";
    let (verdict, found) = match soft_limit(limits, "Max locked memory") {
        None => (Verdict::Good, "unlimited".to_owned()),
        Some(limit) if capabilities & (1 << 14) != 0 => {
            let limit = format_size(limit);
            (Verdict::Good, format!("{limit}, which CAP_IPC_LOCK lifts"))
        }
        Some(limit) => (Verdict::Note, format!("{} may be locked", format_size(limit))),
    };
    Finding::new("locked memory", verdict, found, remedy)
}

fn open_files(limits: &str) -> Finding {
    let limit = soft_limit(limits, "Max open files");
    let verdict =
        if limit.is_some_and(|limit| limit < 4096) { Verdict::Note } else { Verdict::Good };
    let found = limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    let remedy = "every connection is an open file: LimitNOFILE=65536, or `ulimit -n 65536`";
    Finding::new("open files", verdict, found, remedy)
}

fn swap(swaps: &str) -> Finding {
    let used = swaps.lines().skip(1).count();
    let (verdict, found) = match used {
        0 => (Verdict::Good, "off".to_owned()),
        _ => (Verdict::Note, format!("{used} swap areas are on")),
    };
    let remedy = "`swapoff -a`: memory that is swapped out costs milliseconds, and is on a disk \
                  without checksums";
    Finding::new("swap", verdict, found, remedy)
}

fn huge_pages(enabled: &str) -> Finding {
    let never = enabled.contains("[never]") || enabled.is_empty();
    let verdict = if never { Verdict::Note } else { Verdict::Good };
    let found = if enabled.is_empty() { "unknown" } else { enabled };
    let remedy = "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`";
    Finding::new("huge pages", verdict, found.to_owned(), remedy)
}

fn clock(source: &str) -> Finding {
    let fast = ["tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"];
    let verdict = if fast.contains(&source) { Verdict::Good } else { Verdict::Note };
    let found = if source.is_empty() { "unknown" } else { source };
    let remedy = "reading the clock takes a system call here; see `clocksource=` of the kernel";
    Finding::new("clock", verdict, found.to_owned(), remedy)
}

/// Tries direct I/O: what the file system says about itself is not believed.
fn direct_io(dir: &Path) -> Finding {
    let remedy = "use ext4 or XFS on a local disk; overlay and tmpfs have no direct I/O. `dev` \
                  falls back to buffered writes, `start` refuses";
    let path = dir.join(format!(".quorate-check-host-{}", std::process::id()));
    let made = path.clone();
    let tried = runtime::run(move || {
        let path = made.clone();
        async move { try_direct_io(&path).await }
    });
    // It may never have been made.
    let _ = fs::remove_file(&path);
    match tried.and_then(|result| result) {
        Ok(alignment) => {
            let found = format!("works in {} with blocks of {alignment} bytes", dir.display());
            Finding::new("direct I/O", Verdict::Good, found, remedy)
        }
        Err(error) => Finding::new("direct I/O", Verdict::Problem, format!("{error:#}"), remedy),
    }
}

/// Writes and reads with ever larger blocks; the smallest that works.
async fn try_direct_io(path: &Path) -> anyhow::Result<usize> {
    let options = OpenOptions {
        read: true,
        write: true,
        create_new: true,
        direct: Direct::Required,
        ..OpenOptions::default()
    };
    let file = File::open(path, &options)?;
    let mut last = anyhow!("no block size works");
    for size in [512, 4096] {
        match file.write_durable(Buffer::zeroed(size).freeze(), 0).await {
            Ok(()) => return Ok(size),
            Err(error) => last = anyhow!(error).context(format!("a write of {size} bytes")),
        }
    }
    Err(last)
}

/// Whether the disk under `dir` has a volatile cache, which costs a flush for each durable write.
fn write_cache(dir: &Path) -> Option<Finding> {
    let device = fs::metadata(dir).ok()?.dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let base = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no queue of its own: its disk is the folder above.
    let cache = [format!("{base}/queue/write_cache"), format!("{base}/../queue/write_cache")]
        .iter()
        .map(|path| read(path))
        .find(|text| !text.is_empty())?;
    let volatile = cache == "write back";
    let verdict = if volatile { Verdict::Note } else { Verdict::Good };
    let remedy = "durable writes flush the disk's cache, which is correct and slower; disks with \
                  power-loss protection report write through";
    Some(Finding::new("disk cache", verdict, cache, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, verdict) in [
            ("6.18.44-fc", Verdict::Good),
            ("6.1.0-13-amd64", Verdict::Good),
            ("5.19.0", Verdict::Note),
            ("5.4.0-42-generic", Verdict::Problem),
            ("", Verdict::Problem),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn limits_are_read_by_name() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 20000                files\n\
                      Max locked memory         8388608              unlimited            bytes\n\
                      Max address space         unlimited            unlimited            bytes\n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        assert_eq!(soft_limit(limits, "Max address space"), None);
        assert_eq!(open_files(limits).verdict, Verdict::Note);
    }

    #[test]
    fn every_problem_has_a_remedy_and_nothing_else_has() {
        let swapping = swap("Filename Type Size Used Priority\n/swap file 1 0 -2\n");
        assert!(swapping.remedy.is_some());
        assert!(swap("Filename Type Size Used Priority\n").remedy.is_none());
        let text = render(&[swapping]);
        assert!(text.contains("note") && text.contains("-> `swapoff"), "{text}");
    }

    #[test]
    fn direct_io_is_tried_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        direct_io(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = direct_io(&folder.path().join("missing"));
        assert_eq!(missing.verdict, Verdict::Problem);
        assert!(missing.found.contains("missing"), "{missing:?}");
    }
}
