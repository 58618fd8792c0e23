//! The replica from outside: driven step by step, with a journal that the tests control.

mod harness;
mod model;
