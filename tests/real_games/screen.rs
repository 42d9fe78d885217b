//! A screen that nobody sees, for clients that want one.

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
        let args = ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"];
        let mut server = host.spawn_as_player(&args);
        let number = until("the X server has a display", PATIENCE, || {
            if let Some(status) = server.ended() {
                panic!("the X server ended ({status}):\n{}", server.all());
            }
            let said = server.stdout();
            said.strip_suffix('\n').map(String::from).ok_or(said)
        });
        Self { host: host.clone(), server, display: format!("DISPLAY=:{number}") }
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
