//! The steps of the drain.

use super::{Contents, Head, Memory, QueueName, Range, Step};
use crate::isa::{Attend, Destination, Fill, Kind, RowParameters, RowsCommand, Table, Target};
use crate::shape::Shape;

fn stored(post: bool) -> Step {
    Step::Give(QueueName::DrainToArray, post.into(), Contents::Stored)
}

pub(super) fn rows(c: RowsCommand, s: Shape) -> impl Iterator<Item = Step> {
    let all = (c.rows4 + c.rows8) as usize;
    let row_tiles = s.numbered_row_tiles(c.rows4, c.rows8);
    let tiles = row_tiles.flat_map(move |(row, tile_rows)| {
        let rows = tile_rows.rows() as usize;
        let last = row + rows == all;
        let token_tiles = s.token_tiles(c.tokens).enumerate();
        let tokens = token_tiles.flat_map(move |(tile, tokens)| {
            let groups = s.groups(tokens);
            let whole_tile = c.tile + tile as u32;
            let sums = Contents::Sums {
                rows: tile_rows,
                tile: whole_tile,
                tokens: tokens as u32,
            };
            let logits = usize::from(c.kind == Kind::Logits) * rows * tokens;
            let moments = Contents::Moments {
                tile: whole_tile,
                tokens: tokens as u32,
            };
            let count = usize::from(last && c.moments) * groups;
            let rotations = if c.pairs > 0 {
                tile_rows.rotations() as usize
            } else {
                0
            };
            let rotated = std::iter::repeat_n(
                [
                    Step::Take(QueueName::Sums, 2 * groups, sums),
                    Step::Turns { groups },
                ],
                rotations,
            );
            let others = rows - 2 * rotations;
            let end = [
                Step::Take(QueueName::Sums, others * groups, sums),
                Step::Requantize { tile, tokens },
                Step::Give(QueueName::Logits, logits, Contents::Logits { later: 0 }),
                Step::Give(QueueName::Moments, count, moments),
                stored(last && c.post_tiles),
            ];
            rotated.flatten().chain(end)
        });
        std::iter::once(Step::TakeHalf(s.parameters_half(rows as u64)))
            .chain(tokens)
            .chain([Step::FreeHalf(QueueName::Rows)])
    });
    let table = Range::new(Memory::Table, 0, 1, 0, Contents::Table);
    let angles = Range::new(Memory::Angles, 0, 1, 0, Contents::Angles);
    (c.activation.then_some(Step::Read(table)).into_iter())
        .chain((c.pairs > 0).then_some(Step::Read(angles)))
        .chain(tiles)
        .chain([stored(c.post)])
}

/// Returns the cells that the results of a row are stored in; none for logits and for a destination
/// that does not exist. `tile`: tile of tokens, from the command's first on, and its tokens.
pub fn results(
    c: &RowsCommand,
    row: &RowParameters,
    (tile, tokens): (usize, usize),
    s: Shape,
) -> Option<Range> {
    let (stride, column) = (c.stride, usize::from(row.column));
    let cell = tile * stride as usize + column;
    let (memory, cell, contents) = match Destination::of_code(row.destination.into())? {
        Destination::Query => (Memory::Query, cell, Contents::Queries { stride }),
        Destination::Key => (Memory::Key, cell, Contents::Keys { stride }),
        Destination::Value => {
            let tokens = c.tokens;
            let cell = s.value_cell(column, tile, tokens);
            (Memory::Value, cell, Contents::Values { tokens })
        }
        Destination::Hidden => {
            let tile = c.tile;
            (Memory::Hidden, cell, Contents::Hidden { stride, tile })
        }
        Destination::Residual => {
            let cell = c.tile as usize * stride as usize + cell;
            (Memory::Residual(c.frame), cell, Contents::Residual)
        }
        Destination::Logit => return None,
    };
    Some(Range::new(memory, cell, 1, tokens as u32, contents))
}

pub(super) fn attend(c: Attend, s: Shape) -> impl Iterator<Item = Step> {
    let (tokens, rows, stride) = (c.tokens as usize, c.rows as usize, c.stride);
    let head = Head {
        tokens: c.tokens,
        keys: 0,
        place: Some([c.tile, c.base, c.rows]),
    };
    let means = Contents::Means { stride };
    let first = c.tile as usize * stride as usize + c.base as usize;
    // Padding counts as written: the weights of its columns are 0.
    let context = Range::new(
        Memory::Query,
        first,
        s.padded(rows),
        c.tokens,
        Contents::Context { stride },
    );
    [
        Step::Take(QueueName::Scales, tokens, Contents::Scales(head)),
        Step::Take(
            QueueName::Sums,
            rows * s.groups(tokens),
            Contents::ContextSums(head),
        ),
        Step::Read(Range::new(Memory::Mean, c.base as usize, rows, 0, means)),
        Step::Requantize { tile: 0, tokens },
        Step::Write(context),
        stored(c.post),
    ]
    .into_iter()
}

pub(super) fn fill(c: Fill, s: Shape) -> impl Iterator<Item = Step> {
    let beats = s.beats(2 * s.tokens);
    let transfer = Contents::Transfer {
        target: Target::Residual,
        beats: c.words * beats as u32,
    };
    let memory = Memory::Residual(c.frame);
    (0..c.words as usize).flat_map(move |word| {
        let filled = Range::new(memory, word, 1, s.tokens as u32, Contents::Filled);
        [
            Step::Take(QueueName::Rows, beats, transfer),
            Step::Write(filled),
        ]
    })
}

pub(super) fn table(c: Table, s: Shape) -> impl Iterator<Item = Step> {
    let (bytes, table) = if c.words == 0 {
        let table = Range::new(Memory::Table, 0, 1, 0, Contents::Table);
        (256, table)
    } else {
        let angles = Range::new(Memory::Angles, 0, 1, 0, Contents::Angles);
        (16 * c.words as usize, angles)
    };
    let beats = s.beats(bytes);
    let transfer = Contents::Transfer {
        target: Target::Table,
        beats: beats as u32,
    };
    [
        Step::Take(QueueName::Rows, beats, transfer),
        Step::Write(table),
    ]
    .into_iter()
}
