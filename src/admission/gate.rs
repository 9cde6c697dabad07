//! The rules in force, shared by all workers, and the gate by which each worker asks them.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::budget::{Budget, Now};
use super::policy::Policy;
use super::rate_limit::datagram_cost;
use super::rules::Rules;
use crate::socket::{Datagram, Flow};
use crate::stats::DropReason;

/// Sources that are told apart at once: 512 KiB. Exact under three million random ones a second.
const SOURCE_SLOTS: usize = 65_536;
/// The same for sources of invalid packets.
const ERROR_SOURCE_SLOTS: usize = 8192;
/// Ports that Linux gives to clients that ask for none (`ip_local_port_range` of ip(7)), if nobody changed that.
pub(super) const CLIENT_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// The rules of one server, shared by its workers.
#[derive(Debug)]
pub struct Admission {
    listening: Vec<u16>,
    client_ports: RangeInclusive<u16>,
    rules: Mutex<Arc<Rules>>,
    /// Changes with the rules, so that a worker need not lock to see that they have not.
    version: AtomicU64,
    origin: Instant,
    requests: Budget,
    error_replies: Budget,
}

impl Admission {
    /// Creates rules that deny source port 0 and the ports that the server listens on.
    #[must_use]
    pub fn new(listening: impl IntoIterator<Item = u16>, policy: &Policy) -> Self {
        Self::with_client_ports(listening, &CLIENT_PORTS, policy)
    }

    /// Creates the same rules for a host that gives these ports to its clients.
    ///
    /// A datagram from one of them, from one loopback address to another on the loopback interface, has no rate limit.
    /// On any other port of this host a service may listen, and a spoofed datagram could make the two loop: there the
    /// rate applies. Ports outside 32768-60999, Linux's default, are never exempt: operators widen the range across
    /// ports on which services listen.
    #[must_use]
    pub fn with_client_ports(
        listening: impl IntoIterator<Item = u16>,
        client_ports: &RangeInclusive<u16>,
        policy: &Policy,
    ) -> Self {
        let listening: Vec<_> = listening.into_iter().collect();
        let client_ports =
            *client_ports.start().max(CLIENT_PORTS.start())..=*client_ports.end().min(CLIENT_PORTS.end());
        let rules = Rules::new(&listening, &client_ports, policy);
        Self {
            requests: Budget::new(SOURCE_SLOTS, rules.request_limit),
            error_replies: Budget::new(ERROR_SOURCE_SLOTS, rules.error_limit),
            rules: Mutex::new(Arc::new(rules)),
            listening,
            client_ports,
            version: AtomicU64::new(0),
            origin: Instant::now(),
        }
    }

    /// Changes the policy at once. What sources have spent stays spent, up to a whole burst.
    pub fn set_policy(&self, policy: &Policy) {
        let rules = Arc::new(Rules::new(&self.listening, &self.client_ports, policy));
        let (request_limit, error_limit) = (rules.request_limit, rules.error_limit);
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        self.version.fetch_add(1, Ordering::Release);
        let now = Now::new(Instant::now(), self.origin);
        self.requests.change_limit(request_limit, now);
        self.error_replies.change_limit(error_limit, now);
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One worker's view of the rules.
#[derive(Debug)]
pub struct Gate {
    admission: Arc<Admission>,
    rules: Arc<Rules>,
    version: u64,
    now: Now,
}

impl Gate {
    /// Creates a view of these rules.
    #[must_use]
    pub fn new(admission: Arc<Admission>) -> Self {
        let version = admission.version.load(Ordering::Acquire);
        let now = Now::new(admission.origin, admission.origin);
        Self { rules: admission.rules(), admission, version, now }
    }

    /// Begins a batch that was received at this time: a changed policy takes effect here.
    pub fn begin_batch(&mut self, now: Instant) {
        let version = self.admission.version.load(Ordering::Acquire);
        if version != self.version {
            self.rules = self.admission.rules();
            self.version = version;
        }
        self.now = Now::new(now, self.admission.origin);
        self.admission.requests.begin_batch(self.now);
        self.admission.error_replies.begin_batch(self.now);
    }

    /// Lets the datagram pass, or returns why not.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn admit(&self, datagram: &Datagram) -> Result<(), DropReason> {
        self.rules.admit(datagram)?;
        let (rules, flow) = (&self.rules, &datagram.flow);
        let cost = datagram_cost(datagram.payload.len());
        let may_pass = rules.is_exempt(flow)
            || self.admission.requests.spend(rules.source(flow.peer), cost, rules.request_limit, self.now);
        if may_pass { Ok(()) } else { Err(DropReason::RateLimit) }
    }

    /// Lets a peer have one more error reply, or returns why not.
    pub(crate) fn admit_error_reply(&self, flow: &Flow) -> Result<(), DropReason> {
        let rules = &self.rules;
        let may_have = rules.is_exempt(flow)
            || self.admission.error_replies.spend(rules.source(flow.peer), 1, rules.error_limit, self.now);
        if may_have { Ok(()) } else { Err(DropReason::ErrorLimit) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::admission::MAX_DATAGRAM_COST;
    use crate::admission::rules::tests::datagram;

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

    /// A flow whose destination the kernel did not name.
    fn unknown_to(peer: &str) -> Flow {
        Flow { peer: peer.parse().unwrap(), destination: None }
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
    fn after_fifty_minutes_in_which_32_bits_of_ticks_come_half_round_sources_have_all_tokens_again() {
        let mut policy = limited(1, 60);
        policy.error_replies_per_second = 10;
        let mut gate = gate(&policy);
        let begin = Instant::now();
        let peer = "192.0.2.1:40000";
        for time in [begin, begin + Duration::from_secs(3000)] {
            gate.begin_batch(time);
            assert_eq!(passed(&gate, peer, "192.0.2.9"), 60);
            assert_eq!((0..100).filter(|_| gate.admit_error_reply(&unknown_to(peer)).is_ok()).count(), 10);
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
        from_wire.flow.destination.as_mut().unwrap().interface = 2;
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
        gate.begin_batch(gate.now.instant);
        let sources = (0..200).map(|number| format!("192.0.2.{number}:40000"));
        assert_eq!(sources.filter(|peer| gate.admit(&datagram(peer, "203.0.113.1")).is_ok()).count(), 50);
    }

    #[test]
    fn error_replies_are_limited_to_one_source_and_in_total() {
        let mut policy = Policy::open();
        policy.error_replies_per_second = 10;
        let gate = gate(&policy);
        let replies = |peer: &str| (0..50).filter(|_| gate.admit_error_reply(&unknown_to(peer)).is_ok()).count();
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
        gate.begin_batch(gate.now.instant);
        assert_eq!(passed(&gate, "192.0.2.1:40000", "192.0.2.9"), 20);
        assert_eq!(gate.admit(&datagram("192.0.2.2:1", "192.0.2.9")), Err(DropReason::Access));
    }
}
