//! What a thread executes between a receive and its answer: instructions, the cache lines and pages
//! of code they stand in, and system calls. Counted, not sampled: each instruction of the thread is
//! a step under ptrace(2). Code is told of by cache lines, too, because the kernel's own path takes
//! much of the first-level cache with every message.
//!
//! ```text
//! hot_path --thread NAME [--beside NAME] [--messages N] [--trace FILE] -- COMMAND...
//! ```
//!
//! Starts the command, waits for a thread of that name, and for one beside it, and steps it from
//! the return of a receive (recvfrom(2), recvmsg(2), io_uring_enter(2)) to the answer (sendto(2),
//! sendmsg(2)) and on to the next receive, N times. What brings no answer, or answers in a later
//! turn, is not counted.
//!
//! Prints the counts of the message that took the fewest instructions in all. A thread that is
//! stepped is slow, so its timers fire with many messages: a confirmation, a heartbeat. The message
//! with the fewest is without them, and takes the same in every run. What answers with less than
//! three quarters of the median is not one of the messages but one of those: a heartbeat, or an
//! enter that only submitted.
//!
//! FILE gets its path: for each instruction its offset in the program, or `-` outside of it (the
//! vDSO, the C library), and the name of a system call behind it. `scripts/hot_path.sh` runs it for
//! both ends and says whose functions these are.
//!
//! Run by `cargo bench`, it steps a few messages of `ringwire bench`, spinning, and fails where the
//! server makes other system calls with most of them than one receive and one send, or takes half
//! as many instructions again as it did. x86-64 alone: elsewhere, and where ptrace(2) is forbidden,
//! it says so.
//!
//! Not counted: the kernel, and how often a `rep` instruction repeats itself. Time is not measured.
//!
//! `unsafe`, because no crate that is here has a safe ptrace(2).

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    let outcome = stepper::Options::from_arguments().and_then(|options| match options {
        Some(options) => stepper::run(&options),
        None => Ok("hot_path: filtered out".to_owned()),
    });
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hot_path: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    println!("skipped: instructions are stepped on x86-64 only");
    ExitCode::SUCCESS
}

#[cfg(target_arch = "x86_64")]
mod stepper {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::mem::MaybeUninit;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::ptr::{null_mut, without_provenance_mut};
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    use std::thread::JoinHandle;
    use std::time::Duration;
    use std::{fs, io, thread};

    use ringwire::Nanos;

    const USAGE: &str = "usage: hot_path --thread NAME [--beside NAME] [--messages N] \
         [--trace FILE] -- COMMAND...";
    /// Stepped for one to be picked.
    const MESSAGES: usize = 61;
    /// Of the server, spinning, by `cargo bench`. CI builds one of some 2,000 (rustc 1.95).
    const BEFORE_MAX: usize = 3000;
    /// The thread is there before the session: it is not stepped through making its memory.
    const SETTLES: Duration = Duration::from_millis(300);
    const THREAD_APPEARS: Duration = Duration::from_secs(60);
    /// 61 messages take 5 s.
    const STEPS_TAKE: Duration = Duration::from_secs(60);

    /// `syscall`, as two bytes of code.
    const SYSCALL: u64 = 0x050f;
    const CODE_LINE_SHIFT: u32 = 6;
    const PAGE_SHIFT: u32 = 12;

    #[derive(Debug)]
    pub(crate) struct Options {
        thread: String,
        beside: Option<String>,
        messages: usize,
        trace: Option<PathBuf>,
        command: Vec<String>,
        /// Whether what it finds is held to what is known.
        is_judged: bool,
    }

    impl Options {
        /// `None`: cargo's arguments name another bench.
        pub(crate) fn from_arguments() -> Result<Option<Self>, String> {
            let mut options = Self {
                thread: String::new(),
                beside: None,
                messages: MESSAGES,
                trace: None,
                command: Vec::new(),
                is_judged: false,
            };
            let mut arguments = std::env::args().skip(1);
            if !std::env::args().any(|argument| argument == "--") {
                // What cargo hands to all benches alike: a filter, and options of criterion.
                let is_meant = arguments
                    .find(|argument| !argument.starts_with('-'))
                    .is_none_or(|filter| "hot_path".contains(&filter));
                let options = options.of_bench().ok_or(USAGE)?;
                return Ok(is_meant.then_some(options));
            }
            while let Some(argument) = arguments.next() {
                let mut value = || arguments.next().ok_or(format!("{argument}: {USAGE}"));
                match argument.as_str() {
                    "--thread" => options.thread = value()?,
                    "--beside" => options.beside = Some(value()?),
                    "--messages" => {
                        options.messages = match value()?.parse() {
                            Ok(messages @ 1..) => messages,
                            _ => return Err(format!("--messages takes a number above 0: {USAGE}")),
                        }
                    }
                    "--trace" => options.trace = Some(value()?.into()),
                    "--" => options.command = arguments.by_ref().collect(),
                    _ => return Err(format!("what is {argument}? {USAGE}")),
                }
            }
            match options.thread.is_empty() || options.command.is_empty() {
                true => Err(USAGE.to_owned()),
                false => Ok(Some(options)),
            }
        }

        /// What `cargo bench` knows to be built beside it.
        fn of_bench(mut self) -> Option<Self> {
            let arguments = "bench rtt --payload 64 --idle spin --rounds 1 --duration 5";
            self.thread = "ringwire-0".to_owned();
            self.messages = 8;
            self.is_judged = true;
            self.command = vec![option_env!("CARGO_BIN_EXE_ringwire")?.to_owned()];
            self.command.extend(arguments.split(' ').map(str::to_owned));
            Some(self)
        }
    }

    /// A command that is ended with us, or when it takes too long: a step over a call that blocks
    /// waits as long as the kernel does.
    struct Running {
        child: Child,
        /// Dropped, it calls the alarm off.
        alarm: Option<(Sender<()>, JoinHandle<()>)>,
    }

    impl Running {
        fn start(command: &mut Command, limit: Duration) -> io::Result<Self> {
            let child = command.spawn()?;
            let id = libc::pid_t::try_from(child.id()).expect("ids of processes are positive");
            let (sender, receiver) = channel();
            let ring = move || {
                if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    // SAFETY: kill(2) touches no memory. The child is reaped by `drop` alone, which
                    // waits for this thread first: the id is still its own.
                    unsafe { libc::kill(id, libc::SIGKILL) };
                }
            };
            Ok(Self { child, alarm: Some((sender, thread::spawn(ring))) })
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            if let Some((sender, thread)) = self.alarm.take() {
                drop(sender);
                let _ = thread.join();
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    pub(crate) fn run(options: &Options) -> Result<String, String> {
        let program = &options.command[0];
        let mut command = Command::new(program);
        command.args(&options.command[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = Running::start(&mut command, THREAD_APPEARS + STEPS_TAKE)
            .map_err(|error| format!("{program}: {error}"))?;
        if let Some(beside) = &options.beside {
            find_thread(&mut running.child, beside)?;
        }
        let thread = find_thread(&mut running.child, &options.thread)?;
        thread::park_timeout(SETTLES);
        let mapped = mapped_program(running.child.id())?;

        let tracee = match Tracee::attach(thread) {
            Ok(tracee) => tracee,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return Ok("skipped: ptrace(2) is forbidden (kernel.yama.ptrace_scope, seccomp), \
                           or another one traces the command"
                    .to_owned());
            }
            Err(error) => return Err(format!("ptrace(2) of thread {thread}: {error}")),
        };
        let messages = step_messages(&tracee, options.messages)
            .map_err(|error| format!("thread {}: {error}", options.thread))?;
        drop(tracee);
        let plain = plainest(&messages);
        if let Some(path) = &options.trace {
            let text = plain.trace(&mapped);
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let report = plain.report();
        let calls = median(messages.iter().map(|message| message.calls.len()));
        if options.is_judged && (calls != 2 || plain.answered > BEFORE_MAX) {
            return Err(format!(
                "{report}: with most messages {calls} calls. 2 were expected, and before \
                 {BEFORE_MAX} at most: scripts/hot_path.sh names functions"
            ));
        }
        Ok(report)
    }

    /// The message that nothing else came with; see the header.
    fn plainest(messages: &[Message]) -> &Message {
        let least = median(messages.iter().map(|message| message.answered)) / 4 * 3;
        let whole = messages.iter().filter(|message| message.answered >= least);
        whole.min_by_key(|message| message.path.len()).expect("the median is one")
    }

    fn median(values: impl Iterator<Item = usize>) -> usize {
        let mut values: Vec<usize> = values.collect();
        values.sort_unstable();
        values[values.len() / 2]
    }

    fn find_thread(child: &mut Child, name: &str) -> Result<libc::pid_t, String> {
        let tasks = format!("/proc/{}/task", child.id());
        let limit = Nanos::now() + THREAD_APPEARS;
        while Nanos::now() < limit {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("the command has ended with {status}: run it by itself"));
            }
            for task in fs::read_dir(&tasks).into_iter().flatten().flatten() {
                let Ok(comm) = fs::read_to_string(task.path().join("comm")) else { continue };
                let id = task.file_name().to_string_lossy().parse();
                if let (true, Ok(id)) = (comm.trim_end() == name, id) {
                    return Ok(id);
                }
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        Err(format!("no thread {name} within {} s", THREAD_APPEARS.as_secs()))
    }

    /// Where the program's own code stands in memory.
    struct Mapped {
        begin: u64,
        end: u64,
    }

    fn mapped_program(process: u32) -> Result<Mapped, String> {
        let program = fs::read_link(format!("/proc/{process}/exe"));
        let maps = fs::read_to_string(format!("/proc/{process}/maps"));
        let (Ok(program), Ok(maps)) = (program, maps) else {
            return Err("the command has ended meanwhile".to_owned());
        };
        let program = program.to_string_lossy();
        let ranges = maps.lines().filter(|line| line.ends_with(&*program)).filter_map(|line| {
            let (begin, end) = line.split(' ').next()?.split_once('-')?;
            let parse = |number| u64::from_str_radix(number, 16).ok();
            Some((parse(begin)?, parse(end)?))
        });
        let (begins, ends): (Vec<u64>, Vec<u64>) = ranges.unzip();
        match (begins.first(), ends.last()) {
            (Some(&begin), Some(&end)) => Ok(Mapped { begin, end }),
            _ => Err("the command's program is not in its memory".to_owned()),
        }
    }

    /// A thread that stands still, until it is let go. It is killed with us.
    struct Tracee(libc::pid_t);

    impl Tracee {
        fn attach(thread: libc::pid_t) -> io::Result<Self> {
            let options = libc::PTRACE_O_EXITKILL as *mut libc::c_void;
            // SAFETY: PTRACE_SEIZE takes options by value and touches no memory of ours.
            unsafe { ptrace(libc::PTRACE_SEIZE.into(), thread, 0, options) }?;
            let tracee = Self(thread);
            // SAFETY: PTRACE_INTERRUPT takes nothing.
            unsafe { ptrace(libc::PTRACE_INTERRUPT.into(), thread, 0, null_mut()) }?;
            tracee.wait()?;
            Ok(tracee)
        }

        /// Waits until it stands still. Returns the signal that stopped it, and whether that is an
        /// event of ptrace(2) and no signal of the thread's.
        fn wait(&self) -> io::Result<(libc::c_int, bool)> {
            let mut status = 0;
            loop {
                // SAFETY: waitpid(2) writes an int to where it is told, which outlives the call.
                let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
                if waited == self.0 {
                    break;
                }
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            match libc::WIFSTOPPED(status) {
                true => Ok((libc::WSTOPSIG(status), status >> 16 != 0)),
                false => Err(ended()),
            }
        }

        fn registers(&self) -> io::Result<libc::user_regs_struct> {
            let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
            let place = registers.as_mut_ptr().cast();
            // SAFETY: PTRACE_GETREGS writes a `user_regs_struct`, and `place` is room for one.
            unsafe { ptrace(libc::PTRACE_GETREGS.into(), self.0, 0, place) }?;
            // SAFETY: the whole of it has been filled in.
            Ok(unsafe { registers.assume_init() })
        }

        fn is_before_syscall(&self, address: u64) -> io::Result<bool> {
            let mut word = 0_u64;
            let place = (&raw mut word).cast();
            // SAFETY: PTRACE_PEEKTEXT, by the system call itself, writes a word to `place`
            // (ptrace(2), "C library/kernel differences"). The address is the tracee's.
            unsafe { ptrace(libc::PTRACE_PEEKTEXT.into(), self.0, address, place) }?;
            Ok(word & 0xffff == SYSCALL)
        }

        /// Has it execute one instruction. It gets the signals that come meanwhile.
        fn step(&self) -> io::Result<()> {
            let mut signal = 0;
            loop {
                let passed_on = without_provenance_mut(signal);
                // SAFETY: PTRACE_SINGLESTEP takes a signal by value and touches no memory of ours.
                unsafe { ptrace(libc::PTRACE_SINGLESTEP.into(), self.0, 0, passed_on) }?;
                signal = match self.wait()? {
                    (libc::SIGTRAP, false) => return Ok(()),
                    (_, true) => 0,
                    (signal, false) => usize::try_from(signal).expect("signals are positive"),
                };
            }
        }
    }

    impl Drop for Tracee {
        fn drop(&mut self) {
            // SAFETY: PTRACE_DETACH takes no signal here and touches no memory of ours.
            let detached = unsafe { ptrace(libc::PTRACE_DETACH.into(), self.0, 0, null_mut()) };
            // One that was killed is its tracer's to reap: until then its process does not end.
            while detached.is_err() && self.wait().is_ok() {}
        }
    }

    fn ended() -> io::Error {
        io::Error::other("has ended meanwhile")
    }

    /// ptrace(2) by the system call itself: libraries differ in what they take.
    ///
    /// # Safety
    ///
    /// `data` is what the request says of it: a value, or a place for what the request writes.
    unsafe fn ptrace(
        request: libc::c_long,
        thread: libc::pid_t,
        address: u64,
        data: *mut libc::c_void,
    ) -> io::Result<()> {
        let thread = libc::c_long::from(thread);
        // SAFETY: the caller's promise. All arguments are as wide as the kernel reads them.
        let result = unsafe { libc::syscall(libc::SYS_ptrace, request, thread, address, data) };
        match result {
            0.. => Ok(()),
            _ => Err(match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ESRCH) => ended(),
                error => error,
            }),
        }
    }

    /// From the return of one receive to the begin of the next.
    #[derive(Default)]
    struct Message {
        /// Where each instruction stands.
        path: Vec<u64>,
        /// How many of them there are up to the answer.
        answered: usize,
        /// Which of them are system calls, and their numbers.
        calls: Vec<(usize, i64)>,
    }

    impl Message {
        fn report(&self) -> String {
            let (before, after) = self.path.split_at(self.answered);
            format!(
                "before {} lines {} pages {}  after {} lines {}  all-lines {} calls {}",
                before.len(),
                distinct(before, CODE_LINE_SHIFT),
                distinct(before, PAGE_SHIFT),
                after.len(),
                distinct(after, CODE_LINE_SHIFT),
                distinct(&self.path, CODE_LINE_SHIFT),
                self.calls.len(),
            )
        }

        fn trace(&self, mapped: &Mapped) -> String {
            let mut text = String::new();
            let mut calls = self.calls.iter().peekable();
            for (index, &address) in self.path.iter().enumerate() {
                match (mapped.begin..mapped.end).contains(&address) {
                    true => write!(text, "{:#x}", address - mapped.begin),
                    false => write!(text, "-"),
                }
                .expect("text takes all");
                if let Some(&(_, call)) = calls.next_if(|&&(at, _)| at == index) {
                    text.push(' ');
                    text.push_str(&call_name(call));
                }
                text.push('\n');
            }
            text
        }
    }

    fn distinct(path: &[u64], shift: u32) -> usize {
        path.iter().map(|address| address >> shift).collect::<BTreeSet<_>>().len()
    }

    fn is_receive(call: i64) -> bool {
        [libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_io_uring_enter].contains(&call)
    }

    fn is_send(call: i64) -> bool {
        [libc::SYS_sendto, libc::SYS_sendmsg].contains(&call)
    }

    fn call_name(call: i64) -> String {
        match call {
            libc::SYS_recvfrom => "recvfrom".to_owned(),
            libc::SYS_recvmsg => "recvmsg".to_owned(),
            libc::SYS_sendto => "sendto".to_owned(),
            libc::SYS_sendmsg => "sendmsg".to_owned(),
            libc::SYS_io_uring_enter => "io_uring_enter".to_owned(),
            other => format!("call-{other}"),
        }
    }

    fn step_messages(tracee: &Tracee, wanted: usize) -> io::Result<Vec<Message>> {
        let limit = Nanos::now() + STEPS_TAKE;
        let mut messages = Vec::new();
        // What goes on since a receive returned with something.
        let mut current: Option<Message> = None;
        while messages.len() < wanted {
            if Nanos::now() > limit {
                let seconds = STEPS_TAKE.as_secs();
                let got = messages.len();
                return Err(io::Error::other(format!("{got} of {wanted} answers in {seconds} s")));
            }
            let registers = tracee.registers()?;
            let call = match tracee.is_before_syscall(registers.rip)? {
                true => Some(registers.rax.cast_signed()),
                false => None,
            };
            if let Some(message) = &mut current {
                // A `rep` instruction is a step each time.
                if message.path.last() != Some(&registers.rip) {
                    message.path.push(registers.rip);
                }
                if let Some(call) = call {
                    message.calls.push((message.path.len() - 1, call));
                    if is_send(call) && message.answered == 0 {
                        message.answered = message.path.len();
                    }
                }
            }
            tracee.step()?;
            if !call.is_some_and(is_receive) {
                continue;
            }
            messages.extend(current.take().filter(|message| message.answered > 0));
            // A receive that found nothing, or failed, begins no message. Of an enter is known only
            // how much it submitted: what began with nothing is left out by the caller.
            let result = tracee.registers()?.rax.cast_signed();
            let has_come = match call {
                Some(libc::SYS_io_uring_enter) => result >= 0,
                _ => result > 0,
            };
            current = has_come.then(Message::default);
        }
        Ok(messages)
    }
}
