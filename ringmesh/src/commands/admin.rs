//! The way to a server's admin port: one HTTP/1.1 request on a connection of its own, answered by JSON.

use std::cell::OnceCell;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use codec::refusal::{Code, Refusal};
use serde_json::Value;

use super::args::AdminArgs;
use super::contexts::{ADMIN, Address, find, read_token};
use super::failure::{Exit, Failure};

/// Most of an answer that is read: a page of the largest list is far below.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Items of a page of a list.
const PAGE_ITEMS: u64 = 1_000;
/// Events of a page, which come whole.
const PAGE_EVENTS: u64 = 200;

/// A list at a path of the API, and how much of it is wanted.
pub struct List<'a> {
    path: &'a str,
    page_items: u64,
    items_max: u64,
}

impl<'a> List<'a> {
    /// All of it.
    #[must_use]
    pub fn whole(path: &'a str) -> Self {
        List { path, page_items: PAGE_ITEMS, items_max: u64::MAX }
    }

    /// A list of events, of which at most `count` are wanted.
    #[must_use]
    pub fn events(path: &'a str, count: Option<u64>) -> Self {
        List { path, page_items: PAGE_EVENTS, items_max: count.unwrap_or(u64::MAX) }
    }
}

/// A server's admin port.
pub struct AdminPort<'a> {
    arguments: &'a AdminArgs,
    /// Found when it is first needed.
    target: OnceCell<Target>,
}

/// Where the port is.
struct Target {
    address: Address,
    /// A line of each request, or nothing.
    authorization: String,
}

impl Target {
    fn of(arguments: &AdminArgs) -> Result<Self, Failure> {
        let (flag, context) = (arguments.admin.as_deref(), arguments.context.as_deref());
        let address = find(&ADMIN, flag, context)?;
        let token_file = arguments.token_file.as_ref().or(address.token_file.as_ref());
        let authorization = match token_file {
            Some(path) => format!("authorization: Bearer {}\r\n", read_token(path)?),
            None => String::new(),
        };
        Ok(Target { address, authorization })
    }
}

impl<'a> AdminPort<'a> {
    /// The port that the command line names. Nothing is sent yet.
    #[must_use]
    pub fn new(arguments: &'a AdminArgs) -> Self {
        AdminPort { arguments, target: OnceCell::new() }
    }

    /// Asks for what is at a path of the API.
    ///
    /// # Errors
    /// The server cannot be reached, does not answer in time, or refuses.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.request("GET", path, None)
    }

    /// Changes what is at a path of the API.
    ///
    /// # Errors
    /// As [`AdminPort::get`].
    pub fn patch(&self, path: &str) -> Result<Value, Failure> {
        self.request("PATCH", path, None)
    }

    /// Deletes what is at a path of the API.
    ///
    /// # Errors
    /// As [`AdminPort::get`].
    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.request("DELETE", path, None)
    }

    /// Sets what is at a path of the API to what its query says.
    ///
    /// # Errors
    /// As [`AdminPort::get`].
    pub fn put(&self, path: &str) -> Result<Value, Failure> {
        self.request("PUT", path, None)
    }

    /// Sends something to a path of the API.
    ///
    /// # Errors
    /// As [`AdminPort::get`].
    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.request("POST", path, body)
    }

    /// Gives the items of a list to `visit`, page by page.
    ///
    /// # Errors
    /// As [`AdminPort::get`], or `visit` fails.
    pub fn each(
        &self,
        list: &List<'_>,
        mut visit: impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (mut left, mut place) = (list.items_max, String::new());
        while left > 0 {
            let limit = Some(left.min(list.page_items).to_string());
            let path = wishing(list.path.to_owned(), &[("limit", &limit)]);
            let page = self.get(&(path + &place))?;
            for item in page["items"].as_array().into_iter().flatten() {
                left = left.saturating_sub(1);
                visit(item)?;
            }
            let Some(next) = next_page(&page) else { break };
            place = next;
        }
        Ok(())
    }

    fn target(&self) -> Result<&Target, Failure> {
        if self.target.get().is_none() {
            let _ = self.target.set(Target::of(self.arguments)?);
        }
        Ok(self.target.get().expect("it was set a line ago"))
    }

    /// Where the port is, and who said so.
    ///
    /// # Errors
    /// The context that is asked for is not there, or has no such address.
    pub fn address(&self) -> Result<String, Failure> {
        Ok(self.target()?.address.to_string())
    }

    /// The metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// As [`AdminPort::get`].
    pub fn metrics(&self) -> Result<String, Failure> {
        let answer = self.ask("GET", "/metrics", None)?;
        let body = answer.split_once("\r\n\r\n").filter(|_| answer.starts_with("HTTP/1.1 200"));
        let (_, metrics) = body.ok_or_else(|| self.odd())?;
        Ok(metrics.to_owned())
    }

    /// Sends one request and reads its answer.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String, Failure> {
        let (target, patience) = (self.target()?, self.arguments.timeout);
        let Target { address, authorization } = target;
        let body = body.map(Value::to_string);
        let kind = if body.is_some() { "content-type: application/json\r\n" } else { "" };
        let body = body.unwrap_or_default();
        let (host, length) = (&address.text, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n{authorization}{kind}\
             content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        exchange(&address.text, patience, &request)
            .map_err(|error| unreachable(address, patience, &error))
    }

    /// What answers is something else.
    fn odd(&self) -> Failure {
        let address = self.target.get().map(|target| target.address.to_string());
        let address = address.unwrap_or_default();
        Failure::new(
            Exit::Failed,
            format!("what answers at {address} is no admin port of Ringmesh"),
            "the ready line and addresses.json say where a server's admin port is",
        )
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.ask(method, &format!("/api/v1/{path}"), body)?;
        let odd = || self.odd();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(odd)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        let body: Value = serde_json::from_str(body).map_err(|_| odd())?;
        match status {
            Some(200..300) => Ok(body),
            _ => Err(refusal(&body).map_or_else(odd, |refusal| Failure::refused(&refusal))),
        }
    }
}

/// Where the next page begins, and until when things count for it if the page says so; none at the end.
#[must_use]
pub fn next_page(page: &Value) -> Option<String> {
    let next = encoded(page["next"].as_str()?);
    let until = page["until_us"].as_u64().map(|until| format!("&until_us={until}"));
    Some(format!("&after={next}{}", until.unwrap_or_default()))
}

/// A path with what was wished for in its query.
#[must_use]
pub fn wishing(path: String, wishes: &[(&str, &Option<String>)]) -> String {
    let given = wishes.iter().filter_map(|(name, wish)| Some((name, wish.as_ref()?)));
    given.fold(path, |path, (name, wish)| {
        let mark = if path.contains('?') { '&' } else { '?' };
        format!("{path}{mark}{name}={}", encoded(wish))
    })
}

/// A name as it stands in a path or a query.
#[must_use]
pub fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The refusal that a problem tells.
fn refusal(problem: &Value) -> Option<Refusal> {
    let number = u16::try_from(problem["number"].as_u64()?).ok()?;
    Some(Refusal::new(Code::from_number(number)?, problem["detail"].as_str().unwrap_or_default()))
}

/// Sends the request and reads the answer to its end, which the server says by closing.
fn exchange(address: &str, patience: Duration, request: &str) -> io::Result<String> {
    let until = Instant::now() + patience;
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut error = io::Error::new(io::ErrorKind::InvalidInput, "not of the form HOST:PORT");
    for address in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => stream,
            Err(refused) => {
                error = refused;
                continue;
            }
        };
        stream.set_write_timeout(Some(left()?))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 16 << 10];
        while (answer.len() as u64) < ANSWER_BYTES_MAX {
            stream.set_read_timeout(Some(left()?))?;
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
                // Who was stopped and goes on (^Z, fg) finds a read that has a time-out interrupted.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        return String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into());
    }
    Err(error)
}

fn unreachable(address: &Address, patience: Duration, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::new(
            Exit::TimedOut,
            format!("the admin port at {address} did not answer within {patience:?}"),
            "look at the server's log, or wait longer with --timeout",
        ),
        io::ErrorKind::InvalidInput => Failure::new(
            Exit::Unreachable,
            format!("{:?} ({}) is no address of the form HOST:PORT", address.text, address.origin),
            "give one with --admin, such as --admin 127.0.0.1:10106",
        ),
        _ => Failure::new(
            Exit::Unreachable,
            format!("no admin port answers at {address}: {error}"),
            address.advice("--admin"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with a slash, a question mark or a percent sign must come to the server as it is.
    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("a/b c?d%e&f#\u{e9}~"), "a%2Fb%20c%3Fd%25e%26f%23%C3%A9~");
        assert_eq!(encoded("$ephemeral/4"), "%24ephemeral%2F4");
    }

    /// A page that forgets until when things count would tell what came meanwhile, without end.
    #[test]
    fn a_next_page_counts_until_the_same_time() {
        let page = |page| next_page(&page);
        assert_eq!(page(serde_json::json!({"next": "a/b"})), Some("&after=a%2Fb".into()));
        let timed = serde_json::json!({"next": "0-1", "until_us": 7});
        assert_eq!(page(timed), Some("&after=0-1&until_us=7".into()));
        assert_eq!(page(serde_json::json!({"next": null, "until_us": 7})), None);
        let (topic, id) = (Some("a/#".to_owned()), Some("&".to_owned()));
        let wishes = [("topic", &topic), ("key", &None), ("id", &id)];
        assert_eq!(wishing("parking/g".to_owned(), &wishes), "parking/g?topic=a%2F%23&id=%26");
    }

    /// A refusal of a later server must not pass for success, and one of this table keeps its exit code.
    #[test]
    fn problems_are_refusals() {
        let problem = serde_json::json!({"number": 201, "detail": "why"});
        let refusal = refusal(&problem).unwrap();
        assert_eq!((refusal.code, &*refusal.text), (Code::Unavailable, "why"));
        assert!(super::refusal(&serde_json::json!({"number": 9999})).is_none());
    }
}
