//! Reserves an accelerator for one engine, by a lock on a file that all access paths to the FPGA
//! share.
//!
//! Linux releases the lock when the process ends, even after a crash. Depends on
//! [`quasar_core::error`].

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use quasar_core::error::{Error, Result};
use rustix::fs::{flock, major, minor, FlockOperation, OFlags};
use rustix::io::Errno;

/// The right to use an accelerator, until it is dropped.
#[derive(Debug)]
pub struct Ownership {
    file: File,
    /// The process that took it. A forked process inherits the file, but not the ownership.
    process: u32,
}

impl Ownership {
    /// Takes the accelerator whose lock file is `path`. Errors name `device`.
    ///
    /// # Errors
    /// [`Error::DeviceBusy`] if another engine or process has the accelerator;
    /// [`Error::DeviceUnavailable`] if the file cannot be opened or locked.
    pub fn take(device: &str, path: &Path) -> Result<Self> {
        let unavailable = |error: std::io::Error| Error::DeviceUnavailable {
            device: device.into(),
            problem: format!("{}: {error}", path.display()),
        };
        let file = open(path).map_err(unavailable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                file,
                process: process::id(),
            }),
            Err(Errno::WOULDBLOCK) => Err(Error::DeviceBusy {
                device: device.into(),
                owner: owner(&file),
            }),
            Err(error) => Err(unavailable(error.into())),
        }
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        if self.process == process::id() {
            // Unlocks explicitly, because a forked process may keep the file open.
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Returns the lock file for an FPGA without a manager or register nodes in Linux.
pub fn file_without_nodes() -> PathBuf {
    "/tmp/quasar-rt-fpga.lock".into()
}

/// Opens a lock file. Creates only the file of [`file_without_nodes`].
fn open(path: &Path) -> std::io::Result<File> {
    let common = path == file_without_nodes();
    // NONBLOCK, because opening a pipe waits for its other end; NOFOLLOW, because anyone may create
    // a link in /tmp.
    let flags = if common {
        OFlags::NONBLOCK | OFlags::NOFOLLOW
    } else {
        OFlags::NONBLOCK
    };
    let mut options = OpenOptions::new();
    options.custom_flags(flags.bits() as i32).mode(0o644);
    let found = options.clone().read(true).open(path);
    // In /tmp, Linux refuses O_CREAT for an existing file of another user.
    let file = match found {
        Err(_) if common => options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?,
        found => found?,
    };
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_dir() {
        let problem = "this is no file or device that can be locked";
        return Err(std::io::Error::new(ErrorKind::InvalidInput, problem));
    }
    Ok(file)
}

/// Names the process that has locked a file.
fn owner(file: &File) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    match file.metadata().ok().and_then(|file| {
        let (device, inode) = (file.dev(), file.ino());
        process_with_lock(&locks, major(device), minor(device), inode)
    }) {
        Some(id) if id == process::id() => "another engine of this process".into(),
        Some(id) => match fs::read_to_string(format!("/proc/{id}/comm")) {
            Ok(name) => format!(
                "process {id} ({})",
                quasar_core::error::printable(name.trim())
            ),
            Err(_) => format!("a process that was forked from process {id}, which has ended"),
        },
        None => "another process".into(),
    }
}

/// Finds the process that has locked the file in the text of `/proc/locks`.
fn process_with_lock(locks: &str, major: u32, minor: u32, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // A line with "->" belongs to a waiting process.
        let held = fields.next() == Some("FLOCK");
        let mut fields = fields.skip(2);
        let process = fields.next()?;
        (held && fields.next() == Some(file.as_str()))
            .then(|| process.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accelerator_has_one_owner() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = Ownership::take("uio:uio0", file.path()).unwrap();
        let error = Ownership::take("uio:uio0", file.path()).unwrap_err();
        assert_eq!(error.kind(), "DeviceBusy");
        let text = error.to_string();
        assert!(
            text.starts_with("uio:uio0 is in use by another engine of this process"),
            "{text}"
        );
        drop(first);
        Ownership::take("uio:uio0", file.path()).unwrap();
        for path in [file.path().join("none"), "/tmp".into()] {
            let missing = Ownership::take("uio:uio0", &path).unwrap_err();
            assert_eq!(missing.kind(), "DeviceUnavailable");
        }
    }

    #[test]
    fn the_owner_is_found_among_all_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 00:16:93 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 78 00:16:930 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 79 00:16:93 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 80 00:16:93 0 EOF\n";
        assert_eq!(process_with_lock(locks, 0, 0x16, 93), Some(80));
        assert_eq!(process_with_lock(locks, 0, 0x17, 93), None);
        assert_eq!(process_with_lock("garbage\n\n1:", 0, 0x16, 93), None);
    }
}
