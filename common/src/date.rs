//! Dates as text: RFC 9110 for HTTP, RFC 3339 for the log; and a clock that is read once a second.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::decimal;
use crate::http::Date;

/// The date of one second, to save a call for each use.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    next_second: Instant,
    /// The date of this second.
    pub http_date: Date,
}

impl Clock {
    /// Reads the wall clock; `now` is the present instant.
    pub fn at(now: Instant) -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_nanos(1_000_000_000 - u64::from(unix.subsec_nanos()));
        Clock { next_second: now + left, http_date: http_date(unix.as_secs()) }
    }

    /// Returns true if its second is over.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.next_second
    }
}

/// Formats seconds since 1970 as an IMF-fixdate (RFC 9110 section 5.6.7).
pub fn http_date(unix_seconds: u64) -> Date {
    const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    // Month 12 stands at 0.
    const MONTHS: [&[u8; 3]; 12] = [
        b"Dec", b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct",
        b"Nov",
    ];
    let unix_seconds = unix_seconds.min(UNIX_SECONDS_MAX);
    let days = unix_seconds / 86_400;
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"___, DD ___ YYYY hh:mm:ss GMT";
    text[..3].copy_from_slice(WEEKDAYS[(days % 7) as usize]);
    decimal::fill(day, &mut text[5..7]);
    text[8..11].copy_from_slice(MONTHS[(month % 12) as usize]);
    decimal::fill(year, &mut text[12..16]);
    time_of_day(unix_seconds % 86_400, &mut text[17..25]);
    text
}

/// Appends milliseconds since 1970 as an RFC 3339 time in UTC.
pub fn rfc3339(unix_millis: u64, out: &mut Vec<u8>) {
    let unix_seconds = (unix_millis / 1_000).min(UNIX_SECONDS_MAX);
    let (year, month, day) = civil_from_days(unix_seconds / 86_400);
    let mut text = *b"YYYY-MM-DDThh:mm:ss.sssZ";
    decimal::fill(year, &mut text[..4]);
    decimal::fill(month, &mut text[5..7]);
    decimal::fill(day, &mut text[8..10]);
    time_of_day(unix_seconds % 86_400, &mut text[11..19]);
    decimal::fill(unix_millis % 1_000, &mut text[20..23]);
    out.extend_from_slice(&text);
}

/// The last second with a year of four digits; later times are written as this one.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

fn time_of_day(second: u64, text: &mut [u8]) {
    decimal::fill(second / 3_600, &mut text[..2]);
    decimal::fill(second / 60 % 60, &mut text[3..5]);
    decimal::fill(second % 60, &mut text[6..8]);
}

/// Year, month and day of a day since 1970. Counted from 0000-03-01, so that a leap day is
/// the last of its year, and in eras of 400 years, after which the calendar repeats itself.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 153 days in every five.
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let (years, month) = match from_march {
        0..10 => (0, from_march + 3),
        _ => (1, from_march - 9),
    };
    (400 * era + year_of_era + years, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_known_times() {
        for (unix_seconds, http, rfc) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00"),
            (86_399, "Thu, 01 Jan 1970 23:59:59 GMT", "1970-01-01T23:59:59"),
            (68_169_600, "Tue, 29 Feb 1972 00:00:00 GMT", "1972-02-29T00:00:00"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT", "2000-03-01T00:00:00"),
            (978_307_199, "Sun, 31 Dec 2000 23:59:59 GMT", "2000-12-31T23:59:59"),
            (1_709_210_096, "Thu, 29 Feb 2024 12:34:56 GMT", "2024-02-29T12:34:56"),
            (2_147_483_648, "Tue, 19 Jan 2038 03:14:08 GMT", "2038-01-19T03:14:08"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT", "2100-02-28T23:59:59"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT", "2100-03-01T00:00:00"),
            (13_574_563_200, "Tue, 29 Feb 2400 00:00:00 GMT", "2400-02-29T00:00:00"),
            (UNIX_SECONDS_MAX, "Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59"),
            (UNIX_SECONDS_MAX + 1, "Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59"),
        ] {
            assert_eq!(http_date(unix_seconds), http.as_bytes(), "{unix_seconds}");
            for millis in [0, 7, 999] {
                let mut out = Vec::new();
                rfc3339(unix_seconds * 1_000 + millis, &mut out);
                assert_eq!(out, format!("{rfc}.{millis:03}Z").as_bytes(), "{unix_seconds}");
            }
        }
        assert_eq!(http_date(u64::MAX), http_date(UNIX_SECONDS_MAX));
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=UNIX_SECONDS_MAX / 86_400 {
            assert_eq!(civil_from_days(days), (year, month, day), "{days}");
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let month_days = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == month_days => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }
}
