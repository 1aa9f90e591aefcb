//! One body of checks, run on every tier against the scalar one. A tier that this CPU lacks is
//! reported as skipped.

use std::fmt::Debug;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use quasar_kernels::{
    HeadParams, Kernels, KvHead, LayerNorm, Linear, LinearParams, MatrixView, MatrixViewMut,
    Rotary, Rotation, Scratch, Storage, Tier, ROTARY_ONE, ROW_STEP,
};
use Fill::{Ends, Max, Min};

/// The values that a matrix is filled with.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Random,
    /// The smallest and the largest value in turns at random.
    Ends,
    Min,
    Max,
    Zero,
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        6 => Just(Fill::Random),
        2 => Just(Ends),
        1 => Just(Min),
        1 => Just(Max),
        1 => Just(Fill::Zero),
    ]
}

/// xorshift64*, so that a shape and a seed make a case.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Returns a number of `low..=high`.
    fn range(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    fn values<T: TryFrom<i64>>(&mut self, n: usize, fill: Fill, low: i64, high: i64) -> Vec<T>
    where
        T::Error: Debug,
    {
        (0..n)
            .map(|_| {
                let value = match fill {
                    Fill::Random => self.range(low, high),
                    Fill::Ends => [low, high][(self.next() & 1) as usize],
                    Fill::Min => low,
                    Fill::Max => high,
                    Fill::Zero => 0i64.clamp(low, high),
                };
                T::try_from(value).unwrap()
            })
            .collect()
    }
}

/// A matrix with `gap` values between its rows, which no kernel may touch.
#[derive(Clone, Debug, PartialEq)]
struct Matrix<T> {
    data: Vec<T>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<T: Copy + TryFrom<i64, Error: Debug>> Matrix<T> {
    fn new(
        random: &mut Random,
        (rows, cols, gap): (usize, usize, usize),
        fill: Fill,
        low: i64,
        high: i64,
    ) -> Self {
        let stride = cols + gap;
        Self {
            data: random.values(rows * stride, fill, low, high),
            rows,
            cols,
            stride,
        }
    }

    fn view(&self) -> MatrixView<'_, T> {
        MatrixView::new(&self.data, self.rows, self.cols, self.stride)
    }

    fn view_mut(&mut self) -> MatrixViewMut<'_, T> {
        MatrixViewMut::new(&mut self.data, self.rows, self.cols, self.stride)
    }
}

#[derive(Clone, Copy, Debug)]
struct LinearCase {
    tokens: usize,
    k: usize,
    rows: usize,
    /// The weights, and the percentage of rows whose weights are in [-7, 7].
    weights: (Fill, u64),
    input: Fill,
    gap: usize,
    zero_point: i8,
    seed: u64,
}

fn linear_case() -> impl Strategy<Value = LinearCase> {
    // Whole vectors of codes and whole tiles of rows have ways of their own.
    let whole = (1usize..5).prop_map(|n| 64 * n);
    let k = prop_oneof![8 => 1usize..100, 2 => whole, 1 => 100usize..1000];
    let tokens = prop_oneof![8 => 1usize..20, 2 => 20usize..100];
    let rows = prop_oneof![8 => 1usize..150, 1 => 150usize..400];
    let weights = (fill(), prop_oneof![Just(0u64), Just(100), 1u64..100]);
    let others = (fill(), 0usize..5, any::<i8>(), any::<u64>());
    (tokens, k, rows, weights, others).prop_map(
        |(tokens, k, rows, weights, (input, gap, zero_point, seed))| LinearCase {
            tokens,
            k,
            rows,
            weights,
            input,
            gap,
            zero_point,
            seed,
        },
    )
}

/// Samples a layer whose accumulators reach from 0 to the bound, with every shift and some rows
/// whose factor is 0.
fn layer(case: &LinearCase, random: &mut Random) -> (Vec<i8>, Vec<i32>, Vec<i16>, Vec<u8>) {
    let mut weights: Vec<i8> = Vec::new();
    for _ in 0..case.rows {
        let (fill, four_bit_share) = case.weights;
        let is_4_bit = random.next() % 100 < four_bit_share;
        let largest = if is_4_bit { 7 } else { 127 };
        weights.extend(random.values::<i8>(case.k, fill, -largest, largest));
    }
    let mut bias = Vec::new();
    for row in weights.chunks_exact(case.k) {
        let rest = (1 << 26) - 1 - 128 * row.iter().map(|&w| i64::from(w).abs()).sum::<i64>();
        bias.push(match random.next() % 4 {
            0 => -rest,
            1 => rest,
            _ => random.range(-rest, rest) >> random.range(0, 26),
        } as i32);
    }
    let mult = (0..case.rows)
        .map(|_| {
            if random.next().is_multiple_of(8) {
                0
            } else {
                random.range(1 << 14, (1 << 15) - 1) as i16
            }
        })
        .collect();
    (
        weights,
        bias,
        mult,
        random.values(case.rows, Fill::Random, 1, 30),
    )
}

fn pack(
    kernels: Kernels,
    case: &LinearCase,
    layer: &(Vec<i8>, Vec<i32>, Vec<i16>, Vec<u8>),
    storage: Storage,
) -> Linear {
    let (weights, bias, mult, shift) = layer;
    let params = LinearParams {
        rows: case.rows,
        k: case.k,
        weights,
        bias,
        mult,
        shift,
    };
    kernels.pack_linear(&params, storage)
}

type Check<T = ()> = Result<T, TestCaseError>;

/// Runs `run` for the first and for the second kernels (0 and 1), each on a copy of `out`, which
/// must then be equal. Returns it.
fn agree<T: Clone + Debug + PartialEq>(
    what: &str,
    out: Matrix<T>,
    mut run: impl FnMut(usize, &mut Matrix<T>),
) -> Check<Matrix<T>> {
    let (mut a, mut b) = (out.clone(), out);
    run(0, &mut a);
    run(1, &mut b);
    prop_assert_eq!(&a, &b, "{}", what);
    Ok(a)
}

fn check_linear(scalar: Kernels, tier: Kernels, case: &LinearCase, storage: Storage) -> Check {
    let random = &mut Random::new(case.seed);
    let layer = layer(case, random);
    let kernels = [scalar, tier];
    let layers = [
        pack(scalar, case, &layer, Storage::Unpacked),
        pack(tier, case, &layer, storage),
    ];
    let shape = (case.tokens, case.k, case.gap);
    let input = Matrix::<i8>::new(random, shape, case.input, -128, 127);
    let table: Vec<i8> = random.values(256, Fill::Random, -128, 127);
    let table: &[i8; 256] = table.as_slice().try_into().unwrap();
    let shape = (case.tokens, case.rows, case.gap);
    let scratch = &mut Scratch::new();

    let sums = Matrix::<i32>::new(random, shape, Fill::Random, -9, 9);
    let whole = agree("linear_i32", sums, |i, out| {
        kernels[i].linear_i32(&layers[i], input.view(), out.view_mut(), scratch);
    })?;
    for table in [None, Some(table)] {
        let codes = Matrix::<i8>::new(random, shape, Fill::Random, -128, 127);
        agree("linear_i8", codes, |i, out| {
            let (input, out, zero_point) = (input.view(), out.view_mut(), case.zero_point);
            kernels[i].linear_i8(&layers[i], input, out, zero_point, table, scratch);
        })?;
    }
    check_rotated(case, random, |i, out, rotation| {
        kernels[i].linear_rotated(&layers[i], input.view(), out.view_mut(), rotation, scratch);
    })?;
    let residual = Matrix::<i16>::new(random, shape, case.input, -32767, 32767);
    let added = agree("linear_residual", residual.clone(), |i, x| {
        kernels[i].linear_residual(&layers[i], input.view(), x.view_mut(), scratch);
    })?;

    // The same in parts, as threads compute it that share out the rows.
    let cut = (case.seed as usize % case.rows.div_ceil(ROW_STEP)) * ROW_STEP;
    if cut > 0 {
        let in_parts = agree("linear_residual in parts", residual, |i, x| {
            let (first, second) = x.view_mut().split_at_column(cut);
            for (rows, x) in [(0..cut, first), (cut..case.rows, second)] {
                kernels[i].linear_residual(layers[i].part(rows), input.view(), x, scratch);
            }
        })?;
        prop_assert_eq!(&added, &in_parts, "linear_residual in parts");
    }

    // Two runs of rows, as a thread computes them that has heads of its own.
    let windows = case.rows.div_ceil(ROW_STEP);
    if windows > 1 {
        let start = ROW_STEP * (1 + case.seed as usize % (windows - 1));
        let second = start..case.rows.min(start + ROW_STEP);
        let shape = (case.tokens, ROW_STEP + second.len(), case.gap);
        let runs = Matrix::<i32>::new(random, shape, Fill::Random, -9, 9);
        let runs = agree("two runs of rows", runs, |i, out| {
            let runs = layers[i].part(0..ROW_STEP).and(second.clone());
            let runs = runs.before(&layers[i].part(0..ROW_STEP));
            kernels[i].linear_i32(runs, input.view(), out.view_mut(), scratch);
        })?;
        for i in 0..case.tokens {
            let (all, runs) = (whole.view().row(i), runs.view().row(i));
            prop_assert_eq!(&all[..ROW_STEP], &runs[..ROW_STEP], "the first run");
            prop_assert_eq!(&all[second.clone()], &runs[ROW_STEP..], "the second run");
        }
    }
    Ok(())
}

/// Rotates whole heads of some size, or none, by a grid of patches behind a few other tokens.
fn check_rotated(
    case: &LinearCase,
    random: &mut Random,
    mut run: impl FnMut(usize, &mut Matrix<i8>, Rotation),
) -> Check {
    let head_dim = [4, 12, 64, 128][random.range(0, 3) as usize];
    let heads = random.range(0, 3).min((case.rows / head_dim) as i64) as usize;
    let [token, prefix, columns] = [random.range(0, 3), random.range(0, 5), random.range(1, 9)];
    let [token, prefix, columns] = [token, prefix, columns].map(|n| n as usize);
    let rows = (token + case.tokens)
        .saturating_sub(prefix)
        .div_ceil(columns);
    let [rows, columns] = [rows, columns].map(|n| {
        let one = i64::from(ROTARY_ONE);
        random.values::<i16>(n * head_dim / 2, case.input, -one, one)
    });
    let rotation = Rotation {
        rotary: &Rotary::new(head_dim, prefix, &rows, &columns),
        token,
        columns: heads * head_dim,
    };
    let shape = (case.tokens, case.rows, case.gap);
    let codes = Matrix::<i8>::new(random, shape, Fill::Random, -128, 127);
    agree("linear_rotated", codes, |i, out| run(i, out, rotation))?;
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct NormCase {
    tokens: usize,
    d: usize,
    /// The values, and the right shift of their bounds.
    x: (Fill, u32),
    epsilon: i64,
    gap: usize,
    parameters: Fill,
    frac: u8,
    seed: u64,
}

fn norm_case() -> impl Strategy<Value = NormCase> {
    let d = prop_oneof![8 => 1usize..100, 1 => 100usize..=1024];
    let others = (0usize..5, fill(), 0u8..=8, any::<u64>());
    (1usize..20, d, (fill(), 0u32..15), 0u32..50, others).prop_map(
        |(tokens, d, x, epsilon, (gap, parameters, frac, seed))| NormCase {
            tokens,
            d,
            x,
            epsilon: 1 << epsilon,
            gap,
            parameters,
            frac,
            seed,
        },
    )
}

fn check_norm(scalar: Kernels, tier: Kernels, case: &NormCase) -> Check {
    let random = &mut Random::new(case.seed);
    let ((fill, shift), shape) = (case.x, (case.tokens, case.d, case.gap));
    let high = 32767 >> shift;
    let x = Matrix::<i16>::new(random, shape, fill, -high, high);
    let norm = LayerNorm {
        gain: random.values(case.d, case.parameters, -32768, 32767),
        bias: random.values(case.d, case.parameters, -32768, 32767),
        frac: case.frac,
        epsilon: case.epsilon,
    };
    let out = Matrix::<i8>::new(random, shape, Fill::Random, -128, 127);
    agree("layer_norm", out, |i, out| {
        [scalar, tier][i].layer_norm(&norm, x.view(), out.view_mut());
    })?;
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct AttentionCase {
    queries: usize,
    tokens: usize,
    dim: usize,
    /// Queries, keys and values.
    fills: [Fill; 3],
    head: HeadParams,
    gap: usize,
    /// Tokens of a frame that used the same head before.
    before: usize,
    seed: u64,
}

fn attention_case() -> impl Strategy<Value = AttentionCase> {
    let tokens = || prop_oneof![8 => 1usize..100, 1 => 100usize..=1024];
    let dim = prop_oneof![Just(16usize), Just(64), 1usize..=128];
    let mult = (0u32..=24, any::<u32>()).prop_map(|(bits, r)| 1 + (r & ((1 << bits) - 1)) as i32);
    let queries = prop_oneof![8 => 1usize..20, 1 => 20usize..70];
    let head = (mult, 1i16 << 14..=i16::MAX, 11u8..=29);
    let head = head.prop_map(|(mult, out_mult, out_shift)| HeadParams {
        mult,
        out_mult,
        out_shift,
    });
    let others = (0usize..5, tokens(), any::<u64>());
    let fills = [fill(), fill(), fill()];
    (queries, tokens(), dim, fills, head, others).prop_map(
        |(queries, tokens, dim, fills, head, (gap, before, seed))| AttentionCase {
            queries,
            tokens,
            dim,
            fills,
            head,
            gap,
            before,
            seed,
        },
    )
}

fn check_attention(scalar: Kernels, tier: Kernels, case: &AttentionCase) -> Check {
    let random = &mut Random::new(case.seed);
    let &AttentionCase {
        tokens, dim, head, ..
    } = case;
    let mut matrix = |rows, fill| {
        let shape = (rows, dim, case.gap);
        Matrix::<i8>::new(random, shape, fill, -128, 127)
    };
    let [q, k, v] = [case.queries, tokens, tokens];
    let [q, k, v] = [(q, 0), (k, 1), (v, 2)].map(|(rows, i)| matrix(rows, case.fills[i]));
    agree("attention", matrix(case.queries, Fill::Random), |i, out| {
        let kernels = [scalar, tier][i];
        // A head and working memory that another block has used, with heads of another size.
        let stale_dim = 1 + case.seed as usize % 128;
        let mut kv = KvHead::new(tokens.max(case.before), dim.max(stale_dim));
        let scratch = &mut Scratch::new();
        let stale = || {
            let shape = (case.before, stale_dim, 0);
            Matrix::<i8>::new(&mut Random::new(1), shape, Fill::Random, -128, 127)
        };
        kernels.pack_kv(stale().view(), stale().view(), &mut kv);
        assert_eq!((kv.tokens(), kv.head_dim()), (case.before, stale_dim));
        kernels.attention(stale().view(), &kv, &head, stale().view_mut(), &[], scratch);
        kernels.pack_kv(k.view(), v.view(), &mut kv);
        kernels.attention(q.view(), &kv, &head, out.view_mut(), &[k.view()], scratch);
    })?;
    Ok(())
}

/// Runs `check` on `cases` random cases and on the named ones.
fn run<C: Clone + Debug>(
    cases: u32,
    strategy: impl Strategy<Value = C>,
    named: &[C],
    check: impl Fn(&C) -> Check,
) -> Result<(), String> {
    for case in named {
        check(case).map_err(|e| format!("{case:?}: {e}"))?;
    }
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&strategy, |case| check(&case))
        .map_err(|e| e.to_string())
}

fn linear(scalar: Kernels, tier: Kernels) -> Result<(), String> {
    let case = |tokens, k, rows, weights, four_bit_share, input| LinearCase {
        tokens,
        k,
        rows,
        weights: (weights, four_bit_share),
        input,
        gap: 1,
        zero_point: -128,
        seed: 5,
    };
    let named = [
        case(13, 4096, 65, Max, 0, Min),
        case(13, 4096, 65, Min, 0, Min),
        case(7, 4095, 64, Ends, 0, Ends),
        case(1, 1, 1, Min, 0, Min),
        case(197, 192, 192, Fill::Random, 0, Fill::Random),
        // AMX multiplies rows of more than 512 weights in parts.
        case(17, 513, 64, Ends, 0, Ends),
        case(33, 576, 130, Fill::Random, 0, Fill::Random),
        case(99, 1536, 128, Fill::Random, 0, Fill::Random),
        case(50, 4096, 64, Max, 0, Min),
        // The largest sums of 4-bit rows, of either sign.
        case(13, 4096, 65, Max, 100, Min),
        case(13, 4096, 65, Max, 100, Max),
        case(13, 4096, 65, Min, 100, Max),
        case(13, 4095, 65, Min, 100, Min),
        case(7, 777, 200, Ends, 50, Ends),
        case(197, 192, 192, Fill::Random, 75, Fill::Random),
    ];
    run(400, linear_case(), &named, |case| {
        check_linear(scalar, tier, case, Storage::Unpacked)?;
        check_linear(scalar, tier, case, Storage::Packed)
    })
}

fn layer_norm(scalar: Kernels, tier: Kernels) -> Result<(), String> {
    let case = |tokens, d, x, shift, epsilon| NormCase {
        tokens,
        d,
        x: (x, shift),
        epsilon,
        gap: 3,
        parameters: Fill::Ends,
        frac: 0,
        seed: 7,
    };
    let named = [
        case(2, 1024, Fill::Ends, 0, (1 << 50) - 1),
        case(2, 1024, Fill::Max, 0, 1),
        case(8, 1, Fill::Random, 0, 1),
        case(9, 192, Fill::Random, 14, 1),
        case(17, 192, Fill::Random, 0, 1),
    ];
    run(1000, norm_case(), &named, |case| {
        check_norm(scalar, tier, case)
    })
}

fn attention(scalar: Kernels, tier: Kernels) -> Result<(), String> {
    let case = |queries, tokens: usize, dim, fills, mult| AttentionCase {
        queries,
        tokens,
        dim,
        fills,
        head: HeadParams {
            mult,
            out_mult: i16::MAX,
            out_shift: 11,
        },
        gap: 1,
        before: (tokens + 9).min(1024),
        seed: 11,
    };
    let named = [
        case(14, 1024, 128, [Min; 3], 1 << 24),
        case(14, 1024, 128, [Min, Ends, Max], 1 << 24),
        case(14, 1024, 128, [Fill::Random; 3], 1),
        case(5, 1, 1, [Fill::Random; 3], 1000),
        case(197, 197, 64, [Fill::Random; 3], 2000),
        case(17, 577, 64, [Fill::Random; 3], 12_005),
    ];
    run(300, attention_case(), &named, |case| {
        check_attention(scalar, tier, case)
    })
}

fn peak_probe(_: Kernels, tier: Kernels) -> Result<(), String> {
    let duration = std::time::Duration::from_millis(2);
    for peak in [tier.peak_probe(duration), tier.peak_probe_4_bit(duration)] {
        if !(1e6..1e14).contains(&peak) {
            return Err(format!("{peak} multiply-accumulates a second"));
        }
    }
    Ok(())
}

type TierCheck = fn(Kernels, Kernels) -> Result<(), String>;

const CHECKS: [(&str, TierCheck); 4] = [
    ("linear", linear),
    ("layer_norm", layer_norm),
    ("attention", attention),
    ("peak_probe", peak_probe),
];

fn main() -> ExitCode {
    let scalar = Kernels::new(Tier::Scalar).expect("the scalar tier always exists");
    // Of the standard harness's options, --list is obeyed and others are ignored; words are
    // filters.
    let list = std::env::args().any(|arg| arg == "--list");
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for tier in Tier::ALL {
        for (what, check) in CHECKS {
            let name = format!("{tier}::{what}");
            if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
                continue;
            }
            if list {
                println!("{name}: test");
                continue;
            }
            let Some(kernels) = Kernels::new(tier) else {
                println!("test {name} ... skipped: this machine does not run {tier}");
                skipped += 1;
                continue;
            };
            match catch_unwind(AssertUnwindSafe(|| check(scalar, kernels))) {
                Ok(Ok(())) => {
                    println!("test {name} ... ok");
                    passed += 1;
                }
                Ok(Err(error)) => {
                    println!("test {name} ... FAILED\n{error}");
                    failed += 1;
                }
                Err(_) => {
                    println!("test {name} ... FAILED (panicked)");
                    failed += 1;
                }
            }
        }
    }
    if list {
        return ExitCode::SUCCESS;
    }
    println!("\ntier checks: {passed} passed; {failed} failed; {skipped} skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
