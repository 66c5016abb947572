//! What a thread executes between a receive and its answer: instructions, the cache lines and pages
//! of code they stand in, and system calls. Exact, and the same on a busy machine: each instruction
//! of the thread is a step under ptrace(2).
//!
//! Cold code between warm costs more here than what it does: with every message the kernel's own
//! path takes the first-level cache, and each line comes back from the second.
//!
//! ```text
//! hot_path --thread NAME [--beside NAME] [--messages N] [--trace FILE] -- COMMAND...
//! ```
//!
//! Starts the command, waits for a thread of that name, and for one beside it, and steps it from
//! the return of a receive (recvfrom(2), io_uring_enter(2)) to the answer (sendto(2), sendmsg(2))
//! and on to the next receive, N times. What brings no answer, or answers in a later turn, is not
//! counted. Prints the counts of the message that took the fewest in all: to a thread that is
//! stepped time runs fast, and what is done seldom, a confirmation or a heartbeat, comes with every
//! other. Less than three quarters of the median is no message, but one of those by itself. FILE
//! gets its path: for each instruction its offset in the program, or `-` outside of it (the vDSO,
//! the C library), and the name of a system call behind it.
//! `scripts/hot_path.sh` runs it for both ends and says whose functions these are.
//!
//! Run by `cargo bench`, it steps a few messages of `ringwire bench`, spinning, and fails where the
//! server makes other system calls than one receive and one send, or takes half as many
//! instructions again as it did. x86-64 alone: elsewhere, and where ptrace(2) is forbidden, it says
//! so.
//!
//! Not counted: the kernel. Time is not measured at all.

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    let outcome = stepper::Wish::from_arguments().and_then(|wish| stepper::run(&wish));
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
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;
    use std::{fs, io, thread};

    use ringwire::Nanos;

    const USAGE: &str = "usage: hot_path --thread NAME [--beside NAME] [--messages N] \
         [--trace FILE] -- COMMAND...";
    /// Of which one stands for all.
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
    pub(crate) struct Wish {
        thread: String,
        beside: Option<String>,
        messages: usize,
        trace: Option<PathBuf>,
        command: Vec<String>,
        /// Whether what it finds is held to what is known.
        is_judged: bool,
    }

    impl Wish {
        pub(crate) fn from_arguments() -> Result<Self, String> {
            let mut wish = Self {
                thread: String::new(),
                beside: None,
                messages: MESSAGES,
                trace: None,
                command: Vec::new(),
                is_judged: false,
            };
            let mut arguments = std::env::args().skip(1);
            while let Some(argument) = arguments.next() {
                let mut value = || arguments.next().ok_or(format!("{argument}: {USAGE}"));
                match argument.as_str() {
                    "--thread" => wish.thread = value()?,
                    "--beside" => wish.beside = Some(value()?),
                    "--messages" => {
                        wish.messages = match value()?.parse() {
                            Ok(messages @ 1..) => messages,
                            _ => return Err(format!("--messages takes a number above 0: {USAGE}")),
                        }
                    }
                    "--trace" => wish.trace = Some(value()?.into()),
                    "--" => wish.command = arguments.by_ref().collect(),
                    // What cargo passes.
                    "--bench" | "--test" => {}
                    _ => return Err(format!("what is {argument}? {USAGE}")),
                }
            }
            match (wish.thread.is_empty(), wish.command.is_empty()) {
                (false, false) => Ok(wish),
                (true, true) => wish.of_bench().ok_or_else(|| USAGE.to_owned()),
                _ => Err(USAGE.to_owned()),
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

    /// A command that is ended with us.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    pub(crate) fn run(wish: &Wish) -> Result<String, String> {
        let program = &wish.command[0];
        let mut command = Command::new(program);
        command.args(&wish.command[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        let mut running = Running(child);
        if let Some(beside) = &wish.beside {
            find_thread(&mut running.0, beside)?;
        }
        let thread = find_thread(&mut running.0, &wish.thread)?;
        thread::park_timeout(SETTLES);
        let mapped = mapped_program(running.0.id())?;

        let tracee = match Tracee::attach(thread) {
            Ok(tracee) => tracee,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return Ok("skipped: ptrace(2) is not permitted here".to_owned());
            }
            Err(error) => return Err(format!("ptrace(2) of thread {thread}: {error}")),
        };
        let mut messages = step_messages(&tracee, wish.messages)
            .map_err(|error| format!("thread {}: {error}", wish.thread))?;
        drop(tracee);
        messages.sort_by_key(|message| message.answered);
        let least = messages[messages.len() / 2].answered / 4 * 3;
        let whole = messages.iter().filter(|message| message.answered >= least);
        let plain = whole.min_by_key(|message| message.path.len()).expect("the median is one");
        if let Some(path) = &wish.trace {
            let text = plain.trace(&mapped);
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let report = plain.report();
        let is_as_known = plain.calls.len() == 2 && plain.answered <= BEFORE_MAX;
        if wish.is_judged && !is_as_known {
            let known = format!("calls 2 and before {BEFORE_MAX} at most were expected");
            return Err(format!("{report}: {known}; scripts/hot_path.sh names functions"));
        }
        Ok(report)
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

    /// A thread that stands still, until it is let go.
    struct Tracee(libc::pid_t);

    impl Tracee {
        fn attach(thread: libc::pid_t) -> io::Result<Self> {
            request(libc::PTRACE_ATTACH, thread, std::ptr::null_mut())?;
            let tracee = Self(thread);
            tracee.wait()?;
            Ok(tracee)
        }

        /// Waits until it stands still.
        fn wait(&self) -> io::Result<()> {
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
                true => Ok(()),
                false => Err(io::Error::other("has ended meanwhile")),
            }
        }

        fn registers(&self) -> io::Result<libc::user_regs_struct> {
            let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::uninit();
            request(libc::PTRACE_GETREGS, self.0, registers.as_mut_ptr().cast())?;
            // SAFETY: PTRACE_GETREGS has filled in the whole of it.
            Ok(unsafe { registers.assume_init() })
        }

        fn is_before_syscall(&self, address: u64) -> io::Result<bool> {
            let mut word = 0_u64;
            // SAFETY: PTRACE_PEEKTEXT, by the system call itself, writes a word to where it is
            // told (ptrace(2), "C library/kernel differences"). The address is the tracee's.
            let result = unsafe {
                let request = libc::PTRACE_PEEKTEXT;
                libc::syscall(libc::SYS_ptrace, request, self.0, address, &raw mut word)
            };
            match result {
                0 => Ok(word & 0xffff == SYSCALL),
                _ => Err(io::Error::last_os_error()),
            }
        }

        fn step(&self) -> io::Result<()> {
            request(libc::PTRACE_SINGLESTEP, self.0, std::ptr::null_mut())?;
            self.wait()
        }
    }

    impl Drop for Tracee {
        fn drop(&mut self) {
            let _ = request(libc::PTRACE_DETACH, self.0, std::ptr::null_mut());
        }
    }

    /// A request that takes nothing from us but where to write what it says.
    fn request(
        request: libc::c_uint,
        thread: libc::pid_t,
        data: *mut libc::c_void,
    ) -> io::Result<()> {
        let address = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: of the requests made here PTRACE_GETREGS alone writes, a `user_regs_struct`, and
        // `data` is one then; null stands for no signal.
        let result = unsafe { libc::ptrace(request, thread, address, data) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
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
                message.path.push(registers.rip);
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
            // A receive that found nothing, or failed, begins no message.
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
