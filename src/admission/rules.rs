//! The rules of a policy: what is decided about a datagram before anything is spent.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::access::{AccessList, PrefixMap};
use super::budget::Limit;
use super::policy::Policy;
use super::port_set::PortSet;
use super::source::{Source, SourcePrefixes, is_client};
use crate::rate::RateTable;
use crate::socket::{Datagram, Flow};
use crate::stats::DropReason;

/// Error replies to all sources together, each second and at once.
const ERROR_REPLIES_IN_TOTAL: u32 = 100;
/// The index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX` of the kernel's net/flow.h).
const LOOPBACK_INTERFACE: u32 = 1;

/// A policy, and the ports that the server listens on, in the form in which they are looked up.
#[derive(Debug)]
pub(super) struct Rules {
    denied_ports: PortSet,
    access: AccessList,
    exempt: PrefixMap<()>,
    client_ports: RangeInclusive<u16>,
    source_prefixes: SourcePrefixes,
    /// For requests.
    pub(super) request_limit: Limit,
    /// For error replies.
    pub(super) error_limit: Limit,
}

impl Rules {
    pub(super) fn new(listening: &[u16], client_ports: &RangeInclusive<u16>, policy: &Policy) -> Self {
        let mut denied_ports = PortSet::default();
        denied_ports.insert(&(0..=0));
        listening.iter().for_each(|&port| denied_ports.insert(&(port..=port)));
        policy.deny_source_ports.iter().for_each(|ports| denied_ports.insert(ports));
        let limit = &policy.rate_limit;
        let mut exempt = PrefixMap::default();
        limit.exempt.iter().for_each(|&prefix| exempt.insert(prefix, ()));
        let error_replies = policy.error_replies_per_second;
        Self {
            denied_ports,
            access: AccessList::new(&policy.allow, &policy.deny),
            exempt,
            client_ports: client_ports.clone(),
            source_prefixes: SourcePrefixes { ipv4: limit.ipv4_prefix, ipv6: limit.ipv6_prefix },
            request_limit: Limit {
                rate: RateTable::rate(limit.per_second, limit.burst),
                total_per_second: limit.total_per_second,
            },
            error_limit: Limit {
                rate: RateTable::rate(error_replies, error_replies),
                total_per_second: if error_replies == 0 { 0 } else { ERROR_REPLIES_IN_TOTAL },
            },
        }
    }

    /// Lets the datagram pass, or gives the first rule that it breaks.
    pub(super) fn admit(&self, datagram: &Datagram) -> Result<(), DropReason> {
        if datagram.truncated {
            return Err(DropReason::Truncated);
        }
        if self.denied_ports.contains(datagram.flow.peer.port()) {
            return Err(DropReason::SourcePort);
        }
        let destination = datagram.flow.destination.map(|destination| destination.address);
        if datagram.mapped_over_ipv6 || !is_client(datagram.flow.peer.ip(), destination) {
            return Err(DropReason::SourceAddress);
        }
        if !datagram.flow.destination.is_some_and(|destination| destination.is_unicast()) {
            return Err(DropReason::Destination);
        }
        if self.access.allows(datagram.flow.peer.ip()) { Ok(()) } else { Err(DropReason::Access) }
    }

    /// Returns whether a peer may ask this destination without limit.
    pub(super) fn is_exempt(&self, Flow { peer, destination }: &Flow) -> bool {
        let is_local_client = peer.ip().is_loopback()
            && self.client_ports.contains(&peer.port())
            && destination.is_some_and(|to| to.address.is_loopback() && to.interface == LOOPBACK_INTERFACE);
        is_local_client || self.exempt.longest_match(peer.ip()).is_some()
    }

    /// The source that a peer is part of.
    pub(super) fn source(&self, peer: SocketAddr) -> Source {
        Source::of(peer, self.source_prefixes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;

    use bytes::Bytes;

    use super::*;
    use crate::admission::gate::CLIENT_PORTS;
    use crate::socket::Destination;

    pub(in crate::admission) fn datagram(peer: &str, local: &str) -> Datagram {
        let address: IpAddr = local.parse().unwrap();
        let destination = Some(Destination { address, local: address, interface: 1 });
        Datagram::new(Flow { peer: peer.parse().unwrap(), destination }, Bytes::new())
    }

    fn rules(listening: &[u16], policy: &Policy) -> Rules {
        Rules::new(listening, &CLIENT_PORTS, policy)
    }

    fn judge(peer: &str, local: &str) -> Result<(), DropReason> {
        rules(&[9000, 9001], &Policy::open()).admit(&datagram(peer, local))
    }

    #[test]
    fn ordinary_clients_pass() {
        for (peer, local) in [
            ("192.0.2.1:40000", "192.0.2.2"),
            ("127.0.0.1:40000", "127.0.0.1"),
            ("127.0.0.1:40000", "127.9.9.9"),
            ("[2001:db8::1]:40000", "2001:db8::2"),
            ("[fe80::1%3]:40000", "fe80::2"),
            ("[::1]:40000", "::1"),
            ("192.0.2.2:40000", "192.0.2.2"),
            ("223.255.255.255:1", "192.0.2.2"),
        ] {
            assert_eq!(judge(peer, local), Ok(()), "{peer} to {local}");
        }
    }

    #[test]
    fn source_port_zero_and_our_own_ports_are_denied() {
        for port in [0, 9000, 9001] {
            assert_eq!(judge(&format!("192.0.2.1:{port}"), "192.0.2.2"), Err(DropReason::SourcePort));
            assert_eq!(judge(&format!("[::1]:{port}"), "::1"), Err(DropReason::SourcePort));
        }
        assert_eq!(judge("192.0.2.1:9002", "192.0.2.2"), Ok(()));
    }

    #[test]
    fn sources_that_cannot_be_clients_are_denied() {
        for (peer, local) in [
            ("0.0.0.0:40000", "192.0.2.2"),
            ("0.1.2.3:40000", "192.0.2.2"),
            ("127.0.0.1:40000", "192.0.2.2"),
            ("224.0.0.1:40000", "192.0.2.2"),
            ("240.0.0.1:40000", "192.0.2.2"),
            ("255.255.255.255:40000", "192.0.2.2"),
            ("[::]:40000", "2001:db8::2"),
            ("[::1]:40000", "2001:db8::2"),
            ("[::192.0.2.2]:40000", "2001:db8::2"),
            ("[::127.0.0.1]:40000", "2001:db8::2"),
            ("[ff02::1]:40000", "2001:db8::2"),
            ("[fec0::1]:40000", "2001:db8::2"),
        ] {
            assert_eq!(judge(peer, local), Err(DropReason::SourceAddress), "{peer} to {local}");
        }
    }

    #[test]
    fn an_ipv4_source_on_the_ipv6_wire_is_denied() {
        let mapped = Datagram { mapped_over_ipv6: true, ..datagram("192.0.2.1:40000", "2001:db8::2") };
        assert_eq!(rules(&[], &Policy::open()).admit(&mapped), Err(DropReason::SourceAddress));
    }

    #[test]
    fn broadcast_and_multicast_destinations_are_denied() {
        let mut broadcast = datagram("192.0.2.1:40000", "192.0.2.2");
        broadcast.flow.destination.as_mut().unwrap().address = "192.0.2.255".parse().unwrap();
        assert_eq!(rules(&[], &Policy::open()).admit(&broadcast), Err(DropReason::Destination));
        assert_eq!(judge("[2001:db8::1]:40000", "ff02::1"), Err(DropReason::Destination));
        let mut unknown = datagram("192.0.2.1:40000", "192.0.2.2");
        unknown.flow.destination = None;
        assert_eq!(rules(&[], &Policy::open()).admit(&unknown), Err(DropReason::Destination));
    }

    #[test]
    fn the_cheapest_rule_is_named_first() {
        let all = Datagram { truncated: true, mapped_over_ipv6: true, ..datagram("[ff02::1]:0", "ff02::1") };
        let rules = rules(&[], &Policy::open());
        assert_eq!(rules.admit(&all), Err(DropReason::Truncated));
        assert_eq!(rules.admit(&Datagram { truncated: false, ..all }), Err(DropReason::SourcePort));
    }

    #[test]
    fn denied_ports_and_prefixes_are_denied_and_named() {
        let mut policy = Policy::open();
        policy.deny_source_ports = vec![1..=1023, 1900..=1900];
        policy.deny = vec!["192.0.2.0/24".parse().unwrap()];
        policy.allow = vec!["192.0.2.7".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
        let rules = rules(&[9000], &policy);
        let judge = |peer: &str| rules.admit(&datagram(peer, "203.0.113.1"));
        for port in [0, 1, 7, 1023, 1900, 9000] {
            assert_eq!(judge(&format!("192.0.2.7:{port}")), Err(DropReason::SourcePort));
        }
        for port in [1024, 1899, 1901, 65_535] {
            assert_eq!(judge(&format!("192.0.2.7:{port}")), Ok(()));
        }
        assert_eq!(judge("192.0.2.8:40000"), Err(DropReason::Access));
        assert_eq!(judge("198.51.100.1:40000"), Ok(()));
        assert_eq!(judge("203.0.113.9:40000"), Err(DropReason::Access));
    }
}
