//! The steps of the norm.

use super::{BufferHalf, Contents, Memory, QueueName, Range, Step};
use crate::isa::{LayerNorm, Pooling};
use crate::shape::Shape;

pub(super) fn layer_norm(c: LayerNorm, s: Shape) -> impl Iterator<Item = Step> {
    let embed = c.embed as usize;
    let padded = s.padded(embed);
    let pools = matches!(c.pool, Pooling::Before | Pooling::After);
    let stored = move |tile: usize, tokens: usize| {
        let normed = Range::new(
            Memory::Normed(c.frame),
            tile * padded,
            embed,
            tokens as u32,
            Contents::Normed,
        );
        [
            Step::Write(normed),
            Step::Give(QueueName::NormToArray, 1, Contents::Normed),
        ]
    };
    let tiles = s.token_tiles(c.tokens).enumerate();
    let tiles = tiles.flat_map(move |(tile, tokens)| {
        let moments = Contents::Moments {
            tile: tile as u32,
            tokens: tokens as u32,
        };
        let residual = Range::new(
            Memory::Residual(c.frame),
            tile * embed,
            embed,
            tokens as u32,
            Contents::Residual,
        );
        let normalise = Step::Normalise { tile, tokens };
        let normalises_tokens = c.pool != Pooling::Before;
        [
            Step::Take(QueueName::Moments, s.groups(tokens), moments),
            Step::Read(residual),
        ]
        .into_iter()
        .chain(normalises_tokens.then_some(normalise))
        .chain((!pools).then(|| stored(tile, tokens)).into_iter().flatten())
        .chain(normalises_tokens.then_some(Step::EndLoop))
    });
    let of_mean = Step::Normalise { tile: 0, tokens: 1 };
    let pooled = [Step::Pool]
        .into_iter()
        .chain((c.pool == Pooling::Before).then_some(of_mean))
        .chain(stored(0, 1));
    let gains = BufferHalf::new(QueueName::Gains, c.embed.into(), 4, s.beat as u64);
    std::iter::once(Step::TakeHalf(gains))
        .chain(tiles)
        .chain(pools.then_some(pooled).into_iter().flatten())
        .chain([Step::FreeHalf(QueueName::Gains)])
}
