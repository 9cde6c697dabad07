//! Look-up of an address in lists of prefixes, and the two lists that decide which sources get replies.

use std::collections::HashMap;
use std::net::IpAddr;

use super::prefix::{Prefix, mask};

/// Prefixes with a value each; the longest that holds an address decides.
///
/// One look-up for each length that occurs, however many prefixes there are.
#[derive(Debug)]
pub(super) struct PrefixMap<T> {
    /// The longest first.
    lengths: Vec<SameLength<T>>,
}

/// The prefixes of one family and length.
#[derive(Debug)]
struct SameLength<T> {
    is_ipv4: bool,
    length: u8,
    values: HashMap<IpAddr, T>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { lengths: Vec::new() }
    }
}

impl<T: Copy> PrefixMap<T> {
    /// Sets the value of a prefix, in place of any that it had.
    pub(super) fn insert(&mut self, prefix: Prefix, value: T) {
        let (is_ipv4, length) = (prefix.ip.is_ipv4(), prefix.length);
        let known = self.lengths.iter().position(|same| (same.is_ipv4, same.length) == (is_ipv4, length));
        let at = known.unwrap_or_else(|| {
            let at = self.lengths.partition_point(|same| same.length > length);
            self.lengths.insert(at, SameLength { is_ipv4, length, values: HashMap::new() });
            at
        });
        self.lengths[at].values.insert(prefix.ip, value);
    }

    /// The value of the longest prefix that holds an address.
    pub(super) fn longest_match(&self, ip: IpAddr) -> Option<T> {
        let mut of_family = self.lengths.iter().filter(|same| same.is_ipv4 == ip.is_ipv4());
        of_family.find_map(|same| same.values.get(&mask(ip, same.length)).copied())
    }
}

/// The sources that get replies: the longest matching prefix decides; on a tie, deny wins.
#[derive(Debug, Default)]
pub(super) struct AccessList {
    allowed: PrefixMap<bool>,
    /// Whether a source on neither list gets them.
    others: bool,
}

impl AccessList {
    pub(super) fn new(allow: &[Prefix], deny: &[Prefix]) -> Self {
        let mut allowed = PrefixMap::default();
        allow.iter().for_each(|&prefix| allowed.insert(prefix, true));
        deny.iter().for_each(|&prefix| allowed.insert(prefix, false));
        Self { allowed, others: allow.is_empty() }
    }

    pub(super) fn allows(&self, source: IpAddr) -> bool {
        self.allowed.longest_match(source).unwrap_or(self.others)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_longest_prefix_wins_and_deny_wins_a_tie() {
        let list = AccessList::new(
            &prefixes(&["192.0.2.0/24", "192.0.2.7", "2001:db8::/32", "198.51.100.0/24"]),
            &prefixes(&["192.0.2.0/25", "192.0.2.7", "2001:db8:1::/48", "0.0.0.0/0"]),
        );
        for (source, allowed) in [
            ("192.0.2.200", true),
            ("192.0.2.1", false),
            ("192.0.2.7", false),
            ("198.51.100.1", true),
            ("203.0.113.1", false),
            ("2001:db8:2::1", true),
            ("2001:db8:1::1", false),
            ("2001:db9::1", false),
        ] {
            assert_eq!(list.allows(source.parse().unwrap()), allowed, "{source}");
        }
    }

    #[test]
    fn without_an_allow_list_all_but_the_denied_pass() {
        let list = AccessList::new(&[], &prefixes(&["192.0.2.0/24"]));
        assert!(list.allows("203.0.113.1".parse().unwrap()) && list.allows("::1".parse().unwrap()));
        assert!(!list.allows("192.0.2.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn the_map_agrees_with_a_look_at_every_prefix(
            list in prop::collection::vec((any::<[u8; 4]>(), 0u8..=32, any::<bool>()), 0..30), source: [u8; 4],
        ) {
            let prefixes = list.iter().map(|&(ip, length, deny)| (Prefix::of(ip.into(), length), deny));
            let prefixes: Vec<_> = prefixes.collect();
            let of = |kind: bool| -> Vec<_> {
                prefixes.iter().filter(|&&(_, deny)| deny == kind).map(|&(prefix, _)| prefix).collect()
            };
            let access = AccessList::new(&of(false), &of(true));
            let source = IpAddr::from(source);
            let holding = prefixes.iter().filter(|(prefix, _)| mask(source, prefix.length) == prefix.ip);
            let decisive = holding.max_by_key(|&&(prefix, deny)| (prefix.length, deny));
            let expected = decisive.map_or(of(false).is_empty(), |&(_, deny)| !deny);
            prop_assert_eq!(access.allows(source), expected);
        }
    }
}
