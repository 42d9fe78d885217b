//! Finding the running node and talking to it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lanrage_actors::wire::Ipv4Range;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::typestate::WithBody;

use super::args::NodeArgs;
use crate::api::{ADDRESS_FILE, TOKEN_FILE};
use crate::config::{Config, Layer, Places};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For answers that wait for nobody else; the node gives up before.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// Where a node that root runs has its data.
const ROOT_DATA: &str = "/var/lib/lanrage";

/// Why a request has no answer. `message` says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    NotRunning,
    NoToken,
    /// The node answered, with this code of its own.
    Refused(String),
    Broken,
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.message
    }
}

#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    data_dir: PathBuf,
    range: Ipv4Range,
    tun: String,
    agent: ureq::Agent,
}

impl Client {
    /// # Errors
    /// When the configuration is unusable.
    pub(super) fn new(args: &NodeArgs, places: &Places) -> Result<Self, String> {
        let flags = Layer { api: args.api.clone(), data_dir: args.data_dir.clone(), ..Layer::default() };
        let config = Config::load(args.config.as_deref(), flags, false, places).map_err(|error| error.0)?;
        let written = std::fs::read_to_string(config.data_dir.join(ADDRESS_FILE)).ok();
        let written =
            written.and_then(|text| text.trim().parse::<SocketAddr>().ok()).filter(|at| at.ip().is_loopback());
        // Port 0 says what the node may take, not where it is.
        let given = args.api.as_ref().map(|given| given.0).filter(|given| given.port() != 0);
        let address = given.or(written).unwrap_or(config.api);
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A proxy from the environment must not see the token.
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build()
            .new_agent();
        Ok(Self { address, data_dir: config.data_dir, range: config.range, tun: config.tun, agent })
    }

    /// The range of parties that a node with this configuration creates, and the name of its device.
    pub(super) fn range_and_device(&self) -> (Ipv4Range, &str) {
        (self.range, &self.tun)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        let token = self.token()?;
        let sent = self
            .agent
            .get(self.url(path))
            .config()
            .timeout_global(Some(ANSWER_TIMEOUT))
            .build()
            .header("Authorization", format!("Bearer {token}"))
            .call();
        self.answer(sent)
    }

    pub(super) fn post(&self, path: &str, body: &Value, patience: Duration) -> Result<Value, Failure> {
        self.change(self.agent.post(self.url(path)), body, patience)
    }

    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.change(self.agent.put(self.url(path)), body, ANSWER_TIMEOUT)
    }

    fn change(
        &self,
        request: ureq::RequestBuilder<WithBody>,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let token = self.token()?;
        let sent = request
            .config()
            .timeout_global(Some(patience))
            .build()
            .header("Authorization", format!("Bearer {token}"))
            .header("X-Lanrage", "1")
            .send_json(body);
        self.answer(sent)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1{path}", self.address)
    }

    fn answer(&self, sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
        let broken = |message| Failure { kind: Kind::Broken, message };
        let mut response = match sent {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(self.not_running());
            }
            Err(ureq::Error::ConnectionFailed) => return Err(self.not_running()),
            Err(error) => return Err(broken(format!("LANrage at {} did not answer: {error}", self.address))),
        };
        let status = response.status();
        let value: Result<Value, _> = response.body_mut().with_config().limit(MAX_ANSWER).read_json();
        if status == ureq::http::StatusCode::UNAUTHORIZED {
            let message = format!(
                "LANrage at {} does not take the token in {}. Is that the data folder of the node you mean? Name it with --data-dir.",
                self.address,
                self.data_dir.join(TOKEN_FILE).display()
            );
            return Err(Failure { kind: Kind::NoToken, message });
        }
        let value = value.map_err(|_| {
            broken(format!("what answers at {} is not LANrage; name the address of yours with --api", self.address))
        })?;
        if status.is_success() {
            return Ok(value);
        }
        let text = |key: &str| value["error"][key].as_str().unwrap_or_default().to_owned();
        let message = match text("message") {
            empty if empty.is_empty() => format!("LANrage at {} answered with {status}", self.address),
            message => message,
        };
        Err(Failure { kind: Kind::Refused(text("code")), message })
    }

    fn not_running(&self) -> Failure {
        let message =
            format!("LANrage is not running here (nothing answers at {}). Start it with: lanrage", self.address);
        Failure { kind: Kind::NotRunning, message }
    }

    fn token(&self) -> Result<String, Failure> {
        let path = self.data_dir.join(TOKEN_FILE);
        match std::fs::read_to_string(&path) {
            Ok(token) => Ok(token.trim().to_owned()),
            Err(error) => {
                if TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT).is_err() {
                    return Err(self.not_running());
                }
                let message = no_token(&path, &error, self.address, Path::new(ROOT_DATA).exists());
                Err(Failure { kind: Kind::NoToken, message })
            }
        }
    }
}

fn no_token(path: &Path, error: &io::Error, address: SocketAddr, root_data: bool) -> String {
    let path = path.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!(
            "{path} cannot be read: LANrage was started by root (or another user). Run this command with sudo."
        );
    }
    if root_data {
        return format!(
            "something answers at {address}, but there is no token in {path}. If LANrage was started with sudo, run this command with sudo too; if it has a data folder of its own, name it with --data-dir."
        );
    }
    format!(
        "something answers at {address}, but there is no token in {path} ({error}). Name the data folder of the running LANrage with --data-dir."
    )
}

/// One part of a path: what is no letter, digit or `-._~` is written as percent and two hexadecimal digits.
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// # Errors
/// When the node is of another version than this program.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| {
        format!("the running LANrage answered in a way that this one does not understand ({error}); are both the same version?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(data_dir: &Path, api: Option<SocketAddr>) -> Client {
        let args = NodeArgs {
            api: api.map(crate::config::values::ApiAddr),
            data_dir: Some(data_dir.to_owned()),
            config: None,
        };
        let places = Places { data: "/nowhere".into(), config: "/nowhere/config.toml".into(), host_name: None };
        Client::new(&args, &places).unwrap()
    }

    #[actix_web::test]
    async fn commands_reach_the_node_that_the_folder_names() {
        let node = crate::api::tests::in_party();
        let dir = node.dir.clone();
        let work = move || {
            let found = client(&dir, None);
            let status = found.get("/status").unwrap();
            assert_eq!(status["api"], found.address().to_string());
            assert!(super::super::views::status(&read(status).unwrap()).contains("K7QM-2XPA-9DRK"));
            let body = serde_json::json!({ "peer": "bob" });
            assert_eq!(found.post("/ping", &body, ANSWER_TIMEOUT).unwrap()["name"], "Bob");
            let refused = found.post("/ping", &serde_json::json!({ "peer": "eve" }), ANSWER_TIMEOUT).unwrap_err();
            assert_eq!(refused.kind, Kind::Refused("unknown_peer".into()));
            assert!(refused.message.contains("lanrage peers"), "{}", refused.message);
            let elsewhere = client(Path::new("/nowhere"), Some(found.address())).get("/status").unwrap_err();
            assert_eq!(elsewhere.kind, Kind::NoToken);
            std::fs::write(dir.join(TOKEN_FILE), "0".repeat(64)).unwrap();
            let wrong = found.get("/status").unwrap_err();
            assert_eq!(wrong.kind, Kind::NoToken);
            assert!(wrong.message.contains("--data-dir"), "{}", wrong.message);
        };
        actix_web::web::block(work).await.unwrap();
    }

    #[test]
    fn names_go_into_paths() {
        assert_eq!(escape("Bob-1._~"), "Bob-1._~");
        assert_eq!(escape("a/b c?é%"), "a%2Fb%20c%3F%C3%A9%25");
    }

    #[test]
    fn nothing_running_is_said() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = std::env::temp_dir().join(format!("lanrage-client-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let without_token = client(&dir, Some(free)).get("/status").unwrap_err();
        // As after kill -9: the files are still there.
        std::fs::write(dir.join(TOKEN_FILE), "0".repeat(64)).unwrap();
        std::fs::write(dir.join(ADDRESS_FILE), free.to_string()).unwrap();
        let with_token = client(&dir, None).get("/status").unwrap_err();
        std::fs::remove_dir_all(&dir).unwrap();
        for failure in [without_token, with_token] {
            assert_eq!(failure.kind, Kind::NotRunning);
            assert!(failure.message.contains(&format!("nothing answers at {free}")), "{}", failure.message);
            assert!(failure.message.contains("Start it with: lanrage"), "{}", failure.message);
        }
    }

    #[test]
    fn a_missing_token_is_explained() {
        let path = Path::new("/d/api.token");
        let address = "127.0.0.1:8666".parse().unwrap();
        let denied = no_token(path, &io::ErrorKind::PermissionDenied.into(), address, true);
        assert!(denied.contains("/d/api.token") && denied.contains("with sudo"), "{denied}");
        let missing = no_token(path, &io::ErrorKind::NotFound.into(), address, true);
        assert!(missing.contains("sudo") && missing.contains("--data-dir"), "{missing}");
        let missing = no_token(path, &io::ErrorKind::NotFound.into(), address, false);
        assert!(!missing.contains("sudo") && missing.contains("--data-dir"), "{missing}");
    }
}
