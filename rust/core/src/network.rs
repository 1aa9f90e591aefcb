//! Packs a subnet for one SIMD tier, once, when an engine is created.
//!
//! Depends on [`crate::subnet`], [`crate::preprocess`], [`crate::cache`], [`crate::error`] and the
//! kernels.

use quasar_kernels::{HeadParams, Kernels, LayerNorm, Linear, LinearParams, Rotary, Storage, Tier};

use crate::cache;
use crate::error::{Error, Result};
use crate::memory;
use crate::preprocess::{weights_channels_last, Preprocessor};
use crate::subnet::config::Config;
use crate::subnet::container::Tensor;
use crate::subnet::schema::{self, LinearSpec};
use crate::subnet::{LayerSummary, LinearTensors, Subnet};

/// A subnet packed for one tier. It is immutable, and executors share it.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) config: Config,
    pub(crate) kernels: Kernels,
    pub(crate) embed: Linear,
    /// `[grid, embed]`
    pub(crate) position: Vec<i16>,
    /// `[prefix_tokens, embed]`
    pub(crate) prefix: Vec<i16>,
    /// The norm of the embedded patches, and the layer that makes the residual stream of its codes.
    pub(crate) embed_norm: Option<(LayerNorm, Linear)>,
    /// The rotations of q and k.
    pub(crate) rotary: Option<Rotary>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: LayerNorm,
    /// The heads, that of token 0 first.
    pub(crate) heads: Vec<Head>,
}

/// A head and the mantissa of each of its rows.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) layer: Linear,
    pub(crate) mult: Vec<i16>,
}

/// One block, packed.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) hidden: usize,
    pub(crate) norm1: LayerNorm,
    pub(crate) q: Linear,
    pub(crate) kv: Linear,
    pub(crate) attention: Vec<HeadParams>,
    pub(crate) proj: Linear,
    pub(crate) norm2: LayerNorm,
    pub(crate) fc1: Linear,
    pub(crate) fc1_zero_point: i8,
    pub(crate) activation: [i8; 256],
    pub(crate) fc2: Linear,
}

impl Block {
    pub(crate) fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

impl Network {
    /// Packs a subnet for a tier. Its 4-bit rows stay packed in memory if all weights would not fit
    /// the last cache unpacked.
    ///
    /// # Errors
    /// [`Error::UnsupportedTier`] if this CPU lacks the tier, [`Error::OutOfMemory`].
    pub fn new(subnet: &Subnet, tier: Tier) -> Result<Self> {
        let eight_bit = Self::kernels(tier)?.unpacked_weight_bytes();
        let layers = subnet.summary().layers;
        let unpacked = layers
            .iter()
            .map(|layer| layer.k * (layer.rows4 + eight_bit * layer.rows8));
        let storage = match cache::last_level() {
            Some(bytes) if unpacked.sum::<usize>() > bytes => Storage::Packed,
            _ => Storage::Unpacked,
        };
        Self::with_storage(subnet, tier, storage)
    }

    /// Packs a subnet for a tier, with its weights in the form `storage`.
    ///
    /// # Errors
    /// [`Error::UnsupportedTier`] if this CPU lacks the tier, [`Error::OutOfMemory`].
    pub fn with_storage(subnet: &Subnet, tier: Tier, storage: Storage) -> Result<Self> {
        let kernels = Self::kernels(tier)?;
        memory::check("packing the weights", Self::memory(subnet, tier, storage)?)?;
        let config = subnet.config().clone();
        let layers = schema::linears(&config);
        let mut layers = layers.iter();
        let mut next = || decode_next(subnet, &mut layers);
        let pack = |(spec, tensors): (&LinearSpec, LinearTensors)| {
            pack_rows(kernels, storage, spec, &tensors, 0, spec.rows)
        };

        let (spec, mut tensors) = next();
        tensors.codes = weights_channels_last(&tensors.codes, config.image, config.patch);
        let embed = pack((spec, tensors));
        let embed_norm =
            (config.embed_norm).then(|| (layer_norm(subnet, "embed_norm"), pack(next())));
        let mut blocks = Vec::with_capacity(config.blocks.len());
        for (i, block) in config.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{i}.{part}");
            let inner = block.inner();
            let (spec, qkv) = next();
            let part = |first, last| pack_rows(kernels, storage, spec, &qkv, first, last);
            let mut activation = [0; 256];
            activation.copy_from_slice(bytemuck::cast_slice(subnet.expect(&name("gelu")).data()));
            blocks.push(Block {
                heads: block.heads,
                head_dim: block.head_dim,
                hidden: block.hidden,
                norm1: layer_norm(subnet, &name("norm1")),
                q: part(0, inner),
                kv: part(inner, 3 * inner),
                attention: attention(subnet, &name("attn")),
                proj: pack(next()),
                norm2: layer_norm(subnet, &name("norm2")),
                fc1: pack(next()),
                fc1_zero_point: block.fc1_zero_point,
                activation,
                fc2: pack(next()),
            });
        }
        let heads = config.pool.heads().iter().map(|_| {
            let (spec, mut tensors) = next();
            // The executor scales the head's accumulators itself, without this requantization.
            tensors.shift = vec![1; spec.rows];
            let mult = tensors.mult.clone();
            let layer = pack((spec, tensors));
            Head { layer, mult }
        });
        let heads = heads.collect();
        let mut network = Self {
            embed,
            position: subnet.expect("position").i16s(),
            prefix: subnet
                .tensor("prefix")
                .map(Tensor::i16s)
                .unwrap_or_default(),
            embed_norm,
            rotary: rotary(subnet),
            blocks,
            norm: layer_norm(subnet, "norm"),
            heads,
            kernels,
            config,
        };
        Linear::join(&mut network.layers_mut());
        Ok(network)
    }

    /// Returns the bytes of memory that packing a subnet takes at most, its result included.
    ///
    /// # Errors
    /// [`Error::UnsupportedTier`] if this CPU lacks the tier.
    pub fn memory(subnet: &Subnet, tier: Tier, storage: Storage) -> Result<usize> {
        /// Bytes of a row's parameters, at most.
        const ROW: usize = 64;
        /// Rows and columns are padded to a multiple of this, rows of each width by themselves.
        const TILE: usize = 64;
        /// Layers are moved to memory that starts at a large page, and ends at one.
        const LARGE_PAGES: usize = 2 * (4 << 20);

        let unpacked = Self::kernels(tier)?.unpacked_weight_bytes();
        let summary = subnet.summary();
        let packed = |layer: &LayerSummary| {
            let padded = [layer.k, layer.rows4, layer.rows8].map(|n| n.next_multiple_of(TILE));
            let [k, rows4, rows8] = padded;
            let weights = match storage {
                Storage::Packed if tier != Tier::Scalar => k * rows4 / 2 + k * rows8,
                _ => k * unpacked * (rows4 + rows8),
            };
            weights + ROW * (rows4 + rows8)
        };
        let all = summary.layers.iter().map(packed).sum::<usize>();
        // A layer's codes, and copies of them in another order; its packed form grows.
        let layer = |layer: &LayerSummary| 4 * layer.rows * layer.k + 2 * packed(layer);
        let largest = summary.layers.iter().map(layer).max().unwrap_or(0);
        let config = 8 * subnet.config_json().len();
        let tables = 8 * subnet.config().tokens() * subnet.config().embed;
        Ok(2 * all + largest + config + tables + LARGE_PAGES)
    }

    /// Returns all layers in the order in which a frame reads them.
    fn layers_mut(&mut self) -> Vec<&mut Linear> {
        let mut layers = vec![&mut self.embed];
        layers.extend(self.embed_norm.as_mut().map(|(_, layer)| layer));
        for block in &mut self.blocks {
            layers.extend([&mut block.kv, &mut block.q]);
            layers.extend([&mut block.proj, &mut block.fc1, &mut block.fc2]);
        }
        layers.extend(self.heads.iter_mut().map(|head| &mut head.layer));
        layers
    }

    fn kernels(tier: Tier) -> Result<Kernels> {
        Kernels::new(tier).ok_or_else(|| Error::UnsupportedTier {
            tier: tier.name().into(),
            available: supported_tiers()
                .map(Tier::name)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// Returns the subnet's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the tier that the subnet is packed for.
    pub fn tier(&self) -> Tier {
        self.kernels.tier()
    }

    /// Creates a preprocessor of the network's images, with the kernels of its tier.
    pub fn preprocessor(&self) -> Preprocessor {
        Preprocessor::new(&self.config).with_kernels(self.kernels)
    }

    /// Returns the largest size of any block.
    pub(crate) fn widest(&self, size: fn(&Block) -> usize) -> usize {
        self.blocks.iter().map(size).max().unwrap_or(0)
    }

    /// Returns the form of the weights in memory.
    pub fn storage(&self) -> Storage {
        self.heads[0].layer.storage()
    }

    /// Returns the bytes of all weights in memory.
    pub fn weight_bytes(&self) -> usize {
        let blocks = self.blocks.iter().map(|block| {
            let layers = [&block.kv, &block.q, &block.proj, &block.fc1, &block.fc2];
            layers.map(Linear::weight_bytes).iter().sum::<usize>()
        });
        let heads = self.heads.iter().map(|head| head.layer.weight_bytes());
        let embed_norm = self
            .embed_norm
            .as_ref()
            .map(|(_, layer)| layer.weight_bytes());
        self.embed.weight_bytes()
            + embed_norm.unwrap_or(0)
            + blocks.sum::<usize>()
            + heads.sum::<usize>()
    }
}

/// Returns the tiers that this CPU runs, slowest first.
pub fn supported_tiers() -> impl Iterator<Item = Tier> {
    Tier::ALL.into_iter().filter(|tier| tier.is_supported())
}

/// Decodes the next layer of the schema, which lists layers in the order in which a network is
/// built.
fn decode_next<'a>(
    subnet: &Subnet,
    layers: &mut impl Iterator<Item = &'a LinearSpec>,
) -> (&'a LinearSpec, LinearTensors) {
    let spec = layers.next().expect("the schema lists every layer");
    (spec, subnet.linear(spec))
}

/// Packs the rows `first..last` of a layer.
fn pack_rows(
    kernels: Kernels,
    storage: Storage,
    spec: &LinearSpec,
    tensors: &LinearTensors,
    first: usize,
    last: usize,
) -> Linear {
    let params = LinearParams {
        rows: last - first,
        k: spec.k,
        weights: &tensors.codes[first * spec.k..last * spec.k],
        bias: &tensors.bias[first..last],
        mult: &tensors.mult[first..last],
        shift: &tensors.shift[first..last],
    };
    kernels.pack_linear(&params, storage)
}

fn layer_norm(subnet: &Subnet, name: &str) -> LayerNorm {
    let part = |part: &str| subnet.expect(&format!("{name}.{part}"));
    LayerNorm {
        gain: part("gain").i16s(),
        bias: part("bias").i16s(),
        frac: part("frac").data()[0],
        epsilon: part("epsilon")
            .values()
            .next()
            .expect("epsilon has one element"),
    }
}

/// Returns the rotations of q and k of a subnet, if it has any.
pub fn rotary(subnet: &Subnet) -> Option<Rotary> {
    let config = subnet.config();
    if !config.rotary {
        return None;
    }
    let [rows, columns] = ["rotary.rows", "rotary.columns"].map(|name| subnet.expect(name).i16s());
    let head_dim = config.blocks[0].head_dim;
    Some(Rotary::new(head_dim, config.prefix_tokens, &rows, &columns))
}

fn attention(subnet: &Subnet, name: &str) -> Vec<HeadParams> {
    let part = |part: &str| subnet.expect(&format!("{name}.{part}"));
    let (mult, out_mult) = (part("mult").i32s(), part("out_mult").i16s());
    let params = mult.into_iter().zip(out_mult).zip(part("out_shift").data());
    params
        .map(|((mult, out_mult), &out_shift)| HeadParams {
            mult,
            out_mult,
            out_shift,
        })
        .collect()
}
