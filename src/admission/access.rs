//! Lists of prefixes: those with a value each, and the two that say who gets a reply.

use std::collections::HashMap;
use std::net::IpAddr;

use super::prefix::{Prefix, mask};

/// Prefixes with a value each; the longest that holds an address is the one that counts.
///
/// One look-up for each length that occurs, however many prefixes there are.
#[derive(Clone, Debug, Default)]
pub(super) struct PrefixMap<T> {
    /// By family and length, the longest first.
    lengths: Vec<(bool, u8, HashMap<IpAddr, T>)>,
}

impl<T: Copy> PrefixMap<T> {
    /// Sets the value of a prefix, whatever it was.
    pub(super) fn insert(&mut self, prefix: Prefix, value: T) {
        let (ipv4, length) = (prefix.ip.is_ipv4(), prefix.length);
        let known = self.lengths.iter().position(|&(v4, known, _)| (v4, known) == (ipv4, length));
        let at = known.unwrap_or_else(|| {
            let at = self.lengths.partition_point(|&(_, longer, _)| longer > length);
            self.lengths.insert(at, (ipv4, length, HashMap::new()));
            at
        });
        self.lengths[at].2.insert(prefix.ip, value);
    }

    pub(super) fn longest(&self, ip: IpAddr) -> Option<T> {
        let of_family = self.lengths.iter().filter(|&&(ipv4, ..)| ipv4 == ip.is_ipv4());
        of_family.filter_map(|&(_, length, ref prefixes)| prefixes.get(&mask(ip, length)).copied()).next()
    }
}

/// The sources that get a reply: the longest matching prefix decides; on a tie, deny wins.
#[derive(Clone, Debug, Default)]
pub(super) struct AccessList {
    allowed: PrefixMap<bool>,
    /// What happens to a source that is on neither list.
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
        self.allowed.longest(source).unwrap_or(self.others)
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
