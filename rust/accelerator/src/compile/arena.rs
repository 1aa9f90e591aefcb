//! Fills the arena.

use quasar_core::network::rotary;
use quasar_core::subnet::schema::{self, LinearSpec};
use quasar_core::subnet::LinearTensors;
use quasar_core::{Rotary, Subnet};

use super::plan::{BlockPlan, Matrix, Outline, Plan};
use crate::arena_layout::{self, Arena, Row, RowPair, Transfer};
use crate::isa::Destination;
use crate::shape::Shape;

/// Makes the arena. Returns also the output that each logit belongs to, in the order in which
/// logits leave.
pub(super) fn write(
    subnet: &Subnet,
    outline: &Outline,
    plan: &Plan,
    shape: &Shape,
) -> (Arena, Vec<u32>) {
    let mut writer = Writer {
        subnet,
        plan,
        shape,
        arena: Arena::new(plan.beats, shape.beat),
        layers: schema::linears(subnet.config()).into_iter(),
        norms: 0,
    };
    writer.embedding();
    for (i, block) in plan.blocks.iter().enumerate() {
        writer.block(i, block, outline.split(i));
    }
    let output_of_logit = writer.heads();
    (writer.arena, output_of_logit)
}

/// The arena in the making.
struct Writer<'a> {
    subnet: &'a Subnet,
    plan: &'a Plan,
    shape: &'a Shape,
    arena: Arena,
    /// Layers that are not written yet.
    layers: std::vec::IntoIter<LinearSpec>,
    /// Norms that are written.
    norms: usize,
}

impl Writer<'_> {
    /// Returns the next layer.
    fn next(&mut self) -> (LinearSpec, LinearTensors) {
        let spec = self.layers.next().expect("the schema lists every layer");
        let tensors = self.subnet.linear(&spec);
        (spec, tensors)
    }

    fn values(&self, name: &str) -> Vec<i16> {
        let tensor = self.subnet.tensor(name);
        tensor.map_or(Vec::new(), |t| t.values().map(|v| v as i16).collect())
    }

    fn norm(&mut self, name: &str) {
        let [gains, offsets] = ["gain", "bias"].map(|part| self.values(&format!("{name}.{part}")));
        let at = self.plan.norms[self.norms];
        self.arena.put(at, &arena_layout::gains(&gains, &offsets));
        self.norms += 1;
    }

    fn residual(&mut self, at: Transfer, values: &[i16]) {
        let (embed, s) = (self.subnet.config().embed, self.shape);
        let residual = arena_layout::residual(values, embed, s.tokens, s.beat);
        self.arena.put(at, &residual);
    }

    /// Writes all rows of a layer, in order, for one destination.
    fn layer(
        &mut self,
        matrix: &Matrix,
        (spec, tensors): &(LinearSpec, LinearTensors),
        to: Destination,
    ) -> Vec<u16> {
        let rows = (0..spec.rows).map(|row| (row, to, row as u16));
        write_matrix(&mut self.arena, matrix, tensors, rows, None, self.shape)
    }

    fn embedding(&mut self) {
        let config = self.subnet.config();
        let mut residual = self.values("prefix");
        residual.extend(self.values("position"));
        self.residual(self.plan.residual, &residual);
        if let (Some((_, at)), Some(rotary)) = (self.plan.angles, rotary(self.subnet)) {
            self.arena.put(at, &angles(&rotary, self.shape));
        }
        let embedding = self.next();
        for (_, matrix) in &self.plan.embed {
            self.layer(matrix, &embedding, Destination::Residual);
        }
        if let Some(normed) = &self.plan.embed_norm {
            self.norm("embed_norm");
            write_zeros(&mut self.arena, &normed.zeros, self.shape);
            let mut residual = self.values("prefix");
            residual.resize(config.tokens() * config.embed, 0);
            self.residual(normed.residual, &residual);
            let layer = self.next();
            self.layer(&normed.proj, &layer, Destination::Residual);
        }
    }

    /// Writes a block. `split`: its queries come last.
    fn block(&mut self, i: usize, block: &BlockPlan, split: bool) {
        let sizes = &self.subnet.config().blocks[i];
        let name = |part: &str| format!("blocks.{i}.{part}");
        self.norm(&name("norm1"));
        let (_, qkv) = self.next();
        let (inner, head_dim) = (sizes.inner(), sizes.head_dim);
        let padded = self.shape.padded(head_dim);
        let place = |column: usize| column / head_dim * padded + column % head_dim;
        // Keys first: then scores may begin while values are made.
        let parts: [&[_]; 2] = if split {
            [
                &[Destination::Key, Destination::Value],
                &[Destination::Query],
            ]
        } else {
            [
                &[Destination::Key, Destination::Query],
                &[Destination::Value],
            ]
        };
        for (matrix, part) in block.qkv.iter().zip(parts) {
            let rows = part.iter().flat_map(|&to| {
                (0..inner)
                    .map(move |column| (to as usize * inner + column, to, place(column) as u16))
            });
            let rotated = self.subnet.config().rotary && part.len() == 2;
            let head = rotated.then_some(padded);
            write_matrix(&mut self.arena, matrix, &qkv, rows, head, self.shape);
        }
        if let Some(zeros) = block.zeros {
            self.residual(zeros, &vec![0; self.subnet.config().embed]);
        }
        let (spec, proj) = self.next();
        let proj = LinearTensors {
            codes: spread(&proj.codes, head_dim, padded),
            ..proj
        };
        self.layer(&block.proj, &(spec, proj), Destination::Residual);
        self.norm(&name("norm2"));
        let table = self.subnet.tensor(&name("gelu"));
        self.arena
            .put(block.table, table.map_or(&[][..], |t| t.data()));
        let (fc1, fc2) = (self.next(), self.next());
        for (_, mlp) in &block.mlp {
            self.layer(&mlp.fc1, &fc1, Destination::Hidden);
            self.layer(&mlp.fc2, &fc2, Destination::Residual);
        }
    }

    /// Writes the last norm and the heads.
    fn heads(&mut self) -> Vec<u32> {
        self.norm("norm");
        let head = self.next();
        let mut rows = Vec::new();
        if let Some(pair) = &self.plan.pair {
            let layer = self.next();
            rows = self.layer(&pair.head, &layer, Destination::Logit);
            write_zeros(&mut self.arena, &pair.zeros, self.shape);
            self.norm("norm");
        }
        rows.extend(self.layer(&self.plan.head, &head, Destination::Logit));
        if self.subnet.config().patch_tokens {
            self.of_all_tokens(&rows)
        } else {
            rows.into_iter().map(u32::from).collect()
        }
    }

    /// Returns the index of each logit in `[tokens, rows]`, if `rows` are the head's rows in the
    /// order of their sums.
    fn of_all_tokens(&self, rows: &[u16]) -> Vec<u32> {
        let (shape, head) = (self.shape, &self.plan.head);
        let mut outputs = Vec::with_capacity(rows.len() * self.subnet.config().tokens());
        for (first, tile) in shape.numbered_row_tiles(head.rows4, head.rows8) {
            let of_tile = &rows[first..first + tile.rows() as usize];
            let mut token = 0;
            for tokens in shape.token_tiles(self.subnet.config().tokens() as u32) {
                let tokens = token..token + tokens;
                token = tokens.end;
                outputs.extend(of_tile.iter().flat_map(|&row| {
                    (tokens.clone()).map(move |token| (token * rows.len()) as u32 + u32::from(row))
                }));
            }
        }
        outputs
    }
}

/// Pads each part of `length` codes with zeros to `padded` codes.
fn spread(codes: &[i8], length: usize, padded: usize) -> Vec<i8> {
    let parts = codes.chunks_exact(length);
    let zeros = std::iter::repeat_n(0, padded - length);
    parts
        .flat_map(|part| part.iter().copied().chain(zeros.clone()))
        .collect()
}

/// Returns a row of zeros whose results go nowhere.
fn nowhere(zeros: &[i8]) -> Row<'_> {
    Row {
        codes: zeros,
        bias: 0,
        mult: 0,
        shift: 1,
        destination: Destination::Logit,
        column: 0,
        pair: None,
    }
}

/// Writes 4-bit rows of zeros, which change nothing of the residual that they are added to.
fn write_zeros(arena: &mut Arena, matrix: &Matrix, shape: &Shape) {
    let rows = matrix.rows4 as usize;
    let zeros = LinearTensors {
        bits: vec![4; rows],
        codes: vec![0; rows * matrix.columns as usize],
        bias: vec![0; rows],
        mult: vec![0; rows],
        shift: vec![1; rows],
    };
    let rows = (0..rows).map(|row| (row, Destination::Residual, row as u16));
    write_matrix(arena, matrix, &zeros, rows, None, shape);
}

/// Lays out angles: for each tile of tokens and pair of a head's rows, for each place of a lane's
/// token in a tile, cosine and sine of each lane, in parts of four lanes.
fn angles(rotary: &Rotary, s: &Shape) -> Vec<u8> {
    let (tokens, lanes) = (rotary.tokens(), s.lanes.div_ceil(s.ratio));
    let mut data = Vec::new();
    for tile in 0..tokens.div_ceil(s.tokens) {
        for pair in 0..rotary.head_dim() / 2 {
            for place in 0..s.groups(s.tokens) * s.ratio {
                let (group, cycle) = (place / s.ratio, place % s.ratio);
                for lane in 0..lanes.next_multiple_of(4) {
                    let of_item = cycle * lanes + lane;
                    let in_tile = group * s.lanes + of_item;
                    let token = tile * s.tokens + in_tile;
                    let is_there = lane < lanes && of_item < s.lanes && in_tile < s.tokens;
                    let angle = if is_there && token < tokens {
                        rotary.angle(token, pair)
                    } else {
                        [0; 2]
                    };
                    data.extend(angle.iter().flat_map(|part| part.to_le_bytes()));
                }
            }
        }
    }
    data
}

/// Writes some rows of a layer. `rows`: row of the layer, destination of the results, column there.
/// `head`: columns of a head whose rows are rotated; rows of zeros keep their pairs whole. Returns
/// these columns in the order of the sums.
fn write_matrix(
    arena: &mut Arena,
    matrix: &Matrix,
    tensors: &LinearTensors,
    rows: impl Iterator<Item = (usize, Destination, u16)>,
    head: Option<usize>,
    shape: &Shape,
) -> Vec<u16> {
    let columns = matrix.columns as usize;
    let zeros = vec![0; columns];
    let (mut four_bit, mut eight_bit) = (Vec::new(), Vec::new());
    for (row, destination, column) in rows {
        let bits = tensors.bits[row];
        (if bits == 4 {
            &mut four_bit
        } else {
            &mut eight_bit
        })
        .push(Row {
            codes: &tensors.codes[row * columns..(row + 1) * columns],
            bias: tensors.bias[row],
            mult: tensors.mult[row],
            // The head has mantissas alone.
            shift: tensors.shift.get(row).copied().unwrap_or_default(),
            destination,
            column,
            pair: head.map(|head| (usize::from(column) % head / 2) as u8),
        });
    }
    let (mut four_bit, mut eight_bit) = (four_bit.into_iter(), eight_bit.into_iter());
    let zero = nowhere(&zeros);
    let padded = shape.padded(columns);
    let mut order = Vec::new();
    let tiles = shape.row_tiles(matrix.rows4, matrix.rows8);
    for (tile, &(weights, parameters)) in tiles.zip(&matrix.tiles) {
        let mut pairs = Vec::with_capacity(shape.pairs);
        let mut left = tile.rows4;
        while left > 0 {
            let first = four_bit.next().expect("the plan counts 4-bit rows");
            let second = if left > 1 { four_bit.next() } else { None };
            pairs.push(RowPair::FourBit(first, second));
            left = left.saturating_sub(2);
        }
        for row in 0..tile.rows8 {
            // Both rows of a rotated pair are in one tile.
            let alone = head.is_some() && row % 2 == 0 && pairs.len() + 1 == shape.pairs;
            let next = if alone { None } else { eight_bit.next() };
            pairs.push(RowPair::EightBit(next.unwrap_or(zero)));
        }
        arena.put(weights, &arena_layout::weights(&pairs, padded, shape.pairs));
        arena.put(parameters, &arena_layout::rows(&pairs, shape.value_banks));
        order.extend(
            pairs
                .iter()
                .flat_map(|pair| pair.rows())
                .map(|row| row.column),
        );
    }
    order
}
