//! When responses and failures arrived.

use std::time::Duration;

/// Short enough for the gap of a restart. An hour of slots takes 6 MB.
pub(super) const SLOT: Duration = Duration::from_millis(10);

/// Counts of responses and failures in slots of time.
#[derive(Clone, Default)]
pub(super) struct Timeline(Vec<Slot>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) responses: u64,
    pub(super) failures: u64,
}

impl Timeline {
    pub(super) fn slot(&mut self, at: Duration) -> &mut Slot {
        let index = (at.as_nanos() / SLOT.as_nanos()) as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, Slot::default());
        }
        &mut self.0[index]
    }

    pub(super) fn merge(&mut self, other: &Timeline) {
        self.0.resize(self.0.len().max(other.0.len()), Slot::default());
        for (sum, slot) in self.0.iter_mut().zip(&other.0) {
            sum.responses += slot.responses;
            sum.failures += slot.failures;
        }
    }

    /// The counts in columns of so many slots.
    pub(super) fn columns(&self, slots: usize) -> Vec<Slot> {
        let sum = |slots: &[Slot]| Slot {
            responses: slots.iter().map(|slot| slot.responses).sum(),
            failures: slots.iter().map(|slot| slot.failures).sum(),
        };
        self.0.chunks(slots).map(sum).collect()
    }

    /// The longest time without a response in a load of this duration, and when it began.
    pub(super) fn longest_gap(&self, duration: Duration) -> Option<(Duration, Duration)> {
        let end = (duration.as_nanos() / SLOT.as_nanos()) as u32;
        let responded = (0..end).zip(&self.0).filter(|(_, slot)| slot.responses > 0);
        let mut next = 0;
        let gaps = responded.map(|(index, _)| index).chain([end]).map(|index| {
            let began = std::mem::replace(&mut next, index + 1);
            (index - began, began)
        });
        let (length, began) = gaps.max_by_key(|(length, _)| *length)?;
        (length > 0).then(|| (SLOT * length, SLOT * began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_has_no_responses_and_may_have_failures() {
        let gap_ms = |timeline: &Timeline, duration_ms| {
            let gap = timeline.longest_gap(Duration::from_millis(duration_ms));
            gap.map(|(length, began)| (length.as_millis(), began.as_millis()))
        };
        let mut timeline = Timeline::default();
        assert_eq!(gap_ms(&timeline, 0), None);
        assert_eq!(gap_ms(&timeline, 100), Some((100, 0)));
        for at_ms in [40, 49, 50, 85, 90, 160, 165] {
            timeline.slot(Duration::from_millis(at_ms)).responses += 1;
        }
        for at_ms in [110, 240] {
            timeline.slot(Duration::from_millis(at_ms)).failures += 1;
        }
        assert_eq!(gap_ms(&timeline, 50), Some((40, 0)));
        assert_eq!(gap_ms(&timeline, 170), Some((60, 100)));
        assert_eq!(gap_ms(&timeline, 250), Some((80, 170)));
        let slot = |responses, failures| Slot { responses, failures };
        assert_eq!(timeline.columns(10), [slot(5, 0), slot(2, 1), slot(0, 1)]);
    }
}
