//! Tile registers, and the instructions on them. (The intrinsics are not stable yet in Rust, hence
//! the assembly.)
//!
//! A register holds 16 rows of 64 bytes. One of codes holds 64 k of 16 input rows. One of weights
//! holds 64 k of 16 rows of a panel, as they are packed: each row of the register is a group of
//! 4 k.

use std::arch::asm;

/// Rows of a register.
pub(super) const WHOLE_ROWS: usize = 16;
/// k of a register.
pub(super) const STEP: usize = 64;

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Configures eight registers of the largest size.
static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Assembly that may change any tile register.
///
/// Values stay in the registers from one use to the next. The Rust reference does not promise that:
/// a register that is no input of an `asm!` has any value there. They do keep their values, because
/// nothing else writes them:
///
/// - The compiler has no values for them. To Rust they are clobbers, never operands
///   (rust-lang/rust#97097). LLVM assigns them to values of the type `x86_amx` alone, which only
///   AMX's intrinsics make, where the feature `amx-tile` is on; nothing here turns it on.
/// - A function that is called may change them (System V ABI for x86-64: no `tmm` is preserved). So
///   nothing is called between two uses whose values matter, in optimised builds: all is inlined.
///   In others, what is called leaves the registers alone.
/// - The kernel saves and restores them, with their configuration, when it switches threads or
///   delivers a signal, as it does the other XSAVE components (Linux's `arch/x86/xstate.rst`).
///
/// `tests/lab/test_kernel_code.py` disassembles the crate and checks the first two.
macro_rules! tile_asm {
    ($($arguments:tt)*) => {
        asm!(
            $($arguments)*,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags)
        )
    };
}

/// Configures the tile registers of this thread.
///
/// # Safety
/// AMX is usable.
pub(super) unsafe fn configure() {
    // SAFETY: reads 64 valid bytes; nobody else uses the tile registers of this thread meanwhile.
    unsafe { tile_asm!("ldtilecfg [{0}]", in(reg) &raw const CONFIGURATION) }
}

/// Empties the tile registers, so that the system need not save them.
///
/// # Safety
/// AMX is usable.
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { tile_asm!("tilerelease") }
}

/// Loads 16 rows of 64 bytes that start `stride` bytes apart.
///
/// # Safety
/// They can be read; the registers are configured.
#[inline]
pub(super) unsafe fn load<const TO: u8, T>(rows: *const T, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_asm!(
            "tileloadd tmm{to}, [{rows} + {stride}]",
            to = const TO,
            rows = in(reg) rows,
            stride = in(reg) stride
        );
    }
}

/// Sets a register to zeros.
///
/// # Safety
/// The registers are configured.
#[inline]
pub(super) unsafe fn zero<const TO: u8>() {
    // SAFETY: the caller's promise.
    unsafe { tile_asm!("tilezero tmm{to}", to = const TO) }
}

/// Stores 16 rows of 64 bytes that start `stride` bytes apart.
///
/// # Safety
/// They can be written; the registers are configured.
#[inline]
pub(super) unsafe fn store<const FROM: u8>(rows: *mut i32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_asm!(
            "tilestored [{rows} + {stride}], tmm{from}",
            from = const FROM,
            rows = in(reg) rows,
            stride = in(reg) stride
        );
    }
}

/// Adds the products of 16 rows of codes, signed or not, and 16 of weights.
///
/// # Safety
/// The registers are configured.
#[inline]
pub(super) unsafe fn dot<const SIGNED: bool, const SUMS: u8, const CODES: u8, const WEIGHTS: u8>() {
    // SAFETY: the caller's promise.
    unsafe {
        if SIGNED {
            tile_asm!(
                "tdpbssd tmm{s}, tmm{c}, tmm{w}",
                s = const SUMS,
                c = const CODES,
                w = const WEIGHTS
            );
        } else {
            tile_asm!(
                "tdpbusd tmm{s}, tmm{c}, tmm{w}",
                s = const SUMS,
                c = const CODES,
                w = const WEIGHTS
            );
        }
    }
}

/// Multiplies any contents, so that the tile multiplier stays awake. Measured: it sleeps after
/// 1,600 to 3,200 cycles without work, and the next product then takes 1,500 cycles more.
///
/// # Safety
/// The registers are configured; their contents do not matter.
pub(super) unsafe fn stay_awake() {
    // SAFETY: the caller's promise.
    unsafe { dot::<true, 0, 4, 6>() }
}
