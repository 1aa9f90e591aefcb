//! Layers of one token, whose rows of weights are shared out among the threads where
//! [`partition`](super::partition) expects that to be faster.

use quasar_kernels::{Aligned, Linear, LinearRows, MatrixView, MatrixViewMut, Scratch, Team};

use super::partition::{self, Machine};
use super::range::TokenRange;
use crate::network::{Block, Network};
use crate::pool::for_each;
use crate::trace::{Observer, Point};

/// The values of one token, in layers that are shared out by rows of weights.
#[derive(Debug)]
pub(super) struct Token {
    pub machine: Machine,
    /// `[embed]`
    x: Aligned<i16>,
    /// `[embed]`
    norm: Aligned<i8>,
    /// `[heads * head_dim]`
    attended: Aligned<i8>,
    /// `[hidden]`
    hidden: Aligned<i8>,
}

impl Machine {
    /// Returns the rows of each part of a layer of one token.
    pub fn part_rows(&self, layer: &Linear, ranges: usize) -> usize {
        if self.prefers_rows(layer, ranges) {
            partition::part_rows(layer.rows(), ranges)
        } else {
            layer.rows()
        }
    }

    /// Computes a layer of one token, its rows shared out among the ranges' threads if that is
    /// faster.
    pub fn share_out<T: Send>(
        &self,
        team: Option<&Team>,
        ranges: &mut [TokenRange],
        layer: &Linear,
        out: &mut [T],
        work: impl Fn(LinearRows, MatrixViewMut<T>, &mut Scratch) + Sync,
    ) {
        let rows = self.part_rows(layer, ranges.len());
        if rows >= layer.rows() {
            let out = MatrixViewMut::packed(out, layer.rows());
            return work(layer.into(), out, &mut ranges[0].scratch);
        }
        for_each(team, ranges, out, rows, |i, range, out| {
            if let (first, cols @ 1..) = (i * rows, out.len()) {
                let out = MatrixViewMut::packed(out, cols);
                work(layer.part(first..first + cols), out, &mut range.scratch);
            }
        });
    }
}

impl Token {
    /// Allocates memory for the widest block.
    pub fn new(network: &Network) -> Self {
        let embed = network.config.embed;
        Self {
            machine: Machine::typical(network.tier()),
            x: Aligned::new(embed),
            norm: Aligned::new(embed),
            attended: Aligned::new(network.widest(Block::inner)),
            hidden: Aligned::new(network.widest(|b| b.hidden)),
        }
    }

    /// Computes a block from its projection on, for the few tokens that are needed.
    pub fn finish_block(
        &mut self,
        network: &Network,
        i: usize,
        ranges: &mut [TokenRange],
        team: Option<&Team>,
    ) {
        let (block, embed, kernels) = (&network.blocks[i], network.config.embed, network.kernels);
        let inner = block.inner();
        let Self {
            machine,
            x,
            norm,
            attended,
            hidden,
        } = self;
        let (attended, hidden) = (&mut attended[..inner], &mut hidden[..block.hidden]);
        for token in 0..network.config.needed(i) {
            let at = (ranges.iter())
                .position(|range| range.tokens.contains(&token))
                .expect("every token has a range");
            let row = token - ranges[at].tokens.start;
            if network.config.pools(i) {
                x.fill(0);
            } else {
                x.copy_from_slice(&ranges[at].x[row * embed..][..embed]);
            }
            attended.copy_from_slice(&ranges[at].attended[row * inner..][..inner]);

            let input = MatrixView::packed(attended, inner);
            machine.share_out(team, ranges, &block.proj, x, |part, x, scratch| {
                kernels.linear_residual(part, input, x, scratch);
            });
            note(ranges, Point::Mid(i), |observer, point| {
                observer.i16(point, [token, 0], MatrixView::packed(x, embed));
            });
            kernels.layer_norm(
                &block.norm2,
                MatrixView::packed(x, embed),
                MatrixViewMut::packed(norm, embed),
            );
            let input = MatrixView::packed(norm, embed);
            note(ranges, Point::Norm2(i), |observer, point| {
                observer.i8(point, [token, 0], input);
            });
            machine.share_out(team, ranges, &block.fc1, hidden, |part, out, scratch| {
                let (zero_point, table) = (block.fc1_zero_point, Some(&block.activation));
                kernels.linear_i8(part, input, out, zero_point, table, scratch);
            });
            let input = MatrixView::packed(hidden, block.hidden);
            note(ranges, Point::Act(i), |observer, point| {
                observer.i8(point, [token, 0], input);
            });
            machine.share_out(team, ranges, &block.fc2, x, |part, x, scratch| {
                kernels.linear_residual(part, input, x, scratch);
            });
            note(ranges, Point::X(i), |observer, point| {
                observer.i16(point, [token, 0], MatrixView::packed(x, embed));
            });
            ranges[at].x[row * embed..][..embed].copy_from_slice(x);
        }
    }
}

/// Records a value of the first range once, and its time for all ranges.
fn note(ranges: &mut [TokenRange], point: Point, record: impl Fn(&mut Observer, Point)) {
    let mut observers = ranges.iter_mut().map(|range| &mut range.observer);
    if let Some(first) = observers.next() {
        record(first, point);
    }
    observers.for_each(|observer| observer.elapsed(point));
}
