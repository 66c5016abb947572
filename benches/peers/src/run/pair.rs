//! Two processes for one round of one subject: started, spoken with, and ended, all in bounded
//! time.
//!
//! Invariant: both processes are gone when [`round`] returns: asked by closing their standard
//! input, and killed when that is not enough.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::drive::Failure;
use crate::job::{DriveLine, Job, Round, ServeLine};
use crate::subjects::Subject;

/// Longest time until a server listens: an interpreter has to start, a session to be opened.
const READY_TIME_MAX: Duration = Duration::from_secs(10);
/// What a round may take beyond three times its timed part: connecting, checking, sums.
const ROUND_TIME_SPARE: Duration = Duration::from_secs(15);
/// More of that for each connection.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(5);
/// How long a process has to end by itself.
const END_TIME_MAX: Duration = Duration::from_millis(500);
/// Lines of a process's complaints that are kept.
const COMPLAINTS_MAX: usize = 3;

/// A round and the server's word on its version.
pub struct Outcome {
    pub round: Round,
    pub version: Option<String>,
}

/// Carries out one round of `job`, whose cores are the client's; the server's are `server_cores`.
pub fn round(subject: &dyn Subject, job: Job, server_cores: &[usize]) -> Result<Outcome, Failure> {
    let duration = Duration::from_nanos(job.warm_up_ns + job.duration_ns);
    let connections = u32::try_from(job.case.connections)?;
    let time_max = duration * 3 + ROUND_TIME_SPARE + CONNECT_TIME_MAX * connections;

    let server_job = Job { cores: server_cores.to_vec(), ..job.clone() };
    let mut server = End::start(subject, "serve", &job.subject)?;
    // Starts beside the server, and waits for its job until that listens: of an interpreter's
    // rounds starting one after the other took half.
    let mut client = End::start(subject, "drive", &job.subject)?;
    server.tell(&server_job)?;
    let (address, version) = match server.line(READY_TIME_MAX)? {
        ServeLine::Ready { address, version } => (address, version),
        ServeLine::Error(error) => return Err(error.into()),
    };
    let _socket = SocketFile(&address);
    let server_pid = i32::try_from(server.child.id())?;
    client.tell(&Job { address: address.clone(), server_pid, ..job })?;
    let line = client.line(time_max);
    drop(client);
    match line {
        Ok(DriveLine::Round(round)) => Ok(Outcome { round: *round, version }),
        Ok(DriveLine::Error(error)) => Err(server.complaint(&error).into()),
        Err(error) => Err(server.complaint(&error.to_string()).into()),
    }
}

/// One of the two processes.
struct End {
    side: &'static str,
    child: Child,
    /// Closed to end the process.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    complaints: Option<JoinHandle<String>>,
}

impl End {
    fn start(subject: &dyn Subject, side: &'static str, name: &str) -> Result<Self, Failure> {
        let mut command = match subject.program() {
            Some(words) => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).arg(side);
                command
            }
            None => {
                let mut command = Command::new(env::current_exe()?);
                command.args(["subject", name, side]);
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let program = command.get_program().display();
                format!("cannot start the {side} end, {program}: {error}")
            })?;
        let output = child.stdout.take().ok_or("standard output is a pipe")?;
        let errors = child.stderr.take().ok_or("standard error is a pipe")?;
        let input = child.stdin.take();
        let (sender, lines) = channel();
        // Both readers end with the process, whose pipes then close.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let complaints = thread::spawn(move || last_lines(errors));
        Ok(Self { side, child, input, lines, complaints: Some(complaints) })
    }

    /// Gives it what it waits for.
    fn tell(&mut self, job: &Job) -> Result<(), Failure> {
        let mut line = serde_json::to_string(job)?;
        line.push('\n');
        let input = self.input.as_mut().ok_or("standard input is a pipe")?;
        let told = input.write_all(line.as_bytes());
        told.map_err(|error| self.complaint(&format!("cannot be told its job: {error}")).into())
    }

    /// The next line it says, within `time_max`.
    fn line<T: DeserializeOwned>(&mut self, time_max: Duration) -> Result<T, Failure> {
        match self.lines.recv_timeout(time_max) {
            Ok(line) => serde_json::from_str(&line)
                .map_err(|error| format!("the {} end said {line:?}: {error}", self.side).into()),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.complaint(&format!("no word within {time_max:?}")).into())
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.complaint("ended early").into()),
        }
    }

    /// Ends the process and adds to `what` how it had ended before, if it had, and its last words.
    fn complaint(&mut self, what: &str) -> String {
        let status = self.child.try_wait().ok().flatten().map(|status| status.to_string());
        let said = self.end().filter(|said| !said.is_empty());
        let told: Vec<String> = status.into_iter().chain(said).collect();
        if told.is_empty() {
            return what.to_owned();
        }
        format!("{what} ({}: {})", self.side, told.join("; "))
    }

    /// Asks the process to end, kills it when it does not, and returns its last words.
    fn end(&mut self) -> Option<String> {
        self.input = None;
        // Its standard output closes when it ends.
        let mut left = END_TIME_MAX;
        while let Ok(_) | Err(RecvTimeoutError::Timeout) = self.lines.recv_timeout(left) {
            if left.is_zero() {
                break;
            }
            left = Duration::ZERO;
            let _ = self.child.kill();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.complaints.take()?.join().ok()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Removes the file of a Unix socket, whose server ends without cleaning up.
struct SocketFile<'a>(&'a str);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0.strip_prefix("unix:") {
            let _ = fs::remove_file(path);
        }
    }
}

fn last_lines(errors: impl Read) -> String {
    let mut last = VecDeque::new();
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        if last.len() == COMPLAINTS_MAX {
            last.pop_front();
        }
        last.push_back(line.trim().to_owned());
    }
    Vec::from(last).join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Case, Scenario};
    use crate::subjects::{Facts, Ready, Role};

    /// A subject whose both ends are a shell script: what it does before it is told its job, which
    /// is in `$job` then, and after that.
    struct Script(&'static str, &'static str);

    impl Subject for Script {
        fn facts(&self) -> Facts {
            Facts { name: "script", idle: "park", transport: "tcp", package: "", role: Role::Peer }
        }

        fn lacks(&self, _: &Case) -> Option<&'static str> {
            None
        }

        fn serve(
            &self,
            _: &Job,
            _: &mut dyn FnMut(Ready) -> Result<(), Failure>,
        ) -> Result<(), Failure> {
            unreachable!("a script")
        }

        fn drive(&self, _: &Job) -> Result<Round, Failure> {
            unreachable!("a script")
        }

        fn program(&self) -> Option<Vec<String>> {
            let Self(before, then) = self;
            Some(vec!["/bin/sh".into(), "-c".into(), format!("{before} read job; {then}")])
        }
    }

    fn job() -> Job {
        let case = Case {
            scenario: Scenario::Rtt,
            payload_bytes: 64,
            connections: 1,
            rate_hz: 0,
            bulk: false,
        };
        Job {
            subject: "script".into(),
            case,
            cores: vec![0],
            warm_up_ns: 0,
            duration_ns: 0,
            address: String::new(),
            server_pid: 0,
        }
    }

    const READY: &str = r#"echo '{"ready":{"address":"x","version":"9"}}'; read rest"#;

    fn failure(script: &'static str) -> String {
        round(&Script("", script), job(), &[0]).err().expect("it fails").to_string()
    }

    #[test]
    fn round_comes_back() {
        // `$0` is the side: the word behind the script.
        const BOTH: &str = r#"if [ "$0" = serve ]; then
            echo '{"ready":{"address":"x","version":"9"}}'; read rest
        else
            echo \
            '{"round":{"frames":2,"elapsed_ns":1,"cpu_client_ns":1,"cpu_server_ns":1,"errors":0}}'
        fi"#;
        let outcome = round(&Script("", BOTH), job(), &[0]).expect("a round");
        assert_eq!((outcome.round.frames, outcome.version.as_deref()), (2, Some("9")));
    }

    /// Else the server would be given up before the client begins.
    #[test]
    fn ends_start_side_by_side() {
        const BEFORE: &str = r#"begun=${TMPDIR:-/tmp}/peers-begun-$PPID;
            if [ "$0" = drive ]; then : >"$begun"; fi;"#;
        const THEN: &str = r#"if [ "$0" = serve ]; then
            until [ -e "$begun" ]; do :; done
            rm "$begun"; echo '{"ready":{"address":"x","version":"9"}}'; read rest
        else
            echo '{"error":"all is well"}'
        fi"#;
        let error = round(&Script(BEFORE, THEN), job(), &[0]).err().expect("it says so");
        assert_eq!(error.to_string(), "all is well");
    }

    #[test]
    fn end_that_dies_is_reported_with_its_last_words() {
        let text = failure("echo one >&2; echo two >&2; exit 3");
        assert!(text.contains("ended early") && text.contains("one | two"), "{text}");
    }

    #[test]
    fn server_that_was_killed_is_named_beside_what_the_client_met() {
        // The client speaks once the server is dead: a zombie until it is waited for, proc(5).
        let text = failure(
            r#"if [ "$0" = serve ]; then
            echo '{"ready":{"address":"x","version":"9"}}'; kill -9 $$
        else
            server=${job##*server_pid\":}; server=${server%%[!0-9]*}
            until grep -q '^State:.Z' "/proc/$server/status"; do :; done
            echo '{"error":"reset"}'
        fi"#,
        );
        assert_eq!(text, "reset (serve: signal: 9 (SIGKILL))");
    }

    #[test]
    fn end_that_does_not_stop_is_killed() {
        // Both say they are ready, which a client must not, and then ignore that input has ended.
        let text =
            failure(r#"echo '{"ready":{"address":"x","version":"9"}}'; exec tail -f /dev/null"#);
        assert!(text.contains("the drive end said"), "{text}");
    }

    #[test]
    fn silent_end_is_given_up() {
        let start = |then| {
            let mut end = End::start(&Script("", then), "serve", "script").expect("starts");
            end.tell(&job()).expect("it reads");
            end
        };
        let mut end = start("read rest");
        let error = end.line::<ServeLine>(Duration::from_millis(20)).expect_err("it is silent");
        assert!(error.to_string().contains("no word within 20ms"), "{error}");
        let mut end = start(READY);
        assert!(end.line::<ServeLine>(READY_TIME_MAX).is_ok());
    }

    #[test]
    fn missing_program_is_an_error() {
        struct Missing;
        impl Subject for Missing {
            fn facts(&self) -> Facts {
                Script("", "").facts()
            }
            fn lacks(&self, _: &Case) -> Option<&'static str> {
                None
            }
            fn serve(
                &self,
                _: &Job,
                _: &mut dyn FnMut(Ready) -> Result<(), Failure>,
            ) -> Result<(), Failure> {
                unreachable!("never started")
            }
            fn drive(&self, _: &Job) -> Result<Round, Failure> {
                unreachable!("never started")
            }
            fn program(&self) -> Option<Vec<String>> {
                Some(vec!["/nonexistent/python".into()])
            }
        }
        let error = round(&Missing, job(), &[0]).err().expect("it is not there");
        let program = "cannot start the serve end, /nonexistent/python: ";
        assert!(error.to_string().contains(program), "{error}");
    }
}
