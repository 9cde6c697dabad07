//! What holds for every input: shared by the fuzzer and by the replay of what it found.

#![allow(dead_code, reason = "each fuzz target uses one of them")]

use std::future::pending;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use echo_udpd::admission::{Admission, Policy, RateLimit};
use echo_udpd::daemon::settings::Settings;
use echo_udpd::handler::{Client, DatagramRequestHandler, EchoRequestHandler, HandlerError, ReplyKind, Requests};
use echo_udpd::printable::Printable;
use echo_udpd::protocol::RawJsonProtocol;
use echo_udpd::serializer::RawJson;
use echo_udpd::server::engine::Engine;
use echo_udpd::socket::{ControlMessages, Datagram, Destination, Flow, SendOutcome};
use echo_udpd::stats::{DropReason, Stats};

/// A settings file that is accepted prints as one that means the same; one that is not has faults, each on one
/// printable line, in the order of the text and at places in it.
pub(crate) fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let faults = match Settings::parse(text) {
        Ok(settings) => return assert_eq!(Settings::parse(&settings.to_string()), Ok(settings)),
        Err(faults) => faults,
    };
    let lines: Vec<_> = text.split('\n').collect();
    for fault in faults.iter() {
        assert!((1..=lines.len()).contains(&fault.line), "{fault}");
        assert!((1..=lines[fault.line - 1].chars().count() + 1).contains(&fault.column), "{fault}");
        assert!(fault.message != "not a settings file", "{text:?}");
        assert!(!fault.message.is_empty() && !fault.message.contains(char::is_control), "{fault:?}");
        assert!(fault.to_string().chars().count() <= 250, "{fault}");
    }
    assert!(faults.iter().is_sorted_by_key(|fault| (fault.line, fault.column)), "{faults:?}");
    assert!((1..=faults.len()).contains(&faults.iter().count()), "{faults:?}");
    assert!(faults.to_string().starts_with(&faults.first().to_string()), "{faults}");
}

/// A stranger's bytes stay one line of printable ASCII within the limit, and valid JSON keeps its meaning.
pub(crate) fn printable(input: &[u8]) {
    let Some((&limit, bytes)) = input.split_first() else { return };
    let limit = usize::from(limit) * 4;
    for shown in [Printable::json(bytes), Printable::raw(bytes)] {
        let line = shown.limit(limit).to_string();
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        assert!(line.len() <= limit + " ... (18446744073709551615 bytes left out)".len());
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) {
        let line = Printable::json(bytes).to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).ok(), Some(value), "{line}");
    }
}

/// Any control messages are read to their end, and an address is never made up.
pub(crate) fn control(input: &[u8]) {
    let info = ControlMessages::parse(input);
    assert!(info.ipv4.is_none_or(|to| to.address.is_ipv4() && to.local.is_ipv4()));
    assert!(info.ipv6.is_none_or(|to| to.address.is_ipv6() && to.local == to.address));
    let found = |octets: &[u8]| input.windows(octets.len()).any(|window| window == octets);
    for to in [info.ipv4, info.ipv6].into_iter().flatten() {
        assert!(match to.address {
            IpAddr::V4(ip) => found(&ip.octets()),
            IpAddr::V6(ip) => found(&ip.octets()),
        });
    }
}

/// The echo handler, but for a few packets that make it misbehave.
struct Moody(EchoRequestHandler<RawJson>);

impl DatagramRequestHandler for Moody {
    type Request = RawJson;
    type Response = RawJson;

    async fn handle(&self, client: Client<RawJson>, requests: Requests<RawJson>) -> Result<(), HandlerError> {
        match requests.datagram().map(|datagram| &datagram[..]) {
            Some(b"\"wait\"") => {
                let _kept = requests;
                pending().await
            }
            Some(b"\"fail\"") => Err("told to".into()),
            _ => self.0.handle(client, requests).await,
        }
    }
}

/// The settings of a server that shows every reason for a drop.
fn policy() -> Policy {
    let mut policy = Policy::open();
    policy.deny = vec![std::net::Ipv4Addr::new(192, 0, 2, 66).into()].into_iter().map(prefix).collect();
    policy.rate_limit = RateLimit::per_source(1, 60).expect("within its bounds");
    policy.error_replies_per_second = 3;
    policy.deny_source_ports = vec![1..=6];
    policy
}

fn prefix(ip: IpAddr) -> echo_udpd::admission::Prefix {
    echo_udpd::admission::Prefix::of(ip, 128)
}

/// Runs datagrams through the whole way, from admission to the reply. Each is: peer, port, destination, flags, length,
/// payload. No reply is larger than its request but an error reply; no valid reply differs from its request; each
/// datagram is accounted for, by exactly one reason. Says how it went.
pub(crate) fn datagrams(input: &[u8]) {
    run_datagrams(input);
}

/// The same; what it returns tells which reasons an input reaches.
pub(crate) fn run_datagrams(mut input: &[u8]) -> Stats {
    let handler = Moody(EchoRequestHandler::new());
    let admission = Arc::new(Admission::new([9000], &policy()));
    let bound: SocketAddr = (Ipv6Addr::UNSPECIFIED, 9000).into();
    let mut engine =
        Engine::new(RawJsonProtocol::default(), admission, bound, |client, requests| handler.handle(client, requests));
    let mut now = Instant::now();
    let context = &mut Context::from_waker(Waker::noop());
    while let Some((datagram, [refused, ignore_invalid, no_room], pause, rest)) = next_datagram(input) {
        input = rest;
        now += Duration::from_millis(u64::from(pause));
        let before = {
            engine.publish();
            engine.stats()
        };
        let payload = datagram.payload.clone();
        handler.0.set_answer_invalid(!ignore_invalid);
        engine.receive([datagram.clone()], now);
        let _ = engine.poll(context);
        let replies = std::mem::take(engine.outgoing());
        assert!(replies.len() <= 1);
        for reply in &replies {
            let (sent, port) = (&reply.outgoing.payload, datagram.flow.peer.port());
            assert_eq!(reply.outgoing.flow, datagram.flow);
            assert!(port != 0 && port != 9000 && !datagram.truncated);
            let valid = serde_json::from_slice::<&serde_json::value::RawValue>(&payload).is_ok();
            match reply.kind {
                ReplyKind::Packet => assert!(valid && *sent == payload),
                ReplyKind::Error => {
                    let is_line = payload.ends_with(b"\n");
                    assert!(!valid && sent.len() == 45 + usize::from(is_line));
                }
            }
            let error = if no_room { ErrorKind::WouldBlock } else { ErrorKind::NetworkUnreachable };
            engine.sent(&if refused { SendOutcome::Refused(reply, error.into()) } else { SendOutcome::Sent(reply) });
        }
        engine.publish();
        let after = engine.stats();
        assert_eq!(after.received, before.received + 1);
        assert_eq!(after.received, after.handled + after.dropped_before_handler() + engine.queued() as u64);
        let dropped_after = after.dropped.total() - after.dropped_before_handler();
        let waiting = engine.waiting() as u64;
        assert_eq!(after.handled, after.sent + after.error_replies + dropped_after + waiting);
    }
    engine.close();
    engine.drop_waiting();
    engine.publish();
    let stats = engine.stats();
    assert_eq!(stats.received, stats.handled + stats.dropped_before_handler());
    stats
}

/// The next datagram of the input, whether its reply is refused, whether an invalid one is ignored, and how much later
/// it comes.
fn next_datagram(input: &[u8]) -> Option<(Datagram, [bool; 3], u8, &[u8])> {
    let (head, rest) = input.split_at_checked(7)?;
    let peers: [IpAddr; 16] = [
        [192, 0, 2, 1].into(),
        [192, 0, 2, 66].into(),
        [127, 0, 0, 1].into(),
        [0, 0, 0, 0].into(),
        [240, 0, 0, 1].into(),
        [224, 0, 0, 1].into(),
        [255, 255, 255, 255].into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0xc000, 0x202).into(),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc000, 0x202).into(),
        Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, 5, 6).into(),
    ];
    let peer = peers[usize::from(head[0] % 16)];
    let port = match head[1] {
        port @ 0..=7 => u16::from(port),
        8 => 9000,
        port => 40_000 + u16::from(port),
    };
    let local: IpAddr = match (peer.is_ipv4(), peer.is_loopback()) {
        (true, true) => [127, 0, 0, 1].into(),
        (true, false) => [203, 0, 113, 1].into(),
        (false, true) => Ipv6Addr::LOCALHOST.into(),
        (false, false) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
    };
    let address = match head[2] {
        0 if local.is_ipv4() => [203, 0, 113, 255].into(),
        1 if local.is_ipv4() => [255, 255, 255, 255].into(),
        2 if local.is_ipv6() => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        _ => local,
    };
    let flags = head[3];
    // A length, then so many times larger, so that short inputs can have costly datagrams.
    let length = usize::from(head[4]).min(rest.len());
    let (payload, rest) = rest.split_at(length);
    let repeated = if head[5] > 250 { payload.repeat(usize::from(head[5])) } else { payload.to_vec() };
    let destination = (flags & 8 == 0).then_some(Destination { address, local, interface: 1 });
    let flow = Flow { peer: (peer, port).into(), destination };
    let mut datagram = Datagram::new(flow, Bytes::from(repeated));
    datagram.truncated = flags & 1 != 0;
    datagram.mapped_over_ipv6 = flags & 2 != 0;
    Some((datagram, [flags & 4 != 0, flags & 16 != 0, flags & 32 != 0], head[6], rest))
}

/// Every reason that [`run_datagrams`] can reach.
pub(crate) fn reasons(stats: &Stats) -> Vec<DropReason> {
    DropReason::ALL.into_iter().filter(|&reason| stats.dropped.of(reason) > 0).collect()
}
