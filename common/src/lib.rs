//! HTTP/1.1, JSON and a small event loop on `std` alone, for two services that exercise container
//! platforms. Modules in reading order; imports point downwards.
//!
//! Invariants, tested against the sources by `testing/tests/sources.rs`:
//!
//! - Nothing under `http` names a socket, a clock or a thread: bytes in, bytes out.
//! - `unsafe` and `extern` are in `sys` alone.
//! - `rt` and `server` name no route, no JSON and no metric.
//! - Nothing that a peer sent is unwrapped or indexed without a check.
//! - There is no dependency: `Cargo.lock` lists the members of the workspace.

// Lengths and ports are checked before they are narrowed; the targets have 64 bits.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

pub mod service;

pub mod client;
pub mod server;

pub mod http;
pub mod json;

pub mod cli;
pub mod date;
mod decimal;
pub mod log;
pub mod metrics;

pub mod rt;
pub mod sys;
