//! Adds the phases of a frame up.

use quasar_hardware::workload::{BlockWork, Workload};

use super::{AttentionHalf, End, MlpHalf, Model, Norm};

/// A phase of a frame: the array's part, then `LayerNorm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Cycles of the array.
    pub array: u64,
    /// The norm of its result.
    pub norm: Norm,
    /// Cycles until the other frame's norm, of all tokens, is ready, beyond those that the other
    /// frame's phase counts. Only a phase of few tokens has them, and only with two frames in
    /// flight.
    pub covers: Option<u64>,
    /// Waits for weights that one frame alone does not have: its weights arrive while its norm
    /// works.
    pub hidden: u64,
    /// Cycles of the wait for the norm before this phase that its bands of tokens hide.
    pub overlap: u64,
}

/// Sums over phases. Two candidates compare by these alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Cycles between two frames, by array and vector unit.
    pub interval: u64,
    /// Cycles of one frame alone, by array and vector unit.
    pub latency: u64,
    /// Cycles that all transfers of a frame take.
    pub transfer: u64,
    /// Number of these transfers.
    pub transfers: u64,
    /// Row-pair products of the array.
    pub slot_macs: u64,
}

impl Totals {
    /// Adds another part of the frame.
    pub fn add(&mut self, other: &Self) {
        self.interval += other.interval;
        self.latency += other.latency;
        self.transfer += other.transfer;
        self.transfers += other.transfers;
        self.slot_macs += other.slot_macs;
    }

    /// Returns the cycles of one frame alone.
    pub fn alone(&self) -> u64 {
        self.latency.max(self.transfer)
    }

    /// Returns the cycles between two frames.
    pub fn period(&self) -> u64 {
        self.interval.max(self.transfer)
    }
}

impl AttentionHalf {
    /// Returns this half of a block as a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            array: self.qkv.cycles()
                + self.scores.cycles()
                + self.context.cycles()
                + self.proj.cycles(),
            norm: self.norm,
            covers: self.covers,
            hidden: self.qkv.hidden + self.proj.hidden,
            overlap: 0,
        }
    }
}

impl MlpHalf {
    /// Returns this half of a block as a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            array: self.fc1.cycles() + self.fc2.cycles(),
            norm: self.norm,
            covers: self.covers,
            hidden: self.fc1.hidden + self.fc2.hidden,
            overlap: self.overlap,
        }
    }
}

impl End {
    /// Returns the patch embedding or the head as a phase.
    pub const fn phase(&self) -> Phase {
        Phase {
            array: self.stage.cycles(),
            norm: self.norm,
            covers: None,
            hidden: 0,
            overlap: 0,
        }
    }
}

impl Model<'_> {
    /// Returns a phase's part of a frame's totals.
    pub fn totals(&self, phase: &Phase) -> Totals {
        let waits = phase.norm.ready - phase.hidden.min(phase.norm.ready);
        let alone = (phase.array + waits).saturating_sub(phase.overlap);
        Totals {
            // Two frames take turns, phase by phase. The array works for both, one after the other,
            // and so do the norm's lanes. A frame's phases and norms follow one another; the other
            // frame, whose phase is assumed to be like this one, needs as long at the same time.
            interval: match (self.hardware.configuration().frames, phase.covers) {
                (2, Some(norm)) => phase.array.max(norm),
                (2, None) => (phase.array).max(alone.div_ceil(2)).max(phase.norm.cycles),
                _ => alone,
            },
            latency: alone,
            transfer: 0,
            transfers: 0,
            slot_macs: 0,
        }
    }

    /// Returns the part of attention's half of a block in a frame's totals.
    pub fn attention_totals(&self, half: &AttentionHalf) -> Totals {
        Totals {
            transfer: half.qkv.load + half.proj.load + half.side.cycles(),
            transfers: half.qkv.transfers + half.proj.transfers + half.side.transfers,
            slot_macs: [half.qkv, half.scores, half.context, half.proj]
                .iter()
                .map(|stage| stage.slot_macs)
                .sum(),
            ..self.totals(&half.phase())
        }
    }

    /// Returns the part of the MLP's half of a block in a frame's totals.
    pub fn mlp_totals(&self, half: &MlpHalf) -> Totals {
        Totals {
            transfer: half.fc1.load + half.fc2.load + half.side.cycles(),
            transfers: half.fc1.transfers + half.fc2.transfers + half.side.transfers,
            slot_macs: half.fc1.slot_macs + half.fc2.slot_macs,
            ..self.totals(&half.phase())
        }
    }

    /// Returns a block's part of a frame's totals.
    pub fn block_totals(&self, embed: u64, work: &BlockWork, last: bool) -> Totals {
        let mut totals = self.attention_totals(&self.attention_half(embed, work, last));
        totals.add(&self.mlp_totals(&self.mlp_half(embed, work, last)));
        totals
    }

    /// Returns the part of the patch embedding, and of the norm behind it, in a frame's totals.
    pub fn embedding_totals(&self, workload: &Workload) -> Totals {
        let embed = workload.embed;
        let mut totals = self.end_totals(&self.embedding(embed, workload.patch_rows));
        if let Some(rows) = workload.embed_proj {
            totals.add(&self.end_totals(&self.embed_proj(embed, rows)));
        }
        totals
    }

    /// Returns the part of all heads in a frame's totals.
    pub fn head_totals(&self, workload: &Workload) -> Totals {
        let mut totals = self.end_totals(&self.head(workload.embed, workload.head_rows));
        if let Some(rows) = workload.pair_head_rows {
            totals.add(&self.end_totals(&self.pair_head(workload.embed, rows)));
        }
        totals
    }

    /// Returns the part of the first or last phase in a frame's totals.
    pub fn end_totals(&self, end: &End) -> Totals {
        let mut totals = self.totals(&end.phase());
        totals.transfer = end.stage.load + end.side.cycles();
        totals.transfers = end.stage.transfers + end.side.transfers;
        totals.slot_macs = end.stage.slot_macs;
        totals.latency = totals.latency + end.exposed_alone + end.tail - end.stage.hidden;
        // The chain of a frame has the wait for its first data, too.
        let array = end.stage.cycles() + end.exposed;
        totals.interval = if self.hardware.configuration().frames == 2 {
            array.max((array + end.norm.ready).div_ceil(2))
        } else {
            totals.interval + end.exposed
        };
        totals
    }
}
