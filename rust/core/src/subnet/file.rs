//! Opening of files. Depends on nothing of the crate.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

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
