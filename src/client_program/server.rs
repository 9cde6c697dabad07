//! The options that choose the server, and the lookup of its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use clap::{Args, ValueHint};

use super::failure::Failure;
use crate::client::Family;

/// The addresses of localhost.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];

/// The options that choose the server.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// The server's name or address
    #[arg(long, default_value = "localhost", value_parser = host, value_hint = ValueHint::Hostname)]
    host: String,
    /// The server's port
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Use IPv4 only
    #[arg(short = '4', conflicts_with = "ipv6")]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6')]
    ipv6: bool,
}

impl Server {
    /// The addresses to try, in order; at least one.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let family = self.family();
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in self.resolve()? {
            if family.is_none_or(|family| family.includes(address)) && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let refusal = addresses.first().and_then(|&first| self.refusal(first));
        addresses.retain(|&address| self.refusal(address).is_none());
        if addresses.is_empty() { Err(refusal.unwrap_or_else(|| self.no_address())) } else { Ok(addresses) }
    }

    /// All addresses of the host. If the resolver does not know localhost, it is this host (RFC 6761 s6.3).
    fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.collect()),
            Err(_) if self.host.eq_ignore_ascii_case("localhost") => {
                Ok(LOOPBACK.map(|ip| SocketAddr::new(ip, self.port)).into())
            }
            Err(source) => Err(Failure::Resolve { host: self.host.clone(), source }),
        }
    }

    /// The reason why this address cannot be a server's, if there is one.
    fn refusal(&self, address: SocketAddr) -> Option<Failure> {
        match address {
            _ if !is_unicast(address.ip()) => Some(Failure::NotUnicast { address: self.show(address) }),
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
                Some(Failure::NoInterface { ip: address.ip() })
            }
            _ => None,
        }
    }

    /// The address as a user knows it: with the interface that was typed, where the socket has its index.
    pub(super) fn show(&self, address: SocketAddr) -> String {
        match (address, self.host.split_once('%')) {
            (SocketAddr::V6(v6), Some((_, interface))) => format!("[{}%{interface}]:{}", v6.ip(), v6.port()),
            _ => address.to_string(),
        }
    }

    /// The failure for a host that has no usable address.
    pub(super) fn no_address(&self) -> Failure {
        let family = match self.family() {
            Some(Family::Ipv4) => "IPv4",
            Some(Family::Ipv6) => "IPv6",
            None => "IP",
        };
        Failure::NoAddress { host: self.host.clone(), family }
    }

    fn family(&self) -> Option<Family> {
        if self.ipv4 { Some(Family::Ipv4) } else { self.ipv6.then_some(Family::Ipv6) }
    }
}

/// Returns whether the address may belong to one host. A subnet's broadcast address looks like any other.
fn is_unicast(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_multicast() && address != Ipv4Addr::BROADCAST
}

/// Parses a name or an address into what the resolver takes: an IPv6 address loses its brackets.
fn host(text: &str) -> Result<String, String> {
    let split = |host: &str, port: &str| Err(format!("the port has its own option: --host {host} --port {port}"));
    if text.is_empty() {
        return Err("expected a name or an address".into());
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        return match bracketed.split_once(']') {
            Some((address, "")) if is_ipv6(address) => Ok(address.into()),
            Some((address, rest)) if is_ipv6(address) => match rest.strip_prefix(':').filter(|port| !port.is_empty()) {
                Some(port) => split(address, port),
                None => Err(format!("`{rest}` follows the brackets")),
            },
            _ => Err("expected an IPv6 address in brackets".into()),
        };
    }
    match text.split_once(':').filter(|(_, port)| !port.contains(':')) {
        Some(("", _) | (_, "")) => Err("expected a name or an address alone".into()),
        Some((host, port)) => split(host, port),
        None => Ok(text.into()),
    }
}

/// Returns whether this is an IPv6 address, with or without a zone (`fe80::1%eth0`).
fn is_ipv6(text: &str) -> bool {
    text.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_brackets() {
        for (text, taken) in [
            ("localhost", "localhost"),
            ("192.0.2.1", "192.0.2.1"),
            ("::1", "::1"),
            ("::", "::"),
            ("fe80::", "fe80::"),
            ("[::1]", "::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("[fe80::1%eth0]", "fe80::1%eth0"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(taken));
        }
        for (text, named) in [
            ("127.0.0.1:9000", "--host 127.0.0.1 --port 9000"),
            ("[::1]:9000", "--host ::1 --port 9000"),
            ("echo.example.net:echo", "--host echo.example.net --port echo"),
            ("", "expected a name or an address"),
            ("[::1", "expected an IPv6 address in brackets"),
            ("[]", "expected an IPv6 address in brackets"),
            ("[127.0.0.1]", "expected an IPv6 address in brackets"),
            ("[::1]9000", "`9000` follows the brackets"),
            ("[::1]:", "`:` follows the brackets"),
            (":9000", "expected a name or an address alone"),
            (":", "expected a name or an address alone"),
            ("localhost:", "expected a name or an address alone"),
        ] {
            let error = host(text).unwrap_err();
            assert!(error.ends_with(named), "{text}: {error}");
        }
    }

    #[test]
    fn multicast_and_the_broadcast_address_are_not_unicast_mapped_or_not() {
        let unicast = |text: &str| is_unicast(text.parse().unwrap());
        assert!(["192.0.2.1", "::1", "fe80::1", "::ffff:192.0.2.1"].into_iter().all(unicast));
        assert!(!["224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1", "::ffff:224.0.0.1"].into_iter().any(unicast));
    }
}
