//! Starts a server from settings and inherited sockets, and controls it until it stops.

use std::net::UdpSocket;
use std::time::Duration;

use super::control::{Control, Inbox, Started};
use super::echo_services::EchoServices;
use super::exit::DaemonError;
use super::logging::Logging;
use super::operator::Operator;
use super::report::{self, SocketSource};
use super::settings::Settings;
use super::settings::source::{Loaded, Source};
use super::systemd::ServiceManager;
use super::systemd::sockets::{self, Inherited};
use crate::message_id;
use crate::server::ServerOptions;
use crate::server::blocking::{BackgroundServer, UdpServer};
use crate::socket::{BindTarget, kernel_drops};

/// The time that the service manager may take to close a socket.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of the process that a running server needs: where requests come from, and where reports go.
pub(super) struct DaemonContext<'a> {
    pub(super) inbox: &'a Inbox,
    pub(super) manager: &'a ServiceManager,
    pub(super) logging: &'a Logging,
}

impl DaemonContext<'_> {
    /// Serves until the daemon is asked to stop.
    pub(super) fn run(&self, source: Source, loaded: &Loaded, inherited: Inherited) -> Result<(), DaemonError> {
        let passed = inherited.handed_over.iter().map(|passed| passed.protocol).collect();
        let services = EchoServices::new(&loaded.settings.reloadable());
        let server = self.start(loaded, &services, inherited)?;
        let handle = server.handle().clone();
        let listen = &loaded.settings.listen;
        let operator = Operator::new(handle.clone(), listen, self.manager, self.logging);
        let started = Started { settings: loaded.settings.clone(), passed };
        let control = Control::new(server, self.inbox, operator, source, started, |reloadable| {
            services.put_in_force(reloadable, || handle.set_policy(&reloadable.policy));
        });
        control.run().map_err(DaemonError::Ended)
    }

    fn start(
        &self,
        loaded: &Loaded,
        services: &EchoServices,
        inherited: Inherited,
    ) -> Result<BackgroundServer, DaemonError> {
        let settings = &loaded.settings;
        let reloadable = settings.reloadable();
        let (options, mut socket_source) = self.choose_sockets(settings, services, inherited)?;
        let options = options
            .workers(settings.worker_count())
            .policy(reloadable.policy.clone())
            .receive_buffer(settings.receive_buffer_bytes.value() as usize)
            .send_buffer(settings.send_buffer_bytes.value() as usize)
            .udp_gro(settings.udp_gro);
        let server = options.bind_service(services.of(settings.reply.protocol))?;
        if socket_source.handed_over == 0 {
            // Except a free port that port 0 took: the next run does not ask for it.
            let asked_for = |port| settings.listen.addresses().any(|wanted| wanted.port() == port);
            sockets::keep(self.manager, server.sockets().filter(|(address, _)| asked_for(address.port())));
        }
        let drops = server.sockets().filter_map(|(_, socket)| kernel_drops(socket).ok());
        socket_source.dropped_before = drops.map(u64::from).sum();
        // Before anything is served: the first line of the log names the address.
        let handle = server.handle();
        report::listeners(handle.listeners(), settings);
        report::settings_read(loaded);
        if let Some(path) = loaded.empty_file() {
            tracing::warn!(message_id = message_id::SETTINGS_EMPTY, "{} is empty: using the defaults", path.display());
        }
        report::sockets(&socket_source, handle.listeners(), settings);
        report::workers(server.workers(), settings);
        report::exempt(&reloadable);
        UdpServer::from(server).start().map_err(DaemonError::Serve)
    }

    /// Chooses the sockets of socket units if there are any, else those for the addresses of the settings: kept from
    /// the previous run, or new ones.
    fn choose_sockets(
        &self,
        settings: &Settings,
        services: &EchoServices,
        inherited: Inherited,
    ) -> Result<(ServerOptions, SocketSource), DaemonError> {
        let Inherited { handed_over, kept } = inherited;
        let mut source = SocketSource { handed_over: handed_over.len(), ..SocketSource::default() };
        if source.handed_over > 0 {
            Inherited::keep_only(kept, self.manager, |_| false);
            let sockets = Inherited::with_default(handed_over, settings.reply.protocol)?;
            let options = sockets.into_iter().fold(ServerOptions::new(), |options, (socket, protocol)| {
                options.socket_with(socket, services.of(protocol))
            });
            return Ok((options, source));
        }
        let listen = settings.listen.resolve(settings.reply.protocol)?;
        // An address that cannot be listened on is reported when it is bound.
        let targets: Vec<_> = listen.iter().filter_map(|&(address, _)| BindTarget::resolve(address).ok()).collect();
        let is_wanted = |socket: &UdpSocket| targets.iter().any(|target| target.matches(socket));
        let (kept, some_gone) = Inherited::keep_only(kept, self.manager, is_wanted);
        source.kept = kept.len();
        let not_bindable = kept.iter().filter(|socket| !sockets::could_bind(socket));
        source.not_bindable = not_bindable.filter_map(|socket| socket.local_addr().ok()).collect();
        let options = listen.iter().fold(ServerOptions::new(), |options, &(address, protocol)| {
            options.listen_with(address, services.of(protocol))
        });
        let options = kept.into_iter().fold(options, ServerOptions::reuse_socket);
        // Until the service manager has closed what is not kept any longer.
        Ok((if some_gone { options.bind_timeout(CLOSE_TIMEOUT) } else { options }, source))
    }
}
