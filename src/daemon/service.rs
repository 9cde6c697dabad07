//! A server made from settings and inherited sockets: bound, announced, started, and controlled until it stops.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use super::control::{Control, Inbox, Started};
use super::exit::DaemonError;
use super::logging::Logging;
use super::operator::Operator;
use super::report::{self, SocketSource};
use super::settings::source::{Loaded, Source};
use super::settings::{InvalidJson, Reloadable, Settings};
use super::systemd::ServiceManager;
use super::systemd::sockets::{self, Inherited};
use crate::handler::{EchoPacket, EchoRequestHandler};
use crate::message_id;
use crate::protocol::DatagramProtocol;
use crate::server::ServerOptions;
use crate::server::blocking::{BackgroundServer, UdpServer};
use crate::socket::{BindError, BindTarget, kernel_drops};

/// How long a service manager may take to close a socket.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// What a running service reports to and takes requests from.
pub(super) struct Service<'a> {
    pub(super) inbox: &'a Inbox,
    pub(super) manager: &'a ServiceManager,
    pub(super) logging: &'a Logging,
}

impl Service<'_> {
    /// Serves until the daemon is asked to stop.
    pub(super) fn run<T, P>(&self, source: Source, loaded: &Loaded, inherited: Inherited) -> Result<(), DaemonError>
    where
        T: EchoPacket + Clone + Send + Sync + 'static,
        P: DatagramProtocol<Sent = T, Received = T> + Default + Send + Sync + 'static,
    {
        let passed = inherited.handed_over.iter().map(|passed| passed.protocol).collect();
        let (server, handler) = self.start::<T, P>(loaded, inherited)?;
        let handle = server.handle().clone();
        let listen = &loaded.settings.listen;
        let operator = Operator::new(handle.clone(), listen, self.manager, self.logging);
        let started = Started { settings: loaded.settings.clone(), passed };
        let control = Control::new(server, self.inbox, operator, source, started, |live| {
            put_in_force(&handler, live, || handle.set_policy(&live.policy));
        });
        control.run().map_err(DaemonError::Ended)
    }

    fn start<T, P>(
        &self,
        loaded: &Loaded,
        inherited: Inherited,
    ) -> Result<(BackgroundServer, Arc<EchoRequestHandler<T>>), DaemonError>
    where
        T: EchoPacket + Clone + Send + Sync + 'static,
        P: DatagramProtocol<Sent = T, Received = T> + Default + Send + Sync + 'static,
    {
        let settings = &loaded.settings;
        let handler = EchoRequestHandler::new();
        let live = settings.reloadable();
        apply(&handler, &live);
        let (options, mut socket_source) = self.choose_sockets(settings, inherited)?;
        let options = options
            .workers(settings.worker_count())
            .policy(live.policy.clone())
            .receive_buffer(settings.receive_buffer_bytes.value() as usize)
            .send_buffer(settings.send_buffer_bytes.value() as usize);
        let server = options.bind(P::default(), handler)?;
        if socket_source.handed_over == 0 {
            // But for a free port that was taken: it is not asked for again.
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
        report::exempt(&live);
        let handler = Arc::clone(server.handler());
        Ok((UdpServer::from(server).start().map_err(DaemonError::Serve)?, handler))
    }

    /// Those of socket units if there are any, else those of the settings' addresses, kept from the previous run or
    /// new.
    fn choose_sockets(
        &self,
        settings: &Settings,
        inherited: Inherited,
    ) -> Result<(ServerOptions, SocketSource), BindError> {
        let Inherited { handed_over, kept } = inherited;
        let mut source = SocketSource { handed_over: handed_over.len(), ..SocketSource::default() };
        if source.handed_over > 0 {
            Inherited::keep_only(kept, self.manager, |_| false);
            let sockets = handed_over.into_iter().map(|passed| passed.socket);
            return Ok((sockets.fold(ServerOptions::new(), ServerOptions::socket), source));
        }
        let listen = settings.listen.resolve(settings.reply.protocol)?;
        // An address that cannot be listened on is reported when it is bound.
        let targets: Vec<_> = listen.iter().filter_map(|&(address, _)| BindTarget::resolve(address).ok()).collect();
        let is_wanted = |socket: &UdpSocket| targets.iter().any(|target| target.matches(socket));
        let (kept, some_gone) = Inherited::keep_only(kept, self.manager, is_wanted);
        source.kept = kept.len();
        let not_bindable = kept.iter().filter(|socket| !sockets::could_bind(socket));
        source.not_bindable = not_bindable.filter_map(|socket| socket.local_addr().ok()).collect();
        let options = listen.iter().fold(ServerOptions::new(), |options, &(address, _)| options.listen(address));
        let options = kept.into_iter().fold(options, ServerOptions::reuse_socket);
        // Until the service manager has closed what is not kept any longer.
        Ok((if some_gone { options.bind_timeout(CLOSED_WITHIN) } else { options }, source))
    }
}

/// Puts live settings in force, those that narrow what gets a reply before those that widen it: at no moment does a
/// source get what only the other of the old and the new settings would give it.
fn put_in_force<T: EchoPacket>(handler: &EchoRequestHandler<T>, live: &Reloadable, set_policy: impl FnOnce()) {
    if live.invalid_json != InvalidJson::Error {
        handler.set_answer_invalid(false);
    }
    set_policy();
    apply(handler, live);
}

/// Puts in force what of the live settings is the handler's.
fn apply<T: EchoPacket>(handler: &EchoRequestHandler<T>, live: &Reloadable) {
    handler.set_answer_invalid(live.invalid_json == InvalidJson::Error);
    handler.log.set(live.request_log);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serializer::RawJson;

    #[test]
    fn error_replies_are_off_before_access_is_wider_and_on_after_it_is_narrower() {
        let handler = EchoRequestHandler::<RawJson>::new();
        let replies = || format!("{handler:?}").contains("answer_invalid: true");
        let mut seen = Vec::new();
        for invalid_json in [InvalidJson::Ignore, InvalidJson::Error, InvalidJson::Error] {
            let live = Reloadable { invalid_json, ..Settings::default().reloadable() };
            put_in_force(&handler, &live, || seen.push(replies()));
            seen.push(replies());
        }
        assert_eq!(seen, [false, false, false, true, true, true]);
    }
}
