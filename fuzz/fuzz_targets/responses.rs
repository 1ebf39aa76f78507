//! Any bytes of a server, cut anywhere: the invariants of a client's connection. The first three
//! bytes are the number of requests and two places to cut the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testing::invariants::assert_responses;

fuzz_target!(|bytes: &[u8]| {
    let Some(([requests, cuts @ ..], input)) = bytes.split_first_chunk::<3>() else { return };
    assert_responses(input, &cuts.map(usize::from), usize::from(requests % 5));
});
