//! How a marking ended.

use crate::rubric::Sheet;
use crate::words::Words;

/// How a marking ended.
pub(crate) enum Outcome {
    Marked(Sheet),
    /// Nothing of it was built or started.
    Refused(Vec<Refusal>),
    /// It could not be marked, for no fault of its own.
    Failed(Words),
}

/// A reason not to build and start it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// The word of `--allow` that lets it through.
    pub(crate) word: &'static str,
    pub(crate) what: Words,
}
