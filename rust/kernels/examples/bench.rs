//! Measures the kernels on one core:
//! `cargo run --release -p quasar-kernels --example bench [tier] [cold]`.
//!
//! Layers have DeiT-tiny's shapes and 0, 25 or 100 % 8-bit rows, at random places, and are kept
//! both ways. With `cold` the L1 and L2 caches (and L3 if it is below 64 MB) hold none of a layer's
//! weights when it starts, as with a network that is larger than the caches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use quasar_kernels::{
    Aligned, HeadParams, Kernels, KvHead, LayerNorm, Linear, LinearParams, MatrixView,
    MatrixViewMut, Scratch, Storage, Tier,
};

const TOKENS: usize = 197;

/// Seconds of the fastest of several runs, each after `before`, which gets what runs.
fn seconds<T>(mut before: impl FnMut(&mut dyn FnMut(&T)), on: &T, mut run: impl FnMut(&T)) -> f64 {
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed() < Duration::from_millis(150) {
        before(&mut run);
        let start = Instant::now();
        run(on);
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn codes(n: usize) -> Aligned<i8> {
    let mut codes = Aligned::new(n);
    for (i, code) in codes.iter_mut().enumerate() {
        *code = (i * 37 + i / 11 * 5) as i8;
    }
    codes
}

/// Returns a layer in which `percent` of the rows, at random places, are 8-bit.
fn layer(kernels: Kernels, (rows, k): (usize, usize), percent: u64, storage: Storage) -> Linear {
    let mut weights = codes(rows * k);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for row in weights.chunks_exact_mut(k) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let wide = (state >> 32) % 100 < percent;
        for w in row {
            *w = if wide {
                (*w).max(-127)
            } else {
                w.rem_euclid(15) - 7
            };
        }
    }
    let params = LinearParams {
        rows,
        k,
        weights: &weights,
        bias: &vec![1000; rows],
        mult: &vec![20000; rows],
        shift: &vec![12; rows],
    };
    kernels.pack_linear(&params, storage)
}

#[allow(clippy::too_many_lines)] // one list of measurements
fn main() {
    let (mut tier, mut cold) = (Tier::best(), false);
    for word in std::env::args().skip(1) {
        if word == "cold" {
            cold = true;
        } else {
            tier = word.parse().expect("a tier or the word cold");
        }
    }
    let kernels = Kernels::new(tier).expect("a tier that this machine runs");
    let duration = Duration::from_millis(200);
    let (peak, peak_4_bit) = (
        kernels.peak_probe(duration),
        kernels.peak_probe_4_bit(duration),
    );
    println!(
        "{tier}: peak {:.1} GMAC/s, of 4-bit rows {:.1}",
        peak / 1e9,
        peak_4_bit / 1e9
    );
    let scratch = &mut Scratch::new();
    // `percent` of the rows at the peak of 8-bit rows, the others at that of 4-bit ones, are the
    // roof.
    let report = |what: &str, macs: usize, percent: u64, t: f64| {
        print!("{what:32} {:8.1} us", t * 1e6);
        if macs > 0 {
            let share = percent as f64 / 100.0;
            let roof = 1.0 / (share / peak + (1.0 - share) / peak_4_bit);
            let rate = macs as f64 / t;
            print!("  {:6.1} GMAC/s  {:3.0} %", rate / 1e9, 100.0 * rate / roof);
        }
        println!();
    };
    let table: [i8; 256] = std::array::from_fn(|i| (i / 2) as i8);
    // As many bytes as push everything else out.
    let mut other = vec![0u8; if cold { 1 << 26 } else { 0 }];
    for (what, rows, k) in [
        ("qkv", 576, 192),
        ("fc1+table", 768, 192),
        ("fc2+residual", 192, 768),
        ("proj+residual", 192, 192),
    ] {
        let input = codes(TOKENS * k);
        let input = MatrixView::packed(&input, k);
        for percent in [0, 25, 100] {
            for storage in [Storage::Unpacked, Storage::Packed] {
                let layer = layer(kernels, (rows, k), percent, storage);
                // Brings everything else back into the caches.
                let twin = layer.clone();
                let evict = |run: &mut dyn FnMut(&Linear)| {
                    if cold {
                        for line in other.chunks_mut(64) {
                            line[0] = line[0].wrapping_add(1);
                        }
                        run(&twin);
                    }
                };
                let t = if what.ends_with("residual") {
                    let mut x = Aligned::<i16>::new(TOKENS * rows);
                    seconds(evict, &layer, |layer| {
                        let x = MatrixViewMut::packed(black_box(&mut x), rows);
                        kernels.linear_residual(layer, input, x, scratch);
                    })
                } else {
                    let mut out = Aligned::<i8>::new(TOKENS * rows);
                    let table = (what == "fc1+table").then_some(&table);
                    seconds(evict, &layer, |layer| {
                        let out = MatrixViewMut::packed(black_box(&mut out), rows);
                        kernels.linear_i8(layer, input, out, 3, table, scratch);
                    })
                };
                let kept = match storage {
                    Storage::Unpacked => "",
                    Storage::Packed => ", packed",
                };
                let what = format!("{what}, {percent} % 8-bit{kept}");
                report(&what, TOKENS * rows * k, percent, t);
            }
        }
    }
    let (d, dim) = (192, 64);
    let x: Vec<i16> = (0..TOKENS * d).map(|i| (i * 7919) as i16 / 2).collect();
    let mut out = Aligned::<i8>::new(TOKENS * d);
    let norm = LayerNorm {
        gain: vec![900; d],
        bias: vec![40; d],
        frac: 3,
        epsilon: 5,
    };
    let warm = |_: &mut dyn FnMut(&())| ();
    let t = seconds(warm, &(), |()| {
        kernels.layer_norm(
            &norm,
            MatrixView::packed(&x, d),
            MatrixViewMut::packed(black_box(&mut out), d),
        );
    });
    report("layer_norm", 0, 0, t);
    let qkv = codes(TOKENS * 3 * d);
    let qkv = MatrixView::packed(&qkv, 3 * d);
    let mut kv = KvHead::new(TOKENS, dim);
    let t = seconds(warm, &(), |()| {
        kernels.pack_kv(
            qkv.columns(d..d + dim),
            qkv.columns(2 * d..2 * d + dim),
            black_box(&mut kv),
        );
    });
    report("pack_kv", 0, 0, t);
    let head = HeadParams {
        mult: 3000,
        out_mult: 20000,
        out_shift: 15,
    };
    let t = seconds(warm, &(), |()| {
        let out = MatrixViewMut::packed(black_box(&mut out), d)
            .split_at_column(dim)
            .0;
        kernels.attention(qkv.columns(0..dim), &kv, &head, out, &[], scratch);
    });
    report("attention", 2 * TOKENS * TOKENS * dim, 100, t);
}
