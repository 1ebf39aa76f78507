//! HTTP/1.1, JSON and a small event loop on `std` alone, for services that are exercised in
//! containers. Read the modules in this order: what stands below never knows what stands above.
//!
//! What holds everywhere, and is tested against the sources by `tests/tidy.rs`:
//!
//! - Nothing under `http` names a socket, a clock or a thread: bytes in, bytes out.
//! - `unsafe` and `extern` stand in `sys` alone.
//! - `runtime` and `server` name no route, no JSON and no metric.
//! - Nothing that a peer sent is unwrapped or indexed without a look.
//! - There is no dependency: `Cargo.lock` lists the workspace's own members.

// Lengths and ports are checked before they are narrowed; the targets have 64 bits.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

pub mod service;

pub mod client;
pub mod server;

pub mod http;
pub mod json;

pub mod cli;
pub mod telemetry;

pub mod runtime;
pub mod sys;
