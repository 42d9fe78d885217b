//! Who may ask. Every request passes here before routing.
//!
//! Against web pages: a page of another site cannot set the token, and is refused by `Origin` and `Sec-Fetch-Site` if
//! it tries; a name that was rebound to 127.0.0.1 is refused by `Host`. Against other users: the token. Against other
//! machines: the addresses of the connection.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};

use super::error::Problem;
use super::files::Token;
use super::server::MAX_BODY;

/// Failed tokens that may come at once, and per second after that.
const FAILURE_BURST: f64 = 10.0;
const FAILURES_PER_SECOND: f64 = 1.0;

/// Both ends of a TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// The rules, with the lists that hold for every listener, fixed at start.
#[derive(Debug)]
pub(super) struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
    token: Token,
    failures: Mutex<FailureLimiter>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Token, now: Instant) -> Self {
        let port = address.port();
        let mut names = vec!["127.0.0.1".to_owned(), "[::1]".to_owned(), "localhost".to_owned()];
        // Another loopback address such as 127.0.0.2 that the user chose.
        let own = SocketAddr::new(address.ip(), 0).to_string();
        let own = own.trim_end_matches(":0").to_owned();
        if !names.contains(&own) {
            names.push(own);
        }
        let mut hosts: Vec<String> = names.iter().map(|name| format!("{name}:{port}")).collect();
        if port == 80 {
            hosts.extend(names);
        }
        let origins = hosts.iter().map(|host| format!("http://{host}")).collect();
        Self { hosts, origins, token, failures: Mutex::new(FailureLimiter::new(now)) }
    }

    /// # Errors
    /// The first rule that the request breaks.
    pub(super) fn judge(
        &self,
        ends: Option<Ends>,
        method: &Method,
        target_host: Option<&str>,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<(), Problem> {
        let forbidden = |code, message| Err(Problem::new(StatusCode::FORBIDDEN, code, message));
        if !ends.is_some_and(|ends| ends.local.ip().is_loopback() && ends.peer.ip().is_loopback()) {
            return forbidden("not_local", "the API answers this computer only");
        }
        // The host in an absolute request target overrules the header (RFC 9112, 3.2.2), so both must be ours.
        let host = single(headers, &header::HOST);
        if !matches!(host, One(host) if self.is_ours(host)) || !target_host.is_none_or(|host| self.is_ours(host)) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "wrong_host",
                "ask for 127.0.0.1, [::1] or localhost with the port of the API",
            ));
        }
        match single(headers, &header::ORIGIN) {
            Absent => {}
            One(origin) if self.origins.iter().any(|known| known == origin) => {}
            One(_) | Unusable => return forbidden("wrong_origin", "requests of other web sites are not answered"),
        }
        match single(headers, &HeaderName::from_static("sec-fetch-site")) {
            Absent | One("same-origin" | "none") => {}
            One(_) | Unusable => return forbidden("cross_site", "requests of other web sites are not answered"),
        }
        if method != Method::GET && method != Method::HEAD {
            let kind = match single(headers, &header::CONTENT_TYPE) {
                One(kind) => kind.split(';').next().unwrap_or_default().trim(),
                Absent | Unusable => "",
            };
            if !kind.eq_ignore_ascii_case("application/json") {
                let message = "changes need the header Content-Type: application/json";
                return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
            }
            if !matches!(single(headers, &HeaderName::from_static("x-lanrage")), One("1")) {
                return forbidden("missing_header", "changes need the header X-Lanrage: 1");
            }
        }
        self.check_token(headers, now)?;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_BODY) {
            return Err(Problem::too_large());
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    /// The limit is on failures only: the token has 256 bits, so guessing is hopeless at any rate, and locking the
    /// right token out would let any program on this computer cut the user off.
    fn check_token(&self, headers: &HeaderMap, now: Instant) -> Result<(), Problem> {
        let presented = match single(headers, &header::AUTHORIZATION) {
            One(value) => value.strip_prefix("Bearer ").unwrap_or_default(),
            Absent | Unusable => "",
        };
        if self.token.matches(presented.as_bytes()) {
            return Ok(());
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.admit(now) {
            let message = "too many requests with a wrong token; wait a second";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", message));
        }
        let message = "the token is missing or wrong; it is in the file api.token in the data folder";
        Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong_token", message))
    }
}

/// A header that must not come twice.
enum Single<'a> {
    Absent,
    One(&'a str),
    /// More than one, or not text.
    Unusable,
}
use Single::{Absent, One, Unusable};

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Single<'a> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Absent,
        (Some(value), None) => value.to_str().map_or(Unusable, One),
        (Some(_), Some(_)) => Unusable,
    }
}

/// A token bucket.
#[derive(Debug)]
struct FailureLimiter {
    budget: f64,
    refilled: Instant,
}

impl FailureLimiter {
    fn new(now: Instant) -> Self {
        Self { budget: FAILURE_BURST, refilled: now }
    }

    fn admit(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now.max(self.refilled);
        self.budget = (self.budget + elapsed * FAILURES_PER_SECOND).min(FAILURE_BURST);
        let admitted = self.budget >= 1.0;
        if admitted {
            self.budget -= 1.0;
        }
        admitted
    }
}

/// The guard as actix-web's outermost layer; also puts the headers on every answer.
pub(super) async fn middleware<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let verdict = match request.app_data::<web::Data<Guard>>() {
        Some(guard) => guard.judge(
            request.conn_data::<Ends>().copied(),
            request.method(),
            request.uri().authority().map(actix_web::http::uri::Authority::as_str),
            request.headers(),
            Instant::now(),
        ),
        None => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no_guard", "the API was started without rules")),
    };
    let mut response = match verdict {
        Ok(()) => next.call(request).await?.map_into_boxed_body(),
        Err(problem) => {
            tracing::debug!(code = problem.code, method = %request.method(), "API request refused");
            request.into_response(problem.error_response())
        }
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn failures_are_limited_and_forgiven() {
        let start = Instant::now();
        let mut limiter = FailureLimiter::new(start);
        assert_eq!((0..100).filter(|_| limiter.admit(start)).count(), 10);
        assert!(!limiter.admit(start + Duration::from_millis(900)));
        assert!(limiter.admit(start + Duration::from_millis(1100)));
        assert_eq!((0..100).filter(|_| limiter.admit(start + Duration::from_secs(3600))).count(), 10);
    }

    #[test]
    fn only_connections_within_this_computer() {
        let token = Token::generate().unwrap();
        let text = format!("Bearer {}", token.text());
        let now = Instant::now();
        let guard = Guard::new("127.0.0.1:8666".parse().unwrap(), token, now);
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("LOCALHOST:8666"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&text).unwrap());
        let judge = |local: &str, peer: &str| {
            let ends = Ends { local: local.parse().unwrap(), peer: peer.parse().unwrap() };
            guard.judge(Some(ends), &Method::GET, None, &headers, now).map_err(|problem| problem.code)
        };
        assert_eq!(judge("127.0.0.1:8666", "127.0.0.1:50000"), Ok(()));
        assert_eq!(judge("[::1]:8666", "[::1]:50000"), Ok(()));
        assert_eq!(judge("10.66.1.2:8666", "10.66.1.2:50000"), Err("not_local"));
        assert_eq!(judge("127.0.0.1:8666", "10.66.1.3:50000"), Err("not_local"));
        let unknown = guard.judge(None, &Method::GET, None, &headers, now);
        assert_eq!(unknown.map_err(|problem| problem.code), Err("not_local"));
    }

    #[test]
    fn the_lists_are_fixed_at_start() {
        let guard = |address: &str| Guard::new(address.parse().unwrap(), Token::generate().unwrap(), Instant::now());
        let usual = guard("127.0.0.1:8666");
        assert_eq!(usual.hosts, ["127.0.0.1:8666", "[::1]:8666", "localhost:8666"]);
        assert_eq!(usual.origins[1], "http://[::1]:8666");
        assert_eq!(guard("[::1]:9").hosts.len(), 3);
        assert!(guard("127.0.0.2:9").is_ours("127.0.0.2:9"));
        assert!(guard("127.0.0.1:80").is_ours("localhost"));
        for foreign in ["127.0.0.1", "127.0.0.1:8667", "evil.example:8666", "localhost.evil.example:8666", "", "[::1]"]
        {
            assert!(!usual.is_ours(foreign), "{foreign}");
        }
    }
}
