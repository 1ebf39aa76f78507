//! Decimal numbers, without the cost of `fmt`: with it, a request takes 10 % more instructions of
//! the service, and 20 % with the log.

/// Appends a number.
pub(crate) fn write(number: u64, out: &mut Vec<u8>) {
    let length = number.checked_ilog10().unwrap_or(0) as usize + 1;
    let start = out.len();
    out.resize(start + length, b'0');
    fill(number, &mut out[start..]);
}

/// Fills `text` with the last digits of a number.
pub(crate) fn fill(mut number: u64, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_numbers_in_full() {
        for number in [0, 7, 9, 10, 99, 100, 65_535, 1 << 20, u64::MAX] {
            let mut out = b"x".to_vec();
            write(number, &mut out);
            assert_eq!(out, format!("x{number}").as_bytes());
        }
    }
}
