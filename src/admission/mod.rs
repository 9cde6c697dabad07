//! May this datagram be answered? Rules on its source and destination, the cheap ones first, then what its source may
//! spend.
//!
//! Plain functions over addresses and one fixed table: nothing here parses or logs, or allocates once it is built. A
//! rule exists because an answer would loop, or reach somebody who did not ask (CERT CA-1996-01, CVE-2024-2169).

mod port_set;
mod prefix;
mod rate_limit;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use self::port_set::PortSet;
use self::prefix::{AccessList, PrefixMap, mask};
pub use self::prefix::{Prefix, PrefixError};
pub use self::rate_limit::{RateLimit, RateLimitError};
pub use crate::rate::MAX_REFILL_SECONDS;
use crate::rate::{Rate, RateLimiter, RateTable};
use crate::socket::{Datagram, Destination};
use crate::stats::DropReason;

/// Bytes of payload that one token pays for: what fits the smallest packet that every IPv6 path carries.
const BYTES_PER_TOKEN: usize = 1232;
/// The tokens of the largest datagram: a burst must be at least this.
pub const MAX_DATAGRAM_COST: u32 = 54;
/// Sources that are told apart at once: 512 KiB. Exact under three million random ones a second.
const SOURCE_SLOTS: usize = 65_536;
/// The same for sources of what is no packet.
const ERROR_SOURCE_SLOTS: usize = 8192;
/// Error replies to all sources together, each second and at once.
const ERROR_REPLIES_IN_TOTAL: u32 = 100;

/// What the operator decides; the rules against loops and reflection hold whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Sources that are answered; empty = everyone.
    pub allow: Vec<Prefix>,
    /// Sources that are not; the longest prefix of both lists decides, deny wins a tie.
    pub deny: Vec<Prefix>,
    /// Source ports that are not answered, beside 0 and those that the server listens on.
    pub deny_source_ports: Vec<RangeInclusive<u16>>,
    /// How much one source may spend.
    pub rate_limit: RateLimit,
    /// Error replies to one source, each second and at once; 0 = no limit, and none on the total of 100 a second
    /// either. Exempt sources have none.
    pub error_replies_per_second: u32,
}

impl Policy {
    /// Answers everyone, without limits: for a server that is not reached from outside.
    #[must_use]
    pub fn open() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            deny_source_ports: Vec::new(),
            rate_limit: RateLimit::unlimited(),
            error_replies_per_second: 0,
        }
    }
}

/// Ports that Linux gives to clients that ask for none (`ip_local_port_range` of ip(7)), if nobody changed that.
const CLIENT_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// The rules of one server, shared by its workers.
#[derive(Debug)]
pub struct Admission {
    listening: Vec<u16>,
    client_ports: RangeInclusive<u16>,
    rules: Mutex<Arc<Rules>>,
    /// Changes with the rules, so that a worker need not lock to see that they have not.
    version: AtomicU64,
    origin: Instant,
    sources: RateTable,
    total: RateLimiter,
    error_sources: RateTable,
    error_total: RateLimiter,
}

/// What is decided before a datagram comes.
#[derive(Debug)]
struct Rules {
    denied_ports: PortSet,
    access: AccessList,
    rate: Rate,
    error_rate: Rate,
    prefixes: (u8, u8),
    exempt: PrefixMap<()>,
    client_ports: RangeInclusive<u16>,
}

impl Admission {
    /// Rules that never let source port 0 pass, nor these ports: every one that the server itself listens on.
    #[must_use]
    pub fn new(listening: impl IntoIterator<Item = u16>, policy: &Policy) -> Self {
        Self::with_client_ports(listening, &CLIENT_PORTS, policy)
    }

    /// The same on a host that gives these ports to its clients.
    ///
    /// A datagram from one of them, and from one loopback address to another on the loopback interface, has no rate
    /// limit. On any other port of this host a service may listen, and a forged datagram could join the two: there the
    /// rate holds. Ports outside 32768-60999, Linux's default, are never exempt: operators widen the range across ports
    /// on which services listen.
    #[must_use]
    pub fn with_client_ports(
        listening: impl IntoIterator<Item = u16>,
        client_ports: &RangeInclusive<u16>,
        policy: &Policy,
    ) -> Self {
        let listening: Vec<_> = listening.into_iter().collect();
        let client_ports =
            *client_ports.start().max(CLIENT_PORTS.start())..=*client_ports.end().min(CLIENT_PORTS.end());
        let admission = Self {
            rules: Mutex::new(Arc::new(Rules::new(&listening, &client_ports, policy))),
            listening,
            client_ports,
            version: AtomicU64::new(0),
            origin: Instant::now(),
            sources: RateTable::new(SOURCE_SLOTS),
            total: RateLimiter::new(0, 0),
            error_sources: RateTable::new(ERROR_SOURCE_SLOTS),
            error_total: RateLimiter::new(0, 0),
        };
        admission.set_totals(policy);
        admission
    }

    /// Changes the policy at once; what sources have spent stays spent, up to a whole burst.
    pub fn set_policy(&self, policy: &Policy) {
        let rules = Arc::new(Rules::new(&self.listening, &self.client_ports, policy));
        self.set_totals(policy);
        let (rate, error_rate) = (rules.rate, rules.error_rate);
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        self.version.fetch_add(1, Ordering::Release);
        let now = self.ticks(Instant::now());
        self.sources.change_rate(rate, now);
        self.error_sources.change_rate(error_rate, now);
    }

    fn set_totals(&self, policy: &Policy) {
        self.total.set(policy.rate_limit.total_per_second, policy.rate_limit.total_per_second);
        let in_total = if policy.error_replies_per_second == 0 { 0 } else { ERROR_REPLIES_IN_TOTAL };
        self.error_total.set(in_total, in_total);
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ticks(&self, now: Instant) -> u64 {
        RateTable::ticks(now.saturating_duration_since(self.origin))
    }
}

/// One worker's way to the rules.
#[derive(Debug)]
pub struct Gate {
    admission: Arc<Admission>,
    rules: Arc<Rules>,
    version: u64,
    now: (Instant, u64),
}

impl Gate {
    /// A way to these rules.
    #[must_use]
    pub fn new(admission: Arc<Admission>) -> Self {
        let version = admission.version.load(Ordering::Acquire);
        let now = admission.origin;
        Self { rules: admission.rules(), admission, version, now: (now, 0) }
    }

    /// Begins a batch that was received at this time: rules that have changed are in force from here on.
    pub fn begin_batch(&mut self, now: Instant) {
        let version = self.admission.version.load(Ordering::Acquire);
        if version != self.version {
            self.rules = self.admission.rules();
            self.version = version;
        }
        self.now = (now, self.admission.ticks(now));
        self.admission.sources.sweep_if_due(self.now.1);
        self.admission.error_sources.sweep_if_due(self.now.1);
    }

    /// Lets the datagram pass, or says why not.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn admit(&self, datagram: &Datagram) -> Result<(), DropReason> {
        self.rules.admit(datagram)?;
        if self.rules.is_exempt(datagram.peer, datagram.destination) {
            return Ok(());
        }
        let tokens = (datagram.payload.len().div_ceil(BYTES_PER_TOKEN)).max(1) as u32;
        let key = self.rules.key(datagram.peer);
        if !self.admission.sources.allow(key, tokens, self.rules.rate, self.now.1) {
            return Err(DropReason::RateLimit);
        }
        if self.admission.total.allow(self.now.0) { Ok(()) } else { Err(DropReason::RateLimit) }
    }

    /// Lets a peer have one more error reply, or says why not.
    pub(crate) fn admit_error_reply(&self, peer: SocketAddr, asked: Option<Destination>) -> Result<(), DropReason> {
        let rate = self.rules.error_rate;
        let allowed = self.rules.is_exempt(peer, asked)
            || self.admission.error_sources.allow(self.rules.key(peer), 1, rate, self.now.1)
                && self.admission.error_total.allow(self.now.0);
        if allowed { Ok(()) } else { Err(DropReason::ErrorLimit) }
    }
}

impl Rules {
    fn new(listening: &[u16], client_ports: &RangeInclusive<u16>, policy: &Policy) -> Self {
        let mut denied_ports = PortSet::default();
        denied_ports.insert(&(0..=0));
        listening.iter().for_each(|&port| denied_ports.insert(&(port..=port)));
        policy.deny_source_ports.iter().for_each(|ports| denied_ports.insert(ports));
        let limit = &policy.rate_limit;
        let mut exempt = PrefixMap::default();
        limit.exempt.iter().for_each(|&prefix| exempt.insert(prefix, ()));
        Self {
            denied_ports,
            access: AccessList::new(&policy.allow, &policy.deny),
            rate: RateTable::rate(limit.per_second, limit.burst),
            error_rate: RateTable::rate(policy.error_replies_per_second, policy.error_replies_per_second),
            prefixes: (limit.ipv4_prefix, limit.ipv6_prefix),
            exempt,
            client_ports: client_ports.clone(),
        }
    }

    fn admit(&self, datagram: &Datagram) -> Result<(), DropReason> {
        if datagram.truncated {
            return Err(DropReason::Truncated);
        }
        if self.denied_ports.contains(datagram.peer.port()) {
            return Err(DropReason::SourcePort);
        }
        let destination = datagram.destination.map(|destination| destination.address);
        if datagram.mapped_over_ipv6 || !is_client(datagram.peer.ip(), destination) {
            return Err(DropReason::SourceAddress);
        }
        if !datagram.destination.is_some_and(|destination| destination.is_unicast()) {
            return Err(DropReason::Destination);
        }
        if self.access.allows(datagram.peer.ip()) { Ok(()) } else { Err(DropReason::Access) }
    }

    fn is_exempt(&self, peer: SocketAddr, destination: Option<Destination>) -> bool {
        let is_local_client = peer.ip().is_loopback()
            && self.client_ports.contains(&peer.port())
            && destination.is_some_and(|to| to.address.is_loopback() && to.interface == LOOPBACK_INTERFACE);
        is_local_client || self.exempt.longest(peer.ip()).is_some()
    }

    /// The key under which a peer is counted. Addresses that many share, or that anybody on the link could have, are
    /// counted individually; of what one IPv4 address gives its owner, all is one source.
    fn key(&self, peer: SocketAddr) -> (IpAddr, u32) {
        let ip = match peer.ip() {
            IpAddr::V4(ip) => return (mask(ip.into(), self.prefixes.0), 0),
            IpAddr::V6(ip) => ip,
        };
        if ip.is_unicast_link_local() {
            let scope = if let SocketAddr::V6(v6) = peer { v6.scope_id() } else { 0 };
            return (ip.into(), scope);
        }
        let ip = match ip.segments() {
            // NAT64 (RFC 6052, RFC 8215): all of IPv4 is behind it.
            [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => ip.into(),
            // Teredo (RFC 4380): the client's IPv4 address is in the last 32 bits, before them what it can choose.
            [0x2001, 0, .., high, low] => Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, high, low).into(),
            // 6to4 (RFC 3056): each IPv4 address has a /48.
            [0x2002, ..] => mask(ip.into(), self.prefixes.1.min(48)),
            _ => mask(ip.into(), self.prefixes.1),
        };
        (ip, 0)
    }
}

/// The index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX` of the kernel's net/flow.h).
const LOOPBACK_INTERFACE: u32 = 1;

/// Returns whether this can be the address of a client that sent to `destination`.
fn is_client(source: IpAddr, destination: Option<IpAddr>) -> bool {
    match source {
        IpAddr::V4(ip) if ip.is_loopback() => destination.is_none_or(|to| to.is_loopback()),
        IpAddr::V4(ip) => is_client_ipv4(ip),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => destination.is_none_or(|to| to == Ipv6Addr::LOCALHOST),
        IpAddr::V6(ip) => is_client_ipv6(ip),
    }
}

/// Not "this network" (0/8), multicast (224/4), or reserved and broadcast (240/4): RFC 6890.
fn is_client_ipv4(ip: Ipv4Addr) -> bool {
    !matches!(ip.octets()[0], 0 | 224..)
}

/// Not unspecified or IPv4-compatible (::/96), multicast (ff00::/8), or site-local (fec0::/10): RFC 4291 s2.5.
fn is_client_ipv6(ip: Ipv6Addr) -> bool {
    let compatible = ip.segments()[..6] == [0; 6];
    let site_local = ip.segments()[0] & 0xffc0 == 0xfec0;
    !compatible && !ip.is_multicast() && !site_local
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::socket::Destination;

    fn datagram(peer: &str, local: &str) -> Datagram {
        let address: IpAddr = local.parse().unwrap();
        Datagram {
            peer: peer.parse().unwrap(),
            destination: Some(Destination { address, local: address, interface: 1 }),
            payload: Bytes::new(),
            truncated: false,
            mapped_over_ipv6: false,
        }
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
        broadcast.destination.as_mut().unwrap().address = "192.0.2.255".parse().unwrap();
        assert_eq!(rules(&[], &Policy::open()).admit(&broadcast), Err(DropReason::Destination));
        assert_eq!(judge("[2001:db8::1]:40000", "ff02::1"), Err(DropReason::Destination));
        let unknown = Datagram { destination: None, ..datagram("192.0.2.1:40000", "192.0.2.2") };
        assert_eq!(rules(&[], &Policy::open()).admit(&unknown), Err(DropReason::Destination));
    }

    #[test]
    fn the_cheapest_rule_is_named_first() {
        let all = Datagram { truncated: true, mapped_over_ipv6: true, ..datagram("[ff02::1]:0", "ff02::1") };
        let rules = rules(&[], &Policy::open());
        assert_eq!(rules.admit(&all), Err(DropReason::Truncated));
        assert_eq!(rules.admit(&Datagram { truncated: false, ..all }), Err(DropReason::SourcePort));
    }

    fn gate(policy: &Policy) -> Gate {
        Gate::new(Arc::new(Admission::new([], policy)))
    }

    fn limited(per_second: u32, burst: u32) -> Policy {
        let mut policy = Policy::open();
        policy.rate_limit.per_second = per_second;
        policy.rate_limit.burst = burst;
        policy
    }

    /// How many of a hundred datagrams pass at once.
    fn passed(gate: &Gate, peer: &str, local: &str) -> usize {
        (0..100).filter(|_| gate.admit(&datagram(peer, local)).is_ok()).count()
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

    #[test]
    fn a_source_is_its_prefix_and_special_addresses_count_whole() {
        let gate = gate(&limited(1, 60));
        assert_eq!(passed(&gate, "192.0.2.1:40000", "192.0.2.9"), 60);
        assert_eq!(passed(&gate, "192.0.2.1:40001", "192.0.2.9"), 0, "another port is no other source");
        assert_eq!(passed(&gate, "192.0.2.2:40000", "192.0.2.9"), 60);
        assert_eq!(passed(&gate, "[2001:db8:0:1::1]:40000", "2001:db8::9"), 60);
        assert_eq!(passed(&gate, "[2001:db8:0:1:ffff::2]:40000", "2001:db8::9"), 0, "the same /64");
        assert_eq!(passed(&gate, "[2001:db8:0:2::1]:40000", "2001:db8::9"), 60);
        for prefix in ["fe80::", "64:ff9b::c0a8:", "64:ff9b:1::c0a8:", "64:ff9b:1:2::", "2001:0:1:2:3:4:5:"] {
            assert_eq!(passed(&gate, &format!("[{prefix}1]:40000"), "2001:db8::9"), 60, "{prefix}");
            assert_eq!(passed(&gate, &format!("[{prefix}2]:40000"), "2001:db8::9"), 60, "{prefix}");
        }
        // One Teredo client through any server, with any flags and port; one 6to4 site with any of its subnets.
        for pair in [["2001:0:a:b:c:d:e:f", "2001:0:1:2:3:4:e:f"], ["2002:c000:201:1::1", "2002:c000:201:ffff:9::2"]] {
            let [first, second] = pair.map(|ip| passed(&gate, &format!("[{ip}]:40000"), "2001:db8::9"));
            assert_eq!((first, second), (60, 0), "{pair:?}");
        }
        assert_eq!(passed(&gate, "[2002:c000:202:1::1]:40000", "2001:db8::9"), 60, "another IPv4 address");
        // A prefix that is shorter than that holds for them too.
        let mut wider = limited(1, 60);
        wider.rate_limit.ipv6_prefix = 40;
        let gate = Gate::new(Arc::new(Admission::new([], &wider)));
        let sources = ["2002:c000:201::1", "2002:c000:2ff::1"];
        assert_eq!(sources.map(|ip| passed(&gate, &format!("[{ip}]:40000"), "2001:db8::9")), [60, 0]);
        assert_eq!(passed(&gate, "[fe80::1%2]:40000", "fe80::9"), 60, "another link");
    }

    #[test]
    fn a_source_that_was_over_a_slower_rate_has_the_new_one_after_a_reload() {
        let mut gate = gate(&limited(1, 300));
        let begin = Instant::now();
        gate.begin_batch(begin);
        let passed = |gate: &Gate| (0..3).map(|_| passed(gate, "192.0.2.1:40000", "192.0.2.9")).sum::<usize>();
        assert_eq!((passed(&gate), passed(&gate)), (300, 0));
        gate.admission.set_policy(&limited(100, 100));
        gate.begin_batch(begin + Duration::from_secs(2));
        assert!(passed(&gate) >= 99);
    }

    #[test]
    fn a_source_regains_its_tokens_in_seconds_and_in_parts_of_them() {
        let mut gate = gate(&limited(10, 60));
        let begin = Instant::now();
        gate.begin_batch(begin);
        assert_eq!(passed(&gate, "192.0.2.1:40000", "192.0.2.9"), 60);
        for (milliseconds, regained) in [(500, 5), (3_000, 25), (5_700, 27)] {
            gate.begin_batch(begin + Duration::from_millis(milliseconds));
            let passed = passed(&gate, "192.0.2.1:40000", "192.0.2.9");
            // A token takes a whole number of ticks, at least its tenth of a second.
            assert!((regained - 1..=regained).contains(&passed), "{passed} after {milliseconds} ms");
        }
    }

    #[test]
    fn the_exempt_and_clients_on_loopback_have_no_limit_and_services_on_loopback_have_one() {
        let mut policy = limited(1, 60);
        policy.rate_limit.exempt = vec!["192.0.2.0/24".parse().unwrap()];
        let gate = gate(&policy);
        assert_eq!(passed(&gate, "127.0.0.1:40000", "127.0.0.1"), 100);
        assert_eq!(passed(&gate, "[::1]:60999", "::1"), 100);
        assert_eq!(passed(&gate, "192.0.2.77:40000", "203.0.113.1"), 100);
        assert_eq!(passed(&gate, "192.0.3.77:40000", "203.0.113.1"), 60);
        assert_eq!(passed(&gate, "127.0.0.2:32767", "127.0.0.1"), 60);
        assert_eq!(passed(&gate, "[::1]:61000", "::1"), 60);
        // With route_localnet a loopback address can come from the wire.
        let mut from_wire = datagram("127.0.0.3:40000", "127.0.0.1");
        from_wire.destination.as_mut().unwrap().interface = 2;
        assert_eq!((0..100).filter(|_| gate.admit(&from_wire).is_ok()).count(), 60);
    }

    #[test]
    fn ports_given_to_clients_are_never_more_than_linux_gives_by_itself() {
        for (given, exempt) in [(1024..=65_535, 32_768..=60_999), (40_000..=50_000, 40_000..=50_000)] {
            let policy = limited(1, 60);
            let admission = Admission::with_client_ports([], &given, &policy);
            assert_eq!(admission.client_ports, exempt);
            let gate = Gate::new(Arc::new(admission));
            assert_eq!(passed(&gate, "127.0.0.1:45000", "127.0.0.1"), if exempt.contains(&45_000) { 100 } else { 60 });
        }
    }

    #[test]
    fn a_datagram_costs_a_token_for_each_1232_bytes_begun() {
        for (size, cost) in [(0, 1), (1, 1), (1232, 1), (1233, 2), (2464, 2), (65_527, MAX_DATAGRAM_COST as usize)] {
            let gate = gate(&limited(1, 108));
            let large = Datagram { payload: Bytes::from(vec![0; size]), ..datagram("192.0.2.1:40000", "192.0.2.9") };
            let passed = (0..200).filter(|_| gate.admit(&large).is_ok()).count();
            assert_eq!(passed, 108 / cost, "{size} bytes");
        }
    }

    #[test]
    fn the_total_holds_for_all_sources_together() {
        let mut policy = Policy::open();
        policy.rate_limit.total_per_second = 50;
        let mut gate = gate(&policy);
        gate.begin_batch(gate.now.0);
        let sources = (0..200).map(|number| format!("192.0.2.{number}:40000"));
        assert_eq!(sources.filter(|peer| gate.admit(&datagram(peer, "203.0.113.1")).is_ok()).count(), 50);
    }

    #[test]
    fn error_replies_are_limited_to_one_source_and_in_total() {
        let mut policy = Policy::open();
        policy.error_replies_per_second = 10;
        let gate = gate(&policy);
        let replies =
            |peer: &str| (0..50).filter(|_| gate.admit_error_reply(peer.parse().unwrap(), None).is_ok()).count();
        assert_eq!(replies("192.0.2.1:40000"), 10);
        assert_eq!(replies("192.0.2.1:40001"), 0);
        let others: usize = (2..100).map(|number| replies(&format!("192.0.2.{number}:40000"))).sum();
        assert_eq!(others, 90, "a hundred in total");
    }

    #[test]
    fn a_new_policy_is_in_force_with_the_next_batch_and_what_was_spent_stays_spent() {
        let mut gate = gate(&limited(1, 60));
        assert_eq!(passed(&gate, "192.0.2.1:40000", "192.0.2.9"), 60);
        let mut policy = limited(1, 80);
        policy.deny = vec!["192.0.2.2".parse().unwrap()];
        gate.admission.set_policy(&policy);
        gate.begin_batch(gate.now.0);
        assert_eq!(passed(&gate, "192.0.2.1:40000", "192.0.2.9"), 20);
        assert_eq!(gate.admit(&datagram("192.0.2.2:1", "192.0.2.9")), Err(DropReason::Access));
    }
}
