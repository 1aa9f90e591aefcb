//! Integer kernels of the row-wise quantized Vision Transformer.
//!
//! The only crate with SIMD and `unsafe` numerics (and the `unsafe` of lending work to threads). The arithmetic is defined in `docs/integer-model.md`;
//! every tier gives the same bits. The crate depends on nothing.
//!
//! | module | what it is |
//! |---|---|
//! | `tier` | the tiers, and what this CPU runs |
//! | `rows` | checked views of matrices |
//! | [`scalar`] | the reference: the document's formulas in plain Rust |
//! | `tiled` | packing, tiling and edges of the SIMD tiers |
//! | `x86::avx2`, `x86::avx512`, `neon` | the SIMD tiers: tiles and epilogues |
//! | [`image`] | resampling and pixel formats; `x86::image` for the x86 tiers |
//! | `quantize` | rows of floats to packed codes; `x86::quantize` for the x86 tiers |
//! | `buffer` | aligned, grow-only memory |
//! | `team` | threads that fork and join without a lock |
//!
//! A caller packs each layer once ([`Kernels::pack_linear`]) and hands in a [`Scratch`] for each thread;
//! once it is warm, no kernel allocates. Sizes that do not fit together are bugs of the caller and panic;
//! values are the caller's to validate (out of range they give wrong numbers or a panic, never undefined
//! behaviour).
//!
//! ```
//! use quasar_kernels::{Kernels, LinearParams, Rows, RowsMut, Scratch, Storage};
//!
//! // Two rows of three weights; M = 2^14 and p = 1 are 16384 * 2^(-1-11-6) = 1/16 of a code for each unit.
//! let params = LinearParams {
//!     rows: 2,
//!     k: 3,
//!     weights: &[1, -2, 3, 4, 5, -6],
//!     bias: &[10, 20],
//!     mult: &[1 << 14; 2],
//!     shift: &[1; 2],
//! };
//! let layer = Kernels::best().pack_linear(&params, Storage::Unpacked);
//! let (input, mut out) = (Rows::packed(&[7, 8, 9], 3), [0; 2]);
//! let scratch = &mut Scratch::new();
//! Kernels::best().linear_i8(&layer, input, RowsMut::packed(&mut out, 2), 0, None, scratch);
//! assert_eq!(out, [2, 2]); // accumulators 28 and 34
//! ```

mod buffer;
// Intrinsics are named as the vendor names them, dozens in a file.
#[cfg(target_arch = "aarch64")]
#[allow(clippy::wildcard_imports)]
mod neon;
mod quantize;
mod rows;
mod team;
mod tier;
mod tiled;
#[cfg(target_arch = "x86_64")]
mod x86;

pub mod image;
pub mod scalar;

use std::time::{Duration, Instant};

use buffer::Buffer;
use tiled::Isa;

pub use buffer::Aligned;
pub use rows::{Rows, RowsMut};
pub use team::{Team, MAX_TEAM};
pub use tier::{Tier, UnknownTier};

/// A linear layer in logical order.
#[derive(Clone, Copy, Debug)]
pub struct LinearParams<'a> {
    /// Output rows.
    pub rows: usize,
    /// Inputs of each row.
    pub k: usize,
    /// Weight codes in [-127, 127], `rows * k`, row-major.
    pub weights: &'a [i8],
    /// Accumulator offsets, `rows`.
    pub bias: &'a [i32],
    /// Requantization mantissas M, `rows`: 0 or in [2^14, 2^15).
    pub mult: &'a [i16],
    /// Requantization shifts p, `rows`: in [1, 30].
    pub shift: &'a [u8],
}

/// How weights lie in memory. The results are the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As the tier multiplies them: a byte each, on AVX2 two for 8-bit rows.
    Unpacked,
    /// Half a byte each for rows within [-7, 7] (4-bit rows), a byte for others. Each call expands them, a panel
    /// at a time.
    Packed,
}

/// A linear layer packed for one tier.
#[derive(Clone, Debug)]
pub struct Linear {
    tier: Tier,
    storage: Storage,
    rows: usize,
    k: usize,
    weights: Buffer,
    bias: Buffer,
    mult: Buffer,
    shift: Buffer,
    // SIMD tiers: the bias with the rounding half of the shift, and the shift as two. All are by slots.
    rounded: Buffer,
    right: Buffer,
    left: Buffer,
    // Where the windows' rows are, one byte each.
    order: Buffer,
    windows: Vec<tiled::Window>,
    panels: Vec<tiled::Panel>,
}

impl Linear {
    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of each row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The tier that it is packed for.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// How its weights lie in memory.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Bytes of its weights in memory, with what pads them.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }
}

/// The parameters of a `LayerNorm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerNorm {
    /// G, one for each column.
    pub gain: Vec<i16>,
    /// B, one for each column.
    pub bias: Vec<i16>,
    /// f, the output shift, in [0, 8].
    pub frac: u8,
    /// E, in [1, 2^50).
    pub epsilon: i64,
}

/// Columns of a `LayerNorm`, at most.
pub const MAX_NORM_COLUMNS: usize = 1024;

/// The parameters of one attention head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadParams {
    /// From logit differences to 2^-26 of a power of two; in [1, 2^24].
    pub mult: i32,
    /// Mo, in [2^14, 2^15).
    pub out_mult: i16,
    /// po, in [11, 29].
    pub out_shift: u8,
}

/// The keys and values of one head, packed for one tier; filled anew for each frame.
#[derive(Clone, Debug)]
pub struct KvHead {
    tier: Tier,
    max_tokens: usize,
    max_head_dim: usize,
    tokens: usize,
    head_dim: usize,
    keys: Buffer,
    values: Buffer,
    means: Buffer,
    // SIMD tiers: what undoes the offsets of codes and probabilities.
    key_bias: Buffer,
    value_bias: Buffer,
}

impl KvHead {
    /// An empty head with room for `max_tokens` keys and values of `max_head_dim` codes.
    ///
    /// # Panics
    /// When a size is 0.
    pub fn new(max_tokens: usize, max_head_dim: usize) -> Self {
        assert!(
            max_tokens > 0 && max_head_dim > 0,
            "a head has at least one token and one dimension"
        );
        let buffer = Buffer::default;
        let mut kv = Self {
            tier: Tier::Scalar,
            max_tokens,
            max_head_dim,
            tokens: 0,
            head_dim: 0,
            keys: buffer(),
            values: buffer(),
            means: buffer(),
            key_bias: buffer(),
            value_bias: buffer(),
        };
        // The largest tier's size, so that no frame allocates.
        let padded = |n: usize| n.next_multiple_of(tiled::PAD);
        kv.keys
            .grow::<i16>(padded(max_tokens) * padded(max_head_dim));
        kv.values
            .grow::<i16>(padded(max_tokens) * padded(max_head_dim));
        kv.means.grow::<i32>(padded(max_head_dim));
        kv.key_bias.grow::<i32>(padded(max_tokens));
        kv.value_bias.grow::<i32>(padded(max_head_dim));
        kv
    }

    /// The number of keys that it holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The codes of each.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }
}

/// Working memory of one thread. It grows to the largest call and then stays.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    codes: Buffer,
    narrow_codes: Buffer,
    expanded: Buffer,
    tile: Buffer,
    staged: Buffer,
    logits: Buffer,
    probs: Buffer,
}

impl Scratch {
    /// Empty working memory.
    pub fn new() -> Self {
        Self::default()
    }
}

/// The kernels of one tier that this CPU runs. Existence is the proof that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    tier: Tier,
}

/// Runs the tier's code: the second expression for the scalar tier, the third, with the type `$isa`, for a
/// SIMD tier. Where that is unsafe, its safety is twofold: `Kernels` exist only for tiers that this CPU runs,
/// and their methods check the sizes first.
macro_rules! dispatch {
    (@ $isa:ident = $type:ty => $simd:expr) => {{
        type $isa = $type;
        $simd
    }};
    ($tier:expr, $scalar:expr, $isa:ident => $simd:expr) => {
        match $tier {
            Tier::Scalar => $scalar,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => dispatch!(@ $isa = x86::Avx2 => $simd),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => dispatch!(@ $isa = x86::Avx512<false> => $simd),
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => dispatch!(@ $isa = x86::Avx512<true> => $simd),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => dispatch!(@ $isa = neon::Neon<false> => $simd),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonDot => dispatch!(@ $isa = neon::Neon<true> => $simd),
            tier => unreachable!("kernels of the unsupported tier {tier}"),
        }
    };
}

impl Kernels {
    /// The kernels of a tier; `None` when this build or this CPU lacks it.
    pub fn new(tier: Tier) -> Option<Self> {
        tier.is_supported().then_some(Self { tier })
    }

    /// The kernels of the fastest tier that this CPU runs.
    pub fn best() -> Self {
        Self { tier: Tier::best() }
    }

    /// The tier.
    pub fn tier(self) -> Tier {
        self.tier
    }

    /// Bytes of a weight of an 8-bit row that is not kept packed.
    pub fn wide_weight_bytes(self) -> usize {
        dispatch!(self.tier, 1, I => size_of::<<I as Isa>::Weight>())
    }

    /// Packs a layer for this tier. (The scalar tier always keeps a byte for each weight.)
    ///
    /// # Panics
    /// When a size is 0 or the lengths do not agree.
    pub fn pack_linear(self, params: &LinearParams, storage: Storage) -> Linear {
        let &LinearParams {
            rows,
            k,
            weights,
            bias,
            mult,
            shift,
        } = params;
        assert!(
            rows > 0 && k > 0,
            "a linear layer has at least one row and one input"
        );
        assert_eq!(
            Some(weights.len()),
            rows.checked_mul(k),
            "weights of a {rows} x {k} layer"
        );
        assert_eq!(
            (bias.len(), mult.len(), shift.len()),
            (rows, rows, rows),
            "bias, mult and shift of {rows} rows"
        );
        let buffer = Buffer::default;
        let mut linear = Linear {
            tier: self.tier,
            storage: match self.tier {
                Tier::Scalar => Storage::Unpacked,
                _ => storage,
            },
            rows,
            k,
            weights: buffer(),
            bias: buffer(),
            mult: buffer(),
            shift: buffer(),
            rounded: buffer(),
            right: buffer(),
            left: buffer(),
            order: buffer(),
            windows: Vec::new(),
            panels: Vec::new(),
        };
        let weights = Rows::packed(weights, k);
        dispatch!(self.tier,
            scalar::pack_linear(&mut linear, weights, bias, mult, shift),
            I => tiled::pack_linear::<I>(&mut linear, weights, bias, mult, shift));
        linear
    }

    fn check_linear(self, linear: &Linear, input: &Rows<i8>, out: (usize, usize)) {
        assert_eq!(
            linear.tier, self.tier,
            "the layer is packed for another tier"
        );
        assert_eq!(input.cols(), linear.k, "input columns");
        assert_eq!(out, (input.rows(), linear.rows), "output rows and columns");
    }

    /// `out = requant8(acc)`, then through `table` (indexed by code + 128) where there is one.
    ///
    /// # Panics
    /// When the sizes do not agree or the layer is packed for another tier.
    pub fn linear_i8(
        self,
        linear: &Linear,
        input: Rows<i8>,
        out: RowsMut<i8>,
        zero_point: i8,
        table: Option<&[i8; 256]>,
        scratch: &mut Scratch,
    ) {
        self.check_linear(linear, &input, (out.rows(), out.cols()));
        dispatch!(self.tier,
            scalar::linear_i8(linear, input, out, zero_point, table),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::linear_i8::<I>(linear, input, out, zero_point, table, scratch) });
    }

    /// `x = sat(x + requant16(acc))`, clamped to [-32767, 32767].
    ///
    /// # Panics
    /// When the sizes do not agree or the layer is packed for another tier.
    pub fn linear_residual(
        self,
        linear: &Linear,
        input: Rows<i8>,
        x: RowsMut<i16>,
        scratch: &mut Scratch,
    ) {
        self.check_linear(linear, &input, (x.rows(), x.cols()));
        dispatch!(self.tier,
            scalar::linear_residual(linear, input, x),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::linear_residual::<I>(linear, input, x, scratch) });
    }

    /// `out = acc`.
    ///
    /// # Panics
    /// When the sizes do not agree or the layer is packed for another tier.
    pub fn linear_i32(
        self,
        linear: &Linear,
        input: Rows<i8>,
        out: RowsMut<i32>,
        scratch: &mut Scratch,
    ) {
        self.check_linear(linear, &input, (out.rows(), out.cols()));
        dispatch!(self.tier,
            scalar::linear_i32(linear, input, out),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::linear_i32::<I>(linear, input, out, scratch) });
    }

    /// `LayerNorm` of each row.
    ///
    /// # Panics
    /// When the sizes do not agree, or there are more than [`MAX_NORM_COLUMNS`].
    pub fn layer_norm(self, norm: &LayerNorm, x: Rows<i16>, out: RowsMut<i8>) {
        let d = x.cols();
        // docs/integer-model.md bounds every intermediate up to here.
        assert!(
            (1..=MAX_NORM_COLUMNS).contains(&d),
            "LayerNorm over {d} columns; at most {MAX_NORM_COLUMNS}"
        );
        assert_eq!(
            (norm.gain.len(), norm.bias.len()),
            (d, d),
            "LayerNorm gain and bias of {d} columns"
        );
        assert_eq!(
            (out.rows(), out.cols()),
            (x.rows(), d),
            "LayerNorm output rows and columns"
        );
        dispatch!(self.tier,
            scalar::layer_norm(norm, x, out),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { I::layer_norm(norm, x, out) });
    }

    /// Packs the keys and values of one head.
    ///
    /// # Panics
    /// When the sizes do not agree, or there are no tokens or codes, or more than `kv` has room for.
    pub fn pack_kv(self, k: Rows<i8>, v: Rows<i8>, kv: &mut KvHead) {
        assert!(
            (1..=kv.max_tokens).contains(&k.rows()),
            "{} tokens, room for {}",
            k.rows(),
            kv.max_tokens
        );
        assert!(
            (1..=kv.max_head_dim).contains(&k.cols()),
            "{} codes, room for {}",
            k.cols(),
            kv.max_head_dim
        );
        assert_eq!(
            (k.rows(), k.cols()),
            (v.rows(), v.cols()),
            "values have the keys' rows and columns"
        );
        kv.tier = self.tier;
        (kv.tokens, kv.head_dim) = (k.rows(), k.cols());
        dispatch!(self.tier,
            scalar::pack_kv(k, v, kv),
            // SAFETY: this CPU has the tier.
            I => unsafe { tiled::pack_kv::<I>(k, v, kv) });
    }

    /// The whole attention section for some query rows of one head.
    ///
    /// # Panics
    /// When the sizes do not agree or the head is packed for another tier or not at all.
    pub fn attention(
        self,
        q: Rows<i8>,
        kv: &KvHead,
        head: &HeadParams,
        out: RowsMut<i8>,
        scratch: &mut Scratch,
    ) {
        assert!(
            kv.tier == self.tier && kv.tokens > 0,
            "the head is not packed, or for another tier"
        );
        assert_eq!(q.cols(), kv.head_dim, "query columns");
        assert_eq!(
            (out.rows(), out.cols()),
            (q.rows(), kv.head_dim),
            "attention output rows and columns"
        );
        dispatch!(self.tier,
            scalar::attention(q, kv, *head, out, scratch),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::attention::<I>(q, kv, *head, out, scratch) });
    }

    /// Multiply-accumulates a second that one core of this machine reaches in registers, with the tier's
    /// dot-product instruction and no memory traffic: the roof that the kernels are measured against. The
    /// best of many short runs in `duration`, so that other load does not lower it.
    pub fn peak_probe(self, duration: Duration) -> f64 {
        fastest(duration, || {
            dispatch!(self.tier,
                scalar::probe(1 << 14),
                // SAFETY: this CPU has the tier.
                I => unsafe { I::probe(1 << 14) })
        })
    }

    /// The same roof for rows within [-7, 7] (4-bit rows); on some tiers it is higher.
    pub fn narrow_peak_probe(self, duration: Duration) -> f64 {
        fastest(duration, || {
            dispatch!(self.tier,
                scalar::probe(1 << 14),
                // SAFETY: this CPU has the tier.
                I => unsafe { I::probe_narrow(1 << 14) })
        })
    }
}

/// Multiply-accumulates a second of the fastest of many runs in `duration`; a run gives their number and something
/// that depends on them.
fn fastest(duration: Duration, run: impl Fn() -> (u64, i32)) -> f64 {
    let (start, mut best) = (Instant::now(), 0f64);
    while best == 0.0 || start.elapsed() < duration {
        let start = Instant::now();
        let (macs, value) = run();
        std::hint::black_box(value);
        best = best.max(macs as f64 / start.elapsed().as_secs_f64());
    }
    best
}
