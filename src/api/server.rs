//! The listeners and the routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpServer, Resource, web};

use lanrage_actors::game_watch::folder::DiskFolder;

use super::ApiState;
use super::error::{Problem, from_json};
use super::files::{ApiFiles, Token};
use super::guard::{Ends, Guard, middleware};
use super::{handlers, profiles};

/// Largest request body, bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const SHUTDOWN_SECONDS: u64 = 1;

/// Why the API did not start; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "port {port} is already in use, so the API cannot listen on {address}. If that is another LANrage, stop it first; if it is another program, choose a free port: lanrage up --api {ip}:{other}"
    )]
    Occupied { address: SocketAddr, port: u16, ip: String, other: u16 },
    #[error("{0} can be reached from other computers; the API listens on addresses like 127.0.0.1 only")]
    NotLoopback(SocketAddr),
    #[error("the API cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the API's files cannot be written to {path}: {source}")]
    Files { path: String, source: io::Error },
    #[error("the API could not be started: {0}")]
    Start(io::Error),
}

/// Ports taken, nothing answered yet.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
}

/// The API answers until this is stopped. Dropping it removes the token.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    handle: ServerHandle,
    _files: ApiFiles,
}

pub(super) fn bind(address: SocketAddr) -> Result<Bound, ApiError> {
    if !address.ip().is_loopback() {
        return Err(ApiError::NotLoopback(address));
    }
    let listener = TcpListener::bind(address).map_err(|source| failure(address, source))?;
    let address = listener.local_addr().map_err(|source| failure(address, source))?;
    let mut listeners = vec![listener];
    if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        // Browsers try [::1] first for `localhost`.
        let sixth = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), address.port());
        match TcpListener::bind(sixth) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(%sixth, "another program listens there; use {address}, not localhost");
            }
            Err(error) => tracing::debug!(%sixth, %error, "the API is not reachable by IPv6"),
        }
    }
    Ok(Bound { address, listeners })
}

fn failure(address: SocketAddr, source: io::Error) -> ApiError {
    if source.kind() != io::ErrorKind::AddrInUse {
        return ApiError::Listen { address, source };
    }
    let port = address.port();
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let other = port.checked_add(1).unwrap_or(port - 1);
    ApiError::Occupied { address, port, ip, other }
}

impl Bound {
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Write token and address to `data_dir` and answer from now on, on a thread of the server's own. To be called
    /// within an actix system; signals are left to the caller.
    ///
    /// # Errors
    /// When the files cannot be written, or the thread cannot be started.
    pub fn start(self, state: ApiState, data_dir: &Path) -> Result<Running, ApiError> {
        let address = self.address;
        let in_folder = |source| ApiError::Files { path: data_dir.display().to_string(), source };
        let token = Token::generate().map_err(in_folder)?;
        let guard = web::Data::new(Guard::new(address, token.clone(), Instant::now()));
        let profiles = profiles::Profiles::new(DiskFolder::of_data(data_dir));
        let state = web::Data::new(Shared { state, address, profiles });
        let mut server = HttpServer::new(move || {
            App::new().app_data(guard.clone()).app_data(state.clone()).configure(routes).wrap(from_fn(middleware))
        })
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(HEADER_TIMEOUT)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals()
        .on_connect(|connection, data| {
            if let Some(stream) = connection.downcast_ref::<TcpStream>()
                && let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr())
            {
                data.insert(Ends { local, peer });
            }
        });
        for listener in self.listeners {
            server = server.listen(listener).map_err(ApiError::Start)?;
        }
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the API has ended");
            }
        });
        let files = ApiFiles::write(data_dir, &token, address).map_err(in_folder)?;
        Ok(Running { address, handle, _files: files })
    }
}

impl Running {
    /// With the port that was taken when 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Let requests that are running end (1 s at most), then close.
    pub async fn stop(self) {
        self.handle.stop(true).await;
    }
}

/// What the handlers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: ApiState,
    pub(super) address: SocketAddr,
    pub(super) profiles: profiles::Profiles,
}

fn routes(config: &mut web::ServiceConfig) {
    let json = web::JsonConfig::default().limit(MAX_BODY).error_handler(|error, _| from_json(&error).into());
    let query = web::QueryConfig::default().error_handler(|error, _| {
        Problem::bad_request(format!("the question is not one of the API's: {error}")).into()
    });
    config
        .app_data(json)
        .app_data(query)
        .service(at("/api/v1/status").route(web::get().to(handlers::status)))
        .service(at("/api/v1/peers").route(web::get().to(handlers::peers)))
        .service(at("/api/v1/broadcast").route(web::get().to(handlers::broadcast)))
        .service(at("/api/v1/bridge").route(web::get().to(handlers::bridge)))
        .service(at("/api/v1/peers/{peer}/redundancy").route(web::put().to(handlers::redundancy)))
        .service(at("/api/v1/games").route(web::get().to(handlers::games)))
        .service(at("/api/v1/events").route(web::get().to(handlers::events)))
        .service(at("/api/v1/profiles").route(web::get().to(profiles::list)))
        .service(
            at("/api/v1/profiles/{id}").route(web::put().to(profiles::put)).route(web::delete().to(profiles::delete)),
        )
        .service(at("/api/v1/servers").route(web::get().to(handlers::servers)))
        .service(at("/api/v1/servers/hosted").route(web::put().to(handlers::hosted)))
        .service(at("/api/v1/party").route(web::get().to(handlers::party)))
        .service(at("/api/v1/parties").route(web::get().to(handlers::parties)))
        .service(at("/api/v1/netcheck").route(web::get().to(handlers::netcheck)))
        .service(at("/api/v1/doctor").route(web::get().to(handlers::doctor)))
        .service(at("/api/v1/party/create").route(web::post().to(handlers::create)))
        .service(at("/api/v1/party/join").route(web::post().to(handlers::join)))
        .service(at("/api/v1/party/leave").route(web::post().to(handlers::leave)))
        .service(at("/api/v1/party/kick").route(web::post().to(handlers::kick)))
        .service(at("/api/v1/ping").route(web::post().to(handlers::ping)))
        .default_service(web::to(|| async {
            Err::<&str, _>(Problem::new(StatusCode::NOT_FOUND, "not_found", "the API has nothing under this address"))
        }));
}

fn at(path: &'static str) -> Resource {
    web::resource(path).default_service(web::to(|| async {
        let message = "this address does not take that method";
        Err::<&str, _>(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message))
    }))
}
