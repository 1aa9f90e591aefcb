//! Opening and atomic writing of files. Depends on nothing of the crate.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Symbolic links that are followed, at most (Linux's limit).
const MAX_LINKS: usize = 40;

/// Opens a file for reading. Does not wait for a writer if the path names a FIFO.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    options.open(path)
}

/// Writes a file atomically: writes and syncs a temporary file in the same directory, then renames
/// it. Follows symbolic links, keeps an existing file's mode and replaces only regular files. On
/// failure an existing file is unchanged and no temporary file remains.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = follow_links(path)?;
    if path.file_name().is_none() {
        return Err(io::Error::other("the path names no file"));
    }
    let permissions = match fs::metadata(&path) {
        Ok(existing) if existing.is_file() => Some(existing.permissions()),
        Ok(_) => return Err(io::Error::other("it exists and is not a regular file")),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let (temporary, file) = create_beside(&path)?;
    fill(file, permissions, bytes)
        .and_then(|()| fs::rename(&temporary, &path))
        .inspect_err(|_| {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
        })?;
    // The rename is durable once the directory is synced. If the directory cannot be synced, the
    // file is complete anyway.
    #[cfg(unix)]
    if let Ok(directory) = File::open(
        path.parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    ) {
        let _ = directory.sync_all();
    }
    Ok(())
}

/// Follows symbolic links; the last one may lead to a file that does not exist yet.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // It is no link. Any other problem shows when the path is used.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Creates a file in the same directory, with a short name.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    // Concurrent saves must not share a temporary file, nor reuse one that another process left.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".qvit-{:x}-{number:x}", std::process::id()));
        match File::options()
            .write(true)
            .create_new(true)
            .open(&temporary)
        {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn fill(mut file: File, permissions: Option<Permissions>, bytes: &[u8]) -> io::Result<()> {
    if let Some(permissions) = permissions {
        file.set_permissions(permissions)?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}
