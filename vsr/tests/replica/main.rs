//! The replica from outside: driven step by step, with a journal that the tests control.

mod allocation;
mod harness;
mod model;
mod scenarios;
