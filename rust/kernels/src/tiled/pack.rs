//! Packs weights, keys and values into panels, and a layer's rows into sorted windows.

use std::ops::Range;

#[cfg(not(target_arch = "x86_64"))] // the x86 tiers pack keys themselves
use super::layout::panels;
use super::layout::{padded_rows, FourBitForm, Layout};
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

/// Packs keys as [`Layout::pack_keys`] does: the portable form.
#[cfg(not(target_arch = "x86_64"))] // the x86 tiers have their own
pub(crate) fn pack_keys<L: Layout>(
    keys: MatrixView<i8>,
    packed: &mut [L::Weight],
    bias: &mut [i32],
) {
    let (rows, k) = (keys.rows(), keys.cols().next_multiple_of(L::STEP));
    for (first, width) in panels::<L>(padded_rows::<L>(rows)) {
        let panel = &mut packed[first * k..][..width * k];
        pack_panel(panel, width, L::GROUP, |r| {
            if first + r < rows {
                keys.row(first + r)
            } else {
                &[]
            }
        });
    }
    let (live, padding) = bias.split_at_mut(rows);
    for (j, bias) in live.iter_mut().enumerate() {
        *bias = -L::CODE_OFFSET * sum(keys.row(j));
    }
    padding.fill(0);
}

/// Returns the sum of a row's weights.
fn sum(row: &[i8]) -> i32 {
    row.iter().map(|&w| i32::from(w)).sum()
}

impl Panel {
    /// Returns the weights of a panel of 8-bit rows of `k` weights, expanded if they are kept
    /// packed.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    pub(super) unsafe fn weights<'a, L: Layout>(
        &self,
        layer: &'a Linear,
        k: usize,
        expanded: &'a mut Buffer,
    ) -> &'a [L::Weight] {
        let (stored, size) = (&layer.weights[self.weights.clone()], self.width * k);
        if layer.storage == Storage::Unpacked {
            return &cast(stored)[..size];
        }
        let weights = expanded.take(size);
        let bytes = self.byte_rows * L::GROUP;
        // SAFETY: the caller's promise.
        unsafe { L::expand_8_bit(stored, bytes, self.width * L::GROUP - bytes, weights) };
        weights
    }

    /// Returns the weights of a panel of 4-bit rows, as [`Panel::weights`] does.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn four_bit_weights<'a>(
        &self,
        layer: &'a Linear,
        k: usize,
        form: FourBitForm,
        expanded: &'a mut Buffer,
    ) -> &'a [i8] {
        let (stored, size) = (&layer.weights[self.weights.clone()], self.width * k);
        if layer.storage == Storage::Unpacked {
            return &cast(stored)[..size];
        }
        let weights = expanded.take(size);
        // SAFETY: the caller's promise.
        unsafe { (form.expand)(stored, weights) };
        weights
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
fn sort_window<L: Layout>(four_bit: &[bool], order: &mut [u8]) -> usize {
    let eight_bit = four_bit.iter().filter(|&&four_bit| !four_bit).count();
    let first_part = eight_bit.next_multiple_of(L::LANES);
    // 4-bit rows that fill up the last vector of 8-bit ones.
    let mut promoted = first_part.min(four_bit.len()) - eight_bit;
    let mut next = [0, first_part];
    for (slot, &four_bit) in order.iter_mut().zip(four_bit) {
        let part = usize::from(four_bit && promoted == 0);
        promoted -= usize::from(four_bit && promoted > 0);
        *slot = next[part] as u8;
        next[part] += 1;
    }
    first_part
}

/// The parameters of a layer's slots.
struct SlotParameters<'a> {
    bias: &'a mut [i32],
    rounded: &'a mut [i32],
    mult: &'a mut [i16],
    right: &'a mut [i32],
    left: &'a mut [i32],
}

impl SlotParameters<'_> {
    /// Writes those of a row whose accumulators start at `bias`, with M = `mult` and p = `shift`.
    fn set(&mut self, slot: usize, bias: i32, mult: i16, shift: u8) {
        self.bias[slot] = bias;
        // (16*acc + 2^(p-1)) >> p is (acc + 2^(p-5)) >> (p-4) for p > 4, and acc << (4-p)
        // otherwise.
        self.rounded[slot] = bias + if shift > 4 { 1 << (shift - 5) } else { 0 };
        self.mult[slot] = mult;
        self.right[slot] = i32::from(shift.saturating_sub(4));
        self.left[slot] = i32::from(4u8.saturating_sub(shift));
    }
}

/// The weights of a layer while it is packed.
struct Packing {
    k: usize,
    storage: Storage,
    weights: Buffer,
    /// Working memory.
    codes: Buffer,
}

impl Packing {
    /// Packs a panel's rows, of which the first `byte_rows` are kept as bytes in any storage.
    /// Returns their position.
    fn add<L: Layout>(
        &mut self,
        rows: &[&[i8]],
        byte_rows: usize,
        form: Option<FourBitForm>,
    ) -> Range<usize> {
        let (group, step) = form.map_or((L::GROUP, L::STEP), |form| (form.group, form.step));
        let (width, at) = (rows.len(), self.weights.bytes());
        let size = width * self.k.next_multiple_of(step);
        let row = |r: usize| rows[r];
        if self.storage == Storage::Packed {
            let codes = self.codes.take::<i8>(size);
            pack_panel(codes, width, group, row);
            let stored = (width + byte_rows) * group / 2;
            let bytes = self.weights.extend::<u8>(size / (width * group) * stored);
            for (bytes, codes) in bytes.chunks_mut(stored).zip(codes.chunks(width * group)) {
                compress(codes, byte_rows * group, bytes);
            }
        } else if form.is_some() {
            pack_panel::<i8>(self.weights.extend(size), width, group, row);
        } else {
            pack_panel::<L::Weight>(self.weights.extend(size), width, group, row);
        }
        at..self.weights.bytes()
    }
}

/// Packs a layer.
pub(crate) fn pack_linear<L: Layout>(
    linear: &mut Linear,
    source: MatrixView<i8>,
    bias: &[i32],
    mult: &[i16],
    shift: &[u8],
) {
    let rows = linear.rows;
    // A panel's parameters are read whole, wherever in its window the panel starts.
    let slots = rows.next_multiple_of(WINDOW) + L::PANEL;
    let mut parameters = SlotParameters {
        bias: linear.bias.take(slots),
        rounded: linear.rounded.take(slots),
        mult: linear.mult.take(slots),
        right: linear.right.take(slots),
        left: linear.left.take(slots),
    };
    let order = linear.order.take::<u8>(rows.next_multiple_of(WINDOW));
    let sorts = linear.storage == Storage::Packed || L::FOUR_BIT.is_some();
    let is_4_bit = |r: usize| sorts && source.row(r).iter().all(|w| (-7..=7).contains(w));
    let mut packing = Packing {
        k: linear.k,
        storage: linear.storage,
        weights: Buffer::default(),
        codes: Buffer::default(),
    };
    for first in (0..rows).step_by(WINDOW) {
        let live = WINDOW.min(rows - first);
        let order = &mut order[first..first + WINDOW];
        let four_bit: Vec<bool> = (first..first + live).map(is_4_bit).collect();
        let first_part = sort_window::<L>(&four_bit, order);
        let mut weights: [&[i8]; WINDOW] = [&[]; WINDOW];
        for (r, &slot) in (first..).zip(&order[..live]) {
            let slot = usize::from(slot);
            weights[slot] = source.row(r);
            let offset = match L::FOUR_BIT {
                Some(form) if slot >= first_part => form.code_offset.into(),
                _ => L::CODE_OFFSET,
            };
            let bias = bias[r] - offset * sum(weights[slot]);
            parameters.set(first + slot, bias, mult[r], shift[r]);
        }
        let total = first_part.max(padded_rows::<L>(live));
        let before = linear.panels.len();
        // Without a form of their own 4-bit rows share panels with 8-bit ones.
        let end = L::FOUR_BIT.map_or(total, |_| first_part);
        for (part, form) in [(0..end, None), (end..total, L::FOUR_BIT)] {
            for slot in part.clone().step_by(L::PANEL) {
                let slots = slot..part.end.min(slot + L::PANEL);
                let byte_rows = first_part.clamp(slot, slots.end) - slot;
                let rows = &weights[slots.clone()];
                linear.panels.push(Panel {
                    slot: first + slot,
                    width: rows.len(),
                    byte_rows,
                    four_bit: form.is_some(),
                    weights: packing.add::<L>(rows, byte_rows, form),
                    run: form.map_or(0, |form| form.run(linear.k, &rows.iter().copied())),
                    shifts_left: slots
                        .into_iter()
                        .any(|slot| parameters.left[first + slot] > 0),
                });
            }
        }
        linear.windows.push(Window {
            panels: before..linear.panels.len(),
            sorted: order[..live].iter().zip(0..).any(|(&slot, r)| slot != r),
        });
    }
    packing.weights.shrink();
    linear.weights = Weights::Own(packing.weights);
}
