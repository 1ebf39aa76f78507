//! Any text is rewritten in one way or refused, and each of its strings survives.
#![no_main]

use common::json;
use libfuzzer_sys::fuzz_target;
use testing::invariants::assert_rewritten;
use tools::json::Value;

fuzz_target!(|text: &[u8]| {
    assert_rewritten(text);
    if let Ok(value) = Value::read(text) {
        assert_kept(&value);
    }
});

/// A string is written so that it reads the same again, and finds its member.
fn assert_kept(value: &Value<'_>) {
    if let Some(said) = value.text() {
        let mut written = Vec::new();
        json::write_text(&said, &mut written);
        assert_eq!(Value::read(&written).unwrap().text(), Some(said));
    }
    value.items().iter().for_each(assert_kept);
    if let Value::Object(members) = value {
        for (key, member) in members {
            assert!(value.get(&key.decode()).is_some());
            assert_kept(member);
        }
    }
}
