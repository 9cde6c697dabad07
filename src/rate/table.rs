//! A rate for each key, in one table of fixed size: no flood of keys makes it grow.
//!
//! A slot holds the theoretical arrival time of one key, in 32 bits of ticks. One that has passed means a whole burst,
//! which a key without a slot has as well: its slot can go to another key, and nothing is forgotten. As 32 bits come
//! round, what has passed is cleared before it seems to lie ahead again.
//!
//! A look-up reads two cache lines. Only what changes is written, through atomics that all workers share.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::gcra::Rate;

/// Fine enough that a rate of 10 000 a second is met within a seventh of a per cent.
const TICKS_PER_SECOND: u64 = 1 << 20;
/// The longest time that a burst may take to refill, in seconds.
pub const MAX_REFILL_SECONDS: u32 = 300;
/// How often passed slots are cleared, in ticks: well before their 32 bits come round.
const SWEEP_INTERVAL: u64 = 1 << 29;

const SLOTS_PER_LINE: usize = 8;

/// A cache line of slots.
#[repr(align(64))]
#[derive(Default)]
struct Line([AtomicU64; SLOTS_PER_LINE]);

/// The two lines that a key may have its slot in.
type Lines<'a> = [&'a [AtomicU64; SLOTS_PER_LINE]; 2];

/// The table.
pub(crate) struct RateTable {
    lines: Box<[Line]>,
    hasher: RandomState,
    /// The time of the last sweep, in ticks.
    swept: AtomicU64,
    sweeping: Mutex<()>,
}

impl RateTable {
    /// A table of this many slots, 8 bytes each, rounded up to a power of two.
    pub(crate) fn new(slots: usize) -> Self {
        let lines = slots.div_ceil(SLOTS_PER_LINE).next_power_of_two();
        Self {
            lines: (0..lines).map(|_| Line::default()).collect(),
            hasher: RandomState::new(),
            swept: AtomicU64::new(0),
            sweeping: Mutex::new(()),
        }
    }

    /// A time in the table's ticks, 2^20 a second.
    pub(crate) fn ticks(time: Duration) -> u64 {
        time.as_secs() * TICKS_PER_SECOND + u64::from(time.subsec_nanos()) * TICKS_PER_SECOND / 1_000_000_000
    }

    /// The rate that allows `per_second` tokens a second, 0 = no limit, and `burst` at once, which refill within
    /// [`MAX_REFILL_SECONDS`].
    pub(crate) fn rate(per_second: u32, burst: u32) -> Rate {
        let mut rate = Rate::new(TICKS_PER_SECOND, per_second, burst);
        rate.tolerance = rate.tolerance.min(u64::from(MAX_REFILL_SECONDS) * TICKS_PER_SECOND);
        rate
    }

    /// Returns whether a key may spend `tokens` now, and spends them if so. `now` is the time of the last
    /// [`sweep_if_due`](Self::sweep_if_due).
    pub(crate) fn allow(&self, key: impl Hash, tokens: u32, rate: Rate, now: u64) -> bool {
        if rate.is_unlimited() {
            return true;
        }
        let now = now as u32;
        let hash = self.hasher.hash_one(key);
        let own = ((hash >> 32) as u32).max(1);
        // Two lines that are the same are one candidate less, no more.
        let lines = [self.line(hash), self.line(hash >> 16)];
        // Each round that fails is another worker's that succeeded.
        for _ in 0..64 {
            let Found { slot, seen, is_own } = find(lines, own, now);
            let lead = if is_own { lead(seen, now).max(0).unsigned_abs() } else { 0 };
            let Some(lead) = rate.spend(lead.into(), tokens) else { return false };
            let spent = entry(own, now.wrapping_add(lead as u32));
            if replace(slot, seen, spent) && (is_own || keep(lines, slot, spent)) {
                return true;
            }
        }
        // Never seen to happen; a limiter may always refuse.
        false
    }

    fn line(&self, hash: u64) -> &[AtomicU64; SLOTS_PER_LINE] {
        &self.lines[hash as usize & (self.lines.len() - 1)].0
    }

    fn slots(&self) -> impl Iterator<Item = &AtomicU64> {
        self.lines.iter().flat_map(|line| &line.0)
    }

    /// Brings every key within a whole burst at this rate: what it spent at a slower one would count for longer.
    pub(crate) fn change_rate(&self, rate: Rate, now: u64) {
        let now = now as u32;
        // Of 300 seconds at most, which is 29 bits.
        let burst = rate.tolerance as i32;
        let latest = now.wrapping_add_signed(burst);
        for slot in self.slots() {
            let seen = slot.load(Ordering::Relaxed);
            if lead(seen, now) > burst {
                // It fails when a worker has just judged the key: by the new rate.
                replace(slot, seen, entry(fingerprint(seen), latest));
            }
        }
    }

    /// Clears the slots that have passed, when that is due; to be called with the time before each batch of events.
    pub(crate) fn sweep_if_due(&self, now: u64) {
        let since = now.saturating_sub(self.swept.load(Ordering::Acquire));
        if since >= SWEEP_INTERVAL {
            self.sweep(now);
        }
    }

    #[cold]
    fn sweep(&self, now: u64) {
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_sub(self.swept.load(Ordering::Acquire));
        if since < SWEEP_INTERVAL {
            return;
        }
        // Longer ago than any arrival time can be ahead: all have passed, whatever the 32 bits look like.
        let all = since >= 2 * SWEEP_INTERVAL;
        for slot in self.slots() {
            let seen = slot.load(Ordering::Relaxed);
            if seen != 0 && (all || lead(seen, now as u32) <= 0) {
                replace(slot, seen, 0);
            }
        }
        self.swept.store(now, Ordering::Release);
    }
}

impl fmt::Debug for RateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateTable").field("slots", &(self.lines.len() * SLOTS_PER_LINE)).finish_non_exhaustive()
    }
}

/// Where a look-up ends.
struct Found<'a> {
    slot: &'a AtomicU64,
    /// The entry in it at that time.
    seen: u64,
    /// Whether it is the key's own; if not, the key may take it: it is empty or passed, or the first to pass.
    is_own: bool,
}

/// Looks a key up: its own slot, or else the first one to pass.
fn find(lines: Lines<'_>, own: u32, now: u32) -> Found<'_> {
    let mut first = (&lines[0][0], 0, i32::MAX);
    for line in lines {
        for slot in line {
            let seen = slot.load(Ordering::SeqCst);
            if fingerprint(seen) == own {
                return Found { slot, seen, is_own: true };
            }
            let lead = lead(seen, now);
            if lead < first.2 {
                first = (slot, seen, lead);
            }
        }
    }
    Found { slot: first.0, seen: first.1, is_own: false }
}

/// Replaces an entry, unless another worker has changed it since it was seen; returns whether it did.
fn replace(slot: &AtomicU64, seen: u64, entry: u64) -> bool {
    slot.compare_exchange(seen, entry, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Returns whether a key keeps the slot that it has just taken. Another worker may have given it one at the same time:
/// the first of them counts, and the other is cleared. All sequentially consistent, or both workers could miss it.
fn keep(lines: Lines<'_>, slot: &AtomicU64, entry: u64) -> bool {
    let is_first = std::ptr::eq(find(lines, fingerprint(entry), 0).slot, slot);
    if !is_first {
        replace(slot, entry, 0);
    }
    is_first
}

/// An entry: 0, or the fingerprint of a key above its arrival time.
fn entry(fingerprint: u32, tat: u32) -> u64 {
    u64::from(fingerprint) << 32 | u64::from(tat)
}

fn fingerprint(entry: u64) -> u32 {
    (entry >> 32) as u32
}

/// How far ahead of now an entry's arrival time is: negative when it has passed, an empty entry most of all.
fn lead(entry: u64, now: u32) -> i32 {
    if entry == 0 { i32::MIN } else { (entry as u32).wrapping_sub(now) as i32 }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;

    /// How many of these moments pass.
    fn passed(table: &RateTable, rate: Rate, moments: impl Iterator<Item = u64>) -> u64 {
        let allow = |&now: &u64| {
            table.sweep_if_due(now);
            table.allow(1, 1, rate, now)
        };
        moments.filter(allow).count() as u64
    }

    #[test]
    fn a_source_that_was_over_a_slower_rate_is_let_in_at_the_new_one_at_once() {
        let table = RateTable::new(64);
        assert_eq!(passed(&table, RateTable::rate(1, 300), std::iter::repeat_n(5, 400)), 300);
        let faster = RateTable::rate(200, 400);
        table.change_rate(faster, 5);
        assert_eq!(passed(&table, faster, std::iter::once(5)), 0);
        let second = passed(&table, faster, (1..=1000).map(|step| 5 + step * TICKS_PER_SECOND / 1000));
        assert!((199..=200).contains(&second), "{second}");
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        let table = RateTable::new(64);
        let rate = RateTable::rate(200, 400);
        assert_eq!(passed(&table, rate, std::iter::repeat_n(5, 1000)), 400);
        // Ten seconds at a thousand a second.
        let steady = passed(&table, rate, (0..10_000).map(|step| 5 + step * TICKS_PER_SECOND / 1000));
        assert!((1998..=2000).contains(&steady), "{steady}");
    }

    #[test]
    fn a_rate_is_never_exceeded_and_nearly_reached() {
        for per_second in [1, 3, 10, 200, 999, 10_000, 100_000] {
            let table = RateTable::new(64);
            let rate = RateTable::rate(per_second, 1);
            let asked = u64::from(per_second) * 3;
            let passed = passed(&table, rate, (0..10 * asked).map(|step| step * TICKS_PER_SECOND / asked));
            let most = u64::from(per_second) * 10 + 1;
            assert!(passed <= most && passed * 100 >= most * 66, "{per_second}: {passed} of {most}");
        }
    }

    #[test]
    fn zero_is_no_limit_and_a_cost_over_the_burst_never_passes() {
        let table = RateTable::new(64);
        assert!((0..10_000).all(|_| table.allow(1, 54, RateTable::rate(0, 0), 0)));
        assert!(!table.allow(1, 11, RateTable::rate(10, 10), 0));
        assert!(table.allow(1, 10, RateTable::rate(10, 10), 0));
        assert!(!table.allow(1, 1, RateTable::rate(10, 10), 0));
    }

    #[test]
    fn the_clock_may_come_round_three_times() {
        let table = RateTable::new(64);
        let rate = RateTable::rate(10, 20);
        let wrap = 1u64 << 32;
        // A source that asks five times a second is never limited, however the 32 bits stand.
        let limited = (0..3 * wrap + wrap / 3).step_by(TICKS_PER_SECOND as usize / 5).filter(|&now| {
            table.sweep_if_due(now);
            !table.allow(1, 1, rate, now)
        });
        assert_eq!(limited.count(), 0);
    }

    #[test]
    fn after_any_pause_a_source_has_its_whole_burst_and_no_more() {
        for pause in [3, 300, 511, 513, 1023, 1025, 2047, 2049, 4095, 4096, 4097, 8191, 12_288, 100_000] {
            let table = RateTable::new(64);
            let rate = RateTable::rate(10, 20);
            let begin = 7 * TICKS_PER_SECOND;
            assert_eq!(passed(&table, rate, std::iter::repeat_n(begin, 100)), 20);
            let later = begin + pause * TICKS_PER_SECOND;
            assert_eq!(passed(&table, rate, std::iter::repeat_n(later, 100)), 20, "after {pause} s");
        }
    }

    #[test]
    fn a_flood_of_random_sources_evicts_no_live_entry() {
        let table = RateTable::new(65_536);
        let rate = RateTable::rate(200, 400);
        let (mut heavy, mut light, mut light_asked) = (0, 0, 0);
        // A million sources in one second, beside one that asks a thousand times and one that asks ten times.
        for step in 0..1_000_000u32 {
            let now = u64::from(step) * TICKS_PER_SECOND / 1_000_000;
            table.sweep_if_due(now);
            table.allow(step.wrapping_mul(2_654_435_761) | 0x1000, 1, rate, now);
            if step % 1000 == 0 {
                heavy += u32::from(table.allow(1, 1, rate, now));
            }
            if step % 100_000 == 0 {
                light_asked += 1;
                light += u32::from(table.allow(2, 1, rate, now));
            }
        }
        assert_eq!(light, light_asked);
        assert!((590..=600).contains(&heavy), "{heavy}");
    }

    #[test]
    fn workers_share_one_budget() {
        // So many that they get in each other's way on one processor, too.
        const BURST: u32 = 1_000_000;
        let (table, rate) = (RateTable::new(64), RateTable::rate(10_000, BURST));
        let both_ready = Barrier::new(2);
        let pass = || {
            both_ready.wait();
            (0..BURST).filter(|_| table.allow(1, 1, rate, 0)).count()
        };
        let passed = std::thread::scope(|scope| {
            let other = scope.spawn(pass);
            pass() + other.join().unwrap()
        });
        assert_eq!(passed, BURST as usize);
    }

    #[test]
    fn keys_in_the_same_lines_are_told_apart() {
        let table = RateTable::new(SLOTS_PER_LINE);
        let rate = RateTable::rate(1, 1);
        let allowed = |key| table.allow(key, 1, rate, 0);
        assert_eq!((0..SLOTS_PER_LINE).filter(|&key| allowed(key)).count(), SLOTS_PER_LINE);
        assert_eq!((0..SLOTS_PER_LINE).filter(|&key| allowed(key)).count(), 0);
    }

    #[test]
    fn in_a_table_half_full_nearly_every_key_keeps_its_slot() {
        let (table, rate) = (RateTable::new(65_536), RateTable::rate(1, 1));
        let allowed = |key| table.allow(key, 1, rate, 0);
        assert_eq!((0..32_768).filter(|&key| allowed(key)).count(), 32_768);
        // With lines of eight and one choice it would be 300 that lose theirs, with two it is some 15.
        let evicted = (0..32_768).filter(|&key| allowed(key)).count();
        assert!(evicted < 100, "{evicted}");
    }

    #[test]
    fn of_two_slots_for_one_key_the_first_counts() {
        let table = RateTable::new(SLOTS_PER_LINE);
        let line = table.line(0);
        let (first, second) = (entry(7, 100), entry(7, 50));
        line[2].store(first, Ordering::Relaxed);
        line[5].store(second, Ordering::Relaxed);
        assert!(!keep([line, line], &line[5], second));
        assert!(keep([line, line], &line[2], first));
        assert_eq!([&line[2], &line[5]].map(|slot| slot.load(Ordering::Relaxed)), [first, 0]);
    }

    #[test]
    fn a_new_key_takes_a_free_slot_or_else_the_first_to_pass() {
        let table = RateTable::new(SLOTS_PER_LINE);
        let line = table.line(0);
        for (slot, tat) in line.iter().zip([140, 130, 120, 150, 160, 120, 170, 180]) {
            slot.store(entry(tat, tat), Ordering::Relaxed);
        }
        let taken = |now| {
            let found = find([line, line], 7, now);
            line.iter().position(|slot| std::ptr::eq(slot, found.slot) && !found.is_own)
        };
        assert_eq!(taken(100), Some(2));
        line[6].store(entry(9, 99), Ordering::Relaxed);
        assert_eq!(taken(100), Some(6), "passed");
        line[7].store(0, Ordering::Relaxed);
        assert_eq!([100, u32::MAX].map(taken), [Some(7), Some(7)], "empty");
    }

    #[test]
    fn a_sweep_clears_what_has_passed_and_keeps_the_rest() {
        for (since, kept) in [(SWEEP_INTERVAL, 3), (SWEEP_INTERVAL + 2, 1), (2 * SWEEP_INTERVAL, 0)] {
            let table = RateTable::new(SLOTS_PER_LINE);
            let line = table.line(0);
            for (slot, lead) in line.iter().zip([-1, 0, 1, 2, 3]) {
                slot.store(entry(7, (SWEEP_INTERVAL as u32).wrapping_add_signed(lead)), Ordering::Relaxed);
            }
            table.sweep_if_due(SWEEP_INTERVAL - 1);
            assert_eq!(table.swept.load(Ordering::Relaxed), 0, "not due");
            table.sweep_if_due(since);
            let left = line.iter().filter(|slot| slot.load(Ordering::Relaxed) != 0).count();
            assert_eq!((left, table.swept.load(Ordering::Relaxed)), (kept, since));
        }
    }

    #[test]
    fn workers_that_find_a_sweep_due_together_make_one() {
        let table = RateTable::new(SLOTS_PER_LINE);
        table.sweep(SWEEP_INTERVAL);
        table.sweep(SWEEP_INTERVAL + 1);
        assert_eq!(table.swept.load(Ordering::Relaxed), SWEEP_INTERVAL);
    }

    #[test]
    fn no_burst_takes_longer_to_refill_than_entries_can_hold() {
        let longest = 300 * TICKS_PER_SECOND;
        assert_eq!(RateTable::rate(100_000, 30_000_000).tolerance, longest);
        assert_eq!(RateTable::rate(1, u32::MAX).tolerance, longest);
        assert!(RateTable::rate(1, 299).tolerance < longest);
    }

    #[test]
    fn ticks_are_whole_seconds_and_parts_of_them() {
        assert_eq!(RateTable::ticks(Duration::from_millis(3_500)), 7 << 19);
    }

    #[test]
    fn a_table_shows_its_size_and_no_more() {
        assert_eq!(format!("{:?}", RateTable::new(60)), "RateTable { slots: 64, .. }");
    }

    proptest! {
        /// Against the algorithm in its plainest form, with one source and exact numbers.
        #[test]
        fn one_source_is_judged_as_the_algorithm_has_it(
            per_second in 1u32..5000, burst in 1u32..1000,
            asked in prop::collection::vec((0u64..3 * TICKS_PER_SECOND, 1u32..60), 1..200),
        ) {
            let table = RateTable::new(64);
            let rate = RateTable::rate(per_second, burst);
            let (mut now, mut tat) = (0u64, 0u64);
            for (pause, tokens) in asked {
                now += pause;
                let next = tat.max(now) + rate.interval * u64::from(tokens);
                let expected = next - now <= rate.tolerance;
                if expected {
                    tat = next;
                }
                table.sweep_if_due(now);
                prop_assert_eq!(table.allow(9, tokens, rate, now), expected);
            }
        }
    }
}
