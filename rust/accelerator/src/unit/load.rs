//! The steps of load.

use super::{Contents, Memory, QueueName, Range, Step};
use crate::isa::{Load, Target};
use crate::shape::Shape;

pub(super) fn load(c: Load, s: Shape) -> impl Iterator<Item = Step> {
    let (queue, contents) = match c.target {
        Target::Weights => (Some(QueueName::Weights), Contents::Loaded),
        Target::Gains => (Some(QueueName::Gains), Contents::Loaded),
        Target::Parameters | Target::Table | Target::Residual => {
            (Some(QueueName::Rows), Contents::Loaded)
        }
        Target::Patches => (None, Contents::PatchesAt { address: c.address }),
    };
    let words = c.beats as usize / s.beats(s.tokens);
    let input = Range::new(Memory::Input, 0, words, s.tokens as u32, contents);
    [
        Step::Take(
            QueueName::ArrayToLoad,
            c.wait_array.into(),
            Contents::InputFree,
        ),
        Step::Transfer(queue),
    ]
    .into_iter()
    .chain(queue.is_none().then_some(Step::Write(input)))
    .chain([Step::Give(
        QueueName::LoadToArray,
        c.post_array.into(),
        contents,
    )])
}

pub(super) fn end() -> impl Iterator<Item = Step> {
    std::iter::once(Step::Give(QueueName::Checks, 1, Contents::Check))
}
