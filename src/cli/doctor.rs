//! `lanrage doctor`: what keeps LANrage from working, and how to fix it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lanrage_actors::tun::routes;
use serde::{Deserialize, Serialize};

use super::args::AskArgs;
use super::client::{Client, Failure, Kind, read};
use super::commands::pretty;
use super::print;
use super::views::Tun;
use crate::config::Places;
use crate::system::{self, Right};

/// What the data socket asks for, less what the usual default of 212,992 bytes may fall short of it.
const SOCKET_BUFFER: u64 = 200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// Works, but worse than it could.
    Warn,
    Fail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found and what that means.
    meaning: String,
    /// Absent when there is nothing to do.
    todo: Option<String>,
}

/// What this process sees by itself.
#[derive(Debug)]
struct Local {
    net_admin: Option<bool>,
    net_raw: Option<bool>,
    tun_device: bool,
    executable: Option<PathBuf>,
    /// Bytes.
    receive_buffer: Option<u64>,
    send_buffer: Option<u64>,
    /// The clash of the configured range with a network of this computer, and what to do about it.
    clash: Option<String>,
}

/// What the node says about itself.
#[derive(Debug, Deserialize)]
struct Node {
    uptime_s: u64,
    net_admin: Option<bool>,
    net_raw: Option<bool>,
    executable: Option<PathBuf>,
    mdns: bool,
    tun: Option<Tun>,
    discovery: Option<Discovery>,
}

#[derive(Debug, Deserialize)]
struct Discovery {
    connected_nodes: usize,
    dht_nodes: usize,
    bootstrap: Vec<Bootstrap>,
    reachability: String,
    relay_reservations: usize,
}

#[derive(Debug, Deserialize)]
struct Bootstrap {
    addr: String,
    reached: bool,
    last_error: Option<String>,
}

impl Check {
    fn ok(name: &'static str, meaning: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, meaning: meaning.into(), todo: None }
    }

    fn warn(name: &'static str, meaning: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, meaning: meaning.into(), todo: Some(todo.into()) }
    }

    fn fail(name: &'static str, meaning: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, meaning: meaning.into(), todo: Some(todo.into()) }
    }
}

/// Exit code 1 when a check fails.
pub(super) fn run(args: &AskArgs, places: &Places) -> Result<ExitCode, String> {
    let client = Client::new(&args.node, places)?;
    let local = Local {
        net_admin: system::has(Right::NetAdmin),
        net_raw: system::has(Right::NetRaw),
        tun_device: Path::new("/dev/net/tun").exists(),
        executable: std::env::current_exe().ok(),
        receive_buffer: system::kernel_setting("/proc/sys/net/core/rmem_max"),
        send_buffer: system::kernel_setting("/proc/sys/net/core/wmem_max"),
        clash: clash(&client),
    };
    let node = match client.get("/doctor") {
        Ok(value) => Ok(read::<Node>(value)?),
        Err(failure) => Err(failure),
    };
    let checks = checks(&local, &node, &client.address().to_string());
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    if args.json {
        let value = serde_json::json!({ "ok": !failed, "checks": checks });
        print::line(&pretty(&value));
    } else {
        print::line(&checks.iter().map(text).collect::<Vec<_>>().join("\n"));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(check: &Check) -> String {
    let mark = match check.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let todo = check.todo.as_ref().map(|todo| format!("\n      -> {}", print::clean(todo))).unwrap_or_default();
    format!("{mark}  {}: {}{todo}", check.name, print::clean(&check.meaning))
}

fn checks(local: &Local, node: &Result<Node, Failure>, address: &str) -> Vec<Check> {
    let mut checks = vec![rights(local, node.as_ref().ok()), device_node(local), buffers(local)];
    match node {
        Ok(node) => {
            checks.push(Check::ok("node", format!("LANrage runs and answers at {address}")));
            checks.extend([device(node), range(node, local), mdns(node)]);
            checks.extend(discovery(node));
        }
        Err(failure) => {
            checks.push(unreachable(failure));
            checks.push(own_range(local));
        }
    }
    checks
}

/// Of the node where it runs: it may be another program file, or have been started by root.
fn rights(local: &Local, node: Option<&Node>) -> Check {
    let name = "rights";
    let (holds, captures, executable) = match node {
        Some(node) => (node.net_admin, node.net_raw, node.executable.as_ref()),
        None => (local.net_admin, local.net_raw, local.executable.as_ref()),
    };
    let program = executable.map_or_else(|| "\"$(command -v lanrage)\"".to_owned(), |path| path.display().to_string());
    match holds {
        Some(true) if captures == Some(false) => Check::warn(
            name,
            "LANrage may not listen to what games shout on your local networks, so your friends do not find the games that you host by themselves",
            format!(
                "run once; a LANrage that runs goes on by itself: sudo setcap cap_net_admin,cap_net_raw+ep {program}"
            ),
        ),
        Some(true) => Check::ok(name, "LANrage may set up its network device"),
        Some(false) => Check::fail(
            name,
            "LANrage may not set up its network device, so games cannot reach the party",
            format!(
                "run once; a LANrage that runs goes on by itself: sudo setcap cap_net_admin,cap_net_raw+ep {program}"
            ),
        ),
        None => Check::warn(
            name,
            "this system does not tell whether LANrage may set up its network device",
            "if joining a party gives no network device, start LANrage with sudo",
        ),
    }
}

fn device_node(local: &Local) -> Check {
    if local.tun_device {
        return Check::ok("tun driver", "/dev/net/tun is there");
    }
    Check::fail(
        "tun driver",
        "/dev/net/tun is missing, so there can be no network device",
        "load the driver with: sudo modprobe tun (in a container: start it with --device /dev/net/tun)",
    )
}

fn buffers(local: &Local) -> Check {
    let name = "socket buffers";
    let (Some(receive), Some(send)) = (local.receive_buffer, local.send_buffer) else {
        return Check::warn(name, "this system does not tell how large UDP socket buffers may be", "nothing to do");
    };
    if receive.min(send) >= SOCKET_BUFFER {
        return Check::ok(name, format!("up to {receive} bytes in, {send} bytes out"));
    }
    Check::warn(
        name,
        format!("at most {receive} bytes in and {send} bytes out: fast transfers may lose packets; games need less"),
        format!("sudo sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}"),
    )
}

fn unreachable(failure: &Failure) -> Check {
    match &failure.kind {
        Kind::NotRunning => Check::warn("node", "LANrage is not running", "start it with: lanrage"),
        Kind::NoToken => Check::fail("token", "LANrage runs, but this command may not talk to it", &failure.message),
        Kind::Refused(_) | Kind::Broken => {
            Check::fail("node", failure.message.clone(), "stop LANrage with Ctrl+C and start it again with: lanrage")
        }
    }
}

fn device(node: &Node) -> Check {
    let name = "network device";
    let Some(tun) = &node.tun else {
        return Check::fail(name, "the part of LANrage that holds it does not answer", "restart LANrage");
    };
    match (tun.state.as_str(), &tun.problem) {
        ("up", _) => Check::ok(name, format!("{} is up, MTU {}", tun.name, tun.mtu)),
        ("idle", _) => Check::ok(name, format!("{} comes up with the first party", tun.name)),
        (_, Some(problem)) => Check::fail(name, format!("{} is not up", tun.name), problem),
        (state, None) => Check::fail(name, format!("{} is not up ({state})", tun.name), "see what LANrage printed"),
    }
}

fn clash(client: &Client) -> Option<String> {
    let (range, device) = client.range_and_device();
    let routes = routes::parse_proc_net_route(&std::fs::read_to_string("/proc/net/route").ok()?);
    routes::overlaps(range, device, &routes).clashes.first().map(|clash| routes::clash_message(range, clash))
}

/// Of the parties that this computer would create.
fn own_range(local: &Local) -> Check {
    match &local.clash {
        None => Check::ok("address range", "no clash with the networks of this computer"),
        Some(clash) => Check::fail("address range", "the addresses of a party would be taken", clash),
    }
}

fn range(node: &Node, local: &Local) -> Check {
    let name = "address range";
    match &node.tun {
        Some(tun) if tun.state == "range_clash" => Check::fail(
            name,
            "the party's addresses are taken on a network that this computer is on",
            tun.problem.as_deref().unwrap_or("create the party with another range: lanrage up --range 10.67.0.0/16"),
        ),
        Some(tun) if tun.state == "up" => Check::ok(name, "no clash with the networks of this computer"),
        Some(_) | None => own_range(local),
    }
}

fn mdns(node: &Node) -> Check {
    if node.mdns {
        return Check::ok("local network", "friends on the same network are looked for (multicast DNS)");
    }
    Check::warn(
        "local network",
        "the search on the local network is switched off",
        "start LANrage without --no-mdns, or remove no-mdns from its configuration",
    )
}

fn discovery(node: &Node) -> Vec<Check> {
    let Some(found) = &node.discovery else {
        return vec![Check::fail(
            "discovery",
            "the part of LANrage that finds friends does not answer",
            "restart LANrage",
        )];
    };
    let young = node.uptime_s < 30;
    let wait = "LANrage has just started; ask again in half a minute";
    let reached = found.bootstrap.iter().filter(|peer| peer.reached).count();
    let all = found.bootstrap.len();
    let bootstrap = if all == 0 {
        Check::warn(
            "bootstrap",
            "no bootstrap peers are configured: only friends on the local network, or with an invite link, are found",
            "remove --no-default-bootstrap, or name a peer with --bootstrap",
        )
    } else if reached > 0 {
        Check::ok("bootstrap", format!("{reached} of {all} peers reached"))
    } else if young {
        Check::warn("bootstrap", format!("none of {all} peers reached so far"), wait)
    } else {
        let tried = |peer: &Bootstrap| peer.last_error.as_ref().map(|error| format!(" ({}: {error})", peer.addr));
        let error = found.bootstrap.iter().find_map(tried).unwrap_or_default();
        Check::fail(
            "bootstrap",
            format!("none of {all} peers reached{error}: friends elsewhere cannot be found by code"),
            "check your internet connection and firewall, or name other peers with --bootstrap",
        )
    };
    let dht = match found.dht_nodes {
        0 if all == 0 => Check::ok("DHT", "not used without bootstrap peers"),
        0 if young => Check::warn("DHT", "no nodes known so far", wait),
        0 => Check::fail(
            "DHT",
            format!("no nodes known ({} connections)", found.connected_nodes),
            "check your internet connection; everybody in a party needs the same --dht-protocol",
        ),
        nodes => Check::ok("DHT", format!("{nodes} nodes known, {} connected", found.connected_nodes)),
    };
    let reachability = match (found.reachability.as_str(), found.relay_reservations) {
        ("public", _) => Check::ok("reachability", "this computer can be reached from the internet"),
        ("private", 0) if !young => Check::warn(
            "reachability",
            "this computer is behind a router and no relay has been found yet, so friends may not find it by code",
            "send friends an invite link, or let one who is reachable create the party",
        ),
        ("private", relays) => {
            Check::ok("reachability", format!("behind a router, as usual; {relays} relays help friends to find it"))
        }
        (_, relays) => Check::ok("reachability", format!("not known yet; {relays} relays")),
    };
    vec![bootstrap, dht, reachability]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn local() -> Local {
        Local {
            net_admin: Some(true),
            net_raw: Some(true),
            tun_device: true,
            executable: Some("/usr/bin/lanrage".into()),
            receive_buffer: Some(4_000_000),
            send_buffer: Some(4_000_000),
            clash: None,
        }
    }

    fn node(change: &dyn Fn(&mut serde_json::Value)) -> Node {
        let mut value = json!({
            "uptime_s": 100, "net_admin": true, "net_raw": true, "executable": "/opt/lanrage", "mdns": true,
            "tun": {"name": "lanrage0", "mtu": 1360, "state": "up", "problem": null},
            "discovery": {"connected_nodes": 3, "dht_nodes": 20, "reachability": "private", "relay_reservations": 2,
                "bootstrap": [{"addr": "/a", "reached": false, "last_error": "e"}, {"addr": "/b", "reached": true, "last_error": null}]},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    /// Names of the checks with this verdict.
    fn with(checks: &[Check], verdict: Verdict) -> Vec<&'static str> {
        checks.iter().filter(|check| check.verdict == verdict).map(|check| check.name).collect()
    }

    #[test]
    fn a_healthy_node_has_nothing_to_do() {
        let checks = checks(&local(), &Ok(node(&|_| {})), "127.0.0.1:8666");
        assert!(checks.iter().all(|check| check.verdict == Verdict::Ok && check.todo.is_none()), "{checks:?}");
    }

    #[test]
    fn each_fault_is_found() {
        type Change = fn(&mut serde_json::Value);
        let faults: [(Change, Verdict, &str, &str); 10] = [
            (|v| v["net_raw"] = json!(false), Verdict::Warn, "rights", "cap_net_raw+ep /opt/lanrage"),
            (
                |v| v["net_admin"] = json!(false),
                Verdict::Fail,
                "rights",
                "sudo setcap cap_net_admin,cap_net_raw+ep /opt/lanrage",
            ),
            (|v| v["tun"]["state"] = json!("failed"), Verdict::Fail, "network device", "printed"),
            (|v| v["tun"] = json!(null), Verdict::Fail, "network device", "restart"),
            (|v| v["mdns"] = json!(false), Verdict::Warn, "local network", "no-mdns"),
            (|v| v["discovery"]["bootstrap"][1]["reached"] = json!(false), Verdict::Fail, "bootstrap", "--bootstrap"),
            (|v| v["discovery"]["bootstrap"] = json!([]), Verdict::Warn, "bootstrap", "--no-default-bootstrap"),
            (|v| v["discovery"]["dht_nodes"] = json!(0), Verdict::Fail, "DHT", "--dht-protocol"),
            (|v| v["discovery"]["relay_reservations"] = json!(0), Verdict::Warn, "reachability", "invite link"),
            (|v| v["discovery"] = json!(null), Verdict::Fail, "discovery", "restart"),
        ];
        for (change, verdict, name, todo) in faults {
            let checks = checks(&local(), &Ok(node(&change)), "a");
            assert_eq!(with(&checks, verdict), [name]);
            let check = checks.iter().find(|check| check.name == name).unwrap();
            assert!(check.todo.as_ref().unwrap().contains(todo), "{check:?}");
        }
        let clash =
            node(&|v| v["tun"] = json!({"name": "l", "mtu": 1, "state": "range_clash", "problem": "use --range"}));
        assert_eq!(with(&checks(&local(), &Ok(clash), "a"), Verdict::Fail), ["network device", "address range"]);
        let young = node(&|v| {
            v["uptime_s"] = json!(3);
            v["discovery"]["dht_nodes"] = json!(0);
            v["discovery"]["bootstrap"][1]["reached"] = json!(false);
        });
        assert_eq!(with(&checks(&local(), &Ok(young), "a"), Verdict::Fail), [""; 0]);
    }

    #[test]
    fn without_a_node_the_machine_is_checked() {
        let failure = |kind| Err(Failure { kind, message: "m".into() });
        let bad = Local { net_admin: Some(false), tun_device: false, receive_buffer: Some(65_536), ..local() };
        let found = checks(&bad, &failure(Kind::NotRunning), "a");
        assert_eq!(with(&found, Verdict::Fail), ["rights", "tun driver"]);
        assert_eq!(with(&found, Verdict::Warn), ["socket buffers", "node"]);
        assert!(text(&found[0]).contains("FAIL  rights") && text(&found[0]).contains("setcap"), "{}", text(&found[0]));
        assert_eq!(with(&checks(&local(), &failure(Kind::NoToken), "a"), Verdict::Fail), ["token"]);
        assert_eq!(with(&checks(&local(), &failure(Kind::Broken), "a"), Verdict::Fail), ["node"]);
    }
}
