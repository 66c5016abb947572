//! Files that are there whole or not at all.
//!
//! A file is written under a temporary name in its folder, brought to the disk, and renamed: a full
//! disk or a crash never leaves half a page where a page is expected. What is not a regular file,
//! as a terminal or a pipe is not, can not be replaced by one and is written as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::ReportError;

/// Writes a whole file; an earlier one of that name is replaced at once.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let failed = |source| ReportError::Write { what: path.display().to_string(), source };
    if fs::metadata(path).is_ok_and(|existing| !existing.is_file()) {
        let mut file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        return file.write_all(bytes).and_then(|()| file.flush()).map_err(failed);
    }
    let part = Part::create(path).map_err(failed)?;
    part.fill(bytes).map_err(failed)
}

/// Makes the folder reports go to, if need be, and sees whether files can be made in it.
pub(super) fn prepare(folder: &Path) -> Result<(), ReportError> {
    let failed = |source| ReportError::Write { what: folder.display().to_string(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    // Dropped at once, which takes it away again.
    Part::create(&folder.join("index.html")).map(drop).map_err(failed)
}

/// A file that has not got its name yet; it disappears unless it gets it.
#[derive(Debug)]
struct Part {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    is_named: bool,
}

impl Part {
    /// Creates the file beside `target`, under a name that no other process takes.
    fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let temporary = target.with_file_name(hidden);
        let create = || OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = match create() {
            // Left by a process of this number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&temporary)?;
                create()?
            }
            other => other?,
        };
        Ok(Self { file, temporary, target: target.into(), is_named: false })
    }

    fn fill(mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        // Some file systems find out only now that the disk is full.
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_named {
            // Nothing is left to be done about a file that can not be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test alone, empty.
    fn folder(name: &str) -> PathBuf {
        let name = format!("ringwire-report-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder for temporary files");
        path
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("it is there");
        entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn file_is_replaced_whole() {
        let folder = folder("replace");
        let path = folder.join("page.html");
        write(&path, b"one").expect("a new file");
        write(&path, b"two").expect("another in its place");
        assert_eq!(fs::read(&path).expect("it is there"), b"two");
        assert_eq!(names(&folder), ["page.html"], "no temporary file is left");
        fs::remove_dir_all(folder).expect("ours");
    }

    #[test]
    fn failure_leaves_what_was_there() {
        let folder = folder("failure");
        let path = folder.join("page.html");
        fs::create_dir(&path).expect("a folder in the way");
        let error = write(&path, b"one").expect_err("a folder is no file").to_string();
        assert!(error.contains("page.html"), "{error}");
        assert_eq!(names(&folder), ["page.html"]);
        let error = prepare(Path::new("/proc/nowhere")).expect_err("not a place for files");
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
        fs::remove_dir_all(folder).expect("ours");
    }

    #[test]
    fn device_is_written_and_not_replaced() {
        write(Path::new("/dev/null"), b"one").expect("it takes everything");
        let error = write(Path::new("/dev/full"), b"one").expect_err("it takes nothing");
        assert!(error.to_string().contains("/dev/full"), "{error}");
        for device in ["/dev/null", "/dev/full"] {
            let kind = fs::metadata(device).expect("it is still there").file_type();
            assert!(!kind.is_file(), "{device}");
        }
    }
}
