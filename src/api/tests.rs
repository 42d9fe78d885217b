mod profiles;

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use lanrage_actors::broadcast::messages::{BroadcastView, GetBroadcast};
use lanrage_actors::browser::messages::{GetServers, Hosted, HostedError, NameHosted, ServersView};
use lanrage_actors::discovery::messages::{BootstrapView, DiscoveryView};
use lanrage_actors::game_watch::messages::{Applied, GamesView, GetGames, ProfilesView, WatchCounters};
use lanrage_actors::metrics::messages::{Event, EventsView, Recorded};
use lanrage_actors::nat::messages::{NatCounters, NatReport, NatView};
use lanrage_actors::party::messages::{MemberView, PartyError, PartySummary, PartyView};
use lanrage_actors::peer::messages::{PathKind, PathView, PeerCounters, PeerView, PingError, Redundancy};
use lanrage_actors::tun::messages::{TunCounters, TunState, TunView};
use lanrage_actors::wire::Contact;
use lanrage_actors::wire::{Ipv4Range, NodeId, PartyId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Answers every message: a party of two, or the error that the test wants.
struct Fake {
    in_party: bool,
    fails: Option<PartyError>,
}

impl Actor for Fake {
    type Context = Context<Self>;
}

fn party_view(name: &str) -> PartyView {
    let member = |number, name: &str| MemberView {
        node: NodeId([number; 32]),
        name: name.to_owned(),
        virtual_ip: Ipv4Addr::new(10, 66, 0, number),
        host: number == 1,
        me: number == 1,
        online: true,
    };
    PartyView {
        id: PartyId([3; 16]),
        name: name.to_owned(),
        code: "K7QM-2XPA-9DRK".into(),
        link: "lanrage://join/K7QM2XPA9DRK".into(),
        virtual_ip: Ipv4Addr::new(10, 66, 0, 1),
        range: Ipv4Range::DEFAULT,
        host: "ann".into(),
        is_host: true,
        members: vec![member(1, "ann"), member(2, "Bob")],
    }
}

macro_rules! answers {
    ($($message:ty => $result:ty: |$fake:ident, $received:ident| $answer:expr;)*) => {
        $(impl Handler<$message> for Fake {
            type Result = $result;

            fn handle(&mut self, $received: $message, _: &mut Context<Self>) -> Self::Result {
                let $fake = self;
                $answer
            }
        })*
    };
}

answers! {
    CreateParty => Result<PartyView, PartyError>: |fake, m| fake.fails.clone().map_or_else(|| Ok(party_view(&m.name.unwrap_or_else(|| "ann's party".into()))), Err);
    JoinParty => Result<PartyView, PartyError>: |fake, m| {
        assert!(m.timeout <= Duration::from_secs(600));
        fake.fails.clone().map_or_else(|| Ok(party_view(&m.code_or_link)), Err)
    };
    NameHosted => Result<(), HostedError>: |_fake, m| if m.0.iter().all(Hosted::is_sound) { Ok(()) } else { Err(HostedError::BadPort) };
    LeaveParty => Result<(), PartyError>: |fake, _m| fake.fails.clone().map_or(Ok(()), Err);
    KickMember => Result<PartyView, PartyError>: |fake, m| fake.fails.clone().map_or_else(|| Ok(party_view(&m.member)), Err);
    SetRedundancy => (): |_fake, m| assert_eq!((m.node, m.redundancy), (NodeId([2; 32]), Redundancy::On));
    Ping => Result<Duration, PingError>: |_fake, m| if m.timeout < Duration::from_millis(10) { Err(PingError::Timeout(m.timeout)) } else { Ok(Duration::from_micros(840)) };
}

/// `MessageResult` carries answers that are not `Result`s.
macro_rules! views {
    ($($message:ty: |$fake:ident| $answer:expr;)*) => {
        $(impl Handler<$message> for Fake {
            type Result = actix::MessageResult<$message>;

            fn handle(&mut self, _: $message, _: &mut Context<Self>) -> Self::Result {
                let $fake = self;
                actix::MessageResult($answer)
            }
        })*
    };
}

views! {
    GetParty: |fake| fake.in_party.then(|| party_view("ann's party"));
    ListParties: |fake| {
        assert!(fake.in_party || fake.fails.is_none());
        vec![PartySummary { id: PartyId([3; 16]), name: "p".into(), code: None, active: false, members: 2, virtual_ip: Ipv4Addr::new(10, 66, 0, 1), state: "kicked" }]
    };
    GetPeers: |fake| if fake.in_party { vec![peer_view()] } else { Vec::new() };
    GetTun: |_fake| TunView {
        name: "lanrage0".into(), mtu: 1360, state: TunState::NoPermission,
        problem: Some("CAP_NET_ADMIN is missing".into()), counters: TunCounters::default(), plays: Vec::new(),
    };
    GetNat: |_fake| NatView { listen_port: 41641, contact: Contact::default(), report: NatReport::default(), counters: NatCounters::default() };
    GetBroadcast: |_fake| BroadcastView { members: 1, ..BroadcastView::default() };
    GetServers: |_fake| ServersView::default();
    GetGames: |_fake| GamesView {
        detection: true, tuning: true, running: Vec::new(),
        applied: vec![Applied { what: "mtu".into(), value: "1200 bytes".into(), games: vec!["doom".into()], reason: "r".into() }],
        profiles: ProfilesView::default(), counters: WatchCounters::default(), problem: None,
    };
    GetDiscovery: |_fake| DiscoveryView {
        bootstrap: vec![BootstrapView { addr: "/ip4/192.0.2.1".into(), reached: false, last_error: Some("no route".into()) }],
        reachability: "unknown", ..DiscoveryView::default()
    };
}

impl Handler<AwaitEvents> for Fake {
    type Result = actix::MessageResult<AwaitEvents>;

    fn handle(&mut self, question: AwaitEvents, _: &mut Context<Self>) -> Self::Result {
        let event = Event::ProfileProblem { file: format!("{question:?}"), line: None, reason: "r".into() };
        let events = vec![Recorded { seq: 7, unix_ms: 1, event }];
        actix::MessageResult(EventsView { events, next: 7, lost: 0 })
    }
}

fn peer_view() -> PeerView {
    PeerView {
        node: NodeId([2; 32]),
        name: "Bob".into(),
        virtual_ip: Ipv4Addr::new(10, 66, 0, 2),
        connected: true,
        path: PathView { kind: PathKind::Direct, endpoint: Some("203.0.113.5:41641".parse().unwrap()), reason: None },
        rtt_ms: Some(0.8),
        jitter_ms: None,
        loss_percent: None,
        path_changes: 1,
        last_path_change_s: Some(3),
        redundancy: Redundancy::Auto,
        keepalive_s: 15,
        redundant: false,
        rx_bytes: 1,
        tx_bytes: 2,
        last_handshake_s: Some(3),
        candidates: vec![],
        counters: PeerCounters::default(),
        restarts: 0,
    }
}

pub(crate) struct Node {
    running: Option<Running>,
    token: String,
    pub(crate) dir: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn node(fake: Fake, age: Duration) -> Node {
    node_with(actors(&fake.start()), age)
}

fn actors(fake: &actix::Addr<Fake>) -> Actors {
    Actors {
        get_party: fake.clone().recipient(),
        list_parties: fake.clone().recipient(),
        create_party: fake.clone().recipient(),
        join_party: fake.clone().recipient(),
        leave_party: fake.clone().recipient(),
        kick_member: fake.clone().recipient(),
        get_peers: fake.clone().recipient(),
        ping: fake.clone().recipient(),
        set_redundancy: fake.clone().recipient(),
        await_events: fake.clone().recipient(),
        get_tun: fake.clone().recipient(),
        get_servers: fake.clone().recipient(),
        name_hosted: fake.clone().recipient(),
        get_nat: fake.clone().recipient(),
        get_discovery: fake.clone().recipient(),
        get_broadcast: fake.clone().recipient(),
        get_games: fake.clone().recipient(),
        get_bridge: None,
    }
}

fn node_with(actors: Actors, age: Duration) -> Node {
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dir = std::env::temp_dir().join(format!("lanrage-api-{}-{}", std::process::id(), bound.address().port()));
    std::fs::create_dir(&dir).unwrap();
    let facts = Facts {
        peer_id: NodeId([1; 32]).to_string(),
        name: "ann".into(),
        version: "1.2.3",
        data_dir: dir.clone(),
        mdns: true,
        notices: vec!["a notice".into()],
        started: Instant::now().checked_sub(age).unwrap(),
    };
    let running = bound.start(ApiState { facts, actors }, &dir).unwrap();
    let token = std::fs::read_to_string(dir.join(TOKEN_FILE)).unwrap().trim().to_owned();
    Node { running: Some(running), token, dir }
}

/// A node whose actors answer as if it were in a party of two. Needs an actix system.
pub(crate) fn in_party() -> Node {
    node(Fake { in_party: true, fails: None }, Duration::from_secs(60))
}

struct Answer {
    status: u16,
    headers: String,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Node {
    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Header lines that a good request has; a test replaces or drops some.
    fn headers(&self, body: Option<&str>) -> Vec<(String, String)> {
        let mut headers = vec![
            ("Host".to_owned(), format!("127.0.0.1:{}", self.running().address().port())),
            ("Authorization".to_owned(), format!("Bearer {}", self.token)),
        ];
        if let Some(body) = body {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
            headers.push(("X-Lanrage".to_owned(), "1".to_owned()));
            headers.push(("Content-Length".to_owned(), body.len().to_string()));
        }
        headers
    }

    async fn send(&self, method: &str, target: &str, headers: &[(String, String)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.running().address()).await.unwrap();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("{method} {target} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let (headers, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Answer {
            status: headers.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
            headers: headers.to_lowercase(),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", &format!("/api/v1{path}"), &self.headers(None), "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", &format!("/api/v1{path}"), &self.headers(Some(body)), body).await
    }

    /// A good GET with one header set (several times: as often as values are given), or left out.
    async fn get_with(&self, name: &str, values: &[&str]) -> Answer {
        let mut headers = self.headers(None);
        headers.retain(|(known, _)| known != name);
        headers.extend(values.iter().map(|value| (name.to_owned(), (*value).to_owned())));
        self.send("GET", "/api/v1/status", &headers, "").await
    }
}

#[actix_web::test]
async fn status_has_what_programs_need() {
    let node = in_party();
    let answer = node.get("/status").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.body;
    assert_eq!(body["peer_id"], NodeId([1; 32]).to_string());
    assert_eq!((&body["name"], &body["version"]), (&json!("ann"), &json!("1.2.3")));
    assert_eq!(body["api"], node.running().address().to_string());
    let party = &body["party"];
    for key in ["id", "name", "code", "virtual_ip", "host", "members"] {
        assert!(!party[key].is_null(), "{key}");
    }
    assert_eq!(party["members"][1]["name"], "Bob");
    assert_eq!(body["tun"]["name"], "lanrage0");
    assert_eq!(body["tun"]["mtu"], 1360);
    assert_eq!(body["tun"]["state"], "no_permission");
    assert_eq!(body["notices"], json!(["a notice"]));
    let parts: Vec<_> = body["problems"].as_array().unwrap().iter().map(|problem| problem["part"].clone()).collect();
    assert_eq!(parts, [json!("tun"), json!("discovery")]);
    assert!(body["problems"][1]["message"].as_str().unwrap().contains("no route"));
    assert_eq!(node.get("/doctor").await.body["nat"]["listen_port"], 41641);
    assert!(node.get("/netcheck").await.body["v4"]["nat"].is_object());
    node_without_party().await;
}

async fn node_without_party() {
    let node = node(Fake { in_party: false, fails: None }, Duration::ZERO);
    let body = node.get("/status").await.body;
    assert_eq!(body["party"], Value::Null);
    // Just started: that no bootstrap peer was reached yet is no problem.
    assert_eq!(body["problems"].as_array().unwrap().len(), 1);
    assert_eq!(node.get("/party").await.body, Value::Null);
    let ping = node.post("/ping", r#"{"peer":"bob"}"#).await;
    assert_eq!((ping.status, ping.code()), (409, "not_in_party"));
    assert!(ping.body["error"]["message"].as_str().unwrap().contains("bob"), "{}", ping.body);
}

#[actix_web::test]
async fn lists_and_commands() {
    let node = in_party();
    let peers = node.get("/peers").await.body;
    for key in ["peer_id", "name", "virtual_ip", "connected", "rtt_ms", "rx_bytes", "tx_bytes", "last_handshake_s"] {
        assert!(!peers[0][key].is_null(), "{key}");
    }
    assert_eq!(peers[0]["path"], json!({"kind": "direct", "endpoint": "203.0.113.5:41641", "reason": null}));
    assert_eq!(node.get("/parties").await.body[0]["state"], "kicked");
    assert_eq!(node.get("/party").await.body["code"], "K7QM-2XPA-9DRK");
    assert_eq!(node.post("/party/create", "{}").await.body["name"], "ann's party");
    assert_eq!(node.post("/party/create", r#"{"name":"x"}"#).await.body["name"], "x");
    assert_eq!(node.post("/party/join", r#"{"code":"C","timeout_s":5}"#).await.body["name"], "C");
    assert_eq!(node.post("/party/kick", r#"{"member":"bob"}"#).await.body["name"], "bob");
    assert_eq!(node.post("/party/leave", "{}").await.status, 200);
    let bob = NodeId([2; 32]).to_string();
    for peer in ["Bob", "bob", "10.66.0.2", bob.as_str()] {
        let pong = node.post("/ping", &json!({ "peer": peer }).to_string()).await.body;
        assert_eq!((&pong["name"], &pong["time_ms"]), (&json!("Bob"), &json!(0.84)), "{pong}");
        assert_eq!(pong["path"]["kind"], "direct");
    }
    assert_eq!(node.post("/ping", r#"{"peer":"eve"}"#).await.code(), "unknown_peer");
    let late = node.post("/ping", r#"{"peer":"bob","timeout_ms":1}"#).await;
    assert_eq!((late.status, late.code()), (504, "timeout"));
}

#[actix_web::test]
async fn events_are_asked_for_and_waited_for() {
    let node = in_party();
    let body = node.get("/events?after=3&limit=5&wait_s=2").await.body;
    assert_eq!((&body["next"], &body["lost"]), (&json!(7), &json!(0)), "{body}");
    let event = &body["events"][0];
    assert_eq!((&event["seq"], &event["unix_ms"], &event["kind"]), (&json!(7), &json!(1), &json!("profile_problem")));
    assert_eq!(event["file"], "AwaitEvents { after: 3, limit: 5, wait: 2s }");
    let plain = node.get("/events").await.body;
    assert_eq!(plain["events"][0]["file"], "AwaitEvents { after: 0, limit: 1024, wait: 0ns }");
    for (wrong, said) in
        [("limit=0", "limit"), ("limit=9999", "limit"), ("wait_s=3600", "wait_s"), ("afterr=1", "after")]
    {
        let answer = node.get(&format!("/events?{wrong}")).await;
        assert_eq!((answer.status, answer.code()), (400, "bad_request"), "{wrong}");
        assert!(answer.body["error"]["message"].as_str().unwrap().contains(said), "{}", answer.body);
    }
}

#[actix_web::test]
async fn redundancy_is_set_by_hand() {
    let node = in_party();
    let put = async |path: &str, body: &str| {
        node.send("PUT", &format!("/api/v1{path}"), &node.headers(Some(body)), body).await
    };
    let on = put("/peers/bob/redundancy", r#"{"redundancy":"on"}"#).await;
    assert_eq!(on.body, json!({"name": "Bob", "virtual_ip": "10.66.0.2", "redundancy": "on"}));
    assert_eq!(put("/peers/%42ob/redundancy", r#"{"redundancy":"on"}"#).await.status, 200);
    let wrong = put("/peers/bob/redundancy", r#"{"redundancy":"maybe"}"#).await;
    assert_eq!((wrong.status, wrong.code()), (400, "bad_request"));
    assert_eq!(put("/peers/eve/redundancy", r#"{"redundancy":"on"}"#).await.code(), "unknown_peer");
    assert_eq!(node.get("/peers/bob/redundancy").await.code(), "method_not_allowed");
}

#[actix_web::test]
async fn errors_of_the_party_have_status_and_code() {
    for (error, status) in [
        (PartyError::BadCode("x".into(), "y".into()), 400),
        (PartyError::NoSuchParty(Duration::from_secs(1)), 404),
        (PartyError::PartyFull(255), 409),
        (PartyError::NotHost("ann".into()), 403),
        (PartyError::NoBootstrap { waited: Duration::from_secs(1), problem: "p".into() }, 504),
        (PartyError::Store("full".into()), 500),
    ] {
        let node = node(Fake { in_party: true, fails: Some(error.clone()) }, Duration::ZERO);
        let answer = node.post("/party/join", r#"{"code":"x"}"#).await;
        assert_eq!((answer.status, answer.code()), (status, error.code()));
        assert_eq!(answer.body["error"]["message"], error.to_string());
    }
}

#[actix_web::test]
async fn a_part_that_is_gone_is_said() {
    let arbiter = actix::Arbiter::new();
    let fake = || Fake { in_party: true, fails: None };
    let doomed = Fake::start_in_arbiter(&arbiter.handle(), move |_| fake());
    let mut actors = actors(&fake().start());
    actors.get_tun = doomed.clone().recipient();
    actors.get_peers = doomed.recipient();
    arbiter.stop();
    arbiter.join().unwrap();
    let node = node_with(actors, Duration::ZERO);
    let answer = node.get("/peers").await;
    assert_eq!((answer.status, answer.code()), (503, "unavailable"));
    let status = node.get("/status").await;
    assert_eq!((status.status, &status.body["tun"]), (200, &Value::Null));
    assert_eq!(status.body["problems"][0]["part"], "tun");
    assert_eq!(status.body["nat"]["listen_port"], 41641);
}

#[actix_web::test]
async fn host_must_be_ours() {
    let node = in_party();
    let port = node.running().address().port();
    for good in [format!("localhost:{port}"), format!("[::1]:{port}"), format!("127.0.0.1:{port}")] {
        assert_eq!(node.get_with("Host", &[&good]).await.status, 200, "{good}");
    }
    for bad in [
        format!("evil.example:{port}"),
        "127.0.0.1".into(),
        format!("127.0.0.1:{}", port ^ 1),
        format!("10.66.0.1:{port}"),
    ] {
        let answer = node.get_with("Host", &[&bad]).await;
        assert_eq!((answer.status, answer.code()), (421, "wrong_host"), "{bad}");
    }
    let good = format!("localhost:{port}");
    assert_ne!(node.get_with("Host", &[]).await.status, 200);
    assert_ne!(node.get_with("Host", &[&good, "evil.example"]).await.status, 200);
    // Before routing: an address that does not exist gives nothing away either.
    let mut headers = node.headers(None);
    headers[0].1 = "evil.example".into();
    assert_eq!(node.send("GET", "/nothing", &headers, "").await.status, 421);
    let absolute = format!("http://evil.example:{port}/api/v1/status");
    assert_eq!(node.send("GET", &absolute, &node.headers(None), "").await.status, 421);
    let absolute = format!("http://localhost:{port}/api/v1/status");
    assert_eq!(node.send("GET", &absolute, &node.headers(None), "").await.status, 200);
}

#[actix_web::test]
async fn origin_must_be_ours() {
    let node = in_party();
    let port = node.running().address().port();
    for good in ["localhost", "[::1]", "127.0.0.1"] {
        assert_eq!(node.get_with("Origin", &[&format!("http://{good}:{port}")]).await.status, 200, "{good}");
    }
    let https = format!("https://localhost:{port}");
    for bad in ["null", "http://evil.example", "http://localhost", "", &https, "file://"] {
        let answer = node.get_with("Origin", &[bad]).await;
        assert_eq!((answer.status, answer.code()), (403, "wrong_origin"), "{bad}");
    }
    // It is never compared with the Host header.
    let mut headers = node.headers(None);
    headers[0].1 = format!("evil.example:{port}");
    headers.push(("Origin".into(), format!("http://evil.example:{port}")));
    assert_eq!(node.send("GET", "/api/v1/status", &headers, "").await.status, 421);
}

#[actix_web::test]
async fn other_sites_are_refused() {
    let node = in_party();
    for good in ["same-origin", "none"] {
        assert_eq!(node.get_with("Sec-Fetch-Site", &[good]).await.status, 200, "{good}");
    }
    for bad in ["cross-site", "same-site", "", "x"] {
        let answer = node.get_with("Sec-Fetch-Site", &[bad]).await;
        assert_eq!((answer.status, answer.code()), (403, "cross_site"), "{bad}");
    }
}

#[actix_web::test]
async fn the_token_is_needed_and_failures_are_limited() {
    let node = in_party();
    let (mut wrong, good) = (node.token.clone(), format!("Bearer {}", node.token));
    let last = if wrong.pop() == Some('0') { '1' } else { '0' };
    wrong.push(last);
    for bad in [
        format!("Bearer {wrong}"),
        "Bearer ".into(),
        node.token.clone(),
        format!("Basic {}", node.token),
        format!("{good}0"),
    ] {
        let answer = node.get_with("Authorization", &[&bad]).await;
        assert_eq!((answer.status, answer.code()), (401, "wrong_token"), "{bad}");
        assert!(answer.headers.contains("www-authenticate: bearer"));
    }
    assert_eq!(node.get_with("Authorization", &[]).await.status, 401);
    assert_eq!(node.get_with("Authorization", &[&good, &good]).await.status, 401);
    let mut limited = 0;
    for _ in 0..30 {
        let answer = node.get_with("Authorization", &[]).await;
        assert!(matches!(answer.status, 401 | 429), "{}", answer.status);
        limited += usize::from(answer.status == 429);
    }
    assert!(limited > 0);
    // The right token is not locked out by it.
    assert_eq!(node.get_with("Authorization", &[&good]).await.status, 200);
}

#[actix_web::test]
async fn changes_need_json_and_the_header() {
    let node = in_party();
    let send = async |drop: &str, replace: Option<&str>| {
        let mut headers = node.headers(Some("{}"));
        headers.retain(|(name, _)| name != drop);
        headers.extend(replace.map(|value| (drop.to_owned(), value.to_owned())));
        node.send("POST", "/api/v1/party/leave", &headers, "{}").await
    };
    assert_eq!(send("X-Other", None).await.status, 200);
    assert_eq!(send("Content-Type", Some("application/json; charset=utf-8")).await.status, 200);
    for bad in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/json-seq")] {
        assert_eq!(send("Content-Type", bad).await.status, 415, "{bad:?}");
    }
    for bad in [None, Some("0"), Some("true")] {
        let answer = send("X-Lanrage", bad).await;
        assert_eq!((answer.status, answer.code()), (403, "missing_header"), "{bad:?}");
    }
    for method in ["PUT", "DELETE", "PATCH"] {
        let answer = node.send(method, "/api/v1/party/leave", &node.headers(None), "").await;
        assert_eq!(answer.status, 415, "{method}");
    }
}

#[actix_web::test]
async fn bad_bodies() {
    let node = in_party();
    for bad in ["", "{", "[1]", "{\"name\":1}", "{\"unknown\":1}", "null"] {
        let answer = node.post("/party/create", bad).await;
        assert_eq!((answer.status, answer.code()), (400, "bad_request"), "{bad}");
    }
    for timeout in ["0", "601"] {
        let answer = node.post("/party/join", &format!("{{\"code\":\"x\",\"timeout_s\":{timeout}}}")).await;
        assert_eq!(answer.status, 400);
        assert!(answer.body["error"]["message"].as_str().unwrap().contains("timeout_s"));
    }
    assert_eq!(node.post("/ping", r#"{"peer":"bob","timeout_ms":30001}"#).await.status, 400);
    let fits = format!("{{\"name\":\"{}\"}}", "x".repeat(64 * 1024 - 11));
    assert_eq!((fits.len(), node.post("/party/create", &fits).await.status), (64 * 1024, 200));
    let over = format!("{{\"name\":\"{}\"}}", "x".repeat(64 * 1024 - 10));
    let answer = node.post("/party/create", &over).await;
    assert_eq!((answer.status, answer.code()), (413, "too_large"));
    // Without a length it is cut off as it is read.
    let mut headers = node.headers(Some(""));
    headers.retain(|(name, _)| name != "Content-Length");
    headers.push(("Transfer-Encoding".into(), "chunked".into()));
    let chunked = format!("{:x}\r\n{over}\r\n0\r\n\r\n", over.len());
    assert_eq!(node.send("POST", "/api/v1/party/create", &headers, &chunked).await.status, 413);
}

#[actix_web::test]
async fn unknown_addresses_and_methods() {
    let node = in_party();
    for path in ["", "/", "/nothing", "/status/", "/../status"] {
        let answer = node.get(path).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
    }
    let answer = node.get("/party/create").await;
    assert_eq!((answer.status, answer.code()), (405, "method_not_allowed"));
    assert_eq!(node.post("/status", "{}").await.status, 405);
}

#[actix_web::test]
async fn every_answer_has_the_headers() {
    let node = in_party();
    let refused = node.get_with("Origin", &["null"]).await;
    for answer in
        [node.get("/status").await, node.get("/nothing").await, node.post("/party/create", "{").await, refused]
    {
        for header in [
            "content-security-policy: default-src 'self'; frame-ancestors 'none'",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "content-type: application/json",
        ] {
            assert!(answer.headers.contains(header), "{header} missing in {}", answer.headers);
        }
        assert!(!answer.headers.contains("access-control"), "{}", answer.headers);
    }
}

#[actix_web::test]
async fn token_and_address_are_private_files() {
    let node = in_party();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    let (token, address) = (node.dir.join(TOKEN_FILE), node.dir.join(ADDRESS_FILE));
    assert_eq!((mode(&token), mode(&address)), (0o600, 0o600));
    assert_eq!(std::fs::read_to_string(&address).unwrap().trim(), node.running().address().to_string());
    assert_eq!(node.token.len(), 64);
    assert_ne!(node.token, in_party().token);
}

#[actix_web::test]
async fn stopping_removes_the_files_and_closes_the_port() {
    let mut node = in_party();
    let (address, dir) = (node.running().address(), node.dir.clone());
    assert_eq!(node.get("/status").await.status, 200);
    node.running.take().unwrap().stop().await;
    assert!(!dir.join(TOKEN_FILE).exists() && !dir.join(ADDRESS_FILE).exists());
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn an_occupied_port_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = bind(taken.local_addr().unwrap()).unwrap_err().to_string();
    assert!(text.contains(&format!("port {port}")) && text.contains("--api 127.0.0.1:"), "{text}");
    assert!(matches!(bind("0.0.0.0:0".parse().unwrap()), Err(ApiError::NotLoopback(_))));
}

#[test]
fn both_loopback_addresses_are_taken() {
    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let sixth = format!("[::1]:{}", bound.address().port());
    // Where the machine has no IPv6 there is nothing to take.
    if TcpListener::bind("[::1]:0").is_ok() {
        assert!(TcpListener::bind(sixth).is_err());
    }
}
