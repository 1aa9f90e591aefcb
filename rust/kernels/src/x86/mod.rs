//! The x86-64 tiers.

// Intrinsics are named as the vendor names them, dozens in a file.
#[allow(clippy::wildcard_imports)]
mod avx2;
#[allow(clippy::wildcard_imports)]
mod avx512;

use std::arch::asm;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::{Amx, Vnni};

/// Returns two pointers to the rows of a tile of up to six: row m is `m % 3 * stride` after pointer
/// `m / 3`.
///
/// The relation of the pointers is hidden from the compiler. Otherwise the inner loop would add
/// strides to addresses, on execution ports that vectors need.
#[allow(clippy::pointers_in_nomem_asm_block)] // nothing is read or written through it
fn bases<T>(a: *const T, stride: usize) -> [*const T; 2] {
    let mut second = a.wrapping_add(3 * stride);
    // SAFETY: no instruction.
    unsafe {
        asm!("/* {0} */", inout(reg) second, options(pure, nomem, nostack, preserves_flags));
    }
    [a, second]
}

/// Reads four bytes of codes.
///
/// # Safety
/// They can be read.
#[allow(clippy::cast_ptr_alignment)] // codes are read unaligned
unsafe fn read4<T>(codes: *const T) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { codes.cast::<i32>().read_unaligned() }
}
