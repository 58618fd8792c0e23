//! The load generator, its reports, and the measurements of what a machine can do.
//!
//! | module | what it measures |
//! | --- | --- |
//! | [`load`] | a running node (or any Redis) over RESP: `quorate bench run` |
//! | [`cluster`] | three replicas beside one: `quorate bench cluster` |
//! | [`compare`] | a node side by side with Redis: `quorate bench compare` |
//! | [`device`] | this disk: `quorate bench device` |
//! | [`engine`] | the storage engine alone, in process: `quorate bench engine` |
//! | [`engines`] | the storage engine side by side with others: `quorate bench compare --engine` |
//! | [`net`] | this network stack: `quorate bench net` |
//! | [`workload`], [`ledger`] | which keys and values, and what of them was acknowledged |
//! | [`report`] | what is printed and saved |
//! | [`host`] | what it ran on |

pub mod cluster;
pub mod compare;
pub mod device;
pub mod engine;
pub mod engines;
pub mod host;
pub mod ledger;
pub mod load;
pub mod net;
#[cfg(feature = "glommio")]
mod reference;
pub mod report;
pub mod thread_time;
mod turns;
pub mod workload;
