//! hyper, polled by hand. HTTP/1 and HTTP/2 are told apart by what a connection begins with.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};

use super::desk::Desk;
use super::pipe::Pipe;
use super::{HEADER_BYTES_MAX, HEADERS_MAX, STREAMS_MAX};

/// What a connection with prior knowledge of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What is read of a request's headers before it is refused unread: too large ones are refused in words if they fit.
const READ_BYTES_MAX: usize = 2 * HEADER_BYTES_MAX;
/// The same for their number.
const HEADERS_READ_MAX: usize = 4 * HEADERS_MAX;
/// Bytes of one stream, and of all of a connection, that its client may send before they are taken.
const STREAM_WINDOW: u32 = 256 << 10;
/// See [`STREAM_WINDOW`].
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of answers that h2 may hold of one stream.
const SEND_BYTES_MAX: usize = 64 << 10;
/// What hyper keeps for one connection of HTTP/1 with a request: a buffer for each direction. Measured, here and below, as
/// memory of the process a connection, with 1,000 of them: 20.5 kB with a stream of events, 19.8 kB with a poll that
/// waits, 1.2 kB (the session) before anything has come and again some seconds after an answer.
const HTTP1_BYTES: usize = 18 << 10;
/// What hyper and h2 keep for one connection of HTTP/2. Measured: 22.3 kB after an answer, the session included.
const HTTP2_BYTES: usize = 21 << 10;
/// What they keep for each request on it. Measured: 30.2 kB with one stream of events.
const HTTP2_REQUEST_BYTES: usize = 8 << 10;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It waits for bytes or for answers.
    Going,
    /// It is over: flush what was written, then close.
    Over,
}

/// The connection, as hyper has it. An idle one of HTTP/1 has none: it is made again when bytes come.
#[derive(Default)]
pub(super) enum Engine {
    /// Nothing has come, or all that came is answered.
    #[default]
    Idle,
    /// Boxed, as it is large and moved now and then.
    Http1(Box<http1::Connection<Pipe, Desk>>),
    /// One connection, many requests.
    Http2(Box<Http2>),
}

/// A connection of HTTP/2 and the requests on it, each a task.
pub(super) struct Http2 {
    connection: http2::Connection<Pipe, Desk, Spawner>,
    tasks: FuturesUnordered<Task>,
    spawner: Spawner,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Takes the tasks that hyper makes; they run in the session.
#[derive(Clone, Default)]
pub(super) struct Spawner(Rc<RefCell<Vec<Task>>>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        self.0.borrow_mut().push(Box::pin(task));
    }
}

impl Engine {
    /// Begins with what has come, if that says what is spoken.
    pub(super) fn begin(&mut self, pipe: &Pipe, desk: &Desk) {
        if !matches!(self, Engine::Idle) || pipe.input_len() == 0 {
            return;
        }
        match pipe.begins_with(PREFACE) {
            None => {}
            Some(false) => *self = Engine::Http1(http1_connection(pipe, desk)),
            Some(true) => *self = Engine::Http2(http2_connection(pipe, desk)),
        }
    }

    /// Goes on as far as it can.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Progress {
        let is_over = match self {
            Engine::Idle => false,
            Engine::Http1(connection) => Pin::new(&mut **connection).poll(context).is_ready(),
            Engine::Http2(http2) => http2.poll(context),
        };
        if is_over { Progress::Over } else { Progress::Going }
    }

    /// Takes no more requests; what is asked is still answered.
    pub(super) fn begin_shutdown(&mut self) {
        match self {
            Engine::Idle => {}
            Engine::Http1(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Engine::Http2(http2) => Pin::new(&mut http2.connection).graceful_shutdown(),
        }
    }

    /// Gives up what an idle connection of HTTP/1 holds. The caller knows that nothing is asked on it; what has come of a
    /// next request goes back into the pipe.
    pub(super) fn rest(&mut self, pipe: &Pipe) {
        if let Engine::Http1(connection) = std::mem::take(self) {
            let unread = connection.into_parts().read_buf;
            assert!(pipe.input_len() == 0 || unread.is_empty(), "what comes first is read first");
            pipe.put(&unread);
        }
    }

    /// Whether it is a connection of HTTP/1, which holds nothing that outlives a request.
    pub(super) fn is_http1(&self) -> bool {
        matches!(self, Engine::Http1(_))
    }

    /// Whether it is a connection of HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Engine::Http2(_))
    }

    /// Bytes of memory that it holds, about.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Engine::Idle => 0,
            Engine::Http1(_) => HTTP1_BYTES,
            Engine::Http2(http2) => HTTP2_BYTES + http2.tasks.len() * HTTP2_REQUEST_BYTES,
        }
    }
}

impl Http2 {
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let is_over = Pin::new(&mut self.connection).poll(context).is_ready();
        self.tasks.extend(self.spawner.0.borrow_mut().drain(..));
        while let Poll::Ready(Some(())) = Pin::new(&mut self.tasks).poll_next(context) {}
        is_over
    }
}

fn http1_connection(pipe: &Pipe, desk: &Desk) -> Box<http1::Connection<Pipe, Desk>> {
    let mut http = http1::Builder::new();
    http.max_buf_size(READ_BYTES_MAX).max_headers(HEADERS_READ_MAX);
    // Time-outs are the session's: it knows what time it is.
    http.header_read_timeout(None);
    Box::new(http.serve_connection(pipe.clone(), desk.clone()))
}

fn http2_connection(pipe: &Pipe, desk: &Desk) -> Box<Http2> {
    let spawner = Spawner::default();
    let mut http = http2::Builder::new(spawner.clone());
    http.max_concurrent_streams(STREAMS_MAX).max_header_list_size(READ_BYTES_MAX as u32);
    http.initial_stream_window_size(STREAM_WINDOW);
    http.initial_connection_window_size(CONNECTION_WINDOW);
    http.max_send_buf_size(SEND_BYTES_MAX);
    let connection = http.serve_connection(pipe.clone(), desk.clone());
    Box::new(Http2 { connection, tasks: FuturesUnordered::new(), spawner })
}
