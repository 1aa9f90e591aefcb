//! Copies to and from uncached mappings.
//!
//! On Arm such a mapping may be device memory. There an unaligned access faults (SIGBUS), and so
//! does the instruction that clears a cache line; `memcpy` may use both. These copies use aligned
//! accesses only, each once and in order. No dependencies.
#![allow(unsafe_code)]
// `accesses` aligns them.
#![allow(clippy::cast_ptr_alignment)]

/// Splits `bytes` bytes from `address` on into accesses of 8, 4 and 1 bytes, each aligned to its
/// size, and yields their offsets and sizes. Accesses of 8 bytes are in the middle, the others at
/// the ends.
fn accesses(address: usize, bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let fits =
            |size: &usize| (address + offset).is_multiple_of(*size) && bytes - offset >= *size;
        let size = [8, 4, 1].into_iter().find(fits)?;
        offset += size;
        Some((offset - size, size))
    })
}

/// Copies `data` to uncached memory.
///
/// # Safety
/// `data.len()` bytes from `to` on can be written, and do not overlap `data`.
pub(crate) unsafe fn copy_in(to: *mut u8, data: &[u8]) {
    for (offset, size) in accesses(to.addr(), data.len()) {
        // SAFETY: the access lies within both ranges. It is aligned in memory; the read of `data`
        // need not be aligned.
        unsafe {
            let (from, to) = (data.as_ptr().add(offset), to.add(offset));
            match size {
                8 => to
                    .cast::<u64>()
                    .write_volatile(from.cast::<u64>().read_unaligned()),
                4 => to
                    .cast::<u32>()
                    .write_volatile(from.cast::<u32>().read_unaligned()),
                _ => to.write_volatile(*from),
            }
        }
    }
}

/// Copies uncached memory to `out`.
///
/// # Safety
/// `out.len()` bytes from `from` on can be read, and do not overlap `out`.
pub(crate) unsafe fn copy_out(from: *const u8, out: &mut [u8]) {
    for (offset, size) in accesses(from.addr(), out.len()) {
        // SAFETY: as in `copy_in`.
        unsafe {
            let (from, to) = (from.add(offset), out.as_mut_ptr().add(offset));
            match size {
                8 => to
                    .cast::<u64>()
                    .write_unaligned(from.cast::<u64>().read_volatile()),
                4 => to
                    .cast::<u32>()
                    .write_unaligned(from.cast::<u32>().read_volatile()),
                _ => *to = from.read_volatile(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than two words and unaligned ends.
    const BYTES: usize = 40;

    #[test]
    fn accesses_are_aligned_and_cover_each_byte_once_in_order() {
        for address in 0..16 {
            for bytes in 0..=BYTES {
                let mut next = 0;
                for (offset, size) in accesses(address, bytes) {
                    assert_eq!(offset, next);
                    assert!((address + offset).is_multiple_of(size), "{address} {bytes}");
                    next += size;
                }
                assert_eq!(next, bytes);
            }
        }
    }

    #[test]
    fn all_but_the_ends_are_words() {
        let sizes = |address, bytes| accesses(address, bytes).map(|a| a.1).collect::<Vec<_>>();
        assert_eq!(sizes(0, 24), [8, 8, 8]);
        assert_eq!(sizes(3, 26), [1, 4, 8, 8, 4, 1]);
        assert_eq!(sizes(5, 6), [1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn copies_touch_their_bytes_and_no_others() {
        let pattern: Vec<u8> = (1..=BYTES as u8).collect();
        for source in 0..8 {
            for target in 0..8 {
                for bytes in 0..=BYTES - 8 {
                    let data = &pattern[source..source + bytes];
                    // Words, so that `target` alone determines the alignment.
                    let mut memory = [0_u64; BYTES / 8 + 1];
                    let start = memory.as_mut_ptr().cast::<u8>();
                    let mut out = [0; BYTES];
                    // SAFETY: at most 7 + 32 bytes of 48.
                    unsafe {
                        copy_in(start.add(target), data);
                        copy_out(start.add(target), &mut out[source..source + bytes]);
                    }
                    let found: Vec<u8> = memory.iter().flat_map(|w| w.to_ne_bytes()).collect();
                    let mut expected = vec![0; found.len()];
                    expected[target..target + bytes].copy_from_slice(data);
                    assert_eq!(found, expected, "{source} {target} {bytes}");
                    expected = vec![0; BYTES];
                    expected[source..source + bytes].copy_from_slice(data);
                    assert_eq!(out[..], expected, "{source} {target} {bytes}");
                }
            }
        }
    }
}
