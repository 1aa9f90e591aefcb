//! Speed of the kernels on one core: `cargo run --release -p quasar-kernels --example bench [tier]`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use quasar_kernels::{
    HeadParams, Kernels, KvHead, LayerNorm, LinearParams, Rows, RowsMut, Scratch, Tier,
};

/// Seconds of the fastest of several runs.
fn seconds(mut f: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed() < Duration::from_millis(150) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn codes(n: usize) -> Vec<i8> {
    (0..n).map(|i| (i * 37 + i / 11 * 5) as i8).collect()
}

#[allow(clippy::too_many_lines)] // one list of measurements
fn main() {
    let tier = std::env::args()
        .nth(1)
        .map_or(Tier::best(), |name| name.parse().expect("a tier"));
    let kernels = Kernels::new(tier).expect("a tier that this machine runs");
    let peak = kernels.peak_probe(Duration::from_millis(200));
    println!("{tier}: peak {:.1} GMAC/s", peak / 1e9);
    let scratch = &mut Scratch::new();
    let tokens = 197;
    let mut frame = 0.0;
    let mut report = |what: &str, count: usize, macs: usize, t: f64| {
        print!("{what:24} {:8.1} us", t * 1e6);
        if macs > 0 {
            let rate = macs as f64 / t;
            print!("  {:6.1} GMAC/s  {:3.0} %", rate / 1e9, 100.0 * rate / peak);
        }
        println!();
        frame += count as f64 * t;
    };
    let table: [i8; 256] = std::array::from_fn(|i| (i / 2) as i8);
    for (what, rows, k, count) in [
        ("qkv", 576, 192, 12),
        ("fc1+table", 768, 192, 12),
        ("fc2+residual", 192, 768, 12),
        ("proj+residual", 192, 192, 12),
    ] {
        let weights: Vec<i8> = codes(rows * k).iter().map(|&w| w.max(-127)).collect();
        let layer = kernels.pack_linear(&LinearParams {
            rows,
            k,
            weights: &weights,
            bias: &vec![1000; rows],
            mult: &vec![20000; rows],
            shift: &vec![12; rows],
        });
        let input = codes(tokens * k);
        let input = Rows::packed(&input, k);
        let t = if what.ends_with("residual") {
            let mut x = vec![0i16; tokens * rows];
            seconds(|| {
                kernels.linear_residual(
                    &layer,
                    input,
                    RowsMut::packed(black_box(&mut x), rows),
                    scratch,
                );
            })
        } else {
            let mut out = vec![0i8; tokens * rows];
            let table = (what == "fc1+table").then_some(&table);
            seconds(|| {
                kernels.linear_i8(
                    &layer,
                    input,
                    RowsMut::packed(black_box(&mut out), rows),
                    3,
                    table,
                    scratch,
                );
            })
        };
        report(what, count, tokens * rows * k, t);
    }
    let (d, dim) = (192, 64);
    let x: Vec<i16> = (0..tokens * d).map(|i| (i * 7919) as i16 / 2).collect();
    let mut out = vec![0i8; tokens * d];
    let norm = LayerNorm {
        gain: vec![900; d],
        bias: vec![40; d],
        frac: 3,
        epsilon: 5,
    };
    let t = seconds(|| {
        kernels.layer_norm(
            &norm,
            Rows::packed(&x, d),
            RowsMut::packed(black_box(&mut out), d),
        );
    });
    report("layer_norm", 25, 0, t);
    let qkv = codes(tokens * 3 * d);
    let qkv = Rows::packed(&qkv, 3 * d);
    let mut kv = KvHead::new(tokens, dim);
    let t = seconds(|| {
        kernels.pack_kv(
            qkv.columns(d..d + dim),
            qkv.columns(2 * d..2 * d + dim),
            black_box(&mut kv),
        );
    });
    report("pack_kv", 36, 0, t);
    let head = HeadParams {
        mult: 3000,
        out_mult: 20000,
        out_shift: 15,
    };
    let t = seconds(|| {
        let out = RowsMut::packed(black_box(&mut out), d)
            .split_at_column(dim)
            .0;
        kernels.attention(qkv.columns(0..dim), &kv, &head, out, scratch);
    });
    report("attention", 36, 2 * tokens * tokens * dim, t);
    println!("a DeiT-tiny frame's 12 blocks: {:.2} ms", frame * 1e3);
}
