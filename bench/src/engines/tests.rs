//! Ours against itself, a model of a peer that can be made to lose writes, and, where they are
//! built in, a tiny run of each peer.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::peer::{Cases, Peer};
use super::serve::{Lines, serve_peer};
use super::*;
use crate::engine::store::Write as Change;
use crate::engine::{Row, WORKS};

/// Where the build is: on a real file system, with direct I/O.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        keys: 3000,
        value_size: 700,
        duration: Duration::from_millis(30),
        batch: 8,
        depth: 4,
        scan_length: 20,
        cache_bytes: 8 << 20,
        cpu: 0,
        delete_rounds: 2,
        seed: 1,
    }
}

/// A side on a thread of this process instead of a process.
fn on_a_thread(setup: &Setup) -> Result<Side, EnginesError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let input = BufReader::new(theirs.try_clone().unwrap());
    std::thread::spawn(move || serve(input, theirs));
    let output = Box::new(BufReader::new(ours.try_clone().unwrap()));
    Side::talk(setup, Box::new(ours), output, None)
}

fn comparison(directory: &Path, engines: Vec<Engine>, works: &[Work]) -> Comparison {
    let (options, works) = (options(directory), works.to_vec());
    let probe = Ask { file_bytes: 1 << 20, duration: Duration::from_millis(5) };
    Comparison { binary: PathBuf::new(), options, engines, works, rounds: 2, probe }
}

fn compare(engines: Vec<Engine>) {
    let folder = tempfile::tempdir_in(target()).unwrap();
    let count = engines.len();
    let comparison = comparison(folder.path(), engines, &WORKS);
    let report = run_with(&comparison, on_a_thread, |_, _, _| ()).unwrap();
    assert_eq!(report.settings.len(), 1 + count);
    assert_eq!(report.rows.len(), WORKS.len() * (1 + count));
    assert_eq!(report.ratios.len(), WORKS.len() * count);
    for super::Row { engine, per_second, middle, .. } in &report.rows {
        let Row { work, operations, latency, .. } = middle;
        assert!(per_second.least > 0.0 && *operations > 0, "{engine:?} {work:?}");
        assert!(latency.p50_us > 0.0, "{engine:?} {work:?}");
        assert!(middle.space_amplification.is_some(), "{engine:?} {work:?}");
    }
    for Ratio { throughput, cpu, work, own_share_of_disk, .. } in &report.ratios {
        let throughput = throughput.unwrap();
        assert!(throughput.least <= throughput.median && throughput.median <= throughput.most);
        assert!(cpu.is_none_or(|cpu| cpu.median >= 0.0));
        assert_eq!(own_share_of_disk.is_some(), *work == Work::ReadCold);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "all data is gone");
}

#[test]
fn ours_against_itself_does_every_kind_of_work() {
    compare(vec![Engine::Quorate]);
}

#[cfg(feature = "engines")]
#[test]
fn every_peer_does_every_kind_of_work() {
    compare(vec![Engine::Rocksdb, Engine::RocksdbCounted, Engine::Fjall, Engine::Redb]);
}

#[cfg(not(feature = "engines"))]
#[test]
fn what_is_not_built_in_is_refused() {
    let error = "rocksdb".parse::<Engine>().unwrap_err();
    assert!(error.contains("--features engines"), "{error}");
    let folder = tempfile::tempdir_in(target()).unwrap();
    let comparison = comparison(folder.path(), vec![Engine::Redb], &[Work::FillRandom]);
    let error = run_with(&comparison, on_a_thread, |_, _, _| ()).unwrap_err();
    assert!(error.to_string().contains("redb: redb is not built in"), "{error}");
}

/// A map; made to forget every so-manieth write, and to keep what is deleted.
#[derive(Default)]
struct Model {
    entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    writes: AtomicU64,
}

/// Writes that [`Model`] forgets: none by default.
static FORGET_EVERY: AtomicU64 = AtomicU64::new(0);

impl Peer for Model {
    const DIRECT: bool = true;

    fn open(_: &Path, _: &Options) -> Result<Model, String> {
        Ok(Model::default())
    }

    fn settings(_: &Options) -> Vec<(String, String)> {
        Vec::new()
    }

    fn write(&self, writes: &[Change<'_>]) -> Result<(), String> {
        let mut entries = self.entries.lock().unwrap();
        for Change { key, value } in writes {
            let number = self.writes.fetch_add(1, Ordering::Relaxed);
            let forget = FORGET_EVERY.load(Ordering::Relaxed);
            if forget > 0 && number % forget == forget - 1 {
                continue;
            }
            match value {
                Some(value) => entries.insert(key.to_vec(), value.to_vec()),
                None => entries.remove(*key),
            };
        }
        Ok(())
    }

    fn get<R>(&self, key: &[u8], look: impl FnOnce(Option<&[u8]>) -> R) -> Result<R, String> {
        Ok(look(self.entries.lock().unwrap().get(key).map(Vec::as_slice)))
    }

    fn scan(
        &self,
        first: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let entries = self.entries.lock().unwrap();
        let range = entries.range::<[u8], _>((Bound::Included(first), Bound::Unbounded));
        let _ = range.into_iter().try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn settle(&self) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn a_peer_that_is_right_passes_and_one_that_forgets_a_write_does_not() {
    let folder = tempfile::tempdir_in(target()).unwrap();
    let options = options(folder.path());
    let mut cases = Cases::<Model>::new(&options);
    // A map does not outlive its close, so nothing is read cold.
    for work in [Work::FillRandom, Work::Overwrite, Work::Mixed50, Work::Scan, Work::Delete] {
        let row = cases.measure(work).unwrap();
        assert!(row.operations > 0, "{work:?}");
    }
    let second = cases.measure(Work::Delete).unwrap();
    assert_eq!(second.operations, 1500, "the other half: {second:?}");
    let mut said = Vec::new();
    let lines =
        Lines { input: b"\"fill_random\"\n\"read_cached\"\n".as_slice(), output: &mut said };
    serve_peer::<Model, _, _>(lines, &options).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("{\"row\":")).count(), 2, "{said}");
    FORGET_EVERY.store(100, Ordering::Relaxed);
    let error = Cases::<Model>::new(&options).measure(Work::FillRandom).unwrap_err();
    FORGET_EVERY.store(0, Ordering::Relaxed);
    assert!(matches!(error, EngineError::Wrong { wrong: 30, .. }), "{error}");
}
