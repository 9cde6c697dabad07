//! The daemon's command line.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, ValueHint};

use super::settings::source::Source;
use super::settings::{Listen, ListenEntry, ListenError};

/// The daemon's command line, parsed.
#[derive(Debug, Parser)]
#[command(
    name = "echo-udpd",
    version,
    about = "Sends each UDP datagram back, over IPv6 and IPv4",
    after_help = "Without --config the settings are those of /etc/echo-udpd/echo-udpd.toml if it exists, else the \
                  defaults.\n\
                  Signals: SIGTERM and SIGINT stop, SIGHUP reloads the settings, SIGUSR1 logs all counters. With a \
                  controlling terminal SIGHUP stops, unless it was ignored at the start (nohup).\n\
                  Exit status: 0 stopped as asked, 1 could not run, 2 usage, 78 configuration."
)]
pub(super) struct CommandLine {
    /// Read the settings from this file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Listen on this address and port, such as [::]:9000 or raw:[::]:7, instead of those in the settings; repeatable
    #[arg(short, long, value_name = "ADDR")]
    listen: Vec<ListenEntry>,
    /// Only check the settings
    #[arg(long)]
    pub(super) check: bool,
    /// Only print the settings in force
    #[arg(long)]
    pub(super) print_config: bool,
}

impl CommandLine {
    /// Reads the command line of this process.
    ///
    /// # Errors
    /// It is invalid, or it asks for the help or version text, which is then the error.
    pub(super) fn read() -> Result<Self, clap::Error> {
        let command_line = Self::try_parse()?;
        if let Some(Err(reason)) = command_line.listen() {
            let error = clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("--listen: {reason}\n"));
            return Err(error.with_cmd(&Self::command()));
        }
        Ok(command_line)
    }

    /// The source of the settings.
    pub(super) fn source(&self) -> Source {
        Source::new(self.config.clone(), self.listen().and_then(Result::ok))
    }

    fn listen(&self) -> Option<Result<Listen, ListenError>> {
        (!self.listen.is_empty()).then(|| Listen::new(self.listen.clone()))
    }
}
