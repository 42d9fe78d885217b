//! Programs that run in a namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Host, until};

/// What a finished program said.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) command: String,
    /// Exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Both outputs, for messages whose stream does not matter.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// # Panics
    /// When the program failed.
    #[track_caller]
    pub(crate) fn expect_ok(self) -> Self {
        assert!(self.ok(), "`{}` failed ({:?}):\n{}", self.command, self.code, self.all());
        self
    }

    /// The program failed with an exit code, and said all of these words (case does not matter).
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub(crate) fn expect_failure(self, words: &[&str]) -> Self {
        let said = self.all();
        assert!(
            self.code.is_some_and(|code| code != 0),
            "`{}` should have failed, and ended with {:?}:\n{said}",
            self.command,
            self.code
        );
        assert!(!said.contains("panicked at"), "`{}` panicked:\n{said}", self.command);
        for word in words {
            assert!(
                said.to_lowercase().contains(&word.to_lowercase()),
                "`{}` should have said `{word}`:\n{said}",
                self.command
            );
        }
        self
    }
}

/// A program in the background: killed when dropped, its output shown when the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    label: String,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    pub(super) fn spawn(host: &Host, args: &[&str], log: &Path) -> Self {
        let (out, err) = (log.with_extension("out"), log.with_extension("err"));
        let child = command(host, args)
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap_or_else(|problem| panic!("cannot start {args:?}: {problem}"));
        Self { child, label: format!("[{}] {}", host.name(), args.join(" ")), out, err }
    }

    /// `ip netns exec`, `setpriv` and `env` replace themselves by what they start: this is the program's own pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        read(&self.out)
    }

    pub(crate) fn stderr(&self) -> String {
        read(&self.err)
    }

    pub(crate) fn all(&self) -> String {
        self.stdout() + &self.stderr()
    }

    pub(crate) fn kill9(&mut self) {
        // Fails only when it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Ask it to end (SIGTERM), and wait.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    #[track_caller]
    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        let _ = kill_process(pid, Signal::TERM);
        self.wait(limit)
    }

    /// Ask it to end (SIGTERM) and give it a moment to tidy up; then it is killed.
    pub(crate) fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap_or_default());
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let start = Instant::now();
        while asked && matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill9();
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// # Panics
    /// When it has not ended within `limit`.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let label = self.label.clone();
        until(&format!("{label} ends"), limit, || self.ended().ok_or_else(|| "still running".into()))
    }

    /// Wait until it ends, and take what it said.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    #[track_caller]
    pub(crate) fn finish(mut self, limit: Duration) -> Output {
        let code = self.wait(limit).code();
        Output { command: self.label.clone(), code, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            println!("--- {} (pid {})", self.label, self.pid());
            for (stream, text) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
                let lines: Vec<_> = text.lines().collect();
                for line in &lines[lines.len().saturating_sub(60)..] {
                    println!("{stream}| {line}");
                }
            }
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// A command inside the namespace. LANrage's own environment variables are kept out: they would change the node.
pub(super) fn command(host: &Host, args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", host.space()]).args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("LANRAGE_")) {
            command.env_remove(name);
        }
    }
    command
}

pub(super) fn run(host: &Host, args: &[&str]) -> Output {
    let label = format!("[{}] {}", host.name(), args.join(" "));
    let done = command(host, args).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|problem| panic!("cannot start {label}: {problem}"));
    Output {
        command: label,
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// Wait at most two seconds for something that follows from a kill; what it was for fails by itself otherwise.
pub(super) fn settle(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() && start.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(10));
    }
}
