//! Decides how a layer is shared out among threads: by tokens, or by rows of weights or heads.
//!
//! By tokens, each thread reads all weights and its own tokens, and no meeting is needed. By rows,
//! each thread reads its own weights and all tokens, most of which other cores have written, and
//! the threads meet. Products and the reading of weights overlap by half: the next panel is
//! prefetched while one is multiplied, and of what the model takes to read a `DeiT-small` block's
//! weights for 98 tokens, 42 to 60 % was measured as additional time.
//!
//! Heads of a thread's own are rows of the layer of queries, keys and values. By heads, threads
//! meet before that layer and behind attention; by tokens, between the two.
//!
//! Depends on [`crate::network`] and the kernels.

use quasar_kernels::{Linear, Tier, ROW_STEP};

use crate::network::Block;

/// Assumed share of time that is lost in waiting at a meeting behind which there is nothing to do.
const WAITING: f64 = 0.02;

/// A core's work in a second, and the cost of a meeting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Machine {
    /// Multiply-accumulates of one core a second.
    pub macs: f64,
    /// Bytes of weights that one core reads a second from where they are: beyond its own caches.
    pub weights: f64,
    /// Bytes that one core reads a second of what another core has written.
    pub exchange: f64,
    /// Seconds of a meeting of all threads.
    pub meeting: f64,
}

impl Machine {
    /// Returns the figures of a core that is typical of a tier.
    ///
    /// Measured for x86 on the Xeon of `docs/cpu-speed.md`: the peak by the roofline's probe, a
    /// layer of one token from the last cache, keys and values that another core wrote, an empty
    /// job. Modelled for Arm: the loops of `docs/cpu-tiers.md` at 1.2 GHz on Cortex-A53, 1.8 GHz on
    /// Cortex-A76, and one core's share of a board's DRAM.
    pub(crate) fn typical(tier: Tier) -> Self {
        let xeon = Self {
            macs: 434e9,
            weights: 24e9,
            exchange: 14e9,
            meeting: 2e-6,
        };
        let board = Self {
            macs: 5.1e9,
            weights: 2e9,
            exchange: 2e9,
            meeting: 5e-6,
        };
        match tier {
            Tier::Amx => Self {
                macs: 3165e9,
                ..xeon
            },
            Tier::Avx512Vnni => xeon,
            Tier::Avx2 => Self { macs: 82e9, ..xeon },
            Tier::NeonDot | Tier::NeonI8mm => Self {
                macs: 57e9,
                ..board
            },
            Tier::Neon => board,
            Tier::Scalar => Self { macs: 1e9, ..board },
        }
    }

    /// Returns the seconds of a layer that is shared out by tokens.
    pub(crate) fn by_tokens(&self, product: Product, threads: usize) -> f64 {
        let work = self.work(product, product.tokens.div_ceil(threads), product.rows);
        overlapped(work, product.weight_bytes as f64 / self.weights)
    }

    /// Returns the seconds of a layer that is shared out by rows of weights, with as many more
    /// meetings.
    pub(crate) fn by_rows(&self, product: Product, threads: usize, meetings: u8) -> f64 {
        let rows = part_rows(product.rows, threads).min(product.rows);
        let others = (threads - 1) as f64 / threads as f64;
        let weights = product.weight_bytes as f64 * rows as f64 / product.rows as f64;
        overlapped(
            self.work(product, product.tokens, rows),
            weights / self.weights,
        ) + (product.tokens * product.k) as f64 * others / self.exchange
            + f64::from(meetings) * self.meeting
    }

    /// Returns true if `threads` threads share a block's attention out by heads, and the layer of
    /// its queries, keys and values with them, rather than by `tokens`.
    pub(crate) fn prefers_heads(&self, block: &Block, tokens: usize, threads: usize) -> bool {
        let qkv = Product {
            tokens,
            rows: 3 * block.inner(),
            k: block.q.k(),
            weight_bytes: block.q.weight_bytes() + block.kv.weight_bytes(),
        };
        threads > 1 && heads_divide(block, threads) && self.heads_save_time(qkv, threads)
    }

    /// Returns true if it takes less time to share attention out by heads, given the layer of its
    /// queries, keys and values. By tokens, each thread reads the others' keys and values. By
    /// heads, it reads the others' inputs and the outputs for its tokens, and threads meet once
    /// more.
    fn heads_save_time(&self, qkv: Product, threads: usize) -> bool {
        let others = (qkv.tokens - qkv.tokens.div_ceil(threads)) as f64;
        let inner = (qkv.rows / 3) as f64;
        let keys_and_values = others * 2.0 * inner / self.exchange;
        let outputs = others * inner / threads as f64 / self.exchange;
        let by_heads = self.by_rows(qkv, threads, 1) + outputs;
        by_heads < (1.0 - WAITING) * (self.by_tokens(qkv, threads) + keys_and_values)
    }

    fn work(&self, product: Product, tokens: usize, rows: usize) -> f64 {
        (tokens * rows * product.k) as f64 / self.macs
    }

    /// Returns true if `threads` threads share a layer of one token out by rows of weights, in a
    /// job of its own.
    pub(crate) fn prefers_rows(&self, layer: &Linear, threads: usize) -> bool {
        let product = Product {
            tokens: 1,
            rows: layer.rows(),
            k: layer.k(),
            weight_bytes: layer.weight_bytes(),
        };
        threads > 1 && self.by_rows(product, threads, 1) < self.by_tokens(product, threads)
    }
}

/// Returns true if each of `threads` threads can have as many heads of a block, whose rows of
/// weights are whole windows.
fn heads_divide(block: &Block, threads: usize) -> bool {
    block.heads.is_multiple_of(threads) && (block.inner() / threads).is_multiple_of(ROW_STEP)
}

/// Returns the time of two things of which half of the shorter one is hidden.
fn overlapped(a: f64, b: f64) -> f64 {
    a.max(b) + a.min(b) / 2.0
}

/// The sizes of a layer's product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub tokens: usize,
    pub rows: usize,
    pub k: usize,
    /// Bytes of the layer's weights in memory.
    pub weight_bytes: usize,
}

/// Returns the rows of each thread's part but the last, which may have fewer.
pub(crate) fn part_rows(rows: usize, threads: usize) -> usize {
    rows.div_ceil(ROW_STEP).div_ceil(threads) * ROW_STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer whose weights take a byte each.
    fn product(tokens: usize, rows: usize, k: usize) -> Product {
        Product {
            tokens,
            rows,
            k,
            weight_bytes: rows * k,
        }
    }

    fn rows_win(tier: Tier, product: Product, threads: usize) -> bool {
        let machine = Machine::typical(tier);
        machine.by_rows(product, threads, 1) < machine.by_tokens(product, threads)
    }

    #[test]
    fn layers_of_one_token_are_shared_out_by_rows_if_that_saves_more_than_a_meeting() {
        for tier in [Tier::Avx2, Tier::Avx512Vnni, Tier::Amx, Tier::Neon] {
            for threads in [2, 4, 8] {
                // The last fc1 of DeiT-small and its head; a layer of 4 KB.
                assert!(rows_win(tier, product(1, 1536, 384), threads), "{tier}");
                assert!(rows_win(tier, product(1, 1000, 384), threads), "{tier}");
                assert!(!rows_win(tier, product(1, 64, 64), threads), "{tier}");
            }
        }
    }

    #[test]
    fn layers_of_all_tokens_gain_next_to_nothing_by_rows() {
        for tier in [Tier::Avx2, Tier::Avx512Vnni] {
            let machine = Machine::typical(tier);
            for embed in [192, 384] {
                for (rows, k) in [(3, 1), (1, 1), (4, 1), (1, 4)] {
                    let product = product(197, rows * embed, k * embed);
                    // A layer by rows would cut a thread's job into three.
                    let gain = machine.by_tokens(product, 2) / machine.by_rows(product, 2, 2);
                    assert!(gain < 1.02, "{tier}, {product:?}: {gain}");
                }
            }
        }
    }

    #[test]
    fn heads_are_shared_out_if_that_saves_more_than_a_meeting() {
        let saves =
            |tier, product, threads| Machine::typical(tier).heads_save_time(product, threads);
        // DeiT-small's, and two heads of 64 dimensions for 16 tokens.
        let (small, tiny) = (product(197, 1152, 384), product(16, 384, 64));
        for threads in [2, 3, 6] {
            assert!(saves(Tier::Avx512Vnni, small, threads));
            assert!(saves(Tier::Amx, small, threads));
        }
        for tier in [Tier::Avx2, Tier::Avx512Vnni, Tier::Amx, Tier::Neon] {
            assert!(!saves(tier, tiny, 2), "{tier}");
        }
        // It would gain 1 %.
        assert!(!saves(Tier::Avx2, small, 2));
    }

    #[test]
    fn parts_are_whole_windows_and_cover_all_rows() {
        for (rows, threads, part) in [(1000, 2, 512), (192, 2, 128), (64, 3, 64), (10, 1, 64)] {
            assert_eq!(part_rows(rows, threads), part);
            assert!(part * threads >= rows);
        }
    }
}
