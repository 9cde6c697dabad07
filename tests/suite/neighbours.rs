//! Datagrams with forged source addresses of the server's own subnet, where nobody is: the others' replies go out all
//! the same. The socket unit's proof of it is in systemd/sockets.rs. With `ECHO_UDPD_FULL=1`, as in CI, there are more
//! kinds of floods.

use crate::harness::flood::{Flood, Hosts, Sources};
use crate::harness::namespace::Namespace;
use crate::harness::{Daemon, DaemonCommand, has_program, is_full, need, sh};

/// Sets how many bytes wait for one neighbour.
fn set_neighbour_queue(namespace: &Namespace, bytes: u32) {
    let set = format!("for file in /proc/sys/net/ipv[46]/neigh/veth0/unres_qlen_bytes; do echo {bytes} > $file; done");
    sh(format!("ip netns exec {} sh -ec '{set}'", namespace.name())).success();
}

fn daemon(hosts: &Hosts, wrapper: &[&str], settings: &str) -> Daemon {
    let settings = format!("{settings}\n[log]\nrequests = false");
    DaemonCommand::default().within(&hosts.server).wrapped(wrapper).settings(&settings).start()
}

fn withstands(daemon: &mut Daemon, hosts: &Hosts, flood: Flood) {
    flood.is_withstood(hosts, daemon.port());
    daemon.counters().assert_balance();
}

const ONE_ADDRESS: [Flood; 2] = [
    Flood { per_second: 200, bytes: 1200, sources: Sources::OneAddress },
    Flood { per_second: 200, bytes: 64, sources: Sources::OneAddress },
];

const SUBNETS: [Flood; 4] = [
    Flood { per_second: 12_000, bytes: 1200, sources: Sources::Ipv4Subnet },
    Flood { per_second: 200, bytes: 1200, sources: Sources::Ipv6Subnet },
    Flood { per_second: 2000, bytes: 64, sources: Sources::Ipv4Subnet },
    Flood { per_second: 6000, bytes: 1200, sources: Sources::Ipv4Subnet },
];

#[test]
fn one_forged_neighbour_silences_nobody_on_a_stock_kernel() {
    need!(Namespace::possible() && has_program("setpriv"), "root, ip and setpriv");
    let hosts = Hosts::around(Namespace::new());
    set_neighbour_queue(&hosts.server, 212_992);
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let mut daemon = daemon(&hosts, &unprivileged, "receive-buffer-bytes = 212992\nsend-buffer-bytes = 212992");
    for flood in ONE_ADDRESS {
        withstands(&mut daemon, &hosts, flood);
    }
}

#[test]
fn a_subnet_of_forged_neighbours_silences_nobody_with_the_shipped_sysctls() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let hosts = Hosts::around(Namespace::new());
    set_neighbour_queue(&hosts.server, 8192);
    // With its privileges it has the buffers that the sysctls would grant, whatever this host's are.
    let mut daemon = daemon(&hosts, &[], "");
    let floods = SUBNETS.into_iter().chain(ONE_ADDRESS);
    for flood in floods.take(if is_full() { usize::MAX } else { 2 }) {
        withstands(&mut daemon, &hosts, flood);
    }
}
