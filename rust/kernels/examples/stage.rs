//! Runs one stage of a block of DeiT-tiny's shape a number of times; `tools/lab/kernel_cost.py`
//! counts its instructions.
//!
//! `stage TIER STAGE TIMES`, with the stages qkv, proj, fc1, fc2, norm and attention.

use std::hint::black_box;

use quasar_kernels::{
    HeadParams, Kernels, KvHead, LayerNorm, LinearParams, MatrixView, MatrixViewMut, Scratch,
    Storage,
};

const TOKENS: usize = 197;
const EMBED: usize = 192;
const HEAD_DIM: usize = 64;

fn codes(n: usize) -> Vec<i8> {
    (0..n)
        .map(|i| ((i * 37 + i / 11 * 5) as i8).max(-127))
        .collect()
}

/// Returns a closure that runs the stage once.
fn stage(kernels: Kernels, name: &str) -> Box<dyn FnMut()> {
    let mut scratch = Scratch::new();
    let linear = |rows: usize, k: usize| {
        let params = LinearParams {
            rows,
            k,
            weights: &codes(rows * k),
            bias: &vec![1000; rows],
            mult: &vec![20000; rows],
            shift: &vec![12; rows],
        };
        kernels.pack_linear(&params, Storage::Unpacked)
    };
    let table: [i8; 256] = std::array::from_fn(|i| (i / 2) as i8);
    match name {
        "qkv" | "fc1" => {
            let rows = if name == "qkv" { 3 } else { 4 } * EMBED;
            let (layer, input, mut out) = (
                linear(rows, EMBED),
                codes(TOKENS * EMBED),
                vec![0; TOKENS * rows],
            );
            Box::new(move || {
                let table = (rows > 3 * EMBED).then_some(&table);
                let out = MatrixViewMut::packed(black_box(&mut out), rows);
                kernels.linear_i8(
                    &layer,
                    MatrixView::packed(&input, EMBED),
                    out,
                    0,
                    table,
                    &mut scratch,
                );
            })
        }
        "proj" | "fc2" => {
            let k = if name == "proj" { 1 } else { 4 } * EMBED;
            let (layer, input, mut x) =
                (linear(EMBED, k), codes(TOKENS * k), vec![0; TOKENS * EMBED]);
            Box::new(move || {
                let x = MatrixViewMut::packed(black_box(&mut x), EMBED);
                kernels.linear_residual(&layer, MatrixView::packed(&input, k), x, &mut scratch);
            })
        }
        "norm" => {
            let norm = LayerNorm {
                gain: vec![9000; EMBED],
                bias: vec![10; EMBED],
                frac: 4,
                epsilon: 1,
            };
            let x: Vec<i16> = codes(TOKENS * EMBED)
                .iter()
                .map(|&x| 100 * i16::from(x))
                .collect();
            let mut out = vec![0; TOKENS * EMBED];
            Box::new(move || {
                let out = MatrixViewMut::packed(black_box(&mut out), EMBED);
                kernels.layer_norm(&norm, MatrixView::packed(&x, EMBED), out);
            })
        }
        "attention" => {
            let head = HeadParams {
                mult: 4000,
                out_mult: 20000,
                out_shift: 20,
            };
            let (q, k, v) = (
                codes(TOKENS * HEAD_DIM),
                codes(TOKENS * HEAD_DIM + 1),
                codes(TOKENS * HEAD_DIM + 2),
            );
            let mut kv = KvHead::new(TOKENS, HEAD_DIM);
            let mut out = vec![0; TOKENS * HEAD_DIM];
            Box::new(move || {
                let rows = |codes| MatrixView::packed(codes, HEAD_DIM);
                kernels.pack_kv(rows(&k[1..]), rows(&v[2..]), &mut kv);
                let out = MatrixViewMut::packed(black_box(&mut out), HEAD_DIM);
                kernels.attention(rows(&q), &kv, &head, out, &[], &mut scratch);
            })
        }
        other => panic!("no stage {other:?}"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tier, name, times] = &arguments[..] else {
        panic!("stage TIER STAGE TIMES");
    };
    let kernels = Kernels::new(tier.parse().expect("a tier")).expect("a tier that this CPU runs");
    let mut run = stage(kernels, name);
    for _ in 0..times.parse().expect("a number of times") {
        run();
    }
}
