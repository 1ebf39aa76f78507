//! Code that the tools and the tests share, and the services do not need.

pub mod verb;

pub mod arguments;
pub mod colour;
pub mod contract;
pub mod http;
pub mod json;
pub mod lines;
pub mod process;
pub mod signals;
pub mod xml;

pub mod sys;
