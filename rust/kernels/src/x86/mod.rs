//! The x86-64 tiers.

// Intrinsics are named as the vendor names them, dozens in a file.
#[allow(clippy::wildcard_imports)]
mod avx2;
#[allow(clippy::wildcard_imports)]
mod avx512;
#[allow(clippy::wildcard_imports)]
pub(crate) mod image;
#[allow(clippy::wildcard_imports)]
pub(crate) mod quantize;

use std::arch::asm;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::{amx, Avx512};

/// Starts of the rows of a tile of up to six, three for each pointer: row m is `m % 3 * stride` behind `[m / 3]`.
///
/// The compiler does not see how the second pointer follows from the first. If it did, the inner loop would add
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

/// Four bytes of codes.
///
/// # Safety
/// They can be read.
#[allow(clippy::cast_ptr_alignment)] // codes are read unaligned
unsafe fn read4<T>(codes: *const T) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { codes.cast::<i32>().read_unaligned() }
}
