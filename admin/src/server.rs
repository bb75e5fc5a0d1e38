//! The thread of the admin port: where connections come in, what they may cost, and which path is answered by whom.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use codec::refusal::{Code, Refusal};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::access::Access;
use crate::limits::{
    BODY_BYTES_MAX, BODY_TIMEOUT, CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADERS_MAX, HEADERS_READ_MAX,
    READ_BYTES_MAX,
};
use crate::problem::Problem;
use crate::sources::Sources;
use crate::{api, health, metrics};

/// How far the thread stands back for the shards, in steps of nice(2).
const NICE_STEPS: i32 = 10;
/// How long the listener is left alone when the process is out of descriptors.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// The running admin port. Dropped, it closes.
pub struct Admin {
    address: SocketAddr,
    desk: Arc<Desk>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the handlers share.
pub(crate) struct Desk {
    phase: Mutex<Phase>,
}

/// How far the server's life has come.
#[derive(Clone)]
pub(crate) enum Phase {
    /// The folder is being opened.
    Starting,
    /// Clients are served.
    Ready(Arc<Sources>),
    /// What was taken is brought to rest; there may be answers still.
    Stopping(Option<Arc<Sources>>),
}

impl Desk {
    pub(crate) fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is to ask, while there is.
    pub(crate) fn sources(&self) -> Result<Arc<Sources>, Problem> {
        match self.phase() {
            Phase::Ready(sources) | Phase::Stopping(Some(sources)) => Ok(sources),
            Phase::Starting => Err(Problem::new(
                Code::Unavailable,
                "the server is starting: its logs are recovered",
            )),
            Phase::Stopping(None) => Err(Code::ShuttingDown.into()),
        }
    }

    fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

impl Admin {
    /// Answers on `listener` from now on: that the process lives, and that it is not ready. A connection whose next
    /// request is not whole within `idle_timeout`, or that does not take its answer, is closed.
    ///
    /// # Errors
    /// The system gives no thread or no socket.
    pub fn start(
        listener: TcpListener,
        idle_timeout: Duration,
        access: Access,
    ) -> io::Result<Admin> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let desk = Arc::new(Desk { phase: Mutex::new(Phase::Starting) });
        let router = router(Arc::clone(&desk), Arc::new(access));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("admin".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = rustix::process::nice(NICE_STEPS) {
                warn!(%error, "the admin thread cannot stand back for the shards");
            }
            runtime.block_on(serve(listener, router, idle_timeout, stopped));
            // What is still being answered is cut off.
            runtime.shutdown_background();
        })?;
        Ok(Admin { address, desk, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server is ready: this is what it tells of.
    pub fn open(&self, sources: Sources) {
        self.desk.enter(Phase::Ready(Arc::new(sources)));
    }

    /// The server is shutting down: it is not ready any more.
    pub fn begin_shutdown(&self) {
        let sources = match self.desk.phase() {
            Phase::Ready(sources) => Some(sources),
            Phase::Starting | Phase::Stopping(_) => None,
        };
        self.desk.enter(Phase::Stopping(sources));
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread panicked");
        }
    }
}

/// Every path and who answers it.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<Desk>>)> {
    vec![
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
        ("/metrics", get(metrics::metrics)),
        ("/api/v1/openapi.json", get(api::openapi)),
        ("/api/v1/server", get(api::node::server)),
        ("/api/v1/shards", get(api::node::shards)),
        ("/api/v1/logs", get(api::node::logs)),
        ("/api/v1/configuration", get(api::node::configuration)),
        ("/api/v1/topics", get(api::topics::topics)),
        ("/api/v1/topics/{name}", get(api::topics::topic).delete(api::topic_deletion::delete)),
        ("/api/v1/topic-policies", get(api::topic_policies::topic_policies)),
        (
            "/api/v1/topic-policies/{pattern}",
            get(api::topic_policies::topic_policy)
                .patch(api::topic_policies::set)
                .delete(api::topic_policies::unset),
        ),
        (
            "/api/v1/subscriptions",
            get(api::subscriptions::subscriptions).post(api::operating::create),
        ),
        (
            "/api/v1/subscriptions/{name}",
            get(api::subscriptions::subscription).delete(api::subscriptions::delete),
        ),
        ("/api/v1/subscriptions/{name}/pause", post(api::operating::pause)),
        ("/api/v1/subscriptions/{name}/resume", post(api::operating::resume)),
        ("/api/v1/subscriptions/{name}/seek", post(api::operating::seek)),
        (
            "/api/v1/subscriptions/{name}/policy",
            get(api::delivery_policy::policy)
                .put(api::delivery_policy::set)
                .delete(api::delivery_policy::unset),
        ),
        ("/api/v1/dead-letters/{name}", get(api::dead_letters::browse)),
        ("/api/v1/dead-letters/{name}/redrive", post(api::dead_letters::redrive)),
        ("/api/v1/dead-letters/{name}/purge", post(api::dead_letters::purge)),
        ("/api/v1/parking/{name}", get(api::parking::browse)),
        ("/api/v1/connections", get(api::connections::connections)),
    ]
}

/// All paths. What is none of them is answered by a problem too.
fn router(desk: Arc<Desk>, access: Arc<Access>) -> Router {
    let add = |router: Router<Arc<Desk>>, (path, method)| router.route(path, method);
    let router = routes().into_iter().fold(Router::new(), add);
    router
        .fallback(|request: Request| async move {
            Problem::new(Code::NotFound, format!("there is nothing at {}", request.uri().path()))
        })
        .method_not_allowed_fallback(|| async { Problem::from(Code::MethodNotAllowed) })
        .layer(from_fn_with_state(access, check))
        .layer(DefaultBodyLimit::disable())
        .with_state(desk)
}

/// Refuses who may not ask and what is too large, and marks every answer as one of this moment.
async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let allowed = access.check(request.method(), request.uri().path(), request.headers());
    let checked = match allowed {
        Ok(()) => within_limits(request).await,
        Err(problem) => Err(problem),
    };
    let mut response = match checked {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let is_unknown = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    if is_unknown {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn within_limits(request: Request) -> Result<Request, Problem> {
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let bytes = bytes + request.uri().to_string().len();
    let too_large = |text| Err(Problem::new(Code::HeadersTooLarge, text));
    if headers.len() > HEADERS_MAX {
        let count = headers.len();
        return too_large(format!("there are {count} headers, at most {HEADERS_MAX} are allowed"));
    }
    if bytes > HEADER_BYTES_MAX {
        return too_large(format!(
            "path and headers have {bytes} bytes, at most {HEADER_BYTES_MAX} are allowed"
        ));
    }
    let announced = request.body().size_hint().lower();
    if announced > BODY_BYTES_MAX as u64 {
        return Err(Refusal::limit("bytes of the body", BODY_BYTES_MAX as u64, announced).into());
    }
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    let body = body.map_err(|_| Problem::from(Code::IdleTimeout))?.map_err(|_| {
        let text = format!("the body is cut short or has more than {BODY_BYTES_MAX} bytes");
        Problem::new(Code::LimitExceeded, text)
    })?;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Takes connections until it is told to stop.
async fn serve(
    listener: TcpListener,
    router: Router,
    idle_timeout: Duration,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin port cannot be served"),
    };
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let arrival = async {
            let seat = Arc::clone(&seats).acquire_owned().await;
            (seat.expect("it is never closed"), listener.accept().await)
        };
        let (seat, accepted) = tokio::select! {
            _ = &mut stopped => return,
            arrival = arrival => arrival,
        };
        match accepted {
            Ok((stream, peer)) => {
                let served = connection(stream, router.clone(), idle_timeout, seat);
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        debug!(%error, %peer, "an admin connection broke");
                    }
                });
            }
            Err(error) => {
                debug!(%error, "no connection could be taken");
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
        }
    }
}

/// One connection's life. The seat is given back when it is over.
async fn connection(
    stream: TcpStream,
    router: Router,
    idle_timeout: Duration,
    _seat: OwnedSemaphorePermit,
) -> Result<(), hyper::Error> {
    // A peer that does not take its answer is cut off by the kernel.
    let socket = socket2::SockRef::from(&stream);
    let limited = socket.set_tcp_user_timeout(Some(idle_timeout));
    if let Err(error) = limited.and_then(|()| socket.set_tcp_nodelay(true)) {
        debug!(%error, "an admin connection keeps the system's time-outs");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle_timeout);
    http.max_buf_size(READ_BYTES_MAX).max_headers(HEADERS_READ_MAX);
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that the document does not know cannot be found; one that only it knows cannot be used.
    #[test]
    fn document_has_every_path() {
        let document: serde_json::Value = serde_json::from_str(api::OPENAPI).unwrap();
        let mut described: Vec<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut served: Vec<&str> = routes().into_iter().map(|(path, _)| path).collect();
        described.sort_unstable();
        served.sort_unstable();
        assert_eq!(described, served);
    }
}
