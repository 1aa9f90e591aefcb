//! The scalar tier: `docs/integer-model.md`, section by section, in plain Rust. Every other tier is
//! tested against these functions.
//!
//! Depends on the matrix views and the rotations.

use crate::buffer::{cast, Buffer};
use crate::weights::Weights;
use crate::{
    HeadParams, KvHead, LayerNorm, Linear, LinearRows, MatrixView, MatrixViewMut, Rotation, Scratch,
};

/// Computes `(x + 2^(s-1)) >> s`, rounding half up; `x` for s = 0.
pub fn rshift(x: i32, s: u32) -> i32 {
    if s == 0 {
        x
    } else {
        (x + (1 << (s - 1))) >> s
    }
}

/// Clamps to [-32768, 32767].
pub fn sat16(x: i32) -> i16 {
    x.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// Clamps to [-128, 127].
pub fn clamp8(x: i32) -> i8 {
    x.clamp(i8::MIN.into(), i8::MAX.into()) as i8
}

/// Computes the rounding product of two 16-bit numbers, `rshift(a * b, 15)`.
pub fn mul_round(a: i16, b: i16) -> i16 {
    rshift(i32::from(a) * i32::from(b), 15) as i16
}

/// Requantizes an accumulator to an update of the residual.
pub fn requant16(acc: i32, shift: u8, mult: i16) -> i16 {
    mul_round(sat16(rshift(16 * acc, shift.into())), mult)
}

/// Requantizes an accumulator to a signed 8-bit code.
pub fn requant8(acc: i32, shift: u8, mult: i16, zero_point: i8) -> i8 {
    clamp8(rshift(requant16(acc, shift, mult).into(), 6) + i32::from(zero_point))
}

/// Rotates a pair of 64ths of codes by an angle, whose cosine and sine are [`crate::ROTARY_ONE`]
/// for 1; returns codes.
pub fn rotate(even: i16, odd: i16, [c, s]: [i16; 2]) -> [i8; 2] {
    let [even, odd, c, s] = [even, odd, c, s].map(i32::from);
    [even * c - odd * s, odd * c + even * s].map(|sum| clamp8(rshift(sum, 20)))
}

/// Adds an update to the residual, clamped to [-32767, 32767].
pub fn add_residual(x: i16, update: i16) -> i16 {
    x.saturating_add(update).max(-i16::MAX)
}

/// Computes `sum_k a[k] * b[k]`.
pub fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| i32::from(a) * i32::from(b))
        .sum()
}

/// Calls `emit(input row, output column, acc, p, M)` for each accumulator.
fn linear(
    LinearRows { layer, runs, .. }: &LinearRows,
    input: MatrixView<i8>,
    mut emit: impl FnMut(usize, usize, i32, u8, i16),
) {
    let weights = MatrixView::new(cast(&layer.weights), layer.rows, layer.k, layer.k);
    let (bias, mult, shift) = (
        layer.bias.as_slice::<i32>(),
        layer.mult.as_slice::<i16>(),
        layer.shift.as_slice::<u8>(),
    );
    for i in 0..input.rows() {
        for (column, r) in runs.iter().cloned().flatten().enumerate() {
            emit(
                i,
                column,
                bias[r] + dot(weights.row(r), input.row(i)),
                shift[r],
                mult[r],
            );
        }
    }
}

pub(crate) fn pack_linear(
    linear: &mut Linear,
    source: MatrixView<i8>,
    bias: &[i32],
    mult: &[i16],
    shift: &[u8],
) {
    let mut packed = Buffer::default();
    let mut weights = MatrixViewMut::packed(packed.take(linear.rows * linear.k), linear.k);
    for r in 0..linear.rows {
        weights.row_mut(r).copy_from_slice(source.row(r));
    }
    linear.weights = Weights::Own(packed);
    linear.bias.take(linear.rows).copy_from_slice(bias);
    linear.mult.take(linear.rows).copy_from_slice(mult);
    linear.shift.take(linear.rows).copy_from_slice(shift);
}

pub(crate) fn linear_i8(
    layer: &LinearRows,
    input: MatrixView<i8>,
    mut out: MatrixViewMut<i8>,
    zero_point: i8,
    table: Option<&[i8; 256]>,
) {
    linear(layer, input, |i, r, acc, shift, mult| {
        let y = requant8(acc, shift, mult, zero_point);
        out.row_mut(i)[r] = table.map_or(y, |table| table[(i32::from(y) + 128) as usize]);
    });
}

pub(crate) fn linear_rotated(
    layer: &LinearRows,
    input: MatrixView<i8>,
    mut out: MatrixViewMut<i8>,
    rotation: Rotation,
) {
    let mut pair = [0; 2];
    linear(layer, input, |i, r, acc, shift, mult| {
        let z = requant16(acc, shift, mult);
        if r >= rotation.columns {
            out.row_mut(i)[r] = clamp8(rshift(z.into(), 6));
            return;
        }
        pair[r % 2] = z;
        if let ([even, odd], true) = (pair, r % 2 == 1) {
            let angle = rotation.rotary.angle(rotation.token + i, r / 2);
            out.row_mut(i)[r - 1..=r].copy_from_slice(&rotate(even, odd, angle));
        }
    });
}

pub(crate) fn linear_residual(
    layer: &LinearRows,
    input: MatrixView<i8>,
    mut x: MatrixViewMut<i16>,
) {
    linear(layer, input, |i, r, acc, shift, mult| {
        let x = &mut x.row_mut(i)[r];
        *x = add_residual(*x, requant16(acc, shift, mult));
    });
}

pub(crate) fn linear_i32(layer: &LinearRows, input: MatrixView<i8>, mut out: MatrixViewMut<i32>) {
    linear(layer, input, |i, r, acc, _, _| out.row_mut(i)[r] = acc);
}

/// The statistics of one row for `LayerNorm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moments {
    /// S, the sum.
    pub sum: i32,
    /// b, with 4^(b-1) <= V < 4^b.
    pub bits: u32,
    /// inv, the mantissa of the reciprocal standard deviation, in [2^14, 2^15).
    pub inv: i16,
}

impl Moments {
    /// Computes the statistics from S, Q, D and E.
    pub fn new(sum: i32, squares: i64, d: usize, epsilon: i64) -> Self {
        let v = (d as i64 * squares - i64::from(sum) * i64::from(sum) + epsilon) as u64;
        let bits = (u64::BITS - v.leading_zeros()).div_ceil(2);
        // Floats are exact here, and faster than integers: the radicand is below 2^52, and a root
        // or quotient that is no integer is further from the next integer than its rounding error.
        let root = ((v << (2 * (26 - bits))) as f64).sqrt().floor();
        let inv = ((1u64 << 40) as f64 / root).floor().min(32767.0) as i16;
        Self { sum, bits, inv }
    }

    /// Returns the output code of the value x.
    pub fn apply(&self, x: i16, d: usize, gain: i16, bias: i16, frac: u8) -> i8 {
        let c = d as i32 * i32::from(x) - self.sum;
        let t = if self.bits >= 10 {
            rshift(c, self.bits - 10)
        } else {
            c << (10 - self.bits)
        };
        let n = mul_round(t as i16, self.inv);
        clamp8((mul_round(n, gain).saturating_add(bias) >> frac).into())
    }
}

pub(crate) fn layer_norm(norm: &LayerNorm, x: MatrixView<i16>, mut out: MatrixViewMut<i8>) {
    let d = x.cols();
    for i in 0..x.rows() {
        let row = x.row(i);
        let sum = row.iter().map(|&x| i32::from(x)).sum();
        let squares = row.iter().map(|&x| i64::from(x) * i64::from(x)).sum();
        let moments = Moments::new(sum, squares, d, norm.epsilon);
        for (j, y) in out.row_mut(i).iter_mut().enumerate() {
            *y = moments.apply(row[j], d, norm.gain[j], norm.bias[j], norm.frac);
        }
    }
}

/// The table `T[f] = round(4080 * 2^(-f/64))`, in 12-bit units of probability.
pub const EXP2: [u16; 64] = [
    4080, 4036, 3993, 3950, 3907, 3865, 3823, 3782, 3741, 3701, 3661, 3622, 3583, 3544, 3506, 3468,
    3431, 3394, 3357, 3321, 3285, 3250, 3215, 3180, 3146, 3112, 3079, 3046, 3013, 2980, 2948, 2916,
    2885, 2854, 2823, 2793, 2763, 2733, 2703, 2674, 2646, 2617, 2589, 2561, 2533, 2506, 2479, 2452,
    2426, 2400, 2374, 2348, 2323, 2298, 2273, 2249, 2225, 2201, 2177, 2154, 2130, 2107, 2085, 2062,
];

/// Returns the largest difference of logits whose product with `mult` does not overflow.
pub fn logit_cap(mult: i32) -> i32 {
    (i32::MAX - ((1 << 20) - 1)) / mult
}

/// Returns the 12-bit weight of a key whose logit is `d` below the row's maximum.
pub fn exp12(d: i32, mult: i32) -> u16 {
    let u = (d.min(logit_cap(mult)) * mult + (1 << 19)) >> 20;
    (((2 * EXP2[(u & 63) as usize]) >> (u >> 6).min(15)) + 1) >> 1
}

/// Returns the 8-bit weight.
pub fn exp8(e12: u16) -> u8 {
    ((e12 + 8) >> 4) as u8
}

/// Computes `16 * mean(v)` from the sum of a column of v over `tokens`.
pub fn value_mean(sum: i32, tokens: usize) -> i32 {
    let reciprocal = ((1 << 20) + tokens as i32 / 2) / tokens as i32;
    (sum * reciprocal + (1 << 15)) >> 16
}

/// Returns the factor of one query row's output from the sum of its 12-bit weights: mantissa r and
/// shift p.
pub fn attention_scale(sum12: u32, out_mult: i16, out_shift: u8) -> (i16, u32) {
    let mut b = u32::BITS - sum12.leading_zeros();
    // Exact: the quotient is below 2^16, and one that is no integer is at least 2^-22 from the next
    // integer.
    let mut r = (((out_mult as u64) << b) as f64 / f64::from(sum12)) as u64;
    if r >= 1 << 15 {
        r >>= 1;
        b -= 1;
    }
    (r as i16, b + u32::from(out_shift) - 21)
}

/// Returns the output code from A, L, m and the factor (r, p).
pub fn attention_output(a: i32, rounding_residue: i32, mean: i32, r: i16, p: u32) -> i8 {
    let num = 16 * a + ((rounding_residue * mean + 8) >> 4);
    clamp8(rshift(mul_round(sat16(rshift(num, p)), r).into(), 6))
}

pub(crate) fn pack_kv(k: MatrixView<i8>, v: MatrixView<i8>, kv: &mut KvHead) {
    let (tokens, dim) = (kv.tokens, kv.head_dim);
    let mut keys = MatrixViewMut::packed(kv.keys.take(tokens * dim), dim);
    let mut values = MatrixViewMut::packed(kv.values.take(tokens * dim), dim);
    for j in 0..tokens {
        keys.row_mut(j).copy_from_slice(k.row(j));
        values.row_mut(j).copy_from_slice(v.row(j));
    }
    for (k, mean) in kv.means.take(dim).iter_mut().enumerate() {
        *mean = value_mean((0..tokens).map(|j| i32::from(v.row(j)[k])).sum(), tokens);
    }
}

pub(crate) fn attention(
    q: MatrixView<i8>,
    kv: &KvHead,
    head: HeadParams,
    mut out: MatrixViewMut<i8>,
    scratch: &mut Scratch,
) {
    let keys = MatrixView::new(
        kv.keys.as_slice::<i8>(),
        kv.tokens,
        kv.head_dim,
        kv.head_dim,
    );
    let values = MatrixView::new(
        kv.values.as_slice::<i8>(),
        kv.tokens,
        kv.head_dim,
        kv.head_dim,
    );
    let means: &[i32] = kv.means.as_slice();
    let logits = scratch.attention.take::<i32>(kv.tokens);
    for i in 0..q.rows() {
        for (j, a) in logits.iter_mut().enumerate() {
            *a = dot(q.row(i), keys.row(j));
        }
        let max = logits.iter().copied().max().unwrap_or_default();
        let (mut sum12, mut sum8) = (0, 0);
        for e in logits.iter_mut() {
            let e12 = exp12(max - *e, head.mult);
            let e8 = exp8(e12);
            sum12 += i32::from(e12);
            sum8 += i32::from(e8);
            *e = e8.into();
        }
        let (r, p) = attention_scale(sum12 as u32, head.out_mult, head.out_shift);
        for (k, o) in out.row_mut(i).iter_mut().enumerate() {
            let a = logits
                .iter()
                .enumerate()
                .map(|(j, e)| e * i32::from(values.row(j)[k]))
                .sum();
            *o = attention_output(a, sum12 - 16 * sum8, means[k], r, p);
        }
    }
}

/// Runs multiply-accumulates in registers. Returns their number and a value that depends on them.
pub(crate) fn probe(iterations: u32) -> (u64, i32) {
    const CHAINS: usize = 32;
    let (a, w) = (
        std::hint::black_box([3i8; CHAINS]),
        std::hint::black_box([5i8; CHAINS]),
    );
    let mut acc = [0i32; CHAINS];
    for i in 0..iterations {
        for (acc, (&a, &w)) in acc.iter_mut().zip(a.iter().zip(&w)) {
            *acc = acc.wrapping_add(i32::from(a ^ i as i8) * i32::from(w));
        }
    }
    (
        u64::from(iterations) * CHAINS as u64,
        acc.iter().fold(0, |s, x| s ^ x),
    )
}
