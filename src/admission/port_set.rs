//! A set of UDP ports, one bit each: 8 KiB.

use std::ops::RangeInclusive;

/// Ports in a word.
const BITS: u16 = 64;

#[derive(Debug)]
pub(super) struct PortSet(Box<[u64]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(vec![0; 65_536 / usize::from(BITS)].into())
    }
}

impl PortSet {
    /// Adds a range, a word at a time; a range that ends before it starts is empty.
    pub(super) fn insert(&mut self, ports: &RangeInclusive<u16>) {
        let (first, last) = (*ports.start(), *ports.end());
        if first > last {
            return;
        }
        for word in first / BITS..=last / BITS {
            let start = if word == first / BITS { first % BITS } else { 0 };
            let end = if word == last / BITS { last % BITS } else { BITS - 1 };
            self.0[usize::from(word)] |= u64::MAX >> (BITS - 1 - end) & u64::MAX << start;
        }
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / BITS)] & (1 << (port % BITS)) != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_has_the_ports_of_its_ranges_and_no_others(
            ranges in prop::collection::vec((any::<u16>(), 0u16..300, any::<bool>()), 0..5),
        ) {
            let mut set = PortSet::default();
            let ranges: Vec<_> = ranges
                .into_iter()
                .map(|(first, length, is_open)| first..=if is_open { u16::MAX } else { first.saturating_add(length) })
                .collect();
            ranges.iter().for_each(|range| set.insert(range));
            for port in 0..=u16::MAX {
                prop_assert_eq!(set.contains(port), ranges.iter().any(|range| range.contains(&port)), "{}", port);
            }
        }
    }
}
