//! The client program; see [`echo_udpd::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_udpd::cli::main()
}
