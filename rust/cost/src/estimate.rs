//! Models one frame of a network on a configuration, layer by layer.
//!
//! Depends on [`crate::Cost`], [`crate::cycles`], [`crate::energy`] and [`crate::resources`].

use quasar_core::error::Result;
use quasar_hardware::boards::Amounts;
use quasar_hardware::configuration::Hardware;
use quasar_hardware::declared::{COMMAND_BYTES, TRANSFERS_AHEAD};
use quasar_hardware::design::LOAD_COMMANDS;
use quasar_hardware::workload::{BlockWork, RowWidths, Setting, Workload, CAMERA_PIXELS};
use serde::Serialize;

use crate::candidate::Cost;
use crate::cycles::{End, Model, Phase, Stage, Totals};
use crate::energy::EnergyModel;
use crate::resources::Resources;

/// Transfers that load has to do, at most, when fetch has read a segment.
const READ_AHEAD: u64 = LOAD_COMMANDS as u64 + TRANSFERS_AHEAD;

/// The bottleneck of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The array's own multiply-accumulates, ragged tiles included.
    Compute,
    /// Weights from memory.
    Memory,
    /// The lanes that receive the results.
    Drain,
    /// A result of an earlier stage.
    Dependency,
}

/// One stage on the array.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Layer {
    /// Its name; linear layers are named as in the subnet file.
    pub name: String,
    /// Tokens.
    pub tokens: u64,
    pub four_bit_rows: u64,
    pub eight_bit_rows: u64,
    /// Columns.
    pub columns: u64,
    /// Multiply-accumulates.
    pub macs: u64,
    pub row_tiles: u64,
    pub token_tiles: u64,
    /// Number of accumulations into which its columns are divided.
    pub passes: u64,
    /// All cycles: the five that follow.
    pub cycles: u64,
    pub accumulate: u64,
    pub drain_stall: u64,
    pub weight_stall: u64,
    pub wait: u64,
    pub gap: u64,
    /// Weights and row parameters from memory.
    pub bytes: u64,
    /// Row-pair products over the array's peak.
    pub share: f64,
    /// Multiply-accumulates for each byte from memory; infinite if there are no bytes (JSON: null).
    pub intensity: f64,
    pub bound: Bound,
}

/// One stage of the vector unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VectorStage {
    /// Its name.
    pub name: String,
    /// Cycles that its lanes work.
    pub cycles: u64,
    /// Cycles of these for which the array waits, with the configured frames in flight.
    pub exposed: u64,
}

/// The processor's share of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HostEstimate {
    /// Core seconds of a frame: decode, resize, cut into patches, submit.
    pub seconds: f64,
    /// Core seconds of decoding.
    pub decode_s: f64,
    /// Core seconds of resizing and cropping.
    pub resize_s: f64,
    /// Core seconds of patches and submission.
    pub submit_s: f64,
    /// Frames a second on all cores.
    pub fps: f64,
    /// Core seconds of a camera's frame (NV12): convert, resize, cut into patches, submit.
    pub camera_s: f64,
    /// Frames a second of a camera on all cores.
    pub camera_fps: f64,
    /// Seconds of a frame between the end of a segment's reading and the start of the next one. The
    /// units stand still for a part of that time ([`Self::limit`]).
    pub gap_s: f64,
    /// Seconds of one such gap.
    pub segment_s: f64,
    /// Pixels of the picture that is decoded.
    pub source_pixels: u64,
    /// Pixels of a camera's frame.
    pub camera_pixels: u64,
}

/// Throughput, latency, resources: modelled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The network's name.
    pub network: String,
    /// The board's name.
    pub board: String,
    /// Clock of the fabric.
    pub clock_mhz: f64,
    /// Frames in flight.
    pub frames: u64,
    /// Stages on the array, in the order of a frame's path.
    pub layers: Vec<Layer>,
    /// Stages of the vector unit, in the same order. GELU, residual and requantizing are part of
    /// the drain and take no cycles of their own.
    pub vector: Vec<VectorStage>,
    /// Cycles between two frames: the larger of those of the array, its waits included, and of the
    /// transfers.
    pub period_cycles: u64,
    /// Cycles of the array, all stalls included, without waiting for `LayerNorm`.
    pub array_cycles: u64,
    /// Cycles of the vector unit.
    pub vector_cycles: u64,
    /// Cycles of all transfers.
    pub transfer_cycles: u64,
    /// Bytes of all transfers.
    pub transfer_bytes: u64,
    /// Number of all transfers.
    pub transfers: u64,
    /// Cycles of one frame alone.
    pub latency_cycles: u64,
    /// Frames a second of the accelerator.
    pub fps: f64,
    /// Seconds of one frame alone on the accelerator, from pixels in memory to logits in memory.
    pub latency_s: f64,
    /// Joules of a frame at the full rate, by the board's assumed powers; none without them.
    pub energy_j: Option<f64>,
    /// Row-pair products over the array's peak, between two frames.
    pub share: f64,
    /// Multiply-accumulates a frame.
    pub macs: u64,
    /// 10^9 multiply-accumulates a second.
    pub gmac_s: f64,
    /// The processor.
    pub host: HostEstimate,
    /// Frames a second of the accelerator with the gaps between segments, or of the processor if
    /// those are fewer.
    pub fps_with_host: f64,
    /// The same for a camera's frames, which need no decoding.
    pub fps_with_camera: f64,
    /// Latency with decoding, resizing and submission.
    pub latency_with_host_s: f64,
    /// True if the processor is slower than the accelerator.
    pub host_bound: bool,
    /// Resources of the configuration.
    pub resources: Resources,
    /// Resources of the board.
    pub board_resources: Amounts,
    /// Resources that a design may take.
    pub board_usable: Amounts,
    /// True if the configuration stays within them.
    pub resources_fit: bool,
}

impl HostEstimate {
    /// Returns the frames a second of an accelerator that this host serves with pictures, given
    /// those of the accelerator alone and the transfers of a frame.
    pub fn limit(&self, fps: f64, transfers: u64) -> f64 {
        self.with_gaps(fps, transfers).min(self.fps)
    }

    /// Returns the frames a second of an accelerator with the gaps between segments.
    ///
    /// When fetch has read a segment, load has up to [`READ_AHEAD`] transfers to do, and the units
    /// have the work that waits for these. That hides as much of the gap: about these transfers'
    /// share of a frame's time. With one frame in flight, the gap before a frame is not hidden,
    /// since the frame starts on an empty accelerator.
    fn with_gaps(&self, fps: f64, transfers: u64) -> f64 {
        let period_s = 1.0 / fps;
        let ahead_s = period_s * (READ_AHEAD as f64 / transfers as f64).min(1.0);
        let exposed_s = self.gap_s - ahead_s.min(self.segment_s);
        1.0 / (period_s + exposed_s)
    }
}

/// Estimates the processor's share of a frame.
pub fn host_estimate(hardware: &Hardware, setting: &Setting) -> HostEstimate {
    let (host, pixels) = (&hardware.board().host, setting.source_pixels as f64);
    let decode_s = pixels * host.decode_ns_per_pixel * 1e-9;
    let values = (setting.patches * setting.patch_len) as f64;
    let resize = |pixels: f64| {
        (pixels * host.resize_ns_per_pixel + values * host.resize_ns_per_value) * 1e-9
    };
    let resize_s = if setting.resized { resize(pixels) } else { 0.0 };
    let submit_s = values * host.patch_ns_per_value * 1e-9 + host.frame_us * 1e-6;
    let seconds = decode_s + resize_s + submit_s;
    let frame = CAMERA_PIXELS as f64;
    let camera_s = frame * host.convert_ns_per_pixel * 1e-9 + resize(frame) + submit_s;
    let segment_s = host.segment_us * 1e-6;
    HostEstimate {
        seconds,
        decode_s,
        resize_s,
        submit_s,
        fps: host.cores as f64 / seconds,
        camera_s,
        camera_fps: host.cores as f64 / camera_s,
        // A frame has two segments, each of them shared by two frames if so many are in flight.
        gap_s: 2.0 / hardware.configuration().frames as f64 * segment_s,
        segment_s,
        source_pixels: setting.source_pixels,
        camera_pixels: CAMERA_PIXELS,
    }
}

/// Models the cost of a network, without the layers.
pub fn totals(workload: &Workload, model: &Model<'_>) -> Totals {
    let mut sum = model.embedding_totals(workload);
    for (i, work) in workload.blocks.iter().enumerate() {
        let last = i + 1 == workload.blocks.len();
        sum.add(&model.block_totals(workload.embed, work, last));
    }
    sum.add(&model.head_totals(workload));
    sum
}

/// Models one frame of a network.
///
/// # Errors
/// [`quasar_core::Error::DoesNotFit`] if the network exceeds a buffer.
pub fn estimate(workload: &Workload, hardware: &Hardware) -> Result<Estimate> {
    hardware.check_fit(workload)?;
    let model = Model::new(hardware, workload.setting);
    let Builder {
        layers,
        vector,
        side_bytes,
        ..
    } = Builder::of(workload, hardware, &model);
    let totals = totals(workload, &model);
    let cost = Cost::new(&totals, hardware.clock_hz(), true);
    let host = host_estimate(hardware, &workload.setting);
    let fps_with_host = host.limit(cost.fps, cost.transfers);
    let (configuration, macs) = (hardware.configuration(), workload.macs());
    let peak = peak(hardware) * totals.period() as f64;
    let slot_macs = layers
        .iter()
        .map(|l| l.share * peak_of(hardware, l.cycles))
        .sum::<f64>();
    let resources = Resources::of(hardware);
    Ok(Estimate {
        network: workload.name.clone(),
        board: hardware.board().name.clone(),
        clock_mhz: configuration.clock_mhz,
        frames: configuration.frames,
        period_cycles: cost.period_cycles,
        array_cycles: layers.iter().map(|l| l.cycles).sum(),
        vector_cycles: vector.iter().map(|v| v.cycles).sum(),
        transfer_cycles: totals.transfer,
        transfers: totals.transfers,
        transfer_bytes: side_bytes + layers.iter().map(|l| l.bytes).sum::<u64>(),
        latency_cycles: cost.latency_cycles,
        fps: cost.fps,
        latency_s: cost.latency_s,
        energy_j: EnergyModel::of(hardware).map(|model| model.joules(&cost)),
        share: slot_macs / peak,
        macs,
        gmac_s: macs as f64 * cost.fps / 1e9,
        fps_with_host,
        fps_with_camera: host
            .with_gaps(cost.fps, cost.transfers)
            .min(host.camera_fps),
        latency_with_host_s: cost.latency_s + host.seconds,
        host_bound: host.fps <= fps_with_host,
        host,
        board_resources: hardware.board().resources,
        board_usable: hardware.board().usable(),
        resources_fit: resources.fits(hardware.board().usable()),
        resources,
        layers,
        vector,
    })
}

/// Returns the row-pair products that the array can make in a cycle.
fn peak(hardware: &Hardware) -> f64 {
    let array = hardware.configuration().array;
    (array.slices() * array.clock_ratio) as f64
}

fn peak_of(hardware: &Hardware, cycles: u64) -> f64 {
    peak(hardware) * cycles as f64
}

/// The stages of a frame.
struct Builder<'a> {
    hardware: &'a Hardware,
    layers: Vec<Layer>,
    vector: Vec<VectorStage>,
    /// Bytes of the transfers without the weights.
    side_bytes: u64,
}

impl<'a> Builder<'a> {
    /// Returns all stages, in the order of a frame's path.
    fn of(workload: &Workload, hardware: &'a Hardware, model: &Model<'_>) -> Self {
        let mut builder = Self {
            hardware,
            layers: Vec::new(),
            vector: Vec::new(),
            side_bytes: 0,
        };
        let (d, setting) = (workload.embed, &workload.setting);
        let embedding = model.embedding(d, workload.patch_rows);
        let tokens = setting.tokens();
        builder.end(
            "embed",
            tokens,
            workload.patch_rows,
            setting.patch_len,
            &embedding,
        );
        if let Some(rows) = workload.embed_proj {
            builder.norm("embed_norm", &embedding.phase(), 0);
            let proj = model.embed_proj(d, rows);
            builder.end("embed_proj", tokens, rows, d, &proj);
            builder.norm("blocks.0.norm1", &proj.phase(), 0);
        } else {
            builder.norm("blocks.0.norm1", &embedding.phase(), 0);
        }
        for (i, work) in workload.blocks.iter().enumerate() {
            let last = i + 1 == workload.blocks.len();
            builder.block(model, d, i, work, last);
        }
        if let Some(rows) = workload.pair_head_rows {
            builder.end("head_dist", 1, rows, d, &model.pair_head(d, rows));
            builder.side_bytes += 4 * rows.total();
        }
        let rows = workload.head_rows;
        let tokens = setting.head_tokens();
        builder.end("head", tokens, rows, d, &model.head(d, rows));
        builder.side_bytes += 4 * tokens * rows.total();
        builder
    }

    /// Adds the stage of the first or the last phase.
    fn end(&mut self, name: &str, tokens: u64, rows: RowWidths, columns: u64, end: &End) {
        self.side_bytes += end.side.bytes + COMMAND_BYTES * end.commands;
        self.layer(name, tokens, rows, columns, &end.stage);
    }

    fn layer(&mut self, name: &str, tokens: u64, rows: RowWidths, columns: u64, stage: &Stage) {
        let stalls = [
            (Bound::Compute, stage.gap),
            (Bound::Memory, stage.weight_stall),
            (Bound::Drain, stage.drain_stall),
            (Bound::Dependency, stage.wait),
        ];
        let (bound, stall) = (stalls.into_iter().rev().max_by_key(|&(_, stall)| stall))
            .unwrap_or((Bound::Compute, 0));
        let cycles = stage.cycles();
        self.layers.push(Layer {
            name: name.into(),
            tokens,
            four_bit_rows: rows.four_bit,
            eight_bit_rows: rows.eight_bit,
            columns,
            macs: stage.macs,
            row_tiles: stage.row_tiles,
            token_tiles: stage.token_tiles,
            passes: stage.passes,
            cycles,
            accumulate: stage.accumulate,
            drain_stall: stage.drain_stall,
            weight_stall: stage.weight_stall,
            wait: stage.wait,
            gap: stage.gap,
            bytes: stage.bytes,
            share: stage.slot_macs as f64 / peak_of(self.hardware, cycles),
            intensity: stage.macs as f64 / stage.bytes as f64,
            // The array limits a layer that loses less than a tenth to its worst stall.
            bound: if 10 * stall > cycles {
                bound
            } else {
                Bound::Compute
            },
        });
    }

    /// Adds all stages of a block.
    fn block(&mut self, model: &Model<'_>, d: u64, i: usize, work: &BlockWork, last: bool) {
        let n = model.needed(false);
        let needed = model.needed(last);
        let attention = model.attention_half(d, work, last);
        let mlp = model.mlp_half(d, work, last);
        let name = |part: &str| format!("blocks.{i}.{part}");
        let all = |rows: u64| RowWidths {
            four_bit: 0,
            eight_bit: rows,
        };
        self.layer(&name("qkv"), n, work.qkv(), d, &attention.qkv);
        self.layer(
            &name("attn.scores"),
            needed,
            all(n),
            work.head_dim,
            &attention.scores,
        );
        self.vector.push(VectorStage {
            name: name("attn.softmax"),
            cycles: attention.softmax,
            exposed: attention.context.wait,
        });
        self.layer(
            &name("attn.context"),
            needed,
            all(work.head_dim),
            n,
            &attention.context,
        );
        self.layer(
            &name("proj"),
            needed,
            work.proj,
            work.inner(),
            &attention.proj,
        );
        self.norm(&name("norm2"), &attention.phase(), mlp.overlap);
        self.layer(&name("fc1"), needed, work.fc1, d, &mlp.fc1);
        self.layer(&name("fc2"), needed, work.fc2, work.hidden, &mlp.fc2);
        let next = if last {
            "norm".into()
        } else {
            format!("blocks.{}.norm1", i + 1)
        };
        self.norm(&next, &mlp.phase(), 0);
        let commands = attention.commands + mlp.commands;
        self.side_bytes += attention.side.bytes + mlp.side.bytes + COMMAND_BYTES * commands;
    }

    /// Adds the norm of a phase. `overlap`: cycles of the wait for it that the next phase's bands
    /// of tokens hide.
    fn norm(&mut self, name: &str, phase: &Phase, overlap: u64) {
        let ready = phase.norm.ready;
        let exposed = if self.hardware.configuration().frames == 2 {
            ready.saturating_sub(phase.array)
        } else {
            ready.saturating_sub(overlap)
        };
        self.vector.push(VectorStage {
            name: name.into(),
            cycles: phase.norm.cycles,
            exposed,
        });
    }
}
