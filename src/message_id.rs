//! Identifiers of kinds of events: the field `message_id` of every event except requests.
//!
//! In the journal it is MESSAGE_ID (systemd.journal-fields(7)); the catalog `packaging/systemd/echo-udpd.catalog`
//! explains each and says what to do. Requests have the target
//! [`RequestLog::TARGET`](crate::handler::RequestLog::TARGET).

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $id;)*

        /// All of them.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

messages! {
    /// The daemon listens on an address.
    LISTENING = "6649fdb20627458d8b424d4fa2d6702a";
    /// Sockets were passed by a socket unit, or kept by the service manager.
    INHERITED = "3ee61f4a07c54796b7424a24ba255b9c";
    /// A socket was kept on a port that the daemon could not bind itself.
    NOT_BINDABLE = "d5bcb186d7594ff2a5458664db9bd735";
    /// The sockets of the socket unit differ from the settings, which are ignored.
    LISTEN_IGNORED = "f6c43bd46de845f99ae4ff2c0075d846";
    /// There are fewer sockets than workers that the settings ask for.
    FEWER_WORKERS = "b4d9e31f59d44964b1212f5a2c6a118e";
    /// The host has no IPv6.
    NO_IPV6 = "e47fcc2d623844649cf412eab95debd2";
    /// The kernel granted a smaller receive buffer than the settings ask for.
    RECEIVE_BUFFER_SMALL = "90d9dee8f7704e7d9ae7a545d0acd053";
    /// The kernel granted a smaller send buffer than the settings ask for.
    SEND_BUFFER_SMALL = "635b4dbf6d404f4ab8428bddb4513f3f";
    /// The daemon could not start, or ended with an error.
    FAILED = "2d43fbe711324bb7b24a2f4678743c6d";
    /// The settings were read at the start.
    SETTINGS_READ = "165b66b7f8b64f068a4eefb992531dd2";
    /// The settings file was empty at the start.
    SETTINGS_EMPTY = "ef253f797027440d9d241d2b78ab84a7";
    /// The settings were reloaded and are in force.
    RELOADED = "1a3e8d3712f543deb6b6c510b092a51f";
    /// The settings could not be reloaded.
    RELOAD_FAILED = "b357635c1a2345098102fef0bedd6990";
    /// Settings changed that need a restart to take effect.
    NEEDS_RESTART = "d66272cd96ea4cb09b65534a33af4608";
    /// The daemon stopped as asked.
    STOPPED = "2f3c4b405a51431f9e5e6c3ef13435c0";
    /// The server did not stop in time, and the process exited anyway.
    NOT_STOPPED = "cb157c0587c849f2bf2ee5b0bdd39c85";
    /// All counters, as requested by SIGUSR1.
    COUNTERS = "e3e5d038bf75476ba317f9cd8819bee6";
    /// Request lines over the log's rate were suppressed.
    REQUESTS_SUPPRESSED = "228521473667417690c407eac305e466";
    /// At level debug: a datagram got no reply.
    DROPPED_ONE = "95c21e0e1c22468da0638c7efe92a4f8";
    /// Datagrams got no reply, for one reason.
    DROPPED = "38c1b3af40c7465386c8ff28377e6054";
    /// Replies did not fit in the send buffer.
    SEND_BUFFER_FULL = "05c30201d28a40d3a4a6929775d148e7";
    /// Sources exceeded the rate limit.
    LIMITED = "b01b670d95c84f8c8fb7a3811d068127";
    /// Sources are exempt from the rate limit.
    EXEMPT = "a8133191f9264761b5f3e85dd2e3d07a";
    /// A thread panicked.
    PANIC = "5cb3f93ab8a44125ae9995f3ac1ebf42";
    /// The settings ask for journald, which is not available.
    NO_JOURNALD = "4db9ac7886b84f9eb6037a92cf145fc6";
    /// Lines of the log were dropped.
    LOG_DROPPED = "6ee51d93705b4225bfaddb49d27ae58e";
    /// A request handler failed.
    HANDLER_FAILED = "2e2556f7682548dc8f54d83e832785af";
    /// A worker failed and was restarted.
    WORKER_RESTARTED = "9ae0c32e73044b8093051f9e17f2c0c6";
    /// A worker does not respond, and the watchdog is not fed.
    WATCHDOG_NOT_FED = "a7c3e384f30245bbace3dc0fe0a0bb7a";
    /// Receiving from a socket failed.
    RECEIVE_FAILED = "9297e72ccacb40f78fe9b84011198823";
    /// The service manager could not be notified of something.
    NOTIFY_FAILED = "2eff4c107c4a4fb19e9d6c3ea60ae735";
}
