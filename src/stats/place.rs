//! Where registry files are, and what they are called.
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
            let now = crate::time::Nanos::now().0;
            let name = format!("ringwire-place-{name}-{}-{now}", std::process::id());
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
    fn file_names_are_plain() {
        assert_eq!(as_file_name("drive-7"), "drive-7");
        assert_eq!(as_file_name("../a b/ä"), "___a_b__");
        assert_eq!(as_file_name(&"x".repeat(100)).len(), 48);
    }
}
