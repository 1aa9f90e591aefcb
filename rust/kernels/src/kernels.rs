//! The kernels' entry points: check sizes, then run the tier's code.

use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::tier::simd_tiers;
use crate::tiled::{self, Layout, RowKernels, Tiles};
use crate::weights::Weights;
use crate::{
    scalar, HeadParams, KvHead, LayerNorm, Linear, LinearParams, LinearRows, MatrixView,
    MatrixViewMut, Rotation, Scratch, Storage, Tier, MAX_NORM_COLUMNS,
};

/// The kernels of one tier. They exist only for tiers that this CPU runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    tier: Tier,
}

/// Runs the tier's code: the second expression for the scalar tier, the third, with the type
/// `$isa`, for a SIMD tier. Unsafe expressions rely on two facts: `Kernels` exist only for tiers
/// that this CPU runs, and their methods check the sizes first.
macro_rules! dispatch {
    ($tier:expr, $scalar:expr, $isa:ident => $simd:expr) => {
        simd_tiers!(dispatch_rows!($tier, $scalar, $isa, $simd))
    };
}

macro_rules! dispatch_rows {
    (($given:expr, $scalar:expr, $isa:ident, $simd:expr) $(
        $(#[$doc:meta])* $tier:ident $name:literal $family:ident
        { $([$cpu:meta] $type:ty, $detected:expr;)* }
    )*) => {
        match $given {
            Tier::Scalar => $scalar,
            $(
                $(
                    #[cfg($cpu)]
                    Tier::$tier => {
                        type $isa = $type;
                        $simd
                    }
                )*
                #[cfg(not(any($($cpu),*)))]
                Tier::$tier => unreachable!("this target has no kernels of {}", $name),
            )*
        }
    };
}

impl Kernels {
    /// Returns the kernels of a tier, or `None` if this build or this CPU lacks it.
    pub fn new(tier: Tier) -> Option<Self> {
        tier.is_supported().then_some(Self { tier })
    }

    /// Returns the kernels of the fastest tier that this CPU runs.
    pub fn best() -> Self {
        Self { tier: Tier::best() }
    }

    /// Returns the tier.
    pub fn tier(self) -> Tier {
        self.tier
    }

    /// Returns the bytes of each weight of an 8-bit row with [`Storage::Unpacked`].
    pub fn unpacked_weight_bytes(self) -> usize {
        dispatch!(self.tier, 1, I => size_of::<<I as Layout>::Weight>())
    }

    /// Returns the number of queries that attention works on at a time.
    pub fn query_rows(self) -> usize {
        dispatch!(self.tier, 1, I => I::QUERIES)
    }

    /// Packs a layer for this tier. (The scalar tier always keeps a byte for each weight.)
    ///
    /// # Panics
    /// If a size is 0 or the lengths do not agree.
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
            weights: Weights::Own(buffer()),
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
        let weights = MatrixView::packed(weights, k);
        dispatch!(self.tier,
            scalar::pack_linear(&mut linear, weights, bias, mult, shift),
            I => tiled::pack_linear::<I>(&mut linear, weights, bias, mult, shift));
        linear
    }

    fn check_linear(self, linear: &LinearRows, input: &MatrixView<i8>, out: (usize, usize)) {
        assert_eq!(
            linear.layer.tier, self.tier,
            "the layer is packed for another tier"
        );
        assert_eq!(input.cols(), linear.layer.k, "input columns");
        assert_eq!(
            out,
            (input.rows(), linear.rows()),
            "output rows and columns"
        );
    }

    /// Computes `out = requant8(acc)` for a layer or [some of its rows](Linear::part), and looks
    /// the codes up in `table` (indexed by code + 128) if there is one.
    ///
    /// # Panics
    /// If the sizes do not agree or the layer is packed for another tier.
    pub fn linear_i8<'a>(
        self,
        linear: impl Into<LinearRows<'a>>,
        input: MatrixView<i8>,
        out: MatrixViewMut<i8>,
        zero_point: i8,
        table: Option<&[i8; 256]>,
        scratch: &mut Scratch,
    ) {
        let linear = &linear.into();
        self.check_linear(linear, &input, (out.rows(), out.cols()));
        dispatch!(self.tier,
            scalar::linear_i8(linear, input, out, zero_point, table),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::linear_i8::<I>(linear, input, out, zero_point, table, scratch) });
    }

    /// Computes `out = requant8(acc)` with zero point 0 for a layer or [some of its
    /// rows](Linear::part), and rotates the first columns: `docs/integer-model.md`, *Rotary
    /// positions*.
    ///
    /// # Panics
    /// If the sizes do not agree, a head is not rotated as a whole, or the layer is packed for
    /// another tier.
    pub fn linear_rotated<'a>(
        self,
        linear: impl Into<LinearRows<'a>>,
        input: MatrixView<i8>,
        out: MatrixViewMut<i8>,
        rotation: Rotation,
        scratch: &mut Scratch,
    ) {
        let linear = &linear.into();
        self.check_linear(linear, &input, (out.rows(), out.cols()));
        let Rotation {
            rotary,
            token,
            columns,
        } = rotation;
        assert!(
            columns <= out.cols() && columns.is_multiple_of(rotary.head_dim()),
            "{columns} of {} columns of whole heads",
            out.cols()
        );
        assert!(
            token + out.rows() <= rotary.tokens(),
            "rotations of {} tokens",
            rotary.tokens()
        );
        dispatch!(self.tier,
            scalar::linear_rotated(linear, input, out, rotation),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::linear_rotated::<I>(linear, input, out, rotation, scratch) });
    }

    /// Computes `x = sat(x + requant16(acc))` for a layer or [some of its rows](Linear::part),
    /// clamped to [-32767, 32767].
    ///
    /// # Panics
    /// If the sizes do not agree or the layer is packed for another tier.
    pub fn linear_residual<'a>(
        self,
        linear: impl Into<LinearRows<'a>>,
        input: MatrixView<i8>,
        x: MatrixViewMut<i16>,
        scratch: &mut Scratch,
    ) {
        let linear = &linear.into();
        self.check_linear(linear, &input, (x.rows(), x.cols()));
        dispatch!(self.tier,
            scalar::linear_residual(linear, input, x),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::linear_residual::<I>(linear, input, x, scratch) });
    }

    /// Computes `out = acc` for a layer or [some of its rows](Linear::part).
    ///
    /// # Panics
    /// If the sizes do not agree or the layer is packed for another tier.
    pub fn linear_i32<'a>(
        self,
        linear: impl Into<LinearRows<'a>>,
        input: MatrixView<i8>,
        out: MatrixViewMut<i32>,
        scratch: &mut Scratch,
    ) {
        let linear = &linear.into();
        self.check_linear(linear, &input, (out.rows(), out.cols()));
        dispatch!(self.tier,
            scalar::linear_i32(linear, input, out),
            // SAFETY: this CPU has the tier; the sizes are checked.
            I => unsafe { tiled::linear_i32::<I>(linear, input, out, scratch) });
    }

    /// Computes `LayerNorm` of each row of values within [-32767, 32767].
    ///
    /// # Panics
    /// If the sizes do not agree, or there are more than [`MAX_NORM_COLUMNS`].
    pub fn layer_norm(self, norm: &LayerNorm, x: MatrixView<i16>, out: MatrixViewMut<i8>) {
        let d = x.cols();
        // docs/integer-model.md bounds every intermediate up to this size.
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
    /// If the sizes do not agree, or there are no tokens or codes, or more than `kv` has room for.
    pub fn pack_kv(self, k: MatrixView<i8>, v: MatrixView<i8>, kv: &mut KvHead) {
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

    /// Computes attention of some query rows of one head, from logits to output codes. Meanwhile it
    /// prefetches the rows `soon`: another core may have written them, and takes long to send them.
    ///
    /// # Panics
    /// If the sizes do not agree, a parameter of the head is outside its range, or the head is not
    /// packed or packed for another tier.
    pub fn attention(
        self,
        q: MatrixView<i8>,
        kv: &KvHead,
        head: &HeadParams,
        out: MatrixViewMut<i8>,
        soon: &[MatrixView<i8>],
        scratch: &mut Scratch,
    ) {
        assert!(
            kv.tier == self.tier && kv.tokens > 0,
            "the head is not packed, or for another tier"
        );
        assert!(
            head.is_valid(),
            "a parameter of the head is outside its range: {head:?}"
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
            I => unsafe { tiled::attention::<I>(q, kv, *head, out, soon, scratch) });
    }

    /// Measures the peak of one core in multiply-accumulates a second: the tier's dot products in
    /// registers, without memory traffic. Takes the best of many short runs in `duration`, so that
    /// other load does not lower it.
    pub fn peak_probe(self, duration: Duration) -> f64 {
        fastest(duration, || {
            dispatch!(self.tier,
                scalar::probe(1 << 14),
                // SAFETY: this CPU has the tier.
                I => unsafe { I::probe(1 << 14) })
        })
    }

    /// Measures the peak for rows within [-7, 7] (4-bit rows), which is higher on some tiers.
    pub fn peak_probe_4_bit(self, duration: Duration) -> f64 {
        fastest(duration, || {
            dispatch!(self.tier,
                scalar::probe(1 << 14),
                // SAFETY: this CPU has the tier.
                I => unsafe { I::FOUR_BIT.map_or(I::probe as _, |form| form.probe)(1 << 14) })
        })
    }
}

/// Returns the multiply-accumulates a second of the fastest of many runs in `duration`. A run
/// returns their number and a value that depends on them.
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
