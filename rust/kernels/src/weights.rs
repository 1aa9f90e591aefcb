//! Memory of packed weights: each layer's own at first, then one that the layers of a network
//! share.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::large_pages::{LargePages, LARGE_PAGE};

/// The packed weights of a layer, from a cache line on.
#[derive(Clone, Debug)]
pub(crate) enum Weights {
    Own(Buffer),
    /// Some bytes of what all layers share.
    Shared(Arc<LargePages>, Range<usize>),
}

impl Weights {
    /// Moves weights next to each other on large pages, if there are so many.
    pub(crate) fn join(all: &mut [&mut Self]) {
        let size = all.iter().map(|weights| weights.len()).sum();
        if size < LARGE_PAGE {
            return;
        }
        let mut memory = LargePages::new(size);
        let mut at = 0;
        let ranges: Vec<_> = (all.iter())
            .map(|weights| {
                let bytes = at..at + weights.len();
                memory.bytes_mut()[bytes.clone()].copy_from_slice(weights);
                at = bytes.end;
                bytes
            })
            .collect();
        let memory = Arc::new(memory);
        for (weights, bytes) in all.iter_mut().zip(ranges) {
            **weights = Self::Shared(Arc::clone(&memory), bytes);
        }
    }

    /// Returns the weights from a byte on, and those of the layers that follow.
    pub(crate) fn onward(&self, from: usize) -> &[u8] {
        match self {
            Self::Own(buffer) => &buffer.as_slice()[from..],
            Self::Shared(memory, bytes) => &memory.bytes()[bytes.start + from..],
        }
    }
}

impl Deref for Weights {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(buffer) => buffer.as_slice(),
            Self::Shared(memory, bytes) => &memory.bytes()[bytes.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::large_pages::LARGE_PAGE;
    use crate::{Kernels, Linear, LinearParams, MatrixView, MatrixViewMut, Scratch, Storage, Tier};

    const K: usize = 1100;

    fn layer(kernels: Kernels, rows: usize) -> Linear {
        let weights: Vec<i8> = (0..rows * K)
            .map(|i| (i * 37 % 255) as i8)
            .map(|w| w.max(-127))
            .collect();
        let params = LinearParams {
            rows,
            k: K,
            weights: &weights,
            bias: &vec![rows as i32; rows],
            mult: &vec![20_000; rows],
            shift: &vec![12; rows],
        };
        kernels.pack_linear(&params, Storage::Packed)
    }

    fn outputs(kernels: Kernels, layer: &Linear) -> Vec<i8> {
        let input: Vec<i8> = (0..3 * K).map(|i| (i * 11) as i8).collect();
        let mut out = vec![0; 3 * layer.rows()];
        kernels.linear_i8(
            layer,
            MatrixView::packed(&input, K),
            MatrixViewMut::packed(&mut out, layer.rows()),
            3,
            None,
            &mut Scratch::new(),
        );
        out
    }

    #[test]
    fn joined_layers_follow_each_other_and_compute_the_same() {
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_supported()) {
            let kernels = Kernels::new(tier).expect("a supported tier");
            let mut layers = [1000, 70, 1030].map(|rows| layer(kernels, rows));
            let before = layers.each_ref().map(|layer| outputs(kernels, layer));
            let bytes = layers.each_ref().map(Linear::weight_bytes);
            Linear::join(&mut layers.iter_mut().collect::<Vec<_>>());
            assert_eq!(layers.each_ref().map(Linear::weight_bytes), bytes, "{tier}");
            assert_eq!(
                layers.each_ref().map(|layer| outputs(kernels, layer)),
                before,
                "{tier}"
            );
            assert!(
                layers[0].weights.as_ptr().addr().is_multiple_of(LARGE_PAGE),
                "{tier}"
            );
            for pair in layers.windows(2) {
                let next = pair[0].weights.onward(pair[0].weights.len());
                assert_eq!(next.as_ptr(), pair[1].weights.as_ptr(), "{tier}");
            }
            // A copy stays when the others are gone.
            let [_, _, last] = layers.clone();
            drop(layers);
            assert_eq!(outputs(kernels, &last), before[2], "{tier}");
        }
    }

    #[test]
    fn few_weights_stay_where_they_are() {
        let kernels = Kernels::best();
        let mut layers = [100, 200].map(|rows| layer(kernels, rows));
        let before = layers.each_ref().map(|layer| layer.weights.as_ptr());
        Linear::join(&mut layers.iter_mut().collect::<Vec<_>>());
        assert_eq!(
            layers.each_ref().map(|layer| layer.weights.as_ptr()),
            before
        );
    }
}
