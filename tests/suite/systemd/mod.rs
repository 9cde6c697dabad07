//! The package on a booted systemd, in containers of Debian 12 and 13: each proof with the service's own sockets, with
//! those of the socket unit, and without a network of its own.

mod loss;
mod package;
mod protocols;
mod sockets;
mod starts;

use echo_udpd::message_id;

use crate::harness::container::{ANYWHERE, Container, at};
use crate::harness::load::{Outcome, load};
use crate::harness::process::Counters;
use crate::harness::wait_for;

/// Whose sockets the service uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sockets {
    /// Its own, which the service manager keeps over a restart.
    Own,
    /// Those of the socket unit.
    Unit,
    /// The same, and the service has no network.
    UnitOnly,
}

const ALL_SOCKETS: [Sockets; 3] = [Sockets::Own, Sockets::Unit, Sockets::UnitOnly];

impl Container {
    fn start_service(&self, sockets: Sockets) {
        match sockets {
            Sockets::Own => self.sh("systemctl start echo-udpd"),
            Sockets::Unit => self.sh("systemctl start echo-udpd.socket"),
            Sockets::UnitOnly => self.sh("install -D -t /etc/systemd/system/echo-udpd.service.d \
                     /usr/share/doc/echo-udpd/examples/socket-only.conf
                 systemctl daemon-reload; systemctl start echo-udpd.socket"),
        };
    }

    /// All counters at this moment.
    fn counters(&self) -> Counters {
        let lines = || {
            let lines = self.sh(&format!("journalctl -q -o cat MESSAGE_ID={}", message_id::COUNTERS));
            lines.lines().map(Counters::parse).collect::<Vec<_>>()
        };
        let before = lines().len();
        self.sh("systemctl kill -s USR1 echo-udpd");
        wait_for("the counters", || lines().get(before).cloned())
    }

    /// A steady load on the service, while a script runs in the container.
    fn load(&self, rate: u32, count: usize, script: &str) -> Outcome {
        self.inside(|| load(at(ANYWHERE), rate, count, |_| drop(self.sh(script))))
    }
}
