//! Whatever a client sends, cut wherever: the invariants of a conversation. The first three bytes
//! say when requests are answered and where to cut the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testing::invariants::{Answers, assert_requests};

fuzz_target!(|bytes: &[u8]| {
    let Some(([when, cuts @ ..], input)) = bytes.split_first_chunk::<3>() else { return };
    let answers = if when & 1 == 0 { Answers::AtOnce } else { Answers::AtTheEnd };
    assert_requests(input, &cuts.map(usize::from), answers);
});
