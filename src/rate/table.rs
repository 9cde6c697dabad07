//! A rate for each source, in one table of fixed size: no source can make it grow.
//!
//! The generic cell rate algorithm: an entry is the moment at which its source's burst would be whole again (the
//! theoretical arrival time). An entry whose moment has passed says nothing, so it is reused and nothing is lost. A
//! look-up reads two cache lines; only what changes is written, through relaxed atomics that all workers share.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Ticks in a second: fine enough that a rate of 10 000 is met within a seventh of a per cent.
pub(crate) const TICKS: u64 = 1 << 20;
/// The longest time that a burst may take to become whole again, in seconds; entries hold 32 bits of ticks.
pub const MAX_REFILL_SECONDS: u32 = 300;
/// How often passed entries are cleared, in ticks: well before the 32 bits come round.
const SWEEP: u64 = 1 << 29;

/// Entries in a line: 64 bytes.
const LINE: usize = 8;

/// A rate with a burst, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    /// What one token costs; 0 = no limit.
    token: u32,
    /// How far ahead of now an arrival time may be.
    ahead: u32,
}

impl Rate {
    /// `per_second` tokens a second, 0 = no limit, and `burst` at once.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let token = if per_second == 0 { 0 } else { (TICKS as u32).div_ceil(per_second) };
        let ahead = token.saturating_mul(burst.max(1)).min(MAX_REFILL_SECONDS * TICKS as u32);
        Self { token, ahead }
    }
}

/// The table.
pub(crate) struct Limiter {
    lines: Box<[Line]>,
    hasher: RandomState,
    /// The last sweep, in ticks of 64 bits.
    swept: AtomicU64,
    sweeping: Mutex<()>,
}

#[repr(align(64))]
#[derive(Default)]
struct Line([AtomicU64; LINE]);

/// The source that is limited: an address, already cut to its prefix, and its scope.
pub(crate) type Key = (IpAddr, u32);

/// An entry: the fingerprint of its source, never 0, above its arrival time.
fn entry(fingerprint: u32, arrival: u32) -> u64 {
    u64::from(fingerprint) << 32 | u64::from(arrival)
}

fn fingerprint(entry: u64) -> u32 {
    (entry >> 32) as u32
}

/// How far ahead of now an entry's arrival time is; what has passed is negative, an empty entry most of all.
fn lead(entry: u64, now: u32) -> i32 {
    if entry == 0 { i32::MIN } else { (entry as u32).wrapping_sub(now) as i32 }
}

impl Limiter {
    /// A table of this many entries, 8 bytes each, rounded up to a power of two.
    pub(crate) fn new(entries: usize) -> Self {
        let lines = entries.div_ceil(LINE).next_power_of_two();
        Self {
            lines: (0..lines).map(|_| Line::default()).collect(),
            hasher: RandomState::new(),
            swept: AtomicU64::new(0),
            sweeping: Mutex::new(()),
        }
    }

    /// Returns whether a source may spend `tokens` now, and spends them if so. `now` is what [`clock`](Self::sweep_if_due) was
    /// told.
    pub(crate) fn allow(&self, key: &Key, tokens: u32, rate: Rate, now: u64) -> bool {
        let cost = rate.token.saturating_mul(tokens);
        if cost == 0 {
            return true;
        }
        if cost > rate.ahead {
            return false;
        }
        let now = now as u32;
        let hash = self.hasher.hash_one(key);
        let mine = ((hash >> 32) as u32).max(1);
        let at = |bits: u64| &self.lines[bits as usize & (self.lines.len() - 1)].0;
        // Two lines that are the same are one candidate less, no more.
        let lines = [at(hash), at(hash >> 16)];
        // Each round that fails is another worker's that succeeded.
        for _ in 0..64 {
            match Self::find(lines, mine, now) {
                Found::Own(slot, seen) => match Self::spend(slot, seen, cost, rate, now) {
                    Some(allowed) => return allowed,
                    None => continue,
                },
                Found::Evictable(slot, seen) => {
                    let fresh = entry(mine, now.wrapping_add(cost));
                    if slot.compare_exchange(seen, fresh, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                        continue;
                    }
                    // Another worker may have made an entry for the same source at the same time: the first one counts.
                    match Self::find(lines, mine, now) {
                        Found::Own(first, _) if !std::ptr::eq(first, slot) => {
                            let _ = slot.compare_exchange(fresh, 0, Ordering::SeqCst, Ordering::SeqCst);
                        }
                        _ => return true,
                    }
                }
            }
        }
        // Never seen to happen; dropping is what a limiter may always do.
        false
    }

    /// Spends from an entry; `None` when another worker changed it meanwhile.
    fn spend(slot: &AtomicU64, seen: u64, cost: u32, rate: Rate, now: u32) -> Option<bool> {
        let ahead = lead(seen, now).max(0).unsigned_abs() + cost;
        if ahead > rate.ahead {
            return Some(false);
        }
        let next = entry(fingerprint(seen), now.wrapping_add(ahead));
        slot.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).ok().map(|_| true)
    }

    /// The entry of a source, or the one that says least.
    fn find<'a>(lines: [&'a [AtomicU64; LINE]; 2], mine: u32, now: u32) -> Found<'a> {
        let mut least = (&lines[0][0], 0, i32::MAX);
        for slot in lines.into_iter().flatten() {
            let seen = slot.load(Ordering::Relaxed);
            if fingerprint(seen) == mine {
                return Found::Own(slot, seen);
            }
            let lead = lead(seen, now);
            if lead < least.2 {
                least = (slot, seen, lead);
            }
        }
        Found::Evictable(least.0, least.1)
    }

    /// Lets no source be further behind than a whole burst at this rate: what it spent at a slower one would count for
    /// longer.
    pub(crate) fn change_rate(&self, rate: Rate, now: u64) {
        let latest = (now as u32).wrapping_add(rate.ahead);
        for slot in self.lines.iter().flat_map(|line| &line.0) {
            let seen = slot.load(Ordering::Relaxed);
            if seen != 0 && lead(seen, now as u32) > rate.ahead as i32 {
                // Failure: a worker has just judged it.
                let _ =
                    slot.compare_exchange(seen, entry(fingerprint(seen), latest), Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Tells the table the time in ticks, before a batch is judged: clears what has passed before its 32 bits come
    /// round.
    pub(crate) fn sweep_if_due(&self, now: u64) {
        let since = now.saturating_sub(self.swept.load(Ordering::Acquire));
        if since >= SWEEP {
            self.sweep(now);
        }
    }

    #[cold]
    fn sweep(&self, now: u64) {
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_sub(self.swept.load(Ordering::Acquire));
        if since < SWEEP {
            return;
        }
        // Longer ago than any arrival time can be ahead: all has passed, whatever the 32 bits look like.
        let all = since >= 2 * SWEEP;
        for slot in self.lines.iter().flat_map(|line| &line.0) {
            let seen = slot.load(Ordering::Relaxed);
            if seen != 0 && (all || lead(seen, now as u32) <= 0) {
                let _ = slot.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        self.swept.store(now, Ordering::Release);
    }
}

enum Found<'a> {
    Own(&'a AtomicU64, u64),
    Evictable(&'a AtomicU64, u64),
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("entries", &(self.lines.len() * LINE)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u32) -> Key {
        (IpAddr::from(number.to_be_bytes()), 0)
    }

    /// How many of these moments pass.
    fn passed(limiter: &Limiter, rate: Rate, moments: impl Iterator<Item = u64>) -> u64 {
        let allow = |&now: &u64| {
            limiter.sweep_if_due(now);
            limiter.allow(&key(1), 1, rate, now)
        };
        moments.filter(allow).count() as u64
    }

    #[test]
    fn a_source_that_was_over_a_slower_rate_is_let_in_at_the_new_one_at_once() {
        let limiter = Limiter::new(64);
        assert_eq!(passed(&limiter, Rate::new(1, 300), std::iter::repeat_n(5, 400)), 300);
        let faster = Rate::new(200, 400);
        limiter.change_rate(faster, 5);
        assert_eq!(passed(&limiter, faster, std::iter::once(5)), 0);
        let second = passed(&limiter, faster, (1..=1000).map(|step| 5 + step * TICKS / 1000));
        assert!((199..=200).contains(&second), "{second}");
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        let limiter = Limiter::new(64);
        let rate = Rate::new(200, 400);
        assert_eq!(passed(&limiter, rate, std::iter::repeat_n(5, 1000)), 400);
        // Ten seconds at a thousand a second.
        let steady = passed(&limiter, rate, (0..10_000).map(|step| 5 + step * TICKS / 1000));
        assert!((1998..=2000).contains(&steady), "{steady}");
    }

    #[test]
    fn a_rate_is_never_exceeded_and_nearly_reached() {
        for per_second in [1, 3, 10, 200, 999, 10_000, 100_000] {
            let limiter = Limiter::new(64);
            let rate = Rate::new(per_second, 1);
            let asked = u64::from(per_second) * 3;
            let passed = passed(&limiter, rate, (0..10 * asked).map(|step| step * TICKS / asked));
            let most = u64::from(per_second) * 10 + 1;
            assert!(passed <= most && passed * 100 >= most * 66, "{per_second}: {passed} of {most}");
        }
    }

    #[test]
    fn zero_is_no_limit_and_a_cost_over_the_burst_never_passes() {
        let limiter = Limiter::new(64);
        assert!((0..10_000).all(|_| limiter.allow(&key(1), 54, Rate::new(0, 0), 0)));
        assert!(!limiter.allow(&key(1), 11, Rate::new(10, 10), 0));
        assert!(limiter.allow(&key(1), 10, Rate::new(10, 10), 0));
        assert!(!limiter.allow(&key(1), 1, Rate::new(10, 10), 0));
    }

    #[test]
    fn the_clock_may_come_round_three_times() {
        let limiter = Limiter::new(64);
        let rate = Rate::new(10, 20);
        let wrap = 1u64 << 32;
        // A source that asks five times a second is never limited, however the 32 bits stand.
        let limited = (0..3 * wrap + wrap / 3).step_by(TICKS as usize / 5).filter(|&now| {
            limiter.sweep_if_due(now);
            !limiter.allow(&key(1), 1, rate, now)
        });
        assert_eq!(limited.count(), 0);
    }

    #[test]
    fn after_any_pause_a_source_has_its_whole_burst_and_no_more() {
        for pause in [3, 300, 511, 513, 1023, 1025, 2047, 2049, 4095, 4096, 4097, 8191, 12_288, 100_000] {
            let limiter = Limiter::new(64);
            let rate = Rate::new(10, 20);
            let begin = 7 * TICKS;
            assert_eq!(passed(&limiter, rate, std::iter::repeat_n(begin, 100)), 20);
            let later = begin + pause * TICKS;
            assert_eq!(passed(&limiter, rate, std::iter::repeat_n(later, 100)), 20, "after {pause} s");
        }
    }

    #[test]
    fn a_flood_of_random_sources_evicts_no_live_entry() {
        let limiter = Limiter::new(65_536);
        let rate = Rate::new(200, 400);
        let (mut heavy, mut light, mut light_asked) = (0, 0, 0);
        // A million sources in one second, beside one that asks a thousand times and one that asks ten times.
        for step in 0..1_000_000u32 {
            let now = u64::from(step) * TICKS / 1_000_000;
            limiter.sweep_if_due(now);
            limiter.allow(&key(step.wrapping_mul(2_654_435_761) | 0x1000), 1, rate, now);
            if step % 1000 == 0 {
                heavy += u32::from(limiter.allow(&key(1), 1, rate, now));
            }
            if step % 100_000 == 0 {
                light_asked += 1;
                light += u32::from(limiter.allow(&key(2), 1, rate, now));
            }
        }
        assert_eq!(light, light_asked);
        assert!((590..=600).contains(&heavy), "{heavy}");
    }

    #[test]
    fn two_workers_share_one_budget() {
        for round in 0..200 {
            let limiter = Limiter::new(64);
            let rate = Rate::new(10, 50);
            let pass = || (0..100).filter(|_| limiter.allow(&key(round), 1, rate, 0)).count();
            let passed = std::thread::scope(|scope| {
                let other = scope.spawn(pass);
                pass() + other.join().unwrap()
            });
            assert!(passed <= 50, "{passed}");
        }
    }

    proptest! {
        /// Against the algorithm in its plainest form, with one source and exact numbers.
        #[test]
        fn one_source_is_judged_as_the_algorithm_has_it(
            per_second in 1u32..5000, burst in 1u32..1000,
            asked in prop::collection::vec((0u64..3 * TICKS, 1u32..60), 1..200),
        ) {
            let limiter = Limiter::new(64);
            let rate = Rate::new(per_second, burst);
            let (mut now, mut arrival) = (0u64, 0u64);
            for (pause, tokens) in asked {
                now += pause;
                let next = arrival.max(now) + u64::from(rate.token) * u64::from(tokens);
                let expected = next - now <= u64::from(rate.ahead);
                if expected {
                    arrival = next;
                }
                limiter.sweep_if_due(now);
                prop_assert_eq!(limiter.allow(&key(9), tokens, rate, now), expected);
            }
        }
    }
}
