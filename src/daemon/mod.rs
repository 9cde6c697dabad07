//! The daemon `echo-udpd`: command line and settings in, a server running, its log and its service manager told.
//!
//! Wires the rooms together; how datagrams are answered is the server's business. Workers have threads of their own,
//! this one is for control: signals, reload, status.

mod command_line;
mod control;
mod logging;
pub mod settings;
mod systemd;

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;

use self::command_line::CommandLine;
use self::control::{Control, ControlError};
use self::logging::{Logging, LoggingError};
use self::settings::{InvalidJson, Listen, Live, Protocol, Settings, SettingsError};
use crate::handler::{EchoPacket, EchoRequestHandler};
use crate::protocol::{BytesProtocol, DatagramProtocol, RawJsonProtocol};
use crate::serializer::RawJson;
use crate::server::blocking::{BackgroundServer, UdpServer};
use crate::server::{ServeError, ServerOptions};
use crate::socket::BindError;

/// Where the settings are when nobody says otherwise.
const SETTINGS_FILE: &str = "/etc/echo-udpd/echo-udpd.toml";

/// Why the daemon did not run, or did not end as asked.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("write standard output")]
    WriteOutput(#[source] io::Error),
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl DaemonError {
    /// 78 is EX_CONFIG of sysexits.h; clap ends with 2 on a command line that it does not understand.
    fn status(&self) -> u8 {
        match self {
            Self::Settings(_) => 78,
            Self::WriteOutput(_) | Self::Logging(_) | Self::Bind(_) | Self::Serve(_) | Self::Control(_) => 1,
        }
    }
}

/// Where settings come from, now and on each reload.
struct Source {
    /// The file of the command line.
    config: Option<PathBuf>,
    /// Addresses of the command line, which win over the file's.
    listen: Option<Listen>,
}

impl Source {
    fn read(&self) -> Result<Settings, SettingsError> {
        let installed = Path::new(SETTINGS_FILE);
        // Looked for each time: it may have come or gone since the start.
        let file = self.config.as_deref().or_else(|| installed.exists().then_some(installed));
        let mut settings = file.map_or_else(|| Ok(Settings::default()), Settings::read)?;
        if let Some(listen) = &self.listen {
            settings.listen = listen.clone();
        }
        Ok(settings)
    }
}

/// Runs the program; says how it exits.
#[must_use]
pub fn main() -> ExitCode {
    match run(&CommandLine::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                line.push_str(&format!(": {error}"));
                cause = error.source();
            }
            systemd::failed(&error, &line);
            eprintln!("echo-udpd: {line}");
            ExitCode::from(error.status())
        }
    }
}

fn run(command_line: &CommandLine) -> Result<(), DaemonError> {
    let source = command_line.source();
    let settings = source.read()?;
    if command_line.print_config {
        io::stdout().lock().write_all(settings.to_string().as_bytes()).map_err(DaemonError::WriteOutput)?;
    }
    if command_line.check || command_line.print_config {
        return Ok(());
    }
    let logging = Logging::start(settings.start().log_target, settings.log.level)?;
    let ran = match settings.reply.protocol {
        Protocol::Json => serve::<RawJson, RawJsonProtocol>(source, &settings, &logging),
        Protocol::Raw => serve::<Bytes, BytesProtocol>(source, &settings, &logging),
    };
    logging.finish(control::LOG_WRITTEN_WITHIN);
    ran
}

fn serve<T, P>(source: Source, settings: &Settings, logging: &Logging) -> Result<(), DaemonError>
where
    T: EchoPacket + Clone + Send + Sync + 'static,
    P: DatagramProtocol<Sent = T, Received = T> + Default + Send + Sync + 'static,
{
    // Signals have their handlers before the service manager hears that we are ready.
    let control = Control::new(source, settings.clone())?;
    let (server, handler) = start::<T, P>(settings)?;
    let handle = server.handle().clone();
    control.run(server, logging, |live| {
        apply(&handler, live);
        handle.set_policy(&live.policy);
    })
}

fn start<T, P>(settings: &Settings) -> Result<(BackgroundServer, Arc<EchoRequestHandler<T>>), DaemonError>
where
    T: EchoPacket + Clone + Send + Sync + 'static,
    P: DatagramProtocol<Sent = T, Received = T> + Default + Send + Sync + 'static,
{
    let handler = EchoRequestHandler::new();
    let live = settings.live();
    apply(&handler, &live);
    let workers = match settings.workers.value() {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers as usize,
    };
    let options = ServerOptions::new()
        .workers(workers)
        .policy(live.policy)
        .receive_buffer(settings.receive_buffer_bytes.value() as usize);
    let options = settings.listen.addresses().iter().fold(options, |options, &address| options.listen(address));
    let server = options.bind(P::default(), handler)?;
    let handler = Arc::clone(server.handler());
    Ok((UdpServer::from(server).start()?, handler))
}

/// Puts in force what of the live settings is the handler's.
fn apply<T: EchoPacket>(handler: &EchoRequestHandler<T>, live: &Live) {
    handler.answer_invalid(live.invalid_json == InvalidJson::Error);
    handler.log.set(live.request_log);
}
