//! Who may ask. A port on loopback trusts whoever is on the machine, but not what a browser there was lured into sending: a
//! name that was bound to 127.0.0.1 by somebody else is not this server's, and pages of other sites may order nothing.
//! With a token, only who has it may ask for more than health.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use axum::http::{HeaderMap, Method, header};
use codec::refusal::Code;

use crate::problem::Problem;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4_096;
/// Paths that need no token, for what restarts processes and sends them work knows none.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Who may ask.
#[derive(Debug, Default)]
pub struct Access {
    /// Names of this server, beside `localhost` and every address.
    pub hosts: Vec<String>,
    /// Whether requests to other names are refused.
    pub is_strict: bool,
    /// What who asks must have.
    pub token: Option<Token>,
}

/// A secret that is told to nobody.
pub struct Token(Vec<u8>);

impl Token {
    /// Reads the one line of a file.
    ///
    /// # Errors
    /// The file cannot be read, is too long, or does not hold one line of visible characters.
    pub fn read(path: &Path) -> io::Result<Token> {
        let mut text = Vec::new();
        let limit = TOKEN_BYTES_MAX as u64 + 2;
        std::fs::File::open(path)?.take(limit).read_to_end(&mut text)?;
        let token = text.trim_ascii_end();
        let is_visible = token.iter().all(u8::is_ascii_graphic);
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !is_visible {
            let why = format!(
                "the file does not hold one line of 1 to {TOKEN_BYTES_MAX} visible characters without spaces"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Token(token.to_vec()))
    }

    /// Whether it is this one; takes as long for any of the same length.
    fn is(&self, other: &[u8]) -> bool {
        let pairs = self.0.iter().zip(other);
        let differs = pairs.fold(0, |differs, (one, other)| differs | (one ^ other));
        self.0.len() == other.len() && differs == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Access {
    /// Whether a request may be answered, or why not.
    pub(crate) fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        let host = text_of(headers, header::HOST);
        if let Some(host) = host.filter(|host| self.is_strict && !self.is_ours(host)) {
            let text = format!("{host:?} is no name of this server; admin.hosts lists more");
            return Err(Problem::new(Code::ForeignHost, text));
        }
        let origin = text_of(headers, header::ORIGIN);
        if let Some(origin) = origin.filter(|_| !matches!(*method, Method::GET | Method::HEAD)) {
            let from = origin.split_once("://").map(|(_, from)| from);
            if from.is_none() || from != host {
                let text = format!("a page of {origin:?} may order nothing here");
                return Err(Problem::new(Code::ForeignOrigin, text));
            }
        }
        let Some(token) = self.token.as_ref().filter(|_| !OPEN_PATHS.contains(&path)) else {
            return Ok(());
        };
        let given = headers.get(header::AUTHORIZATION).map(|given| given.as_bytes());
        let given = given.and_then(|given| given.split_at_checked(7));
        match given {
            Some((kind, given)) if kind.eq_ignore_ascii_case(b"bearer ") && token.is(given) => {
                Ok(())
            }
            _ => Err(Problem::new(Code::Unauthenticated, "send `authorization: Bearer TOKEN`")),
        }
    }

    /// Whether a host header names this server. An address is always: nobody can bind one to another.
    fn is_ours(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|ours| name.eq_ignore_ascii_case(ours))
    }
}

/// A header; what is no text is the empty one.
fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(
        access: &Access,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        access.check(&method, path, &map).err().map(|problem| problem.0.code)
    }

    /// A page that was opened in a browser on the server's machine must not reach the admin port by a name of its own, nor
    /// order anything by ours.
    #[test]
    fn browsers_are_not_lured() {
        let access =
            Access { hosts: vec!["mesh.example".to_owned()], is_strict: true, token: None };
        let get = |host| asked(&access, Method::GET, "/metrics", &[("host", host)]);
        for ours in [
            "127.0.0.1:10106",
            "127.0.0.1",
            "[::1]:10106",
            "10.0.0.7:1",
            "LocalHost:80",
            "mesh.example",
            "mesh.example:443",
        ] {
            assert_eq!(get(ours), None, "{ours}");
        }
        for foreign in [
            "",
            "evil.example:10106",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[evil]:1",
            "mesh.example.evil",
        ] {
            assert_eq!(get(foreign), Some(Code::ForeignHost), "{foreign}");
        }
        let open = Access::default();
        assert_eq!(asked(&open, Method::GET, "/metrics", &[("host", "any.example")]), None);
        let post = |origin| {
            let headers = [("host", "localhost:10106"), ("origin", origin)];
            asked(&access, Method::POST, "/api/v1/subscriptions/a/pause", &headers)
        };
        assert_eq!(post("http://localhost:10106"), None);
        for foreign in ["null", "http://evil.example", "http://localhost:8080", ""] {
            assert_eq!(post(foreign), Some(Code::ForeignOrigin), "{foreign}");
        }
    }

    /// A token that is nearly right, or that is asked for where nobody can give one, is as bad as none.
    #[test]
    fn tokens_are_asked_for() {
        let folder = std::env::temp_dir().join(format!("ringmesh-token-{}", std::process::id()));
        std::fs::write(&folder, "s3cret\n").unwrap();
        let token = Token::read(&folder).unwrap();
        assert_eq!(format!("{token:?}"), "Token(..)", "it is in no log");
        let access = Access { token: Some(token), ..Access::default() };
        let get = |path, given| asked(&access, Method::GET, path, &[("authorization", given)]);
        assert_eq!(get("/metrics", "Bearer s3cret"), None);
        assert_eq!(get("/metrics", "bearer s3cret"), None);
        for wrong in
            ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret1", "Basic s3cret"]
        {
            assert_eq!(get("/metrics", wrong), Some(Code::Unauthenticated), "{wrong:?}");
        }
        assert_eq!(asked(&access, Method::GET, "/readyz", &[]), None);
        assert_eq!(asked(&access, Method::GET, "/api/v1/server", &[]), Some(Code::Unauthenticated));
        for wrong in ["", "\n", "two words", "two\nlines", "\u{e9}"] {
            std::fs::write(&folder, wrong).unwrap();
            assert!(Token::read(&folder).is_err(), "{wrong:?}");
        }
        std::fs::write(&folder, "x".repeat(TOKEN_BYTES_MAX + 1)).unwrap();
        assert!(Token::read(&folder).is_err());
        std::fs::remove_file(&folder).unwrap();
    }
}
