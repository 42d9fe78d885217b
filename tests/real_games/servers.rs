//! Starting game servers.

use crate::lab::{Host, PATIENCE, Process, until};

/// Start a server as an ordinary user, and wait until it has its UDP port.
#[track_caller]
pub(super) fn start(host: &Host, port: u16, args: &[&str]) -> Vec<Process> {
    vec![wait(host, port, host.spawn_as_player(args))]
}

/// # Panics
/// When the program ends or does not open the port.
#[track_caller]
pub(super) fn wait(host: &Host, port: u16, mut server: Process) -> Process {
    let filter = format!("sport = :{port}");
    until(&format!("a server on UDP {port}"), PATIENCE, || {
        if let Some(status) = server.ended() {
            panic!("the server ended ({status}):\n{}", server.all());
        }
        let sockets = host.run(&["ss", "-Huln", &filter]).stdout;
        if sockets.is_empty() { Err("no socket".into()) } else { Ok(()) }
    });
    server
}

/// Start a server that is ready only when it has printed this so often.
#[track_caller]
pub(super) fn start_until_said(host: &Host, port: u16, args: &[&str], text: &str, times: usize) -> Vec<Process> {
    let servers = start(host, port, args);
    until(&format!("the server says `{text}`"), PATIENCE, || {
        let said = servers[0].all();
        if said.matches(text).count() >= times { Ok(()) } else { Err(said) }
    });
    servers
}
