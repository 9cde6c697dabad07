//! The daemon `echo-udpd`: command line and settings in, a server running, its log and its service manager told.
//!
//! Wires the rooms together; how datagrams are answered is the server's business. Workers have threads of their own,
//! this one is for control: signals, reload, status.

mod command_line;
mod control;
mod drop_report;
mod logging;
mod report;
pub mod settings;
mod systemd;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::CommandFactory;

use self::command_line::CommandLine;
use self::control::{Control, ControlError};
use self::logging::{Logging, LoggingError};
use self::report::Origin;
use self::settings::{InvalidJson, Listen, Protocol, Reloadable, Settings, SettingsError};
use self::systemd::sockets::{self, InheritError, Inherited};
use crate::failure_chain::FailureChain;
use crate::handler::{EchoPacket, EchoRequestHandler};
use crate::protocol::{BytesProtocol, DatagramProtocol, RawJsonProtocol};
use crate::serializer::RawJson;
use crate::server::blocking::{BackgroundServer, UdpServer};
use crate::server::{ServeError, ServerOptions};
use crate::socket::{BindError, Target, kernel_drops};

/// Where the settings are when nobody says otherwise.
const SETTINGS_FILE: &str = "/etc/echo-udpd/echo-udpd.toml";

/// How long a service manager may take to close a socket.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Why the daemon did not run, or did not end as asked.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("{}", first_line(.0))]
    Usage(clap::Error),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("write standard output")]
    WriteOutput(#[source] io::Error),
    #[error(transparent)]
    Inherit(#[from] InheritError),
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Serve(ServeError),
    #[error(transparent)]
    Control(#[from] ControlError),
    /// After it had served.
    #[error(transparent)]
    Ended(ServeError),
}

impl DaemonError {
    /// 78 is EX_CONFIG of sysexits.h.
    fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Settings(_) => 78,
            Self::WriteOutput(_)
            | Self::Inherit(_)
            | Self::Logging(_)
            | Self::Bind(_)
            | Self::Serve(_)
            | Self::Control(_)
            | Self::Ended(_) => 1,
        }
    }

    /// The errno(3) that comes closest.
    fn errno(&self) -> i32 {
        match self {
            Self::Usage(_) => return libc::EINVAL,
            Self::Bind(BindError::AddressInUse { .. }) => return libc::EADDRINUSE,
            Self::Bind(BindError::PermissionDenied { .. }) => return libc::EACCES,
            _ => {}
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                return errno;
            }
            cause = error.source();
        }
        libc::EINVAL
    }

    /// Whether a service manager starts the daemon again at once, and in vain: for the next datagram when a socket unit
    /// hands over its sockets, for Restart= unless that makes an exception of the status.
    fn comes_back(&self, triggered: bool) -> bool {
        triggered || (systemd::is_there() && self.status() == 1 && !matches!(self, Self::Ended(_)))
    }
}

/// clap adds the usage and a hint.
fn first_line(error: &clap::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
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

/// The definition of the command line: for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    CommandLine::command()
}

/// Runs the program; says how it exits.
#[must_use]
pub fn main() -> ExitCode {
    let inherited = Inherited::take();
    let triggered = inherited.as_ref().map_or(true, |inherited| !inherited.handed_over.is_empty());
    let ran = CommandLine::read().map_err(DaemonError::Usage).and_then(|command_line| run(&command_line, inherited));
    let error = match ran {
        Ok(()) => return ExitCode::SUCCESS,
        // What was asked for: --help, --version.
        Err(DaemonError::Usage(shown)) if !shown.use_stderr() => shown.exit(),
        Err(error) => error,
    };
    let line = FailureChain(&error).to_string();
    systemd::failed(&line, error.errno());
    match &error {
        // With the usage and a hint. Nobody is left to tell when standard error is closed.
        DaemonError::Usage(usage) if !logging::stderr_is_the_journal() => drop(usage.print()),
        DaemonError::Settings(SettingsError::Invalid { path, faults }) => {
            faults.lines(path).for_each(|line| logging::last_words(&line));
        }
        _ => logging::last_words(&line),
    }
    if error.comes_back(triggered) {
        systemd::hold_back();
    }
    ExitCode::from(error.status())
}

fn run(command_line: &CommandLine, inherited: Result<Inherited, InheritError>) -> Result<(), DaemonError> {
    let source = command_line.source();
    let settings = source.read()?;
    if command_line.print_config {
        io::stdout().lock().write_all(settings.to_string().as_bytes()).map_err(DaemonError::WriteOutput)?;
    }
    if command_line.check || command_line.print_config {
        return Ok(());
    }
    let inherited = inherited?;
    let logging = Logging::start(settings.fixed().log_target, settings.log.level)?;
    let ran = match settings.reply.protocol {
        Protocol::Json => serve::<RawJson, RawJsonProtocol>(source, &settings, inherited, &logging),
        Protocol::Raw => serve::<Bytes, BytesProtocol>(source, &settings, inherited, &logging),
    };
    logging.finish(control::LOG_WRITTEN_WITHIN);
    ran
}

fn serve<T, P>(source: Source, settings: &Settings, inherited: Inherited, logging: &Logging) -> Result<(), DaemonError>
where
    T: EchoPacket + Clone + Send + Sync + 'static,
    P: DatagramProtocol<Sent = T, Received = T> + Default + Send + Sync + 'static,
{
    // Signals have their handlers before the service manager hears that we are ready.
    let control = Control::new(source, settings.clone())?;
    let (server, handler, origin) = start::<T, P>(settings, inherited)?;
    let handle = server.handle().clone();
    control.run(server, origin, logging, |live| {
        apply(&handler, live);
        handle.set_policy(&live.policy);
    })
}

type Started<T> = (BackgroundServer, Arc<EchoRequestHandler<T>>, Origin);

fn start<T, P>(settings: &Settings, inherited: Inherited) -> Result<Started<T>, DaemonError>
where
    T: EchoPacket + Clone + Send + Sync + 'static,
    P: DatagramProtocol<Sent = T, Received = T> + Default + Send + Sync + 'static,
{
    let handler = EchoRequestHandler::new();
    let live = settings.reloadable();
    apply(&handler, &live);
    let (options, mut origin) = choose_sockets(settings, inherited);
    let options = options
        .workers(settings.worker_count())
        .policy(live.policy)
        .receive_buffer(settings.receive_buffer_bytes.value() as usize)
        .send_buffer(settings.send_buffer_bytes.value() as usize);
    let server = options.bind(P::default(), handler)?;
    if origin.handed_over == 0 {
        // But for a free port that was taken: it is not asked for again.
        let asked_for = |port| settings.listen.addresses().iter().any(|wanted| wanted.port() == port);
        sockets::keep(server.sockets().filter(|(address, _)| asked_for(address.port())));
    }
    origin.dropped_before = server.sockets().filter_map(|(_, socket)| kernel_drops(socket).ok()).map(u64::from).sum();
    origin.workers = server.workers();
    let handler = Arc::clone(server.handler());
    Ok((UdpServer::from(server).start().map_err(DaemonError::Serve)?, handler, origin))
}

/// Those of socket units if there are any, else those of the settings' addresses, left by an earlier run or new.
fn choose_sockets(settings: &Settings, inherited: Inherited) -> (ServerOptions, Origin) {
    let Inherited { handed_over, kept } = inherited;
    let mut origin = Origin { handed_over: handed_over.len(), ..Origin::default() };
    if origin.handed_over > 0 {
        Inherited::keep_only(kept, |_| false);
        return (handed_over.into_iter().fold(ServerOptions::new(), ServerOptions::socket), origin);
    }
    let listen = settings.listen.addresses();
    // An address that cannot be had is told of when it is bound.
    let targets: Vec<_> = listen.iter().filter_map(|&address| Target::of(address).ok()).collect();
    let (kept, some_gone) = Inherited::keep_only(kept, |socket| targets.iter().any(|target| target.is_of(socket)));
    origin.kept = kept.len();
    let options = listen.iter().fold(ServerOptions::new(), |options, &address| options.listen(address));
    let options = kept.into_iter().fold(options, ServerOptions::left_socket);
    // Until the service manager has closed what is not kept any longer.
    (if some_gone { options.wait_for_address(CLOSED_WITHIN) } else { options }, origin)
}

/// Puts in force what of the live settings is the handler's.
fn apply<T: EchoPacket>(handler: &EchoRequestHandler<T>, live: &Reloadable) {
    handler.answer_invalid(live.invalid_json == InvalidJson::Error);
    handler.log.set(live.request_log);
}
