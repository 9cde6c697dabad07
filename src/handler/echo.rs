//! The tutorial's handler: logs each request, and sends the packet back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Client, DatagramRequestHandler, EchoPacket, HandlerError, RequestLog, Requests, SendPacketError};
use crate::stats::DropReason;

/// Sends each packet back, and replies to an invalid one with `{"error":"Invalid JSON","code":"parse_error"}`, ending
/// in a newline if the request did. That error reply itself, when received, gets no reply.
///
/// Each request is an event of the target [`RequestLog::TARGET`] at level info, as [`RequestLog`] allows.
#[derive(Debug)]
pub struct EchoRequestHandler<T> {
    /// The error reply without and with a newline.
    parse_error_replies: Option<[T; 2]>,
    answer_invalid: AtomicBool,
    log: Arc<RequestLog>,
}

impl<T: EchoPacket> EchoRequestHandler<T> {
    /// Creates a handler that logs up to 100 requests per second.
    #[must_use]
    pub fn new() -> Self {
        Self::with_log(Arc::default())
    }

    /// Creates a handler with this log, which it may share with others: its rate applies to all of them together.
    #[must_use]
    pub fn with_log(log: Arc<RequestLog>) -> Self {
        Self {
            parse_error_replies: T::parse_error_reply(false).zip(T::parse_error_reply(true)).map(<[T; 2]>::from),
            answer_invalid: AtomicBool::new(true),
            log,
        }
    }

    /// The log of requests; its settings can be changed while the server runs.
    #[must_use]
    pub fn log(&self) -> &RequestLog {
        &self.log
    }

    /// Sets whether an invalid packet gets an error reply; by default it does.
    pub fn set_answer_invalid(&self, answer: bool) {
        self.answer_invalid.store(answer, Relaxed);
    }

    /// Sends the error reply, or returns why there is none.
    async fn reply_to_invalid(
        &self,
        client: &Client<T>,
        datagram: &[u8],
    ) -> Result<Option<DropReason>, SendPacketError> {
        let Some([reply, line]) = self.parse_error_replies.as_ref().filter(|_| self.answer_invalid.load(Relaxed))
        else {
            client.count_drop(DropReason::Invalid);
            return Ok(Some(DropReason::Invalid));
        };
        let reply = if datagram.ends_with(b"\n") { line } else { reply };
        let sent = client.send_error_reply(reply.clone()).await?;
        Ok((!sent).then_some(DropReason::ErrorLimit))
    }
}

impl<T: EchoPacket> Default for EchoRequestHandler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: EchoPacket> DatagramRequestHandler for EchoRequestHandler<T> {
    type Request = T;
    type Response = T;

    async fn handle(&self, client: Client<T>, mut requests: Requests<T>) -> Result<(), HandlerError> {
        let Some(datagram) = requests.datagram() else { return Ok(()) };
        if T::is_parse_error_reply(datagram) {
            client.count_drop(DropReason::OwnError);
            return Ok(());
        }
        let bytes = datagram.len();
        // Shares the bytes; they are not kept if they turn out to be a packet.
        let datagram = datagram.clone();
        match requests.next().await {
            Some(Ok(packet)) => {
                drop(datagram);
                self.log.packet(&client, bytes, &packet);
                client.send_packet(packet).await?;
            }
            Some(Err(error)) => {
                let dropped = self.reply_to_invalid(&client, &datagram).await?;
                self.log.invalid(&client, &datagram, &error, dropped);
            }
            None => {}
        }
        Ok(())
    }
}
