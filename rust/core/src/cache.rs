//! Reads the size of this machine's caches from the operating system.

use std::fs;
use std::path::Path;

/// Returns the bytes of the largest cache of the first core, if the system knows them (Linux).
pub fn last_level() -> Option<usize> {
    largest(Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

/// Returns the bytes of the largest cache among the folders `index0`, `index1`, ...
fn largest(folder: &Path) -> Option<usize> {
    let sizes = fs::read_dir(folder).ok()?.filter_map(|cache| {
        let text = fs::read_to_string(cache.ok()?.path().join("size")).ok()?;
        bytes(text.trim())
    });
    sizes.max()
}

/// Parses a size as the kernel writes it: `512K`, `32M`.
fn bytes(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_the_kernel_writes_them() {
        for (text, size) in [
            ("48K", Some(48 << 10)),
            ("16M", Some(16 << 20)),
            ("123", Some(123)),
            ("", None),
            ("K", None),
            ("1 MB", None),
            ("99999999999999999999G", None),
        ] {
            assert_eq!(bytes(text), size, "{text}");
        }
    }

    #[test]
    fn the_largest_cache_counts_and_others_are_no_error() {
        let folder = std::env::temp_dir().join(format!("quasar-cache-{}", std::process::id()));
        for (name, size) in [("index0", "48K\n"), ("index3", "1024K\n"), ("uevent", "?")] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("size"), size).unwrap();
        }
        assert_eq!(largest(&folder), Some(1 << 20));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(largest(&folder), None);
    }
}
