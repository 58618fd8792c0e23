//! Compaction: what a bar owes, how it is paid beat by beat, and what comes of it.
//!
//! At a bar's start every tree gets its jobs ([`plan`] says which): the flush of the immutable
//! memtable, and a slice of every group of runs that is on its way into a deeper level.
//!
//! A job owns what it reads (reference-counted tables and memtable) and what it writes (a
//! reservation of blocks made at the bar's start: for a flush its worst case, for a merge what
//! there is, see [`crate::forest::Forest::space`]), so jobs share nothing: no input belongs to two
//! of them, and the addresses a job writes to depend on the plan alone. One background task runs a
//! forest's jobs one after the other ([`run`]), pausing whenever it has used up what the beats have
//! paid ([`Budget`]): a beat raises the target to the bar's progress times the work planned,
//! counted in input blocks.
//!
//! At the bar's end all jobs are done. Their outcomes are applied at once and in job order: tables
//! in and out of the manifest and its log, blocks of inputs and of dropped large values released,
//! reservations forfeited. Until then nothing of a job is visible, so a crash at any point of it
//! costs nothing but the work: the grid's free set, as of the last checkpoint, knows none of its
//! blocks.
//!
//! A job that finds a corrupt block ends without effect: its input tables stay, the table with the
//! bad block is quarantined (no later job takes it), and all other jobs go on.

pub(crate) mod blocks;
pub(crate) mod budget;
pub(crate) mod job;
pub(crate) mod plan;
pub(crate) mod stream;
pub(crate) mod tournament;
