//! Tiles of AMX: `tdpbssd` and `tdpbusd` multiply 16 rows of 64 codes by 16 rows of 64 weights in one instruction. (Its intrinsics
//! are not stable yet in Rust, hence the assembly.)
//!
//! A tile register holds 16 rows of 64 bytes. Of a panel it takes 16 rows of weights, 64 consecutive k of each, as they are packed:
//! a register's row is one group of 4 k. Rows of a tile are always read and written by 16.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use crate::tiled::Product;

/// Input rows of a tile: two registers of them, two of weights and the four of their sums make eight.
pub(super) const ROWS: usize = 2 * WHOLE_ROWS;
/// Rows of a register.
pub(super) const WHOLE_ROWS: usize = 16;
/// k of a register.
pub(super) const STEP: usize = 64;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight registers, each as large as they can be.
static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether the CPU has AMX for 8-bit numbers and the system lets this process use it (Linux is asked once: the registers are large, so
/// each process has to request them).
pub(crate) fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        const TILES_AND_INT8: u32 = 1 << 24 | 1 << 25;
        let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES_AND_INT8 == TILES_AND_INT8;
        has && request()
    })
}

/// Requests the tile registers for this process, its threads and its children.
#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: a system call that touches no memory of this process; it clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

/// Assembly that may change any tile register. The compiler uses none of them, so they keep their values from one to the next.
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

/// Makes the tile registers ready on this thread.
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
unsafe fn load<const TO: u8, T>(rows: *const T, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_asm!("tileloadd tmm{to}, [{rows} + {stride}]", to = const TO, rows = in(reg) rows, stride = in(reg) stride);
    }
}

/// Stores 16 rows of 64 bytes that start `stride` bytes apart.
///
/// # Safety
/// They can be written; the registers are configured.
#[inline]
unsafe fn store<const FROM: u8>(rows: *mut i32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_asm!("tilestored [{rows} + {stride}], tmm{from}", from = const FROM, rows = in(reg) rows, stride = in(reg) stride);
    }
}

/// Adds the products of 16 rows of codes, signed or not, and 16 of weights.
///
/// # Safety
/// The registers are configured.
#[inline]
unsafe fn dot<const SIGNED: bool, const SUMS: u8, const CODES: u8, const WEIGHTS: u8>() {
    // SAFETY: the caller's promise.
    unsafe {
        if SIGNED {
            tile_asm!("tdpbssd tmm{s}, tmm{c}, tmm{w}", s = const SUMS, c = const CODES, w = const WEIGHTS);
        } else {
            tile_asm!("tdpbusd tmm{s}, tmm{c}, tmm{w}", s = const SUMS, c = const CODES, w = const WEIGHTS);
        }
    }
}

/// Multiplies something, so that the unit stays awake. Measured: when it has had nothing to do for 1,600 to 3,200 cycles it sleeps,
/// and the next product takes 1,500 cycles more.
///
/// # Safety
/// The registers are configured; their contents do not matter.
pub(super) unsafe fn stay_awake() {
    // SAFETY: the caller's promise.
    unsafe { dot::<true, 0, 4, 6>() }
}

/// Rows 0 to 15 or 0 to 31 (`TALL`) by 16 * V columns, 2 of them at most where it is tall: sums in registers 0 to 3, codes in 4 and 5,
/// weights in 6 and 7. Calls `beside` after each step.
///
/// # Safety
/// As [`tile_of`].
#[inline]
unsafe fn block<const SIGNED: bool, const TALL: bool, const V: usize>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
    mut beside: impl FnMut(),
) {
    let Product {
        a,
        stride,
        w,
        width,
        k,
        bias,
        ..
    } = p;
    // SAFETY: the caller promises all rows and columns.
    unsafe {
        // A stride of 0: the same biases for each row.
        load::<0, _>(bias, 0);
        if V > 1 {
            load::<1, _>(bias.add(16), 0);
        }
        if TALL || V > 2 {
            load::<2, _>(bias.add(if TALL { 0 } else { 32 }), 0);
        }
        if TALL && V > 1 || V > 3 {
            load::<3, _>(bias.add(if TALL { 16 } else { 48 }), 0);
        }
        for step in 0..k / STEP {
            let a = a.add(STEP * step);
            let w = w.add(STEP * width * step);
            load::<4, _>(a, stride);
            load::<6, _>(w, 4 * width);
            dot::<SIGNED, 0, 4, 6>();
            if V > 1 {
                load::<7, _>(w.add(64), 4 * width);
                dot::<SIGNED, 1, 4, 7>();
            }
            if TALL {
                load::<5, _>(a.add(WHOLE_ROWS * stride), stride);
                dot::<SIGNED, 2, 5, 6>();
                if V > 1 {
                    dot::<SIGNED, 3, 5, 7>();
                }
            } else {
                if V > 2 {
                    load::<5, _>(w.add(128), 4 * width);
                    dot::<SIGNED, 2, 4, 5>();
                }
                if V > 3 {
                    load::<6, _>(w.add(192), 4 * width);
                    dot::<SIGNED, 3, 4, 6>();
                }
            }
            beside();
        }
        store::<0>(out, 4 * out_stride);
        if V > 1 {
            store::<1>(out.add(16), 4 * out_stride);
        }
        let lower = out.add(WHOLE_ROWS * out_stride);
        if TALL || V > 2 {
            store::<2>(if TALL { lower } else { out.add(32) }, 4 * out_stride);
        }
        if TALL && V > 1 || V > 3 {
            store::<3>(
                if TALL { lower.add(16) } else { out.add(48) },
                4 * out_stride,
            );
        }
    }
}

/// How often [`tile_beside`] calls what goes beside.
pub(super) fn parts(p: &Product<u8, i8>) -> usize {
    p.k / STEP
        * if p.rows > WHOLE_ROWS {
            p.width.div_ceil(32)
        } else {
            1
        }
}

/// Products of codes, signed or not, and signed weights, with `beside` between them.
///
/// # Safety
/// As `Isa::tile`, for rows rounded up to [`WHOLE_ROWS`], between [`configure`] and [`release`].
#[inline]
pub(super) unsafe fn tile_beside<const SIGNED: bool>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
    mut beside: impl FnMut(),
) {
    debug_assert!(p.rows <= ROWS && p.width.is_multiple_of(16) && p.k.is_multiple_of(STEP));
    // SAFETY: the caller promises whole registers of rows, and every column.
    unsafe {
        if p.rows > WHOLE_ROWS {
            for col in (0..p.width).step_by(32) {
                let (w, bias, out) = (p.w.add(4 * col), p.bias.add(col), out.add(col));
                let columns = Product { w, bias, ..p };
                if p.width - col > 16 {
                    block::<SIGNED, true, 2>(columns, out, out_stride, &mut beside);
                } else {
                    block::<SIGNED, true, 1>(columns, out, out_stride, &mut beside);
                }
            }
        } else {
            match p.width / 16 {
                1 => block::<SIGNED, false, 1>(p, out, out_stride, beside),
                2 => block::<SIGNED, false, 2>(p, out, out_stride, beside),
                3 => block::<SIGNED, false, 3>(p, out, out_stride, beside),
                _ => block::<SIGNED, false, 4>(p, out, out_stride, beside),
            }
        }
    }
}

/// Products of codes, signed or not, and signed weights.
///
/// # Safety
/// As `Isa::tile`, for rows rounded up to [`WHOLE_ROWS`], between [`configure`] and [`release`].
pub(super) unsafe fn tile_of<const SIGNED: bool>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { tile_beside::<SIGNED>(p, out, out_stride, || ()) }
}

/// # Safety
/// As `Isa::probe`.
pub(super) unsafe fn probe(iterations: u32) -> (u64, i32) {
    let mut sums = [0; 16 * 16];
    // SAFETY: the caller's promise; one register of sums is stored.
    unsafe {
        configure();
        for _ in 0..iterations {
            dot::<true, 0, 4, 6>();
            dot::<true, 1, 4, 7>();
            dot::<true, 2, 5, 6>();
            dot::<true, 3, 5, 7>();
        }
        store::<0>(sums.as_mut_ptr(), 64);
        release();
    }
    (
        u64::from(iterations) * 4 * (16 * 16 * 64),
        sums.iter().sum(),
    )
}
