//! Blocks of products: sums of 16 rows by up to 64 columns, or of 32 by 32, in four registers.

use super::registers::{dot, load, store, zero, STEP, WHOLE_ROWS};
use crate::tiled::Product;

/// Input rows of a tile: two registers of inputs, two of weights and four of sums make eight.
pub(super) const ROWS: usize = 2 * WHOLE_ROWS;
/// Columns of a panel: those of four registers of sums.
const PANEL: usize = 64;

/// Steps up to which a block's epilogue takes longer than its products.
const FEW_STEPS: usize = 4;

/// Work that is done in parts between the products of a tile. (A trait, since closures that are
/// called in several places are not inlined.)
pub(super) trait Meanwhile {
    /// Does the next part, after a step. The sums of the tile before may be read if `is_stored`.
    ///
    /// # Safety
    /// All that it reads and writes is live; the CPU has the tier's features.
    unsafe fn step(&mut self, is_stored: bool);
}

impl Meanwhile for () {
    unsafe fn step(&mut self, _is_stored: bool) {}
}

/// The sums of a block that are still in its registers, 0 to `registers - 1`.
///
/// A store waits for the block's last products, and the multiplier for the store. So the next block
/// stores them, each just before it needs the register: 12 products and 4 stores then take 1.0 to
/// 1.03 times as long as the products alone, in place of 1.27 (measured).
#[derive(Clone, Copy)]
pub(super) struct Unstored {
    registers: usize,
    at: [*mut i32; 4],
    stride: usize,
}

impl Unstored {
    /// No sums.
    pub const NONE: Self = Self {
        registers: 0,
        at: [std::ptr::null_mut(); 4],
        stride: 0,
    };

    /// Stores one register, if it is one of them.
    ///
    /// # Safety
    /// The rows can be written; the registers are configured.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn store_register<const REGISTER: u8>(&self) {
        let register = usize::from(REGISTER);
        if register < self.registers {
            // SAFETY: the caller's promise.
            unsafe { store::<REGISTER>(self.at[register], 4 * self.stride) }
        }
    }

    /// Stores those from register `first` on, at least 1.
    ///
    /// # Safety
    /// As above.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn store_from(&self, first: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if first < 2 {
                self.store_register::<1>();
            }
            if first < 3 {
                self.store_register::<2>();
            }
            if first < 4 {
                self.store_register::<3>();
            }
        }
    }

    /// Stores all of them.
    ///
    /// # Safety
    /// As above.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    pub unsafe fn store(self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.store_register::<0>();
            self.store_from(1);
        }
    }
}

/// The operands of a step of a block: 64 k of 16 or 32 (`TALL`) rows and of 16 * V columns.
#[derive(Clone, Copy)]
struct BlockStep<const TALL: bool, const V: usize> {
    a: *const u8,
    stride: usize,
    w: *const i8,
    width: usize,
}

impl<const TALL: bool, const V: usize> BlockStep<TALL, V> {
    fn next(self) -> Self {
        Self {
            a: self.a.wrapping_add(STEP),
            w: self.w.wrapping_add(STEP * self.width),
            ..self
        }
    }

    /// Loads 16 rows of codes from row 16 * `part` on.
    ///
    /// # Safety
    /// They can be read; the registers are configured.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn load_codes<const TO: u8>(self, part: usize) {
        // SAFETY: the caller's promise.
        unsafe { load::<TO, _>(self.a.add(part * WHOLE_ROWS * self.stride), self.stride) }
    }

    /// Loads 16 columns of weights from column 16 * `part` on, if there are so many.
    ///
    /// # Safety
    /// They can be read; the registers are configured.
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn load_weights<const TO: u8>(self, part: usize) {
        if part < V {
            // SAFETY: the caller's promise.
            unsafe { load::<TO, _>(self.w.add(64 * part), 4 * self.width) }
        }
    }

    /// Multiplies 32 rows: codes in registers 4 and 5, weights in 6 and 7. The first step starts
    /// the block.
    ///
    /// # Safety
    /// As [`block`].
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn multiply_tall<const SIGNED: bool>(self, start: Option<&Start>) {
        // SAFETY: the caller's promise.
        unsafe {
            self.load_codes::<4>(0);
            self.load_weights::<6>(0);
            // While the first store waits, the other registers can be loaded.
            if start.is_some() {
                self.load_weights::<7>(1);
                self.load_codes::<5>(1);
            }
            prepare::<0>(start);
            dot::<SIGNED, 0, 4, 6>();
            if start.is_none() {
                self.load_weights::<7>(1);
            }
            if V > 1 {
                prepare::<1>(start);
                dot::<SIGNED, 1, 4, 7>();
            }
            if start.is_none() {
                self.load_codes::<5>(1);
            }
            if V > 1 {
                prepare::<2>(start);
                dot::<SIGNED, 2, 5, 6>();
                prepare::<3>(start);
                dot::<SIGNED, 3, 5, 7>();
            } else {
                prepare::<1>(start);
                dot::<SIGNED, 1, 5, 6>();
            }
        }
    }

    /// Multiplies 16 rows. Their codes are in register `CODES`, and weights in 6 and, if there are
    /// more than 16 columns, in 7. Loads as much for the next step, if there is one: its codes into
    /// `NEXT`. The first step starts the block.
    ///
    /// # Safety
    /// As [`block`].
    #[allow(clippy::inline_always)] // called between uses of tile registers
    #[inline(always)]
    unsafe fn multiply_short<const SIGNED: bool, const CODES: u8, const NEXT: u8>(
        self,
        start: Option<&Start>,
        is_last: bool,
    ) {
        let next = self.next();
        // SAFETY: the caller's promise.
        unsafe {
            if !is_last {
                next.load_codes::<NEXT>(0);
            }
            prepare::<0>(start);
            dot::<SIGNED, 0, CODES, 6>();
            self.load_weights::<6>(2);
            if V > 1 {
                prepare::<1>(start);
                dot::<SIGNED, 1, CODES, 7>();
            }
            self.load_weights::<7>(3);
            if V > 2 {
                prepare::<2>(start);
                dot::<SIGNED, 2, CODES, 6>();
            }
            if !is_last {
                next.load_weights::<6>(0);
            }
            if V > 3 {
                prepare::<3>(start);
                dot::<SIGNED, 3, CODES, 7>();
            }
            if !is_last {
                next.load_weights::<7>(1);
            }
        }
    }
}

/// The beginning of a block.
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// The sums of the block before, which this one stores.
    pub before: Unstored,
    /// Rows of 64 sums to which a short block of as many columns adds; null for zeros.
    pub from: *const i32,
}

impl Start {
    const fn after(before: Unstored) -> Self {
        Self {
            before,
            from: std::ptr::null(),
        }
    }
}

/// Prepares a register for new sums, if this is the first step of a block.
///
/// # Safety
/// As [`Unstored::store_register`]; the sums to add to can be read.
#[allow(clippy::inline_always)] // called between uses of tile registers
#[inline(always)]
unsafe fn prepare<const REGISTER: u8>(start: Option<&Start>) {
    if let Some(Start { before, from }) = start {
        // SAFETY: the caller's promise.
        unsafe {
            before.store_register::<REGISTER>();
            if from.is_null() {
                zero::<REGISTER>();
            } else {
                load::<REGISTER, _>(from.add(16 * usize::from(REGISTER)), 4 * PANEL);
            }
        }
    }
}

/// Multiplies rows 0 to 15, or 0 to 31 (`TALL`), by 16 * V columns (V is at most 2 if tall). Sums
/// stay in the first registers, for `out`. Calls `meanwhile` after each step.
///
/// # Safety
/// The registers are configured. Rows of codes can be read, rounded up to whole registers, and the
/// columns of weights. So many sums can be written: those of the block before now, those of this
/// one until they are stored.
#[allow(clippy::inline_always)] // sums stay in registers from one block to the next
#[inline(always)]
pub(super) unsafe fn block<const SIGNED: bool, const TALL: bool, const V: usize>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
    start: Start,
    meanwhile: &mut impl Meanwhile,
) -> Unstored {
    let Product {
        a,
        stride,
        w,
        width,
        k,
        ..
    } = p;
    debug_assert!(k >= STEP && (start.from.is_null() || !TALL && V == 4));
    let registers = if TALL { 2 * V } else { V };
    let mut step = BlockStep::<TALL, V> {
        a,
        stride,
        w,
        width,
    };
    let steps = k / STEP;
    // SAFETY: the caller promises all rows and columns.
    unsafe {
        if !TALL {
            step.load_codes::<4>(0);
            step.load_weights::<6>(0);
            step.load_weights::<7>(1);
        }
        for i in 0..steps {
            let is_last = i + 1 == steps;
            if i == 0 {
                if TALL {
                    step.multiply_tall::<SIGNED>(Some(&start));
                } else {
                    step.multiply_short::<SIGNED, 4, 5>(Some(&start), is_last);
                }
                start.before.store_from(registers);
            } else if TALL {
                step.multiply_tall::<SIGNED>(None);
            } else if i % 2 == 0 {
                step.multiply_short::<SIGNED, 4, 5>(None, is_last);
            } else {
                step.multiply_short::<SIGNED, 5, 4>(None, is_last);
            }
            meanwhile.step(i >= steps - finishing_steps(steps));
            step = step.next();
        }
    }
    let at = |register: usize| {
        let (row, column) = if TALL {
            (register / V * WHOLE_ROWS, register % V)
        } else {
            (0, register)
        };
        out.wrapping_add(row * out_stride + 16 * column)
    };
    Unstored {
        registers,
        at: std::array::from_fn(at),
        stride: out_stride,
    }
}

/// Returns the number of a block's last steps after which the tile before may be read. Right after
/// the first step a read would wait for the stores; but if there are few steps, the epilogue takes
/// longer than the products, and needs all of them.
fn finishing_steps(steps: usize) -> usize {
    if steps <= FEW_STEPS {
        steps
    } else {
        steps - 1
    }
}

/// Returns the number of steps of a tile, and that of steps after which the tile before may be
/// read.
pub(super) fn steps(p: &Product<u8, i8>) -> [usize; 2] {
    let blocks = if p.rows > WHOLE_ROWS {
        p.width.div_ceil(32)
    } else {
        1
    };
    let steps = p.k / STEP;
    [steps, finishing_steps(steps)].map(|steps| steps * blocks)
}

/// Multiplies a tile as [`block`] does.
///
/// # Safety
/// As there.
#[allow(clippy::inline_always)] // sums stay in registers from one block to the next
#[inline(always)]
pub(super) unsafe fn tile_in_registers<const SIGNED: bool>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
    mut before: Unstored,
    meanwhile: &mut impl Meanwhile,
) -> Unstored {
    debug_assert!(p.rows <= ROWS && p.k.is_multiple_of(STEP));
    debug_assert!(p.width.is_multiple_of(16) && (16..=64).contains(&p.width));
    // SAFETY: the caller promises whole registers of rows, and every column.
    unsafe {
        if p.rows > WHOLE_ROWS {
            for col in (0..p.width).step_by(32) {
                let (w, out) = (p.w.add(4 * col), out.add(col));
                let start = Start::after(before);
                let columns = Product { w, ..p };
                before = if p.width - col > 16 {
                    block::<SIGNED, true, 2>(columns, out, out_stride, start, meanwhile)
                } else {
                    block::<SIGNED, true, 1>(columns, out, out_stride, start, meanwhile)
                };
            }
            before
        } else {
            let start = Start::after(before);
            match p.width / 16 {
                1 => block::<SIGNED, false, 1>(p, out, out_stride, start, meanwhile),
                2 => block::<SIGNED, false, 2>(p, out, out_stride, start, meanwhile),
                3 => block::<SIGNED, false, 3>(p, out, out_stride, start, meanwhile),
                _ => block::<SIGNED, false, 4>(p, out, out_stride, start, meanwhile),
            }
        }
    }
}

/// Computes [`crate::tiled::Tiles::tile`] for codes, signed or not, and calls `meanwhile` between
/// its products.
///
/// # Safety
/// As there, for rows rounded up to [`WHOLE_ROWS`], with configured registers.
#[inline]
pub(super) unsafe fn tile_overlapped<const SIGNED: bool>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
    meanwhile: &mut impl Meanwhile,
) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_in_registers::<SIGNED>(p, out, out_stride, Unstored::NONE, meanwhile).store();
    }
}

/// Computes a tile of more than [`WHOLE_ROWS`] rows and 64 columns, as [`block`] does.
///
/// # Safety
/// As there.
#[allow(clippy::inline_always)] // sums stay in registers from one block to the next
#[inline(always)]
pub(super) unsafe fn tall_tile(
    p: Product<u8, i8>,
    out: *mut i32,
    mut before: Unstored,
    meanwhile: &mut impl Meanwhile,
) -> Unstored {
    // SAFETY: the caller's promise.
    unsafe {
        for col in [0, 32] {
            let columns = Product {
                w: p.w.add(4 * col),
                ..p
            };
            let start = Start::after(before);
            before = block::<true, true, 2>(columns, out.add(col), PANEL, start, meanwhile);
        }
    }
    before
}
