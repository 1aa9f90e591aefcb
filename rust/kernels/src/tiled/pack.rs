//! Packs weights, keys and values into panels, and a layer's rows into sorted windows.

use super::isa::{CheckSizes, Isa};
use crate::buffer::{cast, Buffer, Plain};
use crate::layers::{Panel, Window, WINDOW};
use crate::weights::Weights;
use crate::{Linear, MatrixView, Storage};

/// Expands each group of weights from its packed form: `bytes` bytes, then `nibbles` nibbles, low
/// ones first.
#[cfg(not(target_arch = "arm"))]
#[allow(clippy::inline_always)] // compiled for the features of each tier that calls it
#[inline(always)]
pub(crate) fn expand<W: Plain + From<i8>>(
    stored: &[u8],
    bytes: usize,
    nibbles: usize,
    panel: &mut [W],
) {
    let groups = panel.chunks_exact_mut(bytes + nibbles);
    for (group, stored) in groups.zip(stored.chunks_exact(bytes + nibbles / 2)) {
        let (stored_bytes, stored_nibbles) = stored.split_at(bytes);
        let (whole, halves) = group.split_at_mut(bytes);
        for (w, &byte) in whole.iter_mut().zip(stored_bytes) {
            *w = (byte as i8).into();
        }
        for (pair, &byte) in halves.chunks_exact_mut(2).zip(stored_nibbles) {
            pair[0] = ((byte << 4) as i8 >> 4).into();
            pair[1] = (byte as i8 >> 4).into();
        }
    }
}

/// Packs the weights of one group into the form that [`expand`] reads.
fn compress(weights: &[i8], bytes: usize, stored: &mut [u8]) {
    let (stored_bytes, stored_nibbles) = stored.split_at_mut(bytes);
    for (byte, &w) in stored_bytes.iter_mut().zip(weights) {
        *byte = w as u8;
    }
    for (byte, pair) in stored_nibbles
        .iter_mut()
        .zip(weights[bytes..].chunks_exact(2))
    {
        *byte = pair[0] as u8 & 15 | (pair[1] as u8) << 4;
    }
}

/// Returns the number of packed rows, with the padding rows of the last panel.
pub(crate) fn padded_rows<I: Isa>(rows: usize) -> usize {
    let () = CheckSizes::<I>::OK;
    rows.next_multiple_of(I::LANES)
}

/// Cuts padded rows of keys or values into panels as even as whole vectors allow. Returns first row
/// and width of each.
pub(crate) fn panels<I: Isa>(total: usize) -> impl Iterator<Item = (usize, usize)> {
    let (vectors, count) = (total / I::LANES, total.div_ceil(I::PANEL));
    let first = move |i: usize| vectors * i / count * I::LANES;
    (0..count).map(move |i| (first(i), first(i + 1) - first(i)))
}

/// Fills a panel with `row(r)` for each of its `width` rows, and zeros past a row's end.
fn pack_panel<'a, W: Plain + From<i8>>(
    panel: &mut [W],
    width: usize,
    group: usize,
    row: impl Fn(usize) -> &'a [i8],
) {
    for r in 0..width {
        let mut at = r * group;
        let mut groups = row(r).chunks_exact(group);
        for codes in &mut groups {
            for (w, &code) in panel[at..at + group].iter_mut().zip(codes) {
                *w = code.into();
            }
            at += width * group;
        }
        let mut rest = groups.remainder().iter();
        while at < panel.len() {
            for w in &mut panel[at..at + group] {
                *w = rest.next().copied().unwrap_or_default().into();
            }
            at += width * group;
        }
    }
}

/// Packs keys as [`Isa::pack_keys`] does: the portable form.
#[cfg(not(target_arch = "x86_64"))] // the x86 tiers have their own
pub(crate) fn pack_keys<I: Isa>(keys: MatrixView<i8>, packed: &mut [I::Weight], bias: &mut [i32]) {
    let (rows, k) = (keys.rows(), keys.cols().next_multiple_of(I::STEP));
    for (first, width) in panels::<I>(padded_rows::<I>(rows)) {
        let panel = &mut packed[first * k..][..width * k];
        pack_panel(panel, width, I::GROUP, |r| {
            if first + r < rows {
                keys.row(first + r)
            } else {
                &[]
            }
        });
    }
    let (live, padding) = bias.split_at_mut(rows);
    for (j, bias) in live.iter_mut().enumerate() {
        *bias = -I::CODE_OFFSET * sum(keys.row(j));
    }
    padding.fill(0);
}

/// Returns the sum of a row's weights.
fn sum(row: &[i8]) -> i32 {
    row.iter().map(|&w| i32::from(w)).sum()
}

impl Panel {
    /// Returns its weights, expanded if they are kept packed: those of 8-bit rows, or those of
    /// 4-bit rows.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    pub(super) unsafe fn weights<'a, I: Isa>(
        &self,
        layer: &'a Linear,
        (k, four_bit_k): (usize, usize),
        expanded: &'a mut Buffer,
    ) -> (&'a [I::Weight], &'a [i8]) {
        let stored = &layer.weights[self.weights.clone()];
        let (size, four_bit_size) = (self.width * k, self.width * four_bit_k);
        match (layer.storage, self.four_bit) {
            // SAFETY: the caller promises the features.
            (Storage::Packed, false) => unsafe {
                let weights = expanded.take(size);
                let bytes = self.byte_rows * I::GROUP;
                I::expand_8_bit(stored, bytes, self.width * I::GROUP - bytes, weights);
                (weights, &[])
            },
            // SAFETY: the caller promises the features.
            (Storage::Packed, true) => unsafe {
                let weights = expanded.take(four_bit_size);
                I::expand_4_bit(stored, weights);
                (&[], weights)
            },
            (Storage::Unpacked, false) => (&cast(stored)[..size], &[]),
            (Storage::Unpacked, true) => (&[], &cast(stored)[..four_bit_size]),
        }
    }

    /// Returns as many weights as this panel has from those behind it, likely the next panel's or
    /// the next layer's, to prefetch.
    pub(super) fn weights_behind<'a>(&self, layer: &'a Linear) -> &'a [u8] {
        let (size, next) = (self.weights.len(), self.weights.end);
        let rest = layer.weights.onward(next);
        &rest[..rest.len().min(size)]
    }
}

/// Gives each row of a window its slot: 8-bit rows first, in whole vectors. Returns the number of
/// slots before the first one that only 4-bit rows have.
fn sort_window<I: Isa>(rows: usize, is_4_bit: impl Fn(usize) -> bool, order: &mut [u8]) -> usize {
    let four_bit = (0..rows).filter(|&r| is_4_bit(r)).count();
    let first_part = (rows - four_bit).next_multiple_of(I::LANES);
    // 4-bit rows that fill up the last vector of 8-bit ones.
    let mut promoted = (first_part - (rows - four_bit)).min(four_bit);
    let mut next = [0, first_part];
    for (r, slot) in order[..rows].iter_mut().enumerate() {
        let part = usize::from(is_4_bit(r) && promoted == 0);
        promoted -= usize::from(is_4_bit(r) && promoted > 0);
        *slot = next[part] as u8;
        next[part] += 1;
    }
    first_part
}

/// Packs a layer.
pub(crate) fn pack_linear<I: Isa>(
    linear: &mut Linear,
    source: MatrixView<i8>,
    bias: &[i32],
    mult: &[i16],
    shift: &[u8],
) {
    let rows = linear.rows;
    // A panel's parameters are read whole, wherever in its window the panel starts.
    let slots = rows.next_multiple_of(WINDOW) + I::PANEL;
    let sums = linear.bias.take::<i32>(slots);
    let rounded = linear.rounded.take::<i32>(slots);
    let mults = linear.mult.take::<i16>(slots);
    let rights = linear.right.take::<i32>(slots);
    let lefts = linear.left.take::<i32>(slots);
    let order = linear.order.take::<u8>(rows.next_multiple_of(WINDOW));
    let packed = linear.storage == Storage::Packed;
    let sorts = packed || I::FOUR_BIT.is_some();
    let four_bit: Vec<bool> = (0..rows)
        .map(|r| sorts && source.row(r).iter().all(|w| (-7..=7).contains(w)))
        .collect();
    let mut weights = Buffer::default();
    let mut codes = Buffer::default();
    for first in (0..rows).step_by(WINDOW) {
        let live = WINDOW.min(rows - first);
        let order = &mut order[first..first + WINDOW];
        let first_part = sort_window::<I>(live, |r| four_bit[first + r], order);
        let mut row_at = [None; WINDOW];
        for (r, &slot) in order[..live].iter().enumerate() {
            row_at[usize::from(slot)] = Some(first + r);
        }
        for (slot, row) in (first..).zip(row_at) {
            let Some(r) = row else { continue };
            let offset = match I::FOUR_BIT {
                Some(form) if slot - first >= first_part => form.code_offset.into(),
                _ => I::CODE_OFFSET,
            };
            let acc = bias[r] - offset * sum(source.row(r));
            sums[slot] = acc;
            // (16*acc + 2^(p-1)) >> p is (acc + 2^(p-5)) >> (p-4) for p > 4, and acc << (4-p)
            // otherwise.
            let p = shift[r];
            rounded[slot] = acc + if p > 4 { 1 << (p - 5) } else { 0 };
            mults[slot] = mult[r];
            rights[slot] = i32::from(p.saturating_sub(4));
            lefts[slot] = i32::from(4u8.saturating_sub(p));
        }
        let total = first_part.max(padded_rows::<I>(live));
        let before = linear.panels.len();
        // Without a form of their own 4-bit rows share panels with 8-bit ones.
        let end = if I::FOUR_BIT.is_some() {
            first_part
        } else {
            total
        };
        for (part, four_bit) in [(0..end, false), (end..total, true)] {
            for slot in part.clone().step_by(I::PANEL) {
                let width = I::PANEL.min(part.end - slot);
                let byte_rows = first_part.clamp(slot, slot + width) - slot;
                let row = |r: usize| row_at[slot + r].map_or(&[][..], |row| source.row(row));
                let form = I::FOUR_BIT.filter(|_| four_bit);
                let (group, step) =
                    form.map_or((I::GROUP, I::STEP), |form| (form.group, form.step));
                let size = width * linear.k.next_multiple_of(step);
                let at = weights.bytes();
                if packed {
                    let codes = codes.take::<i8>(size);
                    pack_panel(codes, width, group, row);
                    let stored = (width + byte_rows) * group / 2;
                    let bytes = weights.extend::<u8>(size / (width * group) * stored);
                    for (bytes, codes) in bytes.chunks_mut(stored).zip(codes.chunks(width * group))
                    {
                        compress(codes, byte_rows * group, bytes);
                    }
                } else if four_bit {
                    pack_panel::<i8>(weights.extend(size), width, group, row);
                } else {
                    pack_panel::<I::Weight>(weights.extend(size), width, group, row);
                }
                linear.panels.push(Panel {
                    slot: first + slot,
                    width,
                    byte_rows,
                    four_bit,
                    weights: at..weights.bytes(),
                    run: form.map_or(0, |form| form.run(linear.k, &(0..width).map(row))),
                    shifts_left: lefts[first + slot..][..width]
                        .iter()
                        .any(|&shift| shift > 0),
                });
            }
        }
        linear.windows.push(Window {
            panels: before..linear.panels.len(),
            sorted: order[..live].iter().zip(0..).any(|(&slot, r)| slot != r),
        });
    }
    weights.shrink();
    linear.weights = Weights::Own(weights);
}
