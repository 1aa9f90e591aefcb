//! Row-wise mixed precision: each row of a matrix is 4- or 8-bit with its own scale.
//!
//! Quantizes and packs rows (for the host), and lays them out as pairs of nibbles (as devices run
//! them). Depends on [`crate::error`], `pool`'s threads and the kernels. The layouts are defined in
//! `docs/integer-model.md`.

use quasar_kernels::{Kernels, Team};

use crate::error::{Error, Result};
use crate::pool::{self, PerProcess};

/// The smallest number of weights that is worth several threads if scales are searched.
const PARALLEL_SEARCHED: usize = 1 << 14;
/// The smallest number of weights that is worth several threads otherwise.
const PARALLEL_WEIGHTS: usize = 1 << 20;
/// Rows that a thread takes at a time, at most.
const ROWS_AT_A_TIME: usize = 8;

/// The threads that quantize, started when they are first needed.
static TEAM: PerProcess<Team> = PerProcess::new();

/// Returns the largest magnitude of a code: 7 for 4 bits, 127 for 8.
pub const fn code_limit(bits: u8) -> i8 {
    if bits == 4 {
        7
    } else {
        127
    }
}

/// Returns the bytes of a packed row of `k` codes.
pub const fn row_bytes(k: usize, bits: u8) -> usize {
    if bits == 4 {
        k.div_ceil(2)
    } else {
        k
    }
}

/// The method that chooses a row's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `scale = max|w| / limit`: nothing is clipped.
    MinMax,
    /// For 4-bit rows the scale with the least squared error, of 61 scales from 1.0 down to 0.4
    /// times the `MinMax` scale (the largest of equals). For 8-bit rows, where clipping gains
    /// nothing, as `MinMax`.
    Mse,
}

/// Quantized rows.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedRows {
    /// Codes within the limit of each row's bits, packed as [`pack_rows`] does.
    pub packed: Vec<u8>,
    /// Scale of each row, positive and normal: `weight = scale * code`.
    pub scales: Vec<f32>,
}

/// Quantizes and packs `rows x k` float weights (row-major), each row to 4 or 8 bits (`bits[row]`)
/// with its own scale.
///
/// `code = clamp(round(w / scale))` in float32, rounded half to even as `numpy.round` does.
/// `method` chooses the scales unless they are given. A zero row has scale 1. A chosen scale is at
/// least `f32::MIN_POSITIVE`, so a row of subnormal weights has small codes or zeros, and still an
/// error of at most half a scale.
///
/// # Errors
/// [`Error::InvalidValue`] for NaN or infinity (with row and column), for bits other than 4 and 8,
/// for a given scale that is not positive and finite, and if lengths do not match;
/// [`Error::Threads`] if a large matrix's threads cannot be started.
pub fn quantize_rows(
    weights: &[f32],
    rows: usize,
    k: usize,
    bits: &[u8],
    scales: Option<&[f32]>,
    method: Method,
) -> Result<QuantizedRows> {
    check_shape("weights", weights.len(), rows, k)?;
    check_bits(bits, rows)?;
    scales.map_or(Ok(()), |scales| check_scales(scales, rows))?;
    let mut packed = vec![0u8; bits.iter().map(|&b| row_bytes(k, b)).sum()];
    let mut out_scales = vec![1f32; rows];
    if k > 0 {
        let kernels = Kernels::best();
        let quantize = |row: usize, packed: &mut [u8], scale: &mut f32| {
            let weights = &weights[row * k..(row + 1) * k];
            let largest = largest(kernels, weights, row)?;
            *scale = match scales {
                Some(scales) => scales[row],
                None => choose_scale(kernels, weights, largest, bits[row], method),
            };
            let limit = code_limit(bits[row]);
            if bits[row] == 4 {
                kernels.quantize_4_bit(weights, *scale, limit, packed);
            } else {
                kernels.quantize_8_bit(weights, *scale, limit, packed);
            }
            Ok(())
        };
        let mut rest = &mut packed[..];
        let mut outs = Vec::with_capacity(rows);
        for (row, (&bits, scale)) in bits.iter().zip(&mut out_scales).enumerate() {
            let (packed, others) = rest.split_at_mut(row_bytes(k, bits));
            outs.push((row, packed, scale));
            rest = others;
        }
        let searched = scales.is_none() && method == Method::Mse && bits.contains(&4);
        let worth = if searched {
            PARALLEL_SEARCHED
        } else {
            PARALLEL_WEIGHTS
        };
        for_each_row(&mut outs, rows * k >= worth, |(row, packed, scale)| {
            quantize(*row, packed, scale)
        })?;
    } else if let Some(scales) = scales {
        out_scales.copy_from_slice(scales);
    }
    Ok(QuantizedRows {
        packed,
        scales: out_scales,
    })
}

/// Quantizes all rows, in parallel if that is worth it.
fn for_each_row<T: Send>(
    rows: &mut [T],
    parallel: bool,
    quantize: impl Fn(&mut T) -> Result<()> + Sync,
) -> Result<()> {
    let team = if parallel {
        Some(TEAM.get(|| pool::team(pool::default_threads()))?)
    } else {
        None
    };
    // Several shares for each thread, so that a late thread's work is taken over.
    let threads = team.map_or(1, Team::threads);
    let at_a_time = rows.len().div_ceil(4 * threads).clamp(1, ROWS_AT_A_TIME);
    let mut results: Vec<Result<()>> = Vec::new();
    results.resize_with(rows.len().div_ceil(at_a_time), || Ok(()));
    pool::for_each(team, &mut results, rows, at_a_time, |_, result, rows| {
        *result = rows.iter_mut().try_for_each(&quantize);
    });
    results.into_iter().collect()
}

fn check_scales(scales: &[f32], rows: usize) -> Result<()> {
    if scales.len() != rows {
        return Err(Error::InvalidValue(format!(
            "{} scales for {rows} rows; give one for each row",
            scales.len()
        )));
    }
    let wrong = scales.iter().position(|s| !(s.is_finite() && *s > 0.0));
    wrong.map_or(Ok(()), |row| {
        Err(Error::InvalidValue(format!(
            "scale of row {row} is {}; it must be positive and finite",
            scales[row]
        )))
    })
}

fn check_shape(what: &str, len: usize, rows: usize, k: usize) -> Result<()> {
    match rows.checked_mul(k) {
        Some(expected) if expected == len => Ok(()),
        _ => Err(Error::InvalidValue(format!(
            "{len} {what} for {rows} rows of {k}; give rows * k of them, row-major"
        ))),
    }
}

fn check_bits(bits: &[u8], rows: usize) -> Result<()> {
    if bits.len() != rows {
        return Err(Error::InvalidValue(format!(
            "{} bits for {rows} rows; give one for each row",
            bits.len()
        )));
    }
    match bits.iter().position(|&b| b != 4 && b != 8) {
        Some(row) => Err(Error::InvalidValue(format!(
            "row {row} has bits {}; a row is 4- or 8-bit",
            bits[row]
        ))),
        None => Ok(()),
    }
}

/// Returns the largest magnitude in a row; NaN and infinity are errors.
fn largest(kernels: Kernels, weights: &[f32], row: usize) -> Result<f32> {
    let bits = kernels.largest_magnitude(weights);
    if bits >= f32::INFINITY.to_bits() {
        let column = weights.iter().position(|w| !w.is_finite()).unwrap_or(0);
        let value = weights[column];
        return Err(Error::InvalidValue(format!(
            "weight at row {row}, column {column} is {value}; weights must be finite"
        )));
    }
    Ok(f32::from_bits(bits))
}

fn choose_scale(kernels: Kernels, weights: &[f32], largest: f32, bits: u8, method: Method) -> f32 {
    if largest == 0.0 {
        return 1.0;
    }
    let limit = code_limit(bits);
    let widest = (largest / f32::from(limit)).max(f32::MIN_POSITIVE);
    if method == Method::MinMax || bits == 8 {
        return widest;
    }
    let mut best = (f64::INFINITY, widest);
    for step in 0..=60u8 {
        let scale = (widest * (1.0 - 0.01 * f32::from(step))).max(f32::MIN_POSITIVE);
        // In units of the widest scale, so that the squares of extreme rows neither overflow nor
        // vanish.
        let ratio = f64::from(scale) / f64::from(widest);
        let error = kernels.squared_error(weights, scale, limit) * ratio * ratio;
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// Packs `rows x k` codes into the file's layout: rows in order, K-major; 4-bit rows two codes a
/// byte, low nibble first.
///
/// # Errors
/// [`Error::InvalidValue`] for a code outside its row's range, for bits other than 4 and 8, and if
/// lengths do not match.
pub fn pack_rows(codes: &[i8], rows: usize, k: usize, bits: &[u8]) -> Result<Vec<u8>> {
    check_shape("codes", codes.len(), rows, k)?;
    check_bits(bits, rows)?;
    let mut packed = Vec::with_capacity(bits.iter().map(|&b| row_bytes(k, b)).sum());
    for (row, &bits) in bits.iter().enumerate() {
        let codes = &codes[row * k..(row + 1) * k];
        let limit = code_limit(bits) as u8;
        if codes.iter().fold(0u8, |m, c| m.max(c.unsigned_abs())) > limit {
            let column = codes
                .iter()
                .position(|c| c.unsigned_abs() > limit)
                .unwrap_or(0);
            return Err(Error::InvalidValue(format!(
                "code {} at row {row}, column {column} is outside the {bits}-bit range [-{limit}, {limit}]",
                codes[column]
            )));
        }
        if bits == 4 {
            let pairs = codes.chunks_exact(2);
            let last = pairs.remainder();
            packed.extend(pairs.map(|p| (p[0] as u8 & 15) | ((p[1] as u8) << 4)));
            packed.extend(last.iter().map(|&c| c as u8 & 15));
        } else {
            packed.extend_from_slice(bytemuck::cast_slice(codes));
        }
    }
    Ok(packed)
}

/// Unpacks the bytes of [`pack_rows`] to `rows * k` codes.
///
/// # Errors
/// [`Error::InvalidValue`] for a wrong number of bytes, for bits other than 4 and 8, for the codes
/// -8 (4-bit) and -128 (8-bit), which are out of range, and for an unused last nibble that is not
/// 0.
pub fn unpack_rows(packed: &[u8], rows: usize, k: usize, bits: &[u8]) -> Result<Vec<i8>> {
    check_bits(bits, rows)?;
    let expected: Option<usize> = bits
        .iter()
        .try_fold(0usize, |sum, &b| sum.checked_add(row_bytes(k, b)));
    if expected != Some(packed.len()) {
        return Err(Error::InvalidValue(format!(
            "{} packed bytes for {rows} rows of {k}; their bits need {}",
            packed.len(),
            expected.map_or("more than memory".into(), |e| e.to_string())
        )));
    }
    let size = rows
        .checked_mul(k)
        .ok_or_else(|| Error::InvalidValue(format!("{rows} rows of {k} do not fit memory")))?;
    let mut codes = vec![0i8; size];
    let mut rest = packed;
    for (row, &bits) in bits.iter().enumerate() {
        let (bytes, tail) = rest.split_at(row_bytes(k, bits));
        rest = tail;
        let codes = &mut codes[row * k..(row + 1) * k];
        if bits == 4 {
            for (pair, &byte) in codes.chunks_mut(2).zip(bytes) {
                pair[0] = ((byte << 4) as i8) >> 4;
                if let Some(high) = pair.get_mut(1) {
                    *high = (byte as i8) >> 4;
                }
            }
            if k % 2 == 1 && bytes[k / 2] >> 4 != 0 {
                return Err(Error::InvalidValue(format!(
                    "the unused last nibble of row {row} is not 0"
                )));
            }
        } else {
            codes.copy_from_slice(bytemuck::cast_slice(bytes));
        }
        let outside = -code_limit(bits) - 1;
        if let Some(column) = codes.iter().position(|&c| c == outside) {
            return Err(Error::InvalidValue(format!(
                "code {outside} at row {row}, column {column}: {bits}-bit rows are narrow (at least {})",
                outside + 1
            )));
        }
    }
    Ok(codes)
}

/// The rows of a mixed matrix as pairs of lanes, 4-bit pairs first: the content of a device's mode
/// bits and output address table.
///
/// A 4-bit pair is two logical rows. An 8-bit pair is one row: lane 0 holds its high nibbles, lane
/// 1 its low ones (the paper calls them atoms). Every logical row is in exactly one pair; at most
/// one lane is [`RowPairs::EMPTY`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPairs {
    widths: Vec<u8>,
    addresses: Vec<[u32; 2]>,
    rows: usize,
}

impl RowPairs {
    /// The address of a lane without a row.
    pub const EMPTY: u32 = u32::MAX;

    /// Pairs the rows, in order within each width.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for bits other than 4 and 8.
    pub fn new(bits: &[u8]) -> Result<Self> {
        check_bits(bits, bits.len())?;
        let of_width = |width: u8| -> Vec<u32> {
            (0u32..)
                .zip(bits)
                .filter(|(_, &b)| b == width)
                .map(|(r, _)| r)
                .collect()
        };
        let (four_bit, eight_bit) = (of_width(4), of_width(8));
        let mut widths = vec![4u8; four_bit.len().div_ceil(2)];
        let mut addresses: Vec<[u32; 2]> = four_bit
            .chunks(2)
            .map(|p| [p[0], p.get(1).copied().unwrap_or(Self::EMPTY)])
            .collect();
        widths.resize(widths.len() + eight_bit.len(), 8);
        addresses.extend(eight_bit.iter().map(|&r| [r, r]));
        Ok(Self {
            widths,
            addresses,
            rows: bits.len(),
        })
    }

    /// Returns the width of each pair, 4 or 8; all 4s come first.
    pub fn widths(&self) -> &[u8] {
        &self.widths
    }

    /// Returns the logical row that each lane of each pair writes. Both lanes of an 8-bit pair have
    /// its row.
    pub fn addresses(&self) -> &[[u32; 2]] {
        &self.addresses
    }

    /// Returns the number of logical rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// A matrix as a device stores it: for each row pair, K bytes of two nibbles (lane 0 in the low
/// one).
///
/// The code of an 8-bit row is `16 * hi + lo`, with `hi` in [-8, 7] and `lo` in [0, 15].
#[derive(Clone, Debug)]
pub struct PairedMatrix {
    pairs: RowPairs,
    k: usize,
    nibbles: Vec<u8>,
}

impl PairedMatrix {
    /// Lays out `rows x k` codes by pairs.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if lengths do not match or a code is outside its row's range.
    pub fn new(codes: &[i8], rows: usize, k: usize, bits: &[u8]) -> Result<Self> {
        pack_rows(codes, rows, k, bits)?;
        let pairs = RowPairs::new(bits)?;
        let row = |r: u32| &codes[r as usize * k..(r as usize + 1) * k];
        let mut nibbles = Vec::with_capacity(pairs.widths.len() * k);
        for (&width, &[first, second]) in pairs.widths.iter().zip(&pairs.addresses) {
            if width == 8 {
                nibbles.extend(row(first).iter().map(|&c| (c as u8).rotate_left(4)));
            } else if second == RowPairs::EMPTY {
                nibbles.extend(row(first).iter().map(|&c| c as u8 & 15));
            } else {
                nibbles.extend(
                    row(first)
                        .iter()
                        .zip(row(second))
                        .map(|(&a, &b)| (a as u8 & 15) | ((b as u8) << 4)),
                );
            }
        }
        Ok(Self { pairs, k, nibbles })
    }

    /// Returns the row pairs and their address table.
    pub fn pairs(&self) -> &RowPairs {
        &self.pairs
    }

    /// Computes `acc[row] = bias[row] + sum_k w[row,k] * a[k]` for one vector of K activation codes
    /// as a device does: pair by pair, nibble by nibble, through the address table.
    ///
    /// # Panics
    /// If `activations` has not K elements, or `bias` or `acc` not `rows` elements.
    pub fn matvec(&self, activations: &[i8], bias: &[i32], acc: &mut [i32]) {
        assert_eq!(
            activations.len(),
            self.k,
            "activations must have K elements"
        );
        assert_eq!(bias.len(), self.pairs.rows, "one bias for each row");
        acc.copy_from_slice(bias);
        // A lane's nibbles are signed, but for the low ones of 8-bit rows (the mode bit).
        let mut signed = [vec![0i8; self.k], vec![0i8; self.k]];
        let mut low = vec![0u8; self.k];
        let pairs = self.pairs.widths.iter().zip(&self.pairs.addresses);
        for (pair, (&width, addresses)) in pairs.enumerate() {
            let bytes = &self.nibbles[pair * self.k..(pair + 1) * self.k];
            for (i, &byte) in bytes.iter().enumerate() {
                signed[0][i] = ((byte << 4) as i8) >> 4;
                signed[1][i] = (byte as i8) >> 4;
                low[i] = byte >> 4;
            }
            let first = dot(&signed[0], activations);
            if width == 8 {
                acc[addresses[0] as usize] += 16 * first + dot(&low, activations);
            } else {
                let lanes = [first, dot(&signed[1], activations)];
                for (&address, lane) in addresses.iter().zip(lanes) {
                    if address != RowPairs::EMPTY {
                        acc[address as usize] += lane;
                    }
                }
            }
        }
    }
}

/// Returns a lane's sum of products of nibbles, signed or not, and activation codes.
fn dot<N: Copy + Into<i32>>(nibbles: &[N], codes: &[i8]) -> i32 {
    let products = nibbles.iter().zip(codes);
    products.map(|(&w, &a)| w.into() * i32::from(a)).sum()
}
