//! Runs command lists on plain arrays, untimed: an oracle for the compiler's tests.
//!
//! A command runs at once when its inputs have arrived; queues have no bounds. The interpreter
//! models what the compiler must get right: memory formats, addresses, orders of sums and tokens,
//! and two products in one slice's 48-bit accumulator. Depends on
//! [`crate::program`], [`crate::shape`] and the arithmetic of `quasar_kernels::scalar`.

use std::collections::VecDeque;

use quasar_core::error::{Error, Result};
use quasar_kernels::scalar::{
    add_residual, attention_output, attention_scale, exp12, exp8, requant16, requant8, Moments,
};

use crate::arena_layout::words;
use crate::isa::{
    check, Attend, Command, Context, Destination, Fill, Gemm, Kind, LayerNorm, Load, Pooling,
    RowParameters, RowsCommand, Scores, Softmax, Source, Target, Unit, PORT_BYTES, ROW_BYTES,
};
use crate::program::{Program, Segment};
use crate::shape::{Place, Shape};

/// An on-chip memory whose words hold one value for each token of a tile, or one bank of keys or
/// values.
#[derive(Clone, Debug)]
struct Memory<T> {
    name: &'static str,
    lanes: usize,
    values: Vec<T>,
}

impl<T: Copy> Memory<T> {
    fn new(name: &'static str, words: u64, lanes: usize, garbage: T) -> Self {
        Self {
            name,
            lanes,
            values: vec![garbage; words as usize * lanes],
        }
    }

    fn at(&mut self, word: usize, lane: usize) -> Result<&mut T> {
        let words = self.values.len() / self.lanes.max(1);
        if word >= words || lane >= self.lanes {
            return Err(Error::InvalidValue(format!(
                "{}: word {word}, lane {lane} of {words} words of {}",
                self.name, self.lanes
            )));
        }
        Ok(&mut self.values[word * self.lanes + lane])
    }

    fn get(&mut self, word: usize, lane: usize) -> Result<T> {
        self.at(word, lane).copied()
    }

    fn set(&mut self, word: usize, lane: usize, value: T) -> Result<()> {
        *self.at(word, lane)? = value;
        Ok(())
    }
}

/// Scale of a token's output: mantissa, shift, rounding residue.
type Scale = (i16, u32, i32);

#[derive(Clone, Debug, Default)]
struct Queues {
    commands: [VecDeque<Command>; 5],
    weights: VecDeque<Vec<u8>>,
    rows: VecDeque<Vec<u8>>,
    gains: VecDeque<Vec<u8>>,
    /// L sums; lanes without a token hold garbage.
    sums: VecDeque<Vec<i32>>,
    moments: VecDeque<Vec<(i32, i64)>>,
    maxima: VecDeque<Vec<i32>>,
    scales: VecDeque<Scale>,
    logits: VecDeque<i32>,
    /// Soundness of a frame's transfers of the arena, and the nonce of its input.
    checks: VecDeque<(bool, u32)>,
    load_to_array: usize,
    array_to_load: usize,
    drain_to_array: usize,
    norm_to_array: usize,
    softmax_to_array: usize,
}

/// The accelerator's state between segments.
#[derive(Clone, Debug)]
pub struct Interpreter<'a> {
    program: &'a Program,
    shape: Shape,
    /// S, the bits of a slice's low field.
    shift: u32,
    queues: Queues,
    /// All transfers from the arena of each slot's frame were sound.
    sound: [bool; 2],
    /// A command had another key, which stays until a reset.
    foreign: bool,
    /// Number of these transfers, modulo 2^16.
    number: [u16; 2],
    /// Nonce of the input of each slot's frame.
    nonce: [u32; 2],
    /// The arena with a seed of 0.
    arena: Vec<u8>,
    input: Memory<i8>,
    residual: [Memory<i16>; 2],
    normed: [Memory<i8>; 2],
    query: Memory<i8>,
    key: Memory<i8>,
    value: Memory<i8>,
    score: [Memory<i32>; 2],
    probability: [Memory<u8>; 2],
    hidden: Memory<i8>,
    /// GELU's table, and 16 times the mean of each value column, in the drain.
    table: [i8; 256],
    means: Vec<i32>,
}

impl Shape {
    /// Returns the lane of a place in a [`Memory`] of all banks.
    fn lane(&self, at: Place) -> usize {
        at.bank * self.cascade + at.byte
    }
}

/// Seed of the arena: a program's commands have no key yet.
const SEED: u32 = 0;
/// Contents of memories before the first write.
const GARBAGE: i8 = 85;

impl<'a> Interpreter<'a> {
    /// Returns the accelerator after a reset.
    pub fn new(program: &'a Program) -> Self {
        let shape = Shape::of(program.hardware());
        let buffers = program.hardware().configuration().buffers;
        let lanes = shape.tokens;
        let codes = |name, words, lanes| Memory::new(name, words, lanes, GARBAGE);
        let cascade = shape.cascade;
        let words = |name, words, banks| codes(name, words / cascade as u64, banks * cascade);
        Self {
            program,
            shape,
            shift: program.hardware().board().dsp_kind.shift(),
            queues: Queues {
                array_to_load: 1,
                ..Queues::default()
            },
            sound: [true; 2],
            foreign: false,
            number: [0; 2],
            nonce: [0; 2],
            arena: program.keyed_arena(SEED),
            input: codes("input", buffers.input, lanes),
            residual: [0, 1].map(|_| Memory::new("residual", buffers.residual, lanes, 85)),
            normed: [0, 1].map(|_| codes("normed", buffers.norm, lanes)),
            query: codes("query", buffers.query, lanes),
            key: words("key", buffers.key, shape.key_banks),
            value: words("value", buffers.value, shape.value_banks),
            score: [0, 1].map(|_| Memory::new("score", buffers.score, lanes, 85)),
            probability: [0, 1].map(|_| Memory::new("probability", buffers.score, lanes, 85)),
            hidden: codes("hidden", buffers.hidden, lanes),
            table: [GARBAGE; 256],
            means: Vec::new(),
        }
    }

    /// Runs a segment. `input`: patches of the frame that begins.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if a command waits for ever, or leaves its memory.
    pub fn run(&mut self, segment: Segment, input: &[u8]) -> Result<()> {
        for &command in self.program.commands(segment) {
            // As the hardware sees them.
            let command = Command::decode(&command.encode()?)?;
            self.queues.commands[command.unit() as usize].push_back(command);
        }
        loop {
            let mut progress = false;
            for unit in Unit::ALL {
                while let Some(&command) = self.queues.commands[unit as usize].front() {
                    if !self.ready(command) {
                        break;
                    }
                    self.execute(command, input)?;
                    self.queues.commands[unit as usize].pop_front();
                    progress = true;
                }
            }
            if !progress {
                break;
            }
        }
        let waiting = self.queues.commands.iter().find_map(|queue| queue.front());
        match waiting {
            Some(command) => Err(Error::InvalidValue(format!(
                "{segment} ends while {command:?} still waits"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the output of a frame whose head has run, as `store` writes it.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if logits or the frame's check are missing.
    pub fn output(&mut self) -> Result<Vec<u8>> {
        let classes = self.program.logits();
        let Some((sound, nonce)) = self.queues.checks.pop_front() else {
            return Err(Error::InvalidValue("no frame has ended".into()));
        };
        if self.queues.logits.len() < classes {
            return Err(Error::InvalidValue("logits are missing".into()));
        }
        let mut bytes: Vec<u8> = (self.queues.logits.drain(..classes))
            .flat_map(i32::to_le_bytes)
            .collect();
        bytes.resize(bytes.len().next_multiple_of(PORT_BYTES), 0);
        for word in [nonce, classes as u32, u32::from(!sound)] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(check(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Returns true if the queues hold nothing except the credit for `input`.
    pub fn idle(&self) -> bool {
        let q = &self.queues;
        q.weights.is_empty()
            && q.rows.is_empty()
            && q.gains.is_empty()
            && q.sums.is_empty()
            && q.moments.is_empty()
            && q.maxima.is_empty()
            && q.scales.is_empty()
            && q.logits.is_empty()
            && q.checks.is_empty()
            && [q.load_to_array, q.drain_to_array, q.norm_to_array] == [0; 3]
            && (q.softmax_to_array, q.array_to_load) == (0, 1)
    }

    /// Returns true if all inputs of a command have arrived.
    fn ready(&self, command: Command) -> bool {
        let (q, s) = (&self.queues, &self.shape);
        let tiles = |tokens: u32| tokens.div_ceil(s.tokens as u32) as usize;
        let groups =
            |tokens: u32| -> usize { s.token_tiles(tokens).map(|tile| s.groups(tile)).sum() };
        match command {
            Command::Load(c) => q.array_to_load >= c.wait_array as usize,
            Command::LoadEnd(_) => true,
            Command::Gemm(c) => {
                let tiles = tiles(c.tokens);
                let rows = s.row_tiles(c.rows4, c.rows8).count();
                q.load_to_array >= c.wait_load as usize
                    && q.norm_to_array >= c.wait_norm as usize * tiles
                    && q.drain_to_array
                        >= c.wait_drain as usize + c.wait_drain_tiles as usize * tiles
                    && q.weights.len() >= rows * s.weight_beats(c.columns as usize)
            }
            Command::Scores(c) => q.drain_to_array >= c.wait_drain as usize,
            Command::Context(c) => {
                q.drain_to_array >= c.wait_drain as usize && q.softmax_to_array > 0
            }
            Command::Rows(c) => {
                let rows = s.row_tiles(c.rows4, c.rows8);
                let beats: usize = rows.map(|tile| s.row_beats(tile.rows() as usize)).sum();
                q.sums.len() >= (c.rows4 + c.rows8) as usize * groups(c.tokens)
                    && q.rows.len() >= beats
            }
            Command::Attend(c) => {
                q.sums.len() >= c.rows as usize * groups(c.tokens)
                    && q.scales.len() >= c.tokens as usize
            }
            Command::Fill(c) => q.rows.len() >= c.words as usize * s.beats(2 * s.tokens),
            Command::Table(_) => q.rows.len() >= s.beats(256),
            Command::LayerNorm(c) => {
                q.moments.len() >= groups(c.tokens)
                    && q.gains.len() >= s.beats(4 * c.embed as usize)
            }
            Command::Softmax(_) => !q.maxima.is_empty(),
        }
    }

    fn execute(&mut self, command: Command, input: &[u8]) -> Result<()> {
        match command {
            Command::Load(c) => self.load(&c, input),
            Command::LoadEnd(c) => {
                let number = std::mem::take(&mut self.number[c.frame as usize]);
                let sound = std::mem::replace(&mut self.sound[c.frame as usize], true)
                    && u32::from(number) == c.transfers
                    && !self.foreign;
                let nonce = std::mem::take(&mut self.nonce[c.frame as usize]);
                self.queues.checks.push_back((sound, nonce));
                Ok(())
            }
            Command::Gemm(c) => self.gemm(&c),
            Command::Scores(c) => self.scores(&c),
            Command::Context(c) => self.context(&c),
            Command::Rows(c) => self.rows(&c),
            Command::Attend(c) => self.attend(&c),
            Command::Fill(c) => self.fill(c),
            Command::Table(_) => {
                let bytes = take(&mut self.queues.rows, self.shape.beats(256));
                for (entry, byte) in self.table.iter_mut().zip(bytes) {
                    *entry = byte as i8;
                }
                Ok(())
            }
            Command::LayerNorm(c) => self.layer_norm(&c),
            Command::Softmax(c) => self.softmax(&c),
        }
    }

    fn load(&mut self, c: &Load, input: &[u8]) -> Result<()> {
        let beat = self.shape.beat;
        let memory = if c.input { input } else { &self.arena };
        let (first, bytes) = (c.address as usize * beat, c.beats as usize * beat);
        let Some(data) = memory.get(first..first + bytes + beat) else {
            return Err(Error::InvalidValue(format!(
                "{c:?} is beyond the {} bytes of its memory",
                memory.len()
            )));
        };
        let (data, last) = data.split_at(bytes);
        let key = words(last).next().map(|stated| stated ^ check(data));
        self.foreign |= c.key != SEED;
        if c.begins {
            self.nonce[c.frame as usize] = key.unwrap_or_default();
        } else if c.target == Target::Patches {
            self.sound[c.frame as usize] &= key == Some(self.nonce[c.frame as usize]);
        } else {
            let number = &mut self.number[c.frame as usize];
            self.sound[c.frame as usize] &= key == Some(SEED ^ u32::from(*number));
            *number = number.wrapping_add(1);
        }
        self.queues.array_to_load -= c.wait_array as usize;
        self.queues.load_to_array += c.post_array as usize;
        let queue = match c.target {
            Target::Weights => &mut self.queues.weights,
            Target::Gains => &mut self.queues.gains,
            Target::Patches => {
                let word = self.shape.beats(self.shape.tokens) * beat;
                for (address, codes) in data.chunks_exact(word).enumerate() {
                    for (lane, &code) in codes.iter().take(self.shape.tokens).enumerate() {
                        self.input.set(address, lane, code as i8)?;
                    }
                }
                return Ok(());
            }
            _ => &mut self.queues.rows,
        };
        queue.extend(data.chunks_exact(beat).map(<[u8]>::to_vec));
        Ok(())
    }

    fn activation(&mut self, c: &Gemm, word: usize, lane: usize) -> Result<i64> {
        let memory = match c.source {
            Source::Input => &mut self.input,
            Source::Normed => &mut self.normed[c.frame as usize],
            Source::Query => &mut self.query,
            Source::Hidden => &mut self.hidden,
        };
        memory.get(word, lane).map(i64::from)
    }

    fn gemm(&mut self, c: &Gemm) -> Result<()> {
        let s = self.shape;
        let columns = c.columns as usize;
        let tiles: Vec<usize> = s.token_tiles(c.tokens).collect();
        self.queues.load_to_array -= c.wait_load as usize;
        self.queues.norm_to_array -= c.wait_norm as usize * tiles.len();
        self.queues.drain_to_array -=
            c.wait_drain as usize + c.wait_drain_tiles as usize * tiles.len();
        let first = match c.source {
            Source::Normed => c.tile as usize * s.padded(columns),
            _ => 0,
        };
        for rows in s.row_tiles(c.rows4, c.rows8) {
            let weights = take(&mut self.queues.weights, s.weight_beats(columns));
            for (tile, &tokens) in tiles.iter().enumerate() {
                let mut accumulators = Vec::new();
                for pair in 0..rows.pairs() as usize {
                    let eight_bit = pair >= rows.rows4.div_ceil(2) as usize;
                    let position = s.pairs - 1 - pair;
                    let mut sums = vec![(0, 0); tokens];
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        let mut slice = Slice::new(self.shift, eight_bit, false);
                        for k in 0..columns {
                            let word = first + tile * s.padded(columns) + k;
                            let a = self.activation(c, word, lane)?;
                            slice.add(weights[k * s.pairs + position], a);
                            if (k + 1) % c.pass as usize == 0 {
                                slice.end_pass();
                            }
                        }
                        *sum = slice.finish();
                    }
                    let (low, high): (Vec<i64>, Vec<i64>) = sums.into_iter().unzip();
                    if eight_bit {
                        let rows = low.iter().zip(&high).map(|(lo, hi)| 16 * hi + lo);
                        accumulators.push(rows.collect());
                    } else {
                        accumulators.push(low);
                        if 2 * pair + 1 < rows.rows4 as usize {
                            accumulators.push(high);
                        }
                    }
                }
                self.send(accumulators);
            }
        }
        self.queues.array_to_load += c.post_load as usize;
        Ok(())
    }

    /// Sends rows of sums, a group of L tokens at a time.
    fn send(&mut self, rows: Vec<Vec<i64>>) {
        let lanes = self.shape.lanes;
        for row in rows {
            for group in row.chunks(lanes) {
                let mut item: Vec<i32> = group.iter().map(|&sum| sum as i32).collect();
                item.resize(lanes, i32::MIN);
                self.queues.sums.push_back(item);
            }
        }
    }

    /// Receives the sums of a row of a tile of tokens.
    fn receive(&mut self, tokens: usize) -> Vec<i32> {
        let groups = self.shape.groups(tokens);
        let mut row: Vec<i32> = self.queues.sums.drain(..groups).flatten().collect();
        row.truncate(tokens);
        row
    }

    fn scores(&mut self, c: &Scores) -> Result<()> {
        let s = self.shape;
        self.queues.drain_to_array -= c.wait_drain as usize;
        let (base, stride) = (c.base as usize, c.stride as usize);
        let mut maxima = vec![i32::MIN; s.tokens];
        for key in 0..c.keys as usize {
            for (lane, most) in maxima.iter_mut().enumerate().take(c.tokens as usize) {
                let mut slice = Slice::new(self.shift, true, false);
                for k in 0..c.columns as usize {
                    let at = s.key(key, base + k, stride);
                    let weight = self.key.get(at.word, s.lane(at))?;
                    let word = c.tile as usize * stride + base + k;
                    slice.add(weight as u8, self.query.get(word, lane)?.into());
                }
                let (low, high) = slice.finish();
                let score = (16 * high + low) as i32;
                self.score[c.parity as usize].set(key, lane, score)?;
                *most = score.max(*most);
            }
        }
        self.queues.maxima.push_back(maxima);
        Ok(())
    }

    fn softmax(&mut self, c: &Softmax) -> Result<()> {
        let maxima = self.queues.maxima.pop_front().unwrap_or_default();
        for (lane, &most) in maxima.iter().enumerate().take(c.tokens as usize) {
            let (mut sum12, mut sum8) = (0, 0);
            for key in 0..c.keys as usize {
                let difference = most - self.score[c.parity as usize].get(key, lane)?;
                let e12 = exp12(difference.min(c.cap as i32), c.mult as i32);
                let e8 = exp8(e12);
                self.probability[c.parity as usize].set(key, lane, e8)?;
                sum12 += i32::from(e12);
                sum8 += i32::from(e8);
            }
            let (r, p) = attention_scale(sum12 as u32, c.out_mult as i16, c.out_shift as u8);
            self.queues.scales.push_back((r, p, sum12 - 16 * sum8));
        }
        self.queues.softmax_to_array += 1;
        Ok(())
    }

    fn context(&mut self, c: &Context) -> Result<()> {
        let s = self.shape;
        self.queues.drain_to_array -= c.wait_drain as usize;
        self.queues.softmax_to_array -= 1;
        let base = s.context_base(c) as usize;
        let mut rows = Vec::new();
        for row in 0..c.rows as usize {
            let mut sums = Vec::new();
            for lane in 0..c.tokens as usize {
                let mut slice = Slice::new(self.shift, true, true);
                for key in 0..c.keys as usize {
                    let at = s.value(key, base + row, c.keys as usize);
                    let weight = self.value.get(at.word, s.lane(at))?;
                    let e8 = self.probability[c.parity as usize].get(key, lane)?;
                    slice.add(weight as u8, e8.into());
                    if (key + 1) % c.pass as usize == 0 {
                        slice.end_pass();
                    }
                }
                let (low, high) = slice.finish();
                sums.push(16 * high + low);
            }
            rows.push(sums);
        }
        self.send(rows);
        Ok(())
    }

    fn attend(&mut self, c: &Attend) -> Result<()> {
        let tokens = c.tokens as usize;
        let scales: Vec<_> = self.queues.scales.drain(..tokens).collect();
        for row in 0..c.rows as usize {
            let column = c.base as usize + row;
            let mean = self.means.get(column).copied().unwrap_or_default();
            let sums = self.receive(tokens);
            for (lane, (&sum, &(r, p, residue))) in sums.iter().zip(&scales).enumerate() {
                let code = attention_output(sum, residue, mean, r, p);
                let word = c.tile as usize * c.stride as usize + column;
                self.query.set(word, lane, code)?;
            }
        }
        self.queues.drain_to_array += c.post as usize;
        Ok(())
    }

    fn rows(&mut self, c: &RowsCommand) -> Result<()> {
        let s = self.shape;
        let tiles: Vec<usize> = s.token_tiles(c.tokens).collect();
        let mut moments = vec![(0i32, 0i64); c.tokens as usize];
        for rows in s.row_tiles(c.rows4, c.rows8) {
            let count = rows.rows() as usize;
            let parameters = take(&mut self.queues.rows, s.row_beats(count));
            let rows: Vec<_> = parameters
                .chunks_exact(ROW_BYTES)
                .take(count)
                .map(RowParameters::of)
                .collect();
            let mut value_sums = vec![0; rows.len()];
            for (tile, &tokens) in tiles.iter().enumerate() {
                for (row, value_sum) in rows.iter().zip(&mut value_sums) {
                    for (lane, sum) in self.receive(tokens).into_iter().enumerate() {
                        let token = tile * s.tokens + lane;
                        let acc = row.bias + sum;
                        let mut word = tile * c.stride as usize + usize::from(row.column);
                        match c.kind {
                            Kind::Residual => {
                                let memory = &mut self.residual[c.frame as usize];
                                word += c.tile as usize * c.stride as usize;
                                let mut x = memory.get(word, lane)?;
                                if token >= c.skip as usize {
                                    x = add_residual(x, requant16(acc, row.shift, row.mult));
                                    memory.set(word, lane, x)?;
                                }
                                moments[token].0 += i32::from(x);
                                moments[token].1 += i64::from(x) * i64::from(x);
                            }
                            Kind::Logits => {
                                let logit =
                                    (i64::from(acc) * i64::from(row.mult) + (1 << 14)) >> 15;
                                self.queues.logits.push_back(logit as i32);
                            }
                            Kind::Codes => {
                                let zero_point = c.zero_point as i8;
                                let mut code = requant8(acc, row.shift, row.mult, zero_point);
                                if c.table {
                                    code = self.table[(i32::from(code) + 128) as usize];
                                }
                                *value_sum += i32::from(code);
                                self.store(c, row, (token, lane, word), code)?;
                            }
                        }
                    }
                }
            }
            for (row, sum) in rows.iter().zip(value_sums) {
                if row.destination == Destination::Value as u8 {
                    let column = usize::from(row.column);
                    self.means.resize(self.means.len().max(column + 1), 0);
                    self.means[column] = (sum * c.reciprocal as i32 + (1 << 15)) >> 16;
                }
            }
        }
        if c.moments {
            for tile in moments.chunks(s.tokens) {
                for group in tile.chunks(s.lanes) {
                    self.queues.moments.push_back(group.to_vec());
                }
            }
        }
        self.queues.drain_to_array += c.post as usize + c.post_tiles as usize * tiles.len();
        Ok(())
    }

    fn store(
        &mut self,
        c: &RowsCommand,
        row: &RowParameters,
        (token, lane, word): (usize, usize, usize),
        code: i8,
    ) -> Result<()> {
        let column = usize::from(row.column);
        match Destination::of_code(row.destination.into()) {
            Some(Destination::Query) => self.query.set(word, lane, code),
            Some(Destination::Key) => {
                let at = self.shape.key(token, column, c.stride as usize);
                self.key.set(at.word, self.shape.lane(at), code)
            }
            Some(Destination::Value) => {
                let at = self.shape.value(token, column, c.tokens as usize);
                self.value.set(at.word, self.shape.lane(at), code)
            }
            Some(Destination::Hidden) => self.hidden.set(word, lane, code),
            other => Err(Error::InvalidValue(format!(
                "a row of codes has destination {other:?}"
            ))),
        }
    }

    fn fill(&mut self, c: Fill) -> Result<()> {
        let s = self.shape;
        for word in 0..c.words as usize {
            let bytes = take(&mut self.queues.rows, s.beats(2 * s.tokens));
            for (lane, value) in bytes.as_chunks::<2>().0.iter().take(s.tokens).enumerate() {
                self.residual[c.frame as usize].set(word, lane, i16::from_le_bytes(*value))?;
            }
        }
        Ok(())
    }

    fn layer_norm(&mut self, c: &LayerNorm) -> Result<()> {
        let s = self.shape;
        let (frame, embed, tokens) = (c.frame as usize, c.embed as usize, c.tokens as usize);
        let bytes = take(&mut self.queues.gains, s.beats(4 * embed));
        let gains: Vec<(i16, i16)> = (bytes.as_chunks::<4>().0.iter().take(embed))
            .map(|&[a, b, c, d]| (i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])))
            .collect();
        let mut moments = Vec::new();
        for tile in s.token_tiles(c.tokens) {
            let groups = self.queues.moments.drain(..s.groups(tile));
            moments.extend(groups.flatten());
        }
        let mut rows = Vec::with_capacity(tokens);
        for token in 0..tokens {
            let (tile, lane) = (token / s.tokens, token % s.tokens);
            let word = |d: usize| (tile * embed + d, lane);
            let row: Result<Vec<i16>> = (0..embed)
                .map(|d| {
                    let (word, lane) = word(d);
                    self.residual[frame].get(word, lane)
                })
                .collect();
            rows.push(row?);
        }
        let normalise = |row: &[i16], (sum, squares): (i32, i64)| -> Vec<i8> {
            let moments = Moments::new(sum, squares, embed, c.epsilon as i64);
            (row.iter().zip(&gains))
                .map(|(&x, &(gain, offset))| moments.apply(x, embed, gain, offset, c.frac as u8))
                .collect()
        };
        let pooled = rows.len() - c.first as usize;
        let mean = |column: &mut dyn Iterator<Item = i32>| {
            (column.sum::<i32>() + pooled as i32 / 2).div_euclid(pooled as i32)
        };
        let out: Vec<Vec<i8>> = match c.pool {
            Pooling::Before => {
                let row: Vec<i16> = (0..embed)
                    .map(|d| mean(&mut rows[c.first as usize..].iter().map(|r| r[d].into())) as i16)
                    .collect();
                let sum = row.iter().map(|&x| i32::from(x)).sum();
                let squares = row.iter().map(|&x| i64::from(x) * i64::from(x)).sum();
                vec![normalise(&row, (sum, squares))]
            }
            Pooling::After => {
                let codes: Vec<_> = (rows.iter().zip(&moments))
                    .map(|(row, &moments)| normalise(row, moments))
                    .collect();
                vec![(0..embed)
                    .map(|d| mean(&mut codes[c.first as usize..].iter().map(|r| r[d].into())) as i8)
                    .collect()]
            }
            Pooling::None => (rows.iter().zip(&moments))
                .map(|(row, &moments)| normalise(row, moments))
                .collect(),
        };
        for (token, codes) in out.iter().enumerate() {
            let (tile, lane) = (token / s.tokens, token % s.tokens);
            for (d, &code) in codes.iter().enumerate() {
                self.normed[frame].set(tile * s.padded(embed) + d, lane, code)?;
            }
        }
        self.queues.norm_to_array += out.len().div_ceil(s.tokens);
        Ok(())
    }
}

/// Takes beats as bytes.
fn take(queue: &mut VecDeque<Vec<u8>>, beats: usize) -> Vec<u8> {
    queue.drain(..beats).flatten().collect()
}

/// A DSP slice: two products share its accumulator.
struct Slice {
    shift: u32,
    /// One 8-bit row: the low nibble is unsigned.
    eight_bit: bool,
    /// The low field is read unsigned.
    unsigned: bool,
    p: i64,
    sums: (i64, i64),
}

impl Slice {
    fn new(shift: u32, eight_bit: bool, probabilities: bool) -> Self {
        Self {
            shift,
            eight_bit,
            unsigned: eight_bit && probabilities,
            p: 0,
            sums: (0, 0),
        }
    }

    fn add(&mut self, weight: u8, activation: i64) {
        let high = i64::from(weight as i8 >> 4);
        let low = i64::from(weight & 15);
        let low = if self.eight_bit || low < 8 {
            low
        } else {
            low - 16
        };
        let p = self.p + ((high << self.shift) + low) * activation;
        // 48 bits.
        self.p = p << 16 >> 16;
    }

    fn end_pass(&mut self) {
        let unused = 64 - self.shift;
        let low = if self.unsigned {
            ((self.p as u64) << unused >> unused) as i64
        } else {
            self.p << unused >> unused
        };
        self.sums.0 += low;
        self.sums.1 += (self.p - low) >> self.shift;
        self.p = 0;
    }

    fn finish(mut self) -> (i64, i64) {
        self.end_pass();
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use quasar_core::preprocess::patches_channels_first;
    use quasar_core::{Executor, Network, Subnet, Tier};

    use super::*;
    use crate::testing::{cascade, cascaded, design, golden, hardware, shape, Random, GOLDEN};

    /// Returns patch codes and the executor's logits of random images.
    fn frames(subnet: &Subnet, count: usize) -> Vec<(Vec<i8>, Vec<i32>)> {
        let config = subnet.config();
        let network = Arc::new(Network::new(subnet, Tier::Scalar).unwrap());
        let executor = Executor::new(network, Some(1)).unwrap();
        let mut random = Random::new(1);
        (0..count)
            .map(|_| {
                let image: Vec<u8> = (0..config.image.bytes())
                    .map(|_| random.within(0, 255) as u8)
                    .collect();
                let mut codes = vec![0; config.patches() * config.patch_len()];
                let (_, columns) = config.grid();
                patches_channels_first(&image, config.image, config.patch, columns, 0, &mut codes);
                let mut logits = vec![0; config.outputs()];
                executor.run(&image, &mut logits).unwrap();
                (codes, logits)
            })
            .collect()
    }

    /// Returns the segments of successive frames.
    fn segments(frames: usize, in_flight: usize) -> Vec<Segment> {
        if in_flight == 1 {
            return [Segment::Start(0), Segment::End(0)].repeat(frames);
        }
        let slot = |frame: usize| (frame % 2) as u8;
        let mut all = vec![Segment::Start(0)];
        all.extend((0..frames - 1).map(|frame| Segment::Step(slot(frame))));
        all.push(Segment::End(slot(frames - 1)));
        all
    }

    fn agrees(subnet: &Subnet, board: &str, shape: [u64; 7]) {
        cascades_agree(subnet, board, shape, [1, 1, 1]);
    }

    fn cascades_agree(subnet: &Subnet, board: &str, shape: [u64; 7], cascade: [u64; 3]) {
        let hardware = cascaded(subnet, board, shape, cascade);
        let program = Program::compile(subnet, &hardware).unwrap();
        let frames = frames(subnet, 3);
        let mut interpreter = Interpreter::new(&program);
        let (mut begun, mut ended) = (0, 0);
        for segment in segments(frames.len(), shape[6] as usize) {
            let mut input = vec![0; program.input_bytes()];
            if !matches!(segment, Segment::End(_)) {
                program.pack_input(&frames[begun].0, &mut input);
                begun += 1;
                program.change_input_key(&mut input, begun as u32);
            }
            interpreter.run(segment, &input).unwrap();
            if !matches!(segment, Segment::Start(_)) {
                let output = interpreter.output().unwrap();
                let mut logits = vec![0; program.outputs()];
                program
                    .read_output(&output, ended as u32 + 1, &mut logits)
                    .unwrap();
                assert_eq!(logits, frames[ended].1, "frame {ended}");
                ended += 1;
            }
        }
        assert_eq!((begun, ended), (3, 3));
        assert!(interpreter.idle());
    }

    #[test]
    fn golden_subnets_give_the_executors_logits() {
        for name in GOLDEN {
            let subnet = golden(name);
            for frames in [1, 2] {
                agrees(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, frames]);
                agrees(&subnet, "pynq-z2", [7, 4, 3, 3, 5, 2, frames]);
                agrees(&subnet, "zcu102", [32, 64, 32, 8, 8, 4, frames]);
                cascades_agree(&subnet, "zcu102", [7, 4, 3, 3, 5, 2, frames], [4, 2, 2]);
                cascades_agree(&subnet, "pynq-z2", [5, 3, 5, 2, 2, 1, frames], [16, 1, 3]);
            }
        }
    }

    #[test]
    fn columns_beyond_a_slices_bound_take_passes() {
        let mut design = crate::testing::Design {
            side: 24,
            kernel: 24,
            channels: 3,
            embed: 4,
            prefix: 1,
            blocks: vec![(1, 2, 5)],
            pool: "mean",
            embed_norm: false,
            classes: 2,
            eight_bit: 4,
            seed: 3,
        };
        for (eight_bit, frames) in [(8, 1), (4, 2), (0, 2)] {
            design.eight_bit = eight_bit;
            agrees(&design.subnet(), "pynq-z2", [2, 3, 2, 1, 1, 3, frames]);
            cascades_agree(
                &design.subnet(),
                "pynq-z2",
                [2, 3, 2, 1, 1, 3, frames],
                [8, 2, 1],
            );
        }
    }

    #[test]
    fn a_changed_bit_of_the_arena_fails_its_frames_check() {
        let subnet = golden("token");
        let hardware = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 1]);
        let mut program = Program::compile(&subnet, &hardware).unwrap();
        let middle = program.arena.len() / 2;
        program.arena[middle] ^= 1;
        let mut interpreter = Interpreter::new(&program);
        let mut input = vec![0; program.input_bytes()];
        program.pack_input(&vec![0; program.patch_codes()], &mut input);
        program.change_input_key(&mut input, 7);
        for segment in [Segment::Start(0), Segment::End(0)] {
            interpreter.run(segment, &input).unwrap();
        }
        let output = interpreter.output().unwrap();
        let mut logits = vec![0; program.outputs()];
        let error = program.read_output(&output, 7, &mut logits).unwrap_err();
        assert!(error.to_string().contains("failed its check"), "{error}");
    }

    #[test]
    fn a_frame_with_another_number_of_transfers_fails_its_check() {
        let subnet = golden("token");
        let hardware = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 1]);
        for by in [-1, 0, 1] {
            let mut program = Program::compile(&subnet, &hardware).unwrap();
            for command in program.lists.iter_mut().flat_map(|list| &mut list.commands) {
                if let Command::LoadEnd(end) = command {
                    end.transfers = end.transfers.checked_add_signed(by).unwrap();
                }
            }
            let mut interpreter = Interpreter::new(&program);
            let mut input = vec![0; program.input_bytes()];
            program.pack_input(&vec![0; program.patch_codes()], &mut input);
            program.change_input_key(&mut input, 7);
            // The frame after it starts to count anew.
            for _ in 0..2 {
                for segment in [Segment::Start(0), Segment::End(0)] {
                    interpreter.run(segment, &input).unwrap();
                }
                let output = interpreter.output().unwrap();
                let read = program.read_output(&output, 7, &mut vec![0; program.outputs()]);
                assert_eq!(read.is_ok(), by == 0, "{by}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_subnet_on_any_shape_gives_the_executors_logits(
            design in design(), (board, shape) in shape(), cascade in cascade(),
        ) {
            cascades_agree(&design.subnet(), board, shape, cascade);
        }
    }
}
