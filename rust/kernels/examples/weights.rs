//! Measures on one core what reading weights costs a thread that has some of the tokens:
//! `cargo run --release -p quasar-kernels --example weights [tier] [embed]`.
//!
//! The linear layers of 12 blocks of `DeiT` run one after the other, so that weights come from the
//! last cache, and each layer alone, so that they come from the second-level cache. A thread with
//! half of the tokens takes half of the time if reading weights is free.

use std::hint::black_box;
use std::time::Instant;

use quasar_kernels::{
    Aligned, Kernels, Linear, LinearParams, MatrixView, MatrixViewMut, Scratch, Storage, Tier,
};

const BLOCKS: usize = 12;
const TOKENS: usize = 197;

/// A layer with 8-bit rows in random places, a quarter of them.
fn layer(kernels: Kernels, (rows, k): (usize, usize), seed: usize) -> Linear {
    let mut weights: Vec<i8> = (0..rows * k)
        .map(|i| (i * 37 + i / 11 * 5 + seed) as i8)
        .collect();
    for (r, row) in weights.chunks_exact_mut(k).enumerate() {
        let wide = (r.wrapping_mul(2_654_435_761) >> 7).is_multiple_of(4);
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
    kernels.pack_linear(&params, Storage::Unpacked)
}

/// Microseconds of the fastest of several runs.
fn fastest(runs: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1e6
    });
    times.fold(f64::MAX, f64::min)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let tier = (words.first()).map_or(Tier::best(), |word| word.parse().expect("a tier"));
    let embed: usize = (words.get(1)).map_or(192, |word| word.parse().expect("a number"));
    let kernels = Kernels::new(tier).expect("a tier that this machine runs");
    // qkv, proj, fc1, fc2.
    let shapes = [(3, 1), (1, 1), (4, 1), (1, 4)].map(|(rows, k)| (rows * embed, k * embed));
    let mut blocks: Vec<[Linear; 4]> = (0..BLOCKS)
        .map(|block| shapes.map(|shape| layer(kernels, shape, block)))
        .collect();
    Linear::join(&mut blocks.iter_mut().flatten().collect::<Vec<_>>());
    let bytes = blocks[0].iter().map(Linear::weight_bytes).sum::<usize>();
    println!("{tier}, embed {embed}: {bytes} bytes of weights a block; microseconds a block");
    let scratch = &mut Scratch::new();
    let mut input = Aligned::<i8>::new(TOKENS * 4 * embed);
    for (i, code) in input.iter_mut().enumerate() {
        *code = (i * 37) as i8;
    }
    let mut codes = Aligned::<i8>::new(TOKENS * 4 * embed);
    let mut x = Aligned::<i16>::new(TOKENS * embed);
    let mut run = |layer: &Linear, tokens: usize| {
        let input = MatrixView::packed(&input[..tokens * layer.k()], layer.k());
        let size = tokens * layer.rows();
        if layer.rows() == embed {
            let x = MatrixViewMut::packed(&mut black_box(&mut x)[..size], layer.rows());
            kernels.linear_residual(layer, input, x, scratch);
        } else {
            let out = MatrixViewMut::packed(&mut black_box(&mut codes)[..size], layer.rows());
            kernels.linear_i8(layer, input, out, 3, None, scratch);
        }
    };
    println!("tokens  from the last cache  from the second-level cache");
    for tokens in [1, 48, 96, 99, 192, TOKENS] {
        let far = fastest(30, || {
            (blocks.iter().flatten()).for_each(|layer| run(layer, tokens));
        });
        let near = blocks[0]
            .iter()
            .map(|layer| fastest(60, || run(layer, tokens)));
        let near = near.sum::<f64>();
        println!("{tokens:6}  {:19.1}  {near:27.1}", far / BLOCKS as f64);
    }
}
