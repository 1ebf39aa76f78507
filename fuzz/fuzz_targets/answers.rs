//! Whatever a server sends, cut wherever: the invariants of a call. The first three bytes say how
//! many answers were asked for and where to cut the rest.
#![no_main]

#[path = "../../common/tests/shared/invariants.rs"]
mod invariants;

use invariants::assert_answers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(([asked, cuts @ ..], input)) = bytes.split_first_chunk::<3>() else { return };
    assert_answers(input, &cuts.map(usize::from), usize::from(asked % 5));
});
