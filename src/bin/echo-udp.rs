//! The client program; see [`echo_udpd::client_program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_udpd::client_program::main()
}
