//! One side of a comparison: a process with one engine in it, which does what it is told.
//!
//! Every engine has a process of its own, so that processor time, memory and what the kernel counts
//! are its alone, and so that memory that one engine gave back slowly is not another one's.
//! Messages are JSON, one on each line:
//!
//! 1. it is sent a [`Setup`], and answers with the engine's settings ([`Reply::Settings`]);
//! 2. it is sent a kind of work, and answers with the line measured ([`Reply::Row`]), again and
//!    again, with the same store;
//! 3. the end of its input is its end.
//!
//! Whatever goes wrong is an answer too ([`Reply::Error`]), and the last one.

use std::io::{BufRead, Write};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Engine;
#[cfg(any(feature = "engines", test))]
use super::peer;
#[cfg(feature = "engines")]
use super::{fjall::Fjall, redb::Redb, rocksdb, rocksdb::RocksDb};
use crate::engine::cases::Cases;
use crate::engine::{self, EngineError, Options, Row, Work};

/// What a side is told first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) engine: Engine,
    pub(super) options: Options,
}

/// What a side answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Settings(Vec<(String, String)>),
    Row(Box<Row>),
    Error(String),
}

/// The two ends of a conversation.
pub(super) struct Lines<I, O> {
    pub(super) input: I,
    pub(super) output: O,
}

impl<I: BufRead, O: Write> Lines<I, O> {
    /// The next message; none at the end.
    fn next<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, EngineError> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line);
        match read.map_err(|error| EngineError::Peer(error.to_string()))? {
            0 => Ok(None),
            _ => serde_json::from_str(&line)
                .map(Some)
                .map_err(|error| EngineError::Peer(format!("not understood: {line}: {error}"))),
        }
    }

    fn say(&mut self, reply: &Reply) -> Result<(), EngineError> {
        let text = serde_json::to_string(reply).expect("numbers and text only");
        writeln!(self.output, "{text}")
            .and_then(|()| self.output.flush())
            .map_err(|error| EngineError::Peer(error.to_string()))
    }
}

/// Does what `input` says until it ends.
///
/// # Errors
/// Those of the engine; they were answered as well.
pub fn serve<I, O>(input: I, output: O) -> Result<(), EngineError>
where
    I: BufRead + Send + 'static,
    O: Write + Send + 'static,
{
    let mut lines = Lines { input, output };
    match lines.next()? {
        None => Ok(()),
        Some(Setup { engine: Engine::Quorate, options }) => serve_quorate(lines, &options),
        #[cfg(feature = "engines")]
        Some(Setup { engine: Engine::Rocksdb, options }) => {
            serve_peer::<RocksDb<{ rocksdb::BESIDE }>, _, _>(lines, &options)
        }
        #[cfg(feature = "engines")]
        Some(Setup { engine: Engine::RocksdbCounted, options }) => {
            serve_peer::<RocksDb<{ rocksdb::COUNTED }>, _, _>(lines, &options)
        }
        #[cfg(feature = "engines")]
        Some(Setup { engine: Engine::Fjall, options }) => {
            serve_peer::<Fjall, _, _>(lines, &options)
        }
        #[cfg(feature = "engines")]
        Some(Setup { engine: Engine::Redb, options }) => serve_peer::<Redb, _, _>(lines, &options),
        #[cfg(not(feature = "engines"))]
        Some(Setup { engine, .. }) => {
            let error = EngineError::Options(format!("{} is not built in", engine.name()));
            lines.say(&Reply::Error(error.to_string()))?;
            Err(error)
        }
    }
}

/// Our engine, on the runtime that it needs. Nothing else is due while it waits for a message.
fn serve_quorate<I, O>(mut lines: Lines<I, O>, options: &Options) -> Result<(), EngineError>
where
    I: BufRead + Send + 'static,
    O: Write + Send + 'static,
{
    engine::on_core(options, move |options| async move {
        lines.say(&Reply::Settings(settings(&options)))?;
        let mut cases = Cases::new(&options.directory, &options, Rc::new(|_| ()));
        while let Some(work) = lines.next::<Work>()? {
            match cases.measure(work).await {
                Ok(row) => lines.say(&Reply::Row(Box::new(row)))?,
                Err(error) => {
                    lines.say(&Reply::Error(error.to_string()))?;
                    return Err(error);
                }
            }
        }
        Ok(())
    })
}

/// A peer, on threads.
#[cfg(any(feature = "engines", test))]
pub(super) fn serve_peer<P: peer::Peer, I: BufRead, O: Write>(
    mut lines: Lines<I, O>,
    options: &Options,
) -> Result<(), EngineError> {
    lines.say(&Reply::Settings(P::settings(options)))?;
    let mut cases = peer::Cases::<P>::new(options);
    while let Some(work) = lines.next::<Work>()? {
        match cases.measure(work) {
            Ok(row) => lines.say(&Reply::Row(Box::new(row)))?,
            Err(error) => {
                lines.say(&Reply::Error(error.to_string()))?;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Our engine's settings.
fn settings(options: &Options) -> Vec<(String, String)> {
    let config = engine::config(options);
    let settings = [
        ("memtable", config.memtable_bytes.to_string()),
        ("cache (rows, pages, indexes)", config.cache_bytes.to_string()),
        ("page_size", config.page_size.to_string()),
        ("block_size", config.block_size.to_string()),
        ("filter", "binary fuse of 8 bits for each value block".to_owned()),
        ("growth_factor", config.growth_factor.to_string()),
        ("level0_runs_max", config.level0_runs_max.to_string()),
        ("log", "none".to_owned()),
        ("direct_io", "everything".to_owned()),
        ("compression", format!("{:?}", config.compression[0]).to_lowercase()),
        ("checksum", "xxh3-128".to_owned()),
    ];
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}
