//! The services that the daemon's listeners share, one a protocol, and what reloaded settings do to them.

use std::sync::Arc;

use bytes::Bytes;

use super::settings::{InvalidJson, Protocol, Reloadable};
use crate::handler::{EchoRequestHandler, RequestLog};
use crate::protocol::{BytesProtocol, RawJsonProtocol};
use crate::serializer::RawJson;
use crate::server::Service;

/// A service for each protocol; their lines in the log have one rate.
pub(super) struct EchoServices {
    log: Arc<RequestLog>,
    json_handler: Arc<EchoRequestHandler<RawJson>>,
    json: Service,
    raw: Service,
}

impl EchoServices {
    pub(super) fn new(live: &Reloadable) -> Self {
        let log = Arc::<RequestLog>::default();
        let json_handler = Arc::new(EchoRequestHandler::with_log(Arc::clone(&log)));
        let raw_handler = EchoRequestHandler::<Bytes>::with_log(Arc::clone(&log));
        let json = Service::new(RawJsonProtocol::default(), Arc::clone(&json_handler));
        let raw = Service::new(BytesProtocol::default(), raw_handler);
        let services = Self {
            log,
            json_handler,
            json: json.with_name(Protocol::Json.name()),
            raw: raw.with_name(Protocol::Raw.name()),
        };
        services.apply(live);
        services
    }

    /// The service of this protocol.
    pub(super) fn of(&self, protocol: Protocol) -> &Service {
        match protocol {
            Protocol::Json => &self.json,
            Protocol::Raw => &self.raw,
        }
    }

    /// Puts live settings in force, those that narrow what gets a reply before those that widen it: at no moment does a
    /// source get what only the other of the old and the new settings would give it.
    pub(super) fn put_in_force(&self, live: &Reloadable, set_policy: impl FnOnce()) {
        if live.invalid_json != InvalidJson::Error {
            self.json_handler.set_answer_invalid(false);
        }
        set_policy();
        self.apply(live);
    }

    /// Puts in force what of the live settings is the services'.
    fn apply(&self, live: &Reloadable) {
        self.json_handler.set_answer_invalid(live.invalid_json == InvalidJson::Error);
        self.log.set(live.request_log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::settings::Settings;

    #[test]
    fn error_replies_are_off_before_access_is_wider_and_on_after_it_is_narrower() {
        let services = EchoServices::new(&Settings::default().reloadable());
        let replies = || format!("{:?}", services.json_handler).contains("answer_invalid: true");
        let mut seen = vec![replies()];
        for invalid_json in [InvalidJson::Ignore, InvalidJson::Error, InvalidJson::Error] {
            let live = Reloadable { invalid_json, ..Settings::default().reloadable() };
            services.put_in_force(&live, || seen.push(replies()));
            seen.push(replies());
        }
        assert_eq!(seen, [true, false, false, false, true, true, true]);
    }
}
