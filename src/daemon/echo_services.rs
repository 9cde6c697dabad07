//! The services that the daemon's listeners share, one per protocol, and how reloaded settings apply to them.

use std::sync::Arc;

use bytes::Bytes;

use super::settings::{InvalidJson, Protocol, Reloadable};
use crate::handler::{EchoRequestHandler, RequestLog};
use crate::protocol::{BytesProtocol, RawJsonProtocol};
use crate::serializer::RawJson;
use crate::server::Service;

/// A service for each protocol; their request lines share one rate limit.
pub(super) struct EchoServices {
    log: Arc<RequestLog>,
    json_handler: Arc<EchoRequestHandler<RawJson>>,
    json: Service,
    raw: Service,
}

impl EchoServices {
    pub(super) fn new(reloadable: &Reloadable) -> Self {
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
        services.apply(reloadable);
        services
    }

    /// The service of this protocol.
    pub(super) fn of(&self, protocol: Protocol) -> &Service {
        match protocol {
            Protocol::Json => &self.json,
            Protocol::Raw => &self.raw,
        }
    }

    /// Applies reloaded settings, those that narrow what gets a reply before those that widen it: at no moment does a
    /// source get a reply that neither the old nor the new settings would give it.
    pub(super) fn put_in_force(&self, reloadable: &Reloadable, set_policy: impl FnOnce()) {
        if reloadable.invalid_json != InvalidJson::Error {
            self.json_handler.set_answer_invalid(false);
        }
        set_policy();
        self.apply(reloadable);
    }

    /// Applies those settings that belong to the services.
    fn apply(&self, reloadable: &Reloadable) {
        self.json_handler.set_answer_invalid(reloadable.invalid_json == InvalidJson::Error);
        self.log.set(reloadable.request_log);
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
            let reloadable = Reloadable { invalid_json, ..Settings::default().reloadable() };
            services.put_in_force(&reloadable, || seen.push(replies()));
            seen.push(replies());
        }
        assert_eq!(seen, [true, false, false, false, true, true, true]);
    }
}
