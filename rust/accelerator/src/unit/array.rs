//! The steps of the array, and of the kernels `plan` and `scores` around it.

use super::plan::{passes, score_pass};
use super::{BufferHalf, Contents, Head, Memory, QueueName, Range, Step};
use crate::isa::{Context, Gemm, Scores, Source};
use crate::shape::Shape;

pub(super) fn gemm(c: Gemm, s: Shape) -> impl Iterator<Item = Step> {
    let columns = c.columns as usize;
    let padded = s.padded(columns);
    let (stride, tile) = (padded as u32, c.tile);
    let (memory, first, contents) = match c.source {
        Source::Input => (Memory::Input, 0, Contents::Patches { tile }),
        Source::Normed => (Memory::Normed(c.frame), tile as usize, Contents::Normed),
        Source::Query => (Memory::Query, 0, Contents::Context { stride }),
        Source::Hidden => (Memory::Hidden, 0, Contents::Hidden { stride, tile }),
    };
    let word_bytes = (s.pairs * s.cascade) as u64;
    let weights = BufferHalf::new(
        QueueName::Weights,
        s.words(columns),
        word_bytes,
        s.beat as u64,
    );
    let row_tiles = s.numbered_row_tiles(c.rows4, c.rows8);
    let products = row_tiles.flat_map(move |(row, rows)| {
        // For later tiles of row pairs the activations are stored.
        let credits = move |wait: bool| usize::from(wait && row == 0);
        let token_tiles = s.token_tiles(c.tokens).enumerate();
        let tokens = token_tiles.flat_map(move |(at, tokens)| {
            let first = (first + at) * padded;
            let read = Range::new(memory, first, columns, tokens as u32, contents);
            let sums = Contents::Sums {
                rows,
                tile: tile + at as u32,
                tokens: tokens as u32,
            };
            [
                Step::Take(
                    QueueName::NormToArray,
                    credits(c.wait_norm),
                    Contents::Normed,
                ),
                Step::Take(
                    QueueName::DrainToArray,
                    credits(c.wait_drain_tiles),
                    Contents::Stored,
                ),
                Step::Read(read),
            ]
            .into_iter()
            .chain(passes(s, (c.columns, c.pass), (row, rows), tokens))
            .chain([Step::Give(
                QueueName::Sums,
                rows.rows() as usize * s.groups(tokens),
                sums,
            )])
        });
        std::iter::once(Step::TakeHalf(weights))
            .chain(tokens)
            .chain([Step::FreeHalf(QueueName::Weights)])
    });
    [
        Step::Take(
            QueueName::LoadToArray,
            c.wait_load.into(),
            Contents::Patches { tile },
        ),
        wait_drain(c.wait_drain),
    ]
    .into_iter()
    .chain(products)
    .chain([Step::Give(
        QueueName::ArrayToLoad,
        c.post_load.into(),
        Contents::InputFree,
    )])
}

fn wait_drain(count: u32) -> Step {
    Step::Take(QueueName::DrainToArray, count as usize, Contents::Stored)
}

pub(super) fn scores(c: Scores, s: Shape) -> impl Iterator<Item = Step> {
    let (stride, base, columns) = (c.stride, c.base as usize, c.columns as usize);
    let first = c.tile as usize * stride as usize + base;
    let queries = Range::new(
        Memory::Query,
        first,
        columns,
        c.tokens,
        Contents::Queries { stride },
    );
    let keys = s
        .token_tiles(c.keys)
        .enumerate()
        .map(move |(tile, tokens)| {
            let first = tile * stride as usize + base;
            let contents = Contents::Keys { stride };
            Step::Read(Range::new(
                Memory::Key,
                first,
                columns,
                tokens as u32,
                contents,
            ))
        });
    let head = Head {
        tokens: c.tokens,
        keys: c.keys,
        place: Some([c.tile, c.base, c.columns]),
    };
    let products = s
        .numbered_row_tiles(0, c.keys)
        .map(move |rows| score_pass(s, c.columns, rows, c.tokens));
    let scores = Memory::Score(c.parity);
    let scores = Range::new(scores, 0, 1, c.tokens, Contents::Scores(head));
    [wait_drain(c.wait_drain), Step::Read(queries)]
        .into_iter()
        .chain(keys)
        .chain(products)
        .chain([
            Step::Write(scores),
            Step::Give(
                QueueName::Maxima,
                s.exponential_groups(),
                Contents::Maxima(head),
            ),
        ])
}

pub(super) fn context(c: Context, s: Shape) -> impl Iterator<Item = Step> {
    let base = s.context_base(&c);
    let head = Head {
        tokens: c.tokens,
        keys: c.keys,
        place: Some([c.tile, base, c.rows]),
    };
    let probabilities = Contents::Probabilities(head);
    let tiles = s.token_tiles(c.keys);
    let all = tiles.clone().count();
    let values = tiles.enumerate().map(move |(tile, tokens)| {
        Step::Read(Range {
            every: all,
            ..Range::new(
                Memory::Value,
                s.value_cell(base as usize, tile, c.keys),
                c.rows as usize,
                tokens as u32,
                Contents::Values { tokens: c.keys },
            )
        })
    });
    let tokens = c.tokens as usize;
    let products = s
        .numbered_row_tiles(0, c.rows)
        .flat_map(move |rows| passes(s, (c.keys, c.pass), rows, tokens));
    let sums = Contents::ContextSums(Head { keys: 0, ..head });
    // The kernel takes these credits in the other order, which changes nothing but the name of a
    // wait: it begins when both are there.
    [
        wait_drain(c.wait_drain),
        Step::Take(QueueName::SoftmaxToArray, 1, probabilities),
        Step::Read(Range::new(
            Memory::Probability(c.parity),
            0,
            1,
            c.tokens,
            probabilities,
        )),
    ]
    .into_iter()
    .chain(values)
    .chain(products)
    .chain([Step::Give(
        QueueName::Sums,
        c.rows as usize * s.groups(tokens),
        sums,
    )])
}
