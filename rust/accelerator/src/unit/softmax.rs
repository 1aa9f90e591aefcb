//! The steps of the softmax.

use super::{Contents, Head, Memory, QueueName, Range, Step};
use crate::isa::Softmax;
use crate::shape::Shape;

pub(super) fn softmax(c: Softmax, s: Shape) -> impl Iterator<Item = Step> {
    let (tokens, lanes) = (c.tokens as usize, s.exponential_lanes);
    let head = Head {
        tokens: c.tokens,
        keys: c.keys,
        place: None,
    };
    let scores = Contents::Scores(head);
    let probabilities = Contents::Probabilities(head);
    let scales = Contents::Scales(Head { keys: 0, ..head });
    let range = move |memory, contents| Range::new(memory, 0, 1, c.tokens, contents);
    (0..s.exponential_groups()).flat_map(move |group| {
        let first = group * lanes;
        let some = lanes.min(tokens.saturating_sub(first));
        let last = first + some == tokens;
        let work = (some > 0).then_some([
            Step::Read(range(Memory::Score(c.parity), scores)),
            Step::Exponentials {
                first,
                tokens: some,
            },
            Step::Write(range(Memory::Probability(c.parity), probabilities)),
            Step::Give(QueueName::Scales, some, scales),
            Step::Give(QueueName::SoftmaxToArray, last.into(), probabilities),
            Step::EndLoop,
        ]);
        // The maxima of lanes without a token come, too.
        std::iter::once(Step::Take(QueueName::Maxima, 1, Contents::Maxima(head)))
            .chain(work.into_iter().flatten())
    })
}
