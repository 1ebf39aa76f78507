//! Whatever a server sends, cut wherever: the invariants of a call. The first three bytes say how
//! many answers were asked for and where to cut the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testing::invariants::assert_answers;

fuzz_target!(|bytes: &[u8]| {
    let Some(([asked, cuts @ ..], input)) = bytes.split_first_chunk::<3>() else { return };
    assert_answers(input, &cuts.map(usize::from), usize::from(asked % 5));
});
