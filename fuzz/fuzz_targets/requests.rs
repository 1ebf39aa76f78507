//! Any bytes of a client, cut anywhere: the invariants of a server's connection. The first three
//! bytes say when requests get their responses and where to cut the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testing::invariants::{Responses, assert_requests};

fuzz_target!(|bytes: &[u8]| {
    let Some(([when, cuts @ ..], input)) = bytes.split_first_chunk::<3>() else { return };
    let responses = if when & 1 == 0 { Responses::AtOnce } else { Responses::AtTheEnd };
    assert_requests(input, &cuts.map(usize::from), responses);
});
