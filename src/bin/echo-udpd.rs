//! The daemon; see [`echo_udpd::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_udpd::daemon::main()
}
