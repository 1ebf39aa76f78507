//! When the requests of one thread are due at a fixed rate. Threads take the requests of the whole
//! load in turn.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The due times of one thread's requests, and how many of them are taken.
pub(super) struct Schedule {
    begin: Instant,
    end: Instant,
    /// Requests a second of all threads together.
    rate: u64,
    thread: u64,
    threads: u64,
    /// Requests that are known to be due. Those below `taken` were sent or given up.
    due: Cell<u64>,
    taken: Cell<u64>,
}

impl Schedule {
    pub(super) fn new(
        (begin, end): (Instant, Instant),
        rate: u64,
        (thread, threads): (u64, u64),
    ) -> Schedule {
        let (due, taken) = (Cell::new(0), Cell::new(0));
        Schedule { begin, end, rate, thread, threads, due, taken }
    }

    /// Counts the requests that are due by now.
    pub(super) fn update(&self, now: Instant) {
        self.due.set(self.due_before(now.min(self.end)));
    }

    /// Requests that are due and not taken.
    pub(super) fn waiting(&self) -> u64 {
        self.due.get() - self.taken.get()
    }

    /// When the next request becomes due, or the end of the load.
    pub(super) fn next_at(&self) -> Instant {
        self.due_at(self.due.get()).min(self.end)
    }

    /// Takes a request that is due. Returns the time when it became due.
    pub(super) fn take(&self) -> Option<Instant> {
        let number = self.taken.get();
        (number < self.due.get()).then(|| {
            self.taken.set(number + 1);
            self.due_at(number)
        })
    }

    /// Gives up the requests that were due before `at`. Returns how many.
    pub(super) fn give_up_before(&self, at: Instant) -> u64 {
        let late = self.due_before(at).min(self.due.get());
        let given_up = late.saturating_sub(self.taken.get());
        self.taken.set(self.taken.get() + given_up);
        given_up
    }

    fn due_at(&self, number: u64) -> Instant {
        let number = u128::from(number) * u128::from(self.threads) + u128::from(self.thread);
        let after_ns = number * 1_000_000_000 / u128::from(self.rate);
        self.begin + Duration::from_nanos(u64::try_from(after_ns).unwrap_or(u64::MAX))
    }

    /// The number of requests that are due before `at`: the inverse of `due_at`.
    fn due_before(&self, at: Instant) -> u64 {
        let since_ns = at.saturating_duration_since(self.begin).as_nanos();
        let all = (since_ns * u128::from(self.rate)).div_ceil(1_000_000_000);
        share(all as u64, self.thread, self.threads)
    }
}

/// One thread's share of `all`. Shares differ by at most one.
pub(super) fn share(all: u64, thread: u64, threads: u64) -> u64 {
    (all + threads - 1 - thread) / threads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_differ_by_at_most_one_and_add_up_to_the_whole() {
        for (all, threads) in [(0, 1), (1, 2), (64, 3), (5, 8)] {
            let shares: Vec<u64> = (0..threads).map(|thread| share(all, thread, threads)).collect();
            assert_eq!(shares.iter().sum::<u64>(), all, "{shares:?}");
            let (most, least) = (shares.iter().max(), shares.iter().min());
            assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
        }
    }

    #[test]
    fn requests_become_due_in_turn_and_late_ones_are_given_up() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        // 100 a second on two threads: 0, 20, 40 ms and 10, 30, 50 ms.
        let [even, odd] = [0, 1].map(|thread| Schedule::new((begin, at(45)), 100, (thread, 2)));
        for (now_ms, waiting) in
            [(0, (0, 0)), (1, (1, 0)), (11, (1, 1)), (41, (3, 2)), (99, (3, 2))]
        {
            even.update(at(now_ms));
            odd.update(at(now_ms));
            assert_eq!((even.waiting(), odd.waiting()), waiting, "{now_ms} ms");
        }
        assert_eq!((even.next_at(), odd.next_at()), (at(45), at(45)));
        assert_eq!((even.take(), odd.take()), (Some(at(0)), Some(at(10))));
        assert_eq!((even.give_up_before(at(40)), odd.give_up_before(at(99))), (1, 1));
        assert_eq!((even.take(), even.take(), odd.take()), (Some(at(40)), None, None));
    }
}
