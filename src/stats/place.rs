//! Where registry files are, and whose they are.
//!
//! A file lies in a directory of this user alone (mode 0700): others can neither read the numbers
//! nor put something else in its place. Tried in this order, as it exists:
//! `$XDG_RUNTIME_DIR/ringwire`, `/run/user/UID/ringwire`, `/dev/shm/ringwire-UID`,
//! `/tmp/ringwire-UID`. `/dev/shm` stands before `/tmp` because it is memory: a file on a disk is
//! written back by the kernel, and its writer then waits for the next write to a page.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The extension of registry files.
pub(crate) const EXTENSION: &str = "rwstats";

/// The directories that a registry may be in when the configuration names none, best first.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let named = named.filter(|path| path.is_absolute()).map(|path| path.join("ringwire"));
    let others = [
        format!("/run/user/{user}/ringwire"),
        format!("/dev/shm/ringwire-{user}"),
        format!("/tmp/ringwire-{user}"),
    ];
    let mut all: Vec<PathBuf> = named.into_iter().chain(others.map(PathBuf::from)).collect();
    all.dedup();
    all
}

/// Makes `directory` if need be, and checks that nobody else can write to it.
///
/// # Errors
///
/// The kernel's, or what is wrong with what is there.
pub(crate) fn ensure(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(directory)?;
    let user = rustix::process::geteuid().as_raw();
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if !found.is_dir() {
        return refused("it is no directory of its own (a link is not followed)");
    }
    if found.uid() != user {
        return refused("it belongs to another user");
    }
    if found.mode() & 0o022 != 0 {
        return refused("others may write to it");
    }
    Ok(())
}

/// A process, also after its number has gone to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// Clock ticks after the machine's start.
    pub(crate) started: u64,
    /// The machine's run.
    pub(crate) boot: [u64; 2],
}

impl ProcessId {
    /// This process.
    pub(crate) fn own() -> Self {
        let pid = std::process::id();
        Self { pid, started: start_of(pid).unwrap_or(0), boot: boot() }
    }

    /// Whether it still runs. Processes of another PID namespace count as ended.
    pub(crate) fn is_running(self) -> bool {
        self.boot == boot() && start_of(self.pid) == Some(self.started)
    }
}

/// Whether any process has this number.
pub(crate) fn exists(pid: u32) -> bool {
    start_of(pid).is_some()
}

/// The process in the name of a registry file, `NAME-PID-NUMBER.rwstats`.
pub(crate) fn pid_in_name(path: &Path) -> Option<u32> {
    let mut parts = path.file_stem()?.to_str()?.rsplitn(3, '-');
    let (_number, pid, _name) = (parts.next()?, parts.next()?, parts.next()?);
    pid.parse().ok()
}

/// When a process began, unless there is none of this number or it only waits to be reaped.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses, which may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Which run of the machine this is; zeros when the kernel does not say.
fn boot() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range: std::ops::Range<usize>| {
        digits.get(range).and_then(|half| u64::from_str_radix(half, 16).ok()).unwrap_or(0)
    };
    [half(0..16), half(16..32)]
}

/// The file name of the command that this process runs.
pub(crate) fn command() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// A name as part of a file's name.
pub(crate) fn as_file_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.chars().take(48).map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("ringwire-place-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).expect("a directory for temporary files");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn check_refused(path: &Path, why: &str) {
        let error = ensure(path).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn directory_is_made_for_this_user_alone() {
        let scratch = Scratch::new("made");
        let path = scratch.0.join("ringwire");
        ensure(&path).expect("it can be made");
        ensure(&path).expect("it is there");
        let mode = std::fs::metadata(&path).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn what_others_can_write_to_is_refused() {
        let scratch = Scratch::new("refused");
        let open = scratch.0.join("open");
        std::fs::create_dir(&open).expect("writable");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("ours");
        check_refused(&open, "others may write");
        let link = scratch.0.join("link");
        std::os::unix::fs::symlink(&scratch.0, &link).expect("writable");
        check_refused(&link, "no directory");
        let file = scratch.0.join("file");
        std::fs::write(&file, "").expect("writable");
        check_refused(&file, "no directory");
    }

    #[test]
    fn process_is_known_by_its_start() {
        let own = ProcessId::own();
        assert!(own.started > 0 && own.is_running());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_running());
        assert!(!ProcessId { boot: [1, 2], ..own }.is_running());
    }

    #[test]
    fn process_that_waits_to_be_reaped_is_dead() {
        let mut child = std::process::Command::new("true").spawn().expect("a command");
        let pid = child.id();
        let deadline = crate::time::Nanos::now() + std::time::Duration::from_secs(10);
        while start_of(pid).is_some() {
            assert!(crate::time::Nanos::now() < deadline, "the child does not end");
            std::thread::yield_now();
        }
        child.wait().expect("our own child");
    }

    #[test]
    fn file_name_tells_the_process() {
        assert_eq!(pid_in_name(Path::new("/run/drive-7-4711-0.rwstats")), Some(4711));
        for other in ["drive.rwstats", "4711-0.rwstats", "drive-x-0.rwstats", "/"] {
            assert_eq!(pid_in_name(Path::new(other)), None, "{other}");
        }
        assert!(exists(std::process::id()) && !exists(u32::MAX));
    }

    #[test]
    fn file_names_are_plain() {
        assert_eq!(as_file_name("drive-7"), "drive-7");
        assert_eq!(as_file_name("../a b/ä"), "___a_b__");
        assert_eq!(as_file_name(&"x".repeat(100)).len(), 48);
    }
}
