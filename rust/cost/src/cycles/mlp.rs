//! Models the MLP's half of a block, band by band.

use quasar_hardware::declared::COMMAND_GAP;
use quasar_hardware::packing::Activation;
use quasar_hardware::tiling::Band;
use quasar_hardware::workload::BlockWork;

use super::norm::Normed;
use super::product::{Drain, Gemm, Product};
use super::{MlpHalf, Model, Stage};

/// Cycles in which the lanes store GELU's table, an entry a cycle, between two commands.
const TABLE: u64 = 256 + 2 * COMMAND_GAP;

/// The MLP of a band of tokens.
#[derive(Clone, Copy)]
struct BandOfMlp {
    band: Band,
    fc1: Product,
    fc2: Product,
}

impl BandOfMlp {
    fn normed(&self) -> Normed {
        Normed {
            band: self.band,
            product: self.fc2,
            cycles: self.fc1.stage.cycles() + self.fc2.stage.cycles(),
        }
    }
}

impl Model<'_> {
    /// Models the MLP's half of a block; ignores attention's rows in `work`.
    pub fn mlp_half(&self, embed: u64, work: &BlockWork, last: bool) -> MlpHalf {
        let needed = self.needed(last);
        let mut bands: Vec<BandOfMlp> = (self.hardware)
            .hidden_bands(needed, work.hidden)
            .map(|band| BandOfMlp {
                band,
                fc1: self.gemm(Gemm {
                    tokens: band.tokens,
                    rows: work.fc1,
                    columns: embed,
                    activation: Activation::Signed,
                    drain: Drain::Gelu,
                    streamed: true,
                }),
                fc2: self.linear(band.tokens, work.fc2, work.hidden),
            })
            .collect();
        let mut side = self.side(4 * embed);
        side.add(self.side(256));
        let norm = |bands: &[Normed]| {
            if last {
                self.pooled(bands, embed)
            } else {
                self.norm_of_bands(bands, embed)
            }
        };
        let products: Vec<_> = (bands.iter().flat_map(|band| [band.fc1, band.fc2])).collect();
        let end = products[products.len() - 1];
        // The norm before this half, of all tokens, is assumed to be alike.
        let before = [Normed::whole(&end.held_up(), needed)];
        let lead = self.lead(&products, side, norm(&before), true);
        let run = |bands: &mut [BandOfMlp], table: u64| {
            let mut lead = lead;
            let mut previous = None;
            let (mut first, mut second) = (Stage::default(), Stage::default());
            for BandOfMlp { fc1, fc2, .. } in bands {
                let backlog = if let Some(previous) = &previous {
                    Self::refill(fc1, previous);
                    previous.backlog
                } else {
                    self.refill_first(fc1, &end);
                    self.carried(&end) + table
                };
                Self::supply(&mut lead, fc1, backlog);
                fc2.stage.wait = self.wait(fc1, fc2);
                Self::refill(fc2, fc1);
                Self::supply(&mut lead, fc2, fc1.backlog);
                first.add(&fc1.stage);
                second.add(&fc2.stage);
                previous = Some(*fc2);
            }
            (first, second)
        };
        // The lanes store GELU's table before they take the first sums. If the array waits for the
        // norm, they do so meanwhile.
        let waits = norm(&before).ready;
        let (first, second) = run(&mut bands.clone(), TABLE.saturating_sub(waits));
        let alone = first.cycles() + second.cycles();
        let (mut first, second) = run(&mut bands, TABLE);
        first.hidden += (first.cycles() + second.cycles()).saturating_sub(alone);
        let after: Vec<_> = bands.iter().map(BandOfMlp::normed).collect();
        let covers = self.covers(needed, || self.mlp_half(embed, work, false).phase());
        MlpHalf {
            norm: norm(&after),
            covers,
            overlap: self.overlap(&before, &after, embed),
            fc1: first,
            fc2: second,
            side,
            commands: 4 + 4 * bands.len() as u64,
        }
    }
}
