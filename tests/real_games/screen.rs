//! A screen that nobody sees, for clients that want one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::lab::{Host, PATIENCE, Process, until};

#[derive(Debug)]
pub(super) struct Screen {
    host: Host,
    server: Process,
    display: String,
}

impl Screen {
    /// 640×480, as the places to click at are counted in it.
    #[track_caller]
    pub(super) fn on(host: &Host) -> Self {
        static SCREENS: AtomicU32 = AtomicU32::new(0);
        // It would belong to the player otherwise, who is nobody.
        let sockets = Path::new("/tmp/.X11-unix");
        if fs::create_dir(sockets).is_ok() {
            fs::set_permissions(sockets, fs::Permissions::from_mode(0o1777)).unwrap();
        }
        // A number that no other test has: a server that ends would take away the socket of the next one of its number.
        let number = 100 + std::process::id() % 500 * 100 + SCREENS.fetch_add(1, Ordering::Relaxed) % 100;
        let display = format!(":{number}");
        // Without `-noreset` it starts anew when the last program has left, and refuses one that comes in that moment.
        let screen = ["-noreset", "-screen", "0", "640x480x24", "-nolisten", "tcp"];
        let args = [&["Xvfb", &display, "-displayfd", "1"], &screen[..]].concat();
        let mut server = host.spawn_as_player(&args);
        until("the X server has its display", PATIENCE, || {
            if let Some(status) = server.ended() {
                panic!("the X server ended ({status}):\n{}", server.all());
            }
            let said = server.stdout();
            if said.ends_with('\n') { Ok(()) } else { Err(said) }
        });
        Self { host: host.clone(), server, display: format!("DISPLAY={display}") }
    }

    /// Start a program on this screen, without sound.
    pub(super) fn spawn(&self, args: &[&str]) -> Process {
        self.host.spawn_as_player(&[&["env", &self.display, "SDL_VIDEODRIVER=x11"], args].concat())
    }

    pub(super) fn click(&self, x: u16, y: u16) {
        let (x, y) = (x.to_string(), y.to_string());
        let args = ["env", &self.display, "xdotool", "mousemove", &x, &y, "sleep", "0.2", "click", "1"];
        self.host.run_as_player(&args).expect_ok();
        // Menus take the next click only after the next frame.
        std::thread::sleep(Duration::from_millis(400));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It removes its lock and its socket by itself when it is asked to end.
        self.server.stop();
    }
}
