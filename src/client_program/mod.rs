//! The client program `echo-udp`: its command line and its exit status.

mod failure;
mod same_json;
mod send;
mod server;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, Parser, Subcommand};
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

use self::failure::Failure;
use crate::failure_chain::FailureChain;

/// Queries UDP echo servers.
#[derive(Debug, Parser)]
#[command(name = "echo-udp", version, about = "Sends datagrams to a UDP echo server and shows what comes back")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send one packet and print it with its reply
    ///
    /// Sends {"command-line arguments":["WORD",...]} and prints two lines, `Sent:` and `Received:`, once the reply has
    /// arrived. Each address of the host is tried until one replies. Exits with 0 if the reply is what was sent: the
    /// same bytes, or the same JSON with different whitespace between tokens or different escapes in strings. Exits
    /// with 1 if there was no reply or a different one (error replies included), and with 2 if nothing could be sent or
    /// printed.
    Send(send::Send),
}

/// The definition of the command line: for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    CommandLine::command()
}

/// Runs the program and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    // With any handler for this signal, a write to a file that has reached its size limit fails instead of ending the
    // process. Without one the signal ends it, which is no reason not to run.
    let _ = flag::register(SIGXFSZ, Arc::<AtomicBool>::default());
    let ran = CommandLine::try_parse().map_err(Failure::from).and_then(|command_line| match command_line.command {
        Command::Send(send) => send.run(),
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::CommandLine(message)) if !message.use_stderr() => show(&message),
        Err(failure) => fail(&failure),
    }
}

/// Prints the text of --help or --version.
fn show(message: &clap::Error) -> ExitCode {
    match message.print().and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&Failure::WriteOutput(error)),
    }
}

/// Reports why the program fails, unless the reader of its output has gone. The status is the same if standard error
/// cannot be written to.
fn fail(failure: &Failure) -> ExitCode {
    match failure {
        // With the usage and a hint.
        Failure::CommandLine(message) => drop(message.print()),
        Failure::WriteOutput(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        _ => drop(io::stderr().write_all(format!("echo-udp: {}\n", FailureChain(failure)).as_bytes())),
    }
    ExitCode::from(failure.status())
}
