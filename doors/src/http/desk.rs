//! Between hyper and the session. hyper calls [`Desk`] for each request; what comes back waits until the whole request is
//! there, puts it on the [`Floor`], and takes the answer from there when the session has one.
//!
//! Only the session has the shard, so nothing is done here but waiting.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use codec::problem::Problem;
use codec::refusal::Code;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;

use super::Shared;
use super::answers::{self, Caller};
use super::rising::Rising;
use super::routes::{self, Route};

/// A request that is all there.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) route: Route,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) caller: Caller,
}

/// A request being received.
#[derive(Clone, Copy, Debug)]
struct Gathering {
    /// Bytes of the body so far.
    has: usize,
    /// Bytes that it will have at least.
    whole: usize,
    /// When its head came; monotonic microseconds.
    since_us: u64,
}

/// A request that has no answer yet.
#[derive(Debug, Default)]
struct Exchange {
    gathering: Option<Gathering>,
    answer: Option<Response<AnswerBody>>,
    caller: Caller,
    waker: Option<Waker>,
}

/// The requests of one connection, as hyper's side and the session's see them. Numbers are never given twice.
#[derive(Debug, Default)]
pub(super) struct Floor {
    exchanges: Rising<Exchange>,
    /// Whole requests that the session has not looked at.
    arrived: VecDeque<(u64, Order)>,
    /// Requests whose client has gone, or has taken all of its stream that it will.
    left: Vec<u64>,
    /// Requests so far.
    served: u64,
    /// The time, as the session knows it; monotonic microseconds.
    pub(super) now_us: u64,
}

impl Floor {
    /// The next whole request.
    pub(super) fn next_order(&mut self) -> Option<(u64, Order)> {
        self.arrived.pop_front()
    }

    /// Requests that nobody waits for any more.
    pub(super) fn take_left(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.left)
    }

    /// Gives back what no request needs.
    pub(super) fn trim(&mut self) {
        self.exchanges.trim();
        self.arrived.shrink_to_fit();
    }

    /// Requests so far.
    pub(super) fn served(&self) -> u64 {
        self.served
    }

    /// Answers a request, unless its client has gone.
    pub(super) fn answer(&mut self, id: u64, response: Response<AnswerBody>) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.answer = Some(response);
            if let Some(waker) = exchange.waker.take() {
                waker.wake();
            }
        }
    }

    /// Bytes of bodies that are being received: here, and in all.
    pub(super) fn gathering_bytes(&self) -> (usize, usize) {
        let gathering = self.exchanges.iter().filter_map(|(_, exchange)| exchange.gathering);
        gathering.fold((0, 0), |(has, whole), one| (has + one.has, whole + one.whole))
    }

    /// Answers requests whose body has taken too long.
    pub(super) fn give_up_slow(&mut self, since_end_us: u64) {
        let is_slow = |exchange: &Exchange| {
            exchange.gathering.is_some_and(|gathering| gathering.since_us <= since_end_us)
        };
        let slow = self.exchanges.iter().filter(|(_, exchange)| is_slow(exchange));
        let slow: Vec<(u64, Caller)> =
            slow.map(|(id, exchange)| (id, exchange.caller.clone())).collect();
        for (id, caller) in slow {
            let problem = Problem::of("body", Code::IdleTimeout, "the body took too long to come");
            self.answer(id, answers::problem(&problem, &caller));
        }
    }
}

/// How many requests are between their head and the end of their answer.
pub(super) type Open = Rc<Cell<u32>>;

/// Counts one of them.
#[derive(Debug)]
pub(super) struct Stay(Open);

impl Stay {
    fn begin(open: &Open) -> Stay {
        open.set(open.get() + 1);
        Stay(open.clone())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        assert!(self.0.get() > 0, "a request ends once");
        self.0.set(self.0.get() - 1);
    }
}

/// What hyper calls with each request.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) floor: Rc<RefCell<Floor>>,
    pub(super) open: Open,
    pub(super) shared: Arc<Shared>,
}

impl Service<Request<Incoming>> for Desk {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Serving;

    fn call(&self, request: Request<Incoming>) -> Serving {
        let (head, body) = request.into_parts();
        let caller = Caller::of(&head, &self.shared.options.cors);
        let announced = body.size_hint().lower();
        let stay = Stay::begin(&self.open);
        let mut floor = self.floor.borrow_mut();
        floor.served += 1;
        let (id, since_us) = (floor.served, floor.now_us);
        let limit = self.shared.options.body_bytes_max as usize;
        let mut exchange = Exchange { caller: caller.clone(), ..Exchange::default() };
        let mut wanted = None;
        match routes::route(&head, announced, limit, &caller) {
            Err(no) => exchange.answer = Some(*no),
            Ok(route) => {
                let whole = usize::try_from(announced).unwrap_or(limit);
                exchange.gathering = Some(Gathering { has: 0, whole, since_us });
                let order = Order { route, headers: head.headers, body: Vec::new(), caller };
                wanted = Some((body, order));
            }
        }
        floor.exchanges.insert(id, exchange);
        drop(floor);
        Serving { floor: self.floor.clone(), id, wanted, limit, stay: Some(stay) }
    }
}

/// One request until its answer begins.
#[derive(Debug)]
pub(super) struct Serving {
    floor: Rc<RefCell<Floor>>,
    id: u64,
    /// The rest of the body, and what there is of the request; `None` once it is whole.
    wanted: Option<(Incoming, Order)>,
    limit: usize,
    stay: Option<Stay>,
}

impl Serving {
    /// Receives the body. A problem if it is not as it must be.
    fn gather(&mut self, context: &mut Context<'_>) -> Option<Problem> {
        let Serving { floor, id, wanted, limit, .. } = self;
        let (body, order) = wanted.as_mut()?;
        loop {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending => return None,
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers say nothing here.
                    let Ok(data) = frame.into_data() else { continue };
                    let bytes = order.body.len() + data.len();
                    if bytes > *limit {
                        return Some(body_limit(*limit, bytes as u64));
                    }
                    order.body.extend_from_slice(&data);
                    note_bytes(floor, *id, bytes);
                }
                Poll::Ready(Some(Err(_))) => {
                    let detail = "the body is cut short or not as its headers say";
                    return Some(Problem::of("body", Code::MalformedRequest, detail));
                }
                Poll::Ready(None) => break,
            }
        }
        let (_, order) = wanted.take()?;
        let mut floor = floor.borrow_mut();
        if let Some(exchange) = floor.exchanges.get_mut(*id) {
            exchange.gathering = None;
        }
        floor.arrived.push_back((*id, order));
        None
    }

    /// The answer, if there is one.
    fn take_answer(&mut self) -> Option<Response<AnswerBody>> {
        let mut floor = self.floor.borrow_mut();
        let answer = floor.exchanges.get_mut(self.id)?.answer.take()?;
        floor.exchanges.remove(self.id);
        drop(floor);
        let stay = self.stay.take();
        Some(answer.map(|body| AnswerBody { content: body.content, _stay: stay }))
    }
}

fn note_bytes(floor: &RefCell<Floor>, id: u64, bytes: usize) {
    let mut floor = floor.borrow_mut();
    let exchange = floor.exchanges.get_mut(id);
    if let Some(gathering) = exchange.and_then(|exchange| exchange.gathering.as_mut()) {
        gathering.has = bytes;
        gathering.whole = gathering.whole.max(bytes);
    }
}

impl Future for Serving {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(answer) = self.take_answer() {
            return Poll::Ready(Ok(answer));
        }
        if let Some(problem) = self.gather(context) {
            self.wanted = None;
            let mut floor = self.floor.borrow_mut();
            let id = self.id;
            let caller = floor.exchanges.get(id).map(|exchange| exchange.caller.clone());
            floor.answer(id, answers::problem(&problem, &caller.unwrap_or_default()));
            drop(floor);
            if let Some(answer) = self.take_answer() {
                return Poll::Ready(Ok(answer));
            }
        }
        if let Some(exchange) = self.floor.borrow_mut().exchanges.get_mut(self.id) {
            exchange.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Serving {
    /// Without an answer it is the client who has gone.
    fn drop(&mut self) {
        if self.stay.is_some()
            && let Ok(mut floor) = self.floor.try_borrow_mut()
        {
            floor.exchanges.remove(self.id);
            floor.left.push(self.id);
        }
    }
}

/// The refusal of a body that is too large.
pub(super) fn body_limit(limit: usize, value: u64) -> Problem {
    Problem::limit("bytes of the body", limit as u64, value)
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct AnswerBody {
    content: Content,
    /// The request is open as long as its answer is.
    _stay: Option<Stay>,
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Stream { channel: Rc<RefCell<Channel>>, floor: Rc<RefCell<Floor>>, id: u64 },
}

/// What a stream says next; the session puts it in, hyper takes it out.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    is_over: bool,
    waker: Option<Waker>,
}

impl Channel {
    /// Adds a piece. The caller looks at [`Channel::len`] first.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
        self.wake();
    }

    /// Bytes that hyper has not taken.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl AnswerBody {
    /// All of it.
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        AnswerBody { content: Content::Whole(Some(bytes.into())), _stay: None }
    }

    /// Piece by piece. When the client has gone, the floor is told that request `id` is.
    pub(super) fn stream(
        channel: Rc<RefCell<Channel>>,
        floor: Rc<RefCell<Floor>>,
        id: u64,
    ) -> Self {
        AnswerBody { content: Content::Stream { channel, floor, id }, _stay: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Whole(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Content::Stream { channel, .. } => {
                let mut channel = channel.borrow_mut();
                if let Some(piece) = channel.pieces.pop_front() {
                    channel.bytes -= piece.len();
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                if channel.is_over {
                    return Poll::Ready(None);
                }
                channel.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Content::Stream { channel, .. } => {
                let channel = channel.borrow();
                channel.is_over && channel.pieces.is_empty()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Stream { .. } => SizeHint::default(),
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Content::Stream { floor, id, .. } = self
            && let Ok(mut floor) = floor.try_borrow_mut()
        {
            floor.left.push(*id);
        }
    }
}
