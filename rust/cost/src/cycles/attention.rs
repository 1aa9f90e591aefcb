//! Models attention's half of a block.

use quasar_hardware::declared::{
    array as timing, COMMAND_GAP, EXPONENTIAL_DEPTH, LOOP_GAP, PLAN_INTERVAL, SCORE_DEPTH,
};
use quasar_hardware::packing::Activation;
use quasar_hardware::workload::BlockWork;

use super::product::{eight_bit, Drain, Gemm, Product};
use super::weights::Reserve;
use super::{AttentionHalf, Model, Stage};

impl Model<'_> {
    /// Models attention's half of a block; ignores `fc1` and `fc2` of `work`.
    pub fn attention_half(&self, embed: u64, work: &BlockWork, last: bool) -> AttentionHalf {
        let (n, needed) = (self.setting.tokens(), self.needed(last));
        // Two products: keys and queries, then values, so that scores start while values are
        // computed. If one query is needed: keys and values, then the query.
        // Rows that are rotated have a product of their own.
        let values_last = needed == n || self.setting.rotates();
        let (mut first, mut second) = if values_last {
            (
                self.keys_and_queries(n, work.key.plus(work.query), embed),
                self.linear(n, work.value, embed),
            )
        } else {
            (
                self.linear(n, work.key.plus(work.value), embed),
                self.linear(needed, work.query, embed),
            )
        };
        let inner = work.heads * self.array.padded(work.head_dim);
        let mut proj = self.linear(needed, work.proj, inner);
        // The columns that pad a head to whole words are no work of the network.
        proj.stage.macs = needed * work.proj.total() * work.inner();
        proj.stage.slot_macs = proj.stage.slot_macs / inner * work.inner();
        let pools = self.setting.pools(last);
        let mut side = self.side(4 * embed);
        if pools {
            side.add(self.fill(embed, needed));
        }
        let norm = self.norm(&proj.held_up(), needed, embed);
        let mut lead = self.lead(&[first, second], side, norm, false);
        self.refill_first(&mut first, &proj);
        Self::supply(&mut lead, &mut first, self.carried(&proj));
        Self::refill(&mut second, &first);
        Self::supply(&mut lead, &mut second, first.backlog);
        let values = self.ready(&second);
        let queries = if values_last {
            self.ready(&first).saturating_sub(second.stage.cycles())
        } else {
            values
        };
        let (scores, softmax, context) = self.attention(work, needed, &second, (queries, values));
        let units_cycles = scores.cycles() + context.stage.cycles();
        proj.stage.wait = self.wait(&context, &proj);
        // Both halves are free.
        for reserve in [&mut lead.all, &mut lead.alone] {
            *reserve = Reserve::idle(
                reserve.cycles + units_cycles + proj.stage.load / proj.stage.row_tiles,
            );
        }
        Self::supply(&mut lead, &mut proj, context.backlog);
        let norm = self.norm(&proj, needed, embed);
        let covers = self.covers(needed, || self.attention_half(embed, work, false).phase());
        let mut qkv = first.stage;
        qkv.add(&second.stage);
        let units = work.heads * self.tiling.token_tiles(needed);
        AttentionHalf {
            qkv,
            scores,
            softmax,
            context: context.stage,
            proj: proj.stage,
            norm,
            covers,
            side,
            commands: 9 + 4 * units + if pools { 2 } else { 0 },
        }
    }

    /// Models the scores of a head and some tokens, the cycles of its exponential lanes, and the
    /// context.
    fn unit(&self, work: &BlockWork, tokens: u64) -> (Product, u64, Product) {
        let keys = self.setting.tokens();
        let product = |rows: u64, columns: u64, activation: Activation, drain: Drain| {
            self.gemm(Gemm {
                tokens,
                rows: eight_bit(rows),
                columns,
                activation,
                drain,
                streamed: false,
            })
        };
        let groups = tokens.div_ceil(self.lanes().exponential);
        (
            product(keys, work.head_dim, Activation::Signed, Drain::Score),
            groups * (keys + LOOP_GAP),
            product(work.head_dim, keys, Activation::Unsigned, Drain::Requantize),
        )
    }

    /// Models scores, softmax and context of all heads. Units of (head, tile of tokens) pass
    /// through a pipeline of three: while the exponential lanes work, the array computes the scores
    /// of the next unit and the context of the previous one.
    pub(super) fn attention(
        &self,
        work: &BlockWork,
        queries: u64,
        before: &Product,
        (queries_ready, values_ready): (u64, u64),
    ) -> (Stage, u64, Product) {
        let size = |unit: u64| {
            let tile = unit % self.tiling.token_tiles(queries);
            self.tiling.tile_tokens(queries, tile)
        };
        let token_tiles = self.tiling.token_tiles(queries);
        let (whole, last) = (
            self.unit(work, size(0)),
            self.unit(work, size(token_tiles - 1)),
        );
        let of = |i: u64| {
            if i % token_tiles == token_tiles - 1 {
                &last
            } else {
                &whole
            }
        };
        let units = work.heads * token_tiles;
        let (mut scores_stage, mut context) = (Stage::default(), Product::default());
        let mut softmax = 0;
        // Times since the end of qkv's products at which the array, the exponential lanes and each
        // unit's probabilities are ready; the cycles for which the drain is behind the array.
        let (mut free, mut backlog) = (0, before.backlog);
        // Cycles for which planning is ahead of the array.
        let (mut planned, most_planned) = (0, PLAN_INTERVAL * timing::DESCRIPTORS);
        let (mut lanes_free, mut probabilities) = (0, 0);
        let mut product = |stage: &mut Stage, of: &Product, needed: u64| {
            let mut one = *of;
            let wait = u64::saturating_sub(needed, free);
            // Planning stops at the credit for what the array waits for.
            planned = if wait > 0 { 0 } else { planned };
            one.stage.gap = one.stage.gap.saturating_sub(planned);
            one.hold_up(u64::saturating_sub(backlog, wait));
            planned = (planned + one.stage.cycles())
                .saturating_sub(one.planned)
                .min(most_planned);
            stage.add(&one.stage);
            stage.wait += wait;
            free += wait + one.stage.cycles();
            backlog = one.backlog;
            (free, backlog)
        };
        for i in 0..=units {
            let mut next_probabilities = 0;
            if i < units {
                let (scores, exponentials, _) = of(i);
                let needed = if i == 0 { queries_ready } else { 0 };
                let (end, backlog) = product(&mut scores_stage, scores, needed);
                let stored = end + self.hops() + backlog + scores.last_drain + SCORE_DEPTH;
                lanes_free = stored.max(lanes_free + COMMAND_GAP) + exponentials;
                next_probabilities = lanes_free - LOOP_GAP + EXPONENTIAL_DEPTH;
                softmax += exponentials + COMMAND_GAP;
            }
            if i > 0 {
                let (_, _, one) = of(i - 1);
                // The first context needs the values, too.
                let needed = if i == 1 {
                    probabilities.max(values_ready)
                } else {
                    probabilities
                };
                (_, context.backlog) = product(&mut context.stage, one, needed);
                context.last_drain = one.last_drain;
                context.issue = one.stage.accumulate / one.stage.token_tiles;
            }
            probabilities = next_probabilities;
        }
        scores_stage.token_tiles = token_tiles;
        context.stage.token_tiles = token_tiles;
        (scores_stage, softmax + EXPONENTIAL_DEPTH * units, context)
    }
}
