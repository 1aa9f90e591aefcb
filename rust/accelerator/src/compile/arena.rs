//! Fills the arena.

use quasar_core::subnet::schema::{self, LinearSpec};
use quasar_core::subnet::LinearTensors;
use quasar_core::Subnet;

use super::plan::{Matrix, Outline, Plan};
use crate::arena_layout::{self, Arena, Row, RowPair};
use crate::isa::Destination;
use crate::shape::Shape;

/// Makes the arena. Returns also the output that each logit belongs to, in the order in which
/// logits leave.
pub(super) fn write(
    subnet: &Subnet,
    outline: &Outline,
    plan: &Plan,
    shape: &Shape,
) -> (Arena, Vec<u16>) {
    let config = subnet.config();
    let mut arena = Arena::new(plan.beats, shape.beat);
    let layers = schema::linears(config);
    let mut layers = layers.iter();
    let mut next = || {
        let spec = layers.next().expect("the schema lists every layer");
        (spec, subnet.linear(spec))
    };
    let i16s = |name: &str| -> Vec<i16> {
        let tensor = subnet.tensor(name);
        tensor.map_or(Vec::new(), |t| t.values().map(|v| v as i16).collect())
    };
    let norm = |arena: &mut Arena, at: usize, name: &str| {
        let [gains, offsets] = ["gain", "bias"].map(|part| i16s(&format!("{name}.{part}")));
        arena.put(plan.norms[at], &arena_layout::gains(&gains, &offsets));
    };
    let whole = |arena: &mut Arena,
                 matrix: &Matrix,
                 (spec, tensors): &(&LinearSpec, LinearTensors),
                 to: Destination| {
        let rows = (0..spec.rows).map(|row| (row, to, row as u16));
        write_matrix(arena, matrix, tensors, rows, shape)
    };

    let mut residual = i16s("prefix");
    residual.extend(i16s("position"));
    let residual = arena_layout::residual(&residual, config.embed, shape.tokens, shape.beat);
    arena.put(plan.residual, &residual);
    let embedding = next();
    for (_, matrix) in &plan.embed {
        whole(&mut arena, matrix, &embedding, Destination::Residual);
    }
    let first_norm = usize::from(plan.embed_norm.is_some());
    if let Some(normed) = &plan.embed_norm {
        norm(&mut arena, 0, "embed_norm");
        write_zeros(&mut arena, &normed.zeros, shape);
        let mut residual = i16s("prefix");
        residual.resize(config.tokens() * config.embed, 0);
        let residual = arena_layout::residual(&residual, config.embed, shape.tokens, shape.beat);
        arena.put(normed.residual, &residual);
        whole(&mut arena, &normed.proj, &next(), Destination::Residual);
    }
    for (i, (block, sizes)) in plan.blocks.iter().zip(&config.blocks).enumerate() {
        let name = |part: &str| format!("blocks.{i}.{part}");
        norm(&mut arena, first_norm + 2 * i, &name("norm1"));
        let (_, qkv) = next();
        let (inner, head_dim) = (sizes.inner(), sizes.head_dim);
        let padded = shape.padded(head_dim);
        let place = |column: usize| column / head_dim * padded + column % head_dim;
        // Keys first: then scores may begin while values are made.
        let parts = if outline.split(i) {
            [
                vec![Destination::Key, Destination::Value],
                vec![Destination::Query],
            ]
        } else {
            [
                vec![Destination::Key, Destination::Query],
                vec![Destination::Value],
            ]
        };
        for (matrix, part) in block.qkv.iter().zip(parts) {
            let rows = part.into_iter().flat_map(|to| {
                (0..inner)
                    .map(move |column| (to as usize * inner + column, to, place(column) as u16))
            });
            write_matrix(&mut arena, matrix, &qkv, rows, shape);
        }
        let (spec, proj) = next();
        let proj = LinearTensors {
            codes: spread(&proj.codes, head_dim, padded),
            ..proj
        };
        whole(
            &mut arena,
            &block.proj,
            &(spec, proj),
            Destination::Residual,
        );
        norm(&mut arena, first_norm + 2 * i + 1, &name("norm2"));
        let table = subnet.tensor(&name("gelu")).map_or(&[][..], |t| t.data());
        arena.put(block.table, table);
        let (fc1, fc2) = (next(), next());
        for (_, mlp) in &block.mlp {
            whole(&mut arena, &mlp.fc1, &fc1, Destination::Hidden);
            whole(&mut arena, &mlp.fc2, &fc2, Destination::Residual);
        }
    }
    let last_norm = first_norm + 2 * plan.blocks.len();
    norm(&mut arena, last_norm, "norm");
    let head = next();
    let mut class_of_logit = Vec::new();
    if let Some(pair) = &plan.pair {
        class_of_logit = whole(&mut arena, &pair.head, &next(), Destination::Logit);
        write_zeros(&mut arena, &pair.zeros, shape);
        norm(&mut arena, last_norm + 1, "norm");
    }
    class_of_logit.extend(whole(&mut arena, &plan.head, &head, Destination::Logit));
    (arena, class_of_logit)
}

/// Pads each part of `length` codes with zeros to `padded` codes.
fn spread(codes: &[i8], length: usize, padded: usize) -> Vec<i8> {
    let parts = codes.chunks_exact(length);
    let zeros = std::iter::repeat_n(0, padded - length);
    parts
        .flat_map(|part| part.iter().copied().chain(zeros.clone()))
        .collect()
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
    write_matrix(arena, matrix, &zeros, rows, shape);
}

/// Writes some rows of a layer. `rows`: row of the layer, destination of the results, column there.
/// Returns these columns in the order of the sums.
fn write_matrix(
    arena: &mut Arena,
    matrix: &Matrix,
    tensors: &LinearTensors,
    rows: impl Iterator<Item = (usize, Destination, u16)>,
    shape: &Shape,
) -> Vec<u16> {
    let columns = matrix.columns as usize;
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
        });
    }
    let pairs: Vec<RowPair> = four_bit
        .chunks(2)
        .map(|pair| RowPair::FourBit(pair[0], pair.get(1).copied()))
        .chain(eight_bit.iter().map(|&row| RowPair::EightBit(row)))
        .collect();
    let padded = shape.padded(columns);
    for (tile, &(weights, rows)) in pairs.chunks(shape.pairs).zip(&matrix.tiles) {
        arena.put(weights, &arena_layout::weights(tile, padded, shape.pairs));
        arena.put(rows, &arena_layout::rows(tile, shape.value_banks));
    }
    let all = four_bit.iter().chain(&eight_bit);
    all.map(|row| row.column).collect()
}
