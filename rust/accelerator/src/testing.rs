//! Samples random subnets and configurations for tests. Uses the subnet's schema, so that it
//! samples the values of every tensor.

use proptest::prelude::*;
use quasar_core::subnet::config::Config;
use quasar_core::subnet::container::Dtype;
use quasar_core::subnet::schema::{self, Rule};
use quasar_core::Subnet;
use quasar_hardware::configuration::{Array, Buffers, Configuration, Lanes, Margins, Multipliers};
use quasar_hardware::{Board, Hardware, Mode, Workload};
use serde_json::json;

/// `SplitMix64`: equal seeds give equal subnets.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Samples a number of `least..=most`.
    pub(crate) fn within(&mut self, least: i64, most: i64) -> i64 {
        least + (self.next() % (most - least + 1) as u64) as i64
    }
}

/// Sizes of a sampled subnet.
#[derive(Clone, Debug)]
pub(crate) struct Design {
    pub(crate) side: usize,
    pub(crate) kernel: usize,
    pub(crate) channels: usize,
    pub(crate) embed: usize,
    pub(crate) prefix: usize,
    /// heads, `head_dim`, hidden
    pub(crate) blocks: Vec<(usize, usize, usize)>,
    pub(crate) pool: &'static str,
    pub(crate) embed_norm: bool,
    pub(crate) patch_tokens: bool,
    pub(crate) classes: usize,
    /// Expected 8-bit rows among 8 rows.
    pub(crate) eight_bit: i64,
    pub(crate) seed: u64,
}

impl Design {
    pub(crate) fn subnet(&self) -> Subnet {
        let mut random = Random::new(self.seed);
        let mut config = json!({
            "name": "sampled",
            "image": {"height": self.side, "width": self.side, "channels": self.channels},
            "patch": {"kernel": self.kernel, "stride": self.kernel, "pad": 0, "pad_value": 0},
            "embed": self.embed,
            "prefix_tokens": self.prefix,
            "blocks": self.blocks.iter().map(|&(heads, head_dim, hidden)| json!({
                "heads": heads, "head_dim": head_dim, "hidden": hidden,
                "fc1_zero_point": random.within(-128, 127),
            })).collect::<Vec<_>>(),
            "pool": self.pool,
            "classes": (0..self.classes).map(|i| format!("class {i}")).collect::<Vec<_>>(),
            "logit_scale": 0.001,
            "preprocess": {"resize": {"mode": "none"}},
            "trained": false,
            "provenance": {},
        });
        if self.embed_norm {
            config["embed_norm"] = json!(true);
        }
        if self.patch_tokens {
            config["patch_tokens"] = json!(true);
        }
        let config = config.to_string();
        let parsed = Config::from_json(&config).unwrap();
        let mut bits: Vec<u8> = Vec::new();
        let mut tensors = Vec::new();
        for spec in schema::tensors(&parsed) {
            let name = &spec.name;
            let columns = |layer: &str| {
                let layers = schema::linears(&parsed);
                layers.iter().find(|l| l.name == layer).unwrap().k
            };
            let shape = spec.shape.clone().unwrap_or_else(|| {
                let k = columns(name.trim_end_matches(".weight"));
                let row = |&b: &u8| if b == 4 { k.div_ceil(2) } else { k };
                vec![bits.iter().map(row).sum()]
            });
            let count: usize = shape.iter().product();
            let values: Vec<i64> = match spec.rule {
                Rule::Bits => {
                    bits = (0..count)
                        .map(|_| 4 + 4 * u8::from(random.within(0, 7) < self.eight_bit))
                        .collect();
                    bits.iter().map(|&b| b.into()).collect()
                }
                Rule::Weight => {
                    let k = columns(name.trim_end_matches(".weight"));
                    let mut bytes = Vec::new();
                    for &b in &bits {
                        if b == 8 {
                            bytes.extend((0..k).map(|_| random.within(-127, 127) & 255));
                        } else {
                            for pair in (0..k).collect::<Vec<_>>().chunks(2) {
                                let nibbles = [0, 1].map(|i| match pair.get(i) {
                                    Some(_) => random.within(-7, 7) & 15,
                                    None => 0,
                                });
                                bytes.push(nibbles[0] | nibbles[1] << 4);
                            }
                        }
                    }
                    bytes
                }
                rule => (0..count).map(|_| random.value(name, rule)).collect(),
            };
            let size = spec.dtype.size();
            let data = values.iter().flat_map(|v| v.to_le_bytes()[..size].to_vec());
            tensors.push((spec.name.clone(), spec.dtype, shape, data.collect()));
        }
        assert!(tensors.iter().any(|(_, dtype, ..)| *dtype == Dtype::I64));
        Subnet::from_parts(&config, tensors).unwrap()
    }
}

impl Random {
    /// Samples a value such that layers of a few dozen columns neither saturate nor vanish.
    fn value(&mut self, name: &str, rule: Rule) -> i64 {
        let part = name.rsplit('.').next().unwrap_or(name);
        match (part, rule) {
            ("bias", _) if name.contains("norm") => self.within(-60, 60),
            ("bias", _) => self.within(-20_000, 20_000),
            ("gain", _) => self.within(-9000, 9000),
            ("frac", _) => self.within(0, 2),
            ("epsilon", _) => self.within(1, 1 << 12),
            ("shift", _) => self.within(3, 9),
            ("mult", Rule::Range(1, _)) => self.within(1 << 13, 1 << 18),
            ("out_shift", _) => self.within(13, 16),
            ("gelu", _) => self.within(-128, 127),
            ("position" | "prefix", _) => self.within(-3000, 3000),
            (_, Rule::Mantissa) if self.within(0, 15) == 0 => 0,
            (_, Rule::Mantissa) => self.within(1 << 14, (1 << 15) - 1),
            (_, Rule::Range(least, most)) => self.within(least, most),
            (_, Rule::Any | Rule::Bits | Rule::Weight) => self.within(-128, 127),
        }
    }
}

/// Reads a board description of the package.
pub(crate) fn board(name: &str) -> Board {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt/boards");
    Board::from_toml(&std::fs::read_to_string(format!("{root}/{name}.toml")).unwrap()).unwrap()
}

/// Returns a configuration that can hold a subnet. `shape`: tokens, row pairs, requantizing, norm
/// and exponential lanes, AXI ports, frames.
pub(crate) fn hardware(subnet: &Subnet, board_name: &str, shape: [u64; 7]) -> Hardware {
    cascaded(subnet, board_name, shape, [1, 1, 1])
}

/// Returns a configuration that can hold a subnet, with the given cascade and clock ratio. Its
/// buffers divide products into the given number of bands of tokens, if there are enough tiles.
pub(crate) fn cascaded(
    subnet: &Subnet,
    board_name: &str,
    [tokens, pairs, lanes, norm, exponential, ports, frames]: [u64; 7],
    [cascade, clock_ratio, bands]: [u64; 3],
) -> Hardware {
    let array = Array {
        tokens,
        pairs,
        cascade,
        clock_ratio,
    };
    let lanes = Lanes {
        requantize: lanes,
        gelu: lanes,
        norm,
        exponential,
        multipliers: Multipliers::Dsp,
        exponential_multipliers: Multipliers::Dsp,
    };
    let workload = Workload::of_subnet(subnet).unwrap();
    let mut buffers = Buffers::needed(&workload, array, lanes);
    let tiles = workload.setting.tokens().div_ceil(tokens);
    for words in [&mut buffers.input, &mut buffers.hidden] {
        *words = *words / tiles * tiles.div_ceil(bands);
    }
    let configuration = Configuration {
        board: board_name.into(),
        clock_mhz: 100.0,
        mode: Mode::Nibble,
        frames,
        axi_ports: ports,
        counters: true,
        array,
        lanes,
        buffers,
        margins: Margins::default(),
    };
    Hardware::new(configuration, board(board_name)).unwrap()
}

prop_compose! {
    pub(crate) fn design()(
        (grid, kernel, channels) in (1usize..5, 1usize..4, prop_oneof![Just(1usize), Just(3)]),
        (embed, prefix) in (1usize..24, 0usize..3),
        blocks in prop::collection::vec((1usize..4, 1usize..8, 1usize..40), 1..4),
        (pool, classes) in (
            prop_oneof![
                Just("token"),
                Just("mean"),
                Just("mean_after_norm"),
                Just("token_pair"),
                Just("attention"),
            ],
            1usize..12,
        ),
        (eight_bit, seed) in (0i64..=8, any::<u64>()),
        [embed_norm, patch_tokens] in any::<[bool; 2]>(),
    ) -> Design {
        let side = grid * kernel;
        let prefix = if pool == "token_pair" { prefix.max(2) } else { prefix };
        let patch_tokens = patch_tokens && ["token", "mean_after_norm"].contains(&pool);
        Design {
            side, kernel, channels, embed, prefix, blocks, pool, embed_norm, patch_tokens, classes,
            eight_bit, seed,
        }
    }
}

prop_compose! {
    /// Samples a board and the numbers for [`hardware`].
    pub(crate) fn shape()(
        (tokens, pairs) in (1u64..12, 1u64..10),
        (lanes, norm, exponential) in (0u64..1000, 0u64..1000, 0u64..1000),
        (ports, frames) in (1u64..=4, 1u64..=2),
        board in prop_oneof![Just("zcu102"), Just("pynq-z2")],
    ) -> (&'static str, [u64; 7]) {
        let some = |lane: u64| 1 + lane % tokens;
        (board, [tokens, pairs, some(lanes), some(norm), some(exponential), ports, frames])
    }
}

prop_compose! {
    /// Samples a cascade, a clock ratio and bands for [`cascaded`].
    pub(crate) fn cascade()(log in 0u32..=4, ratio in 1u64..=2, bands in 1u64..=4) -> [u64; 3] {
        [1 << log, ratio, bands]
    }
}

/// Loads a golden subnet.
pub(crate) fn golden(name: &str) -> Subnet {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors");
    Subnet::load(format!("{root}/{name}.qvit")).unwrap()
}

/// Names of all golden subnets.
pub(crate) const GOLDEN: [&str; 12] = [
    "all-4",
    "all-8",
    "attention",
    "embed-norm",
    "embedding",
    "mean",
    "mean-after-norm",
    "overlap",
    "patch-tokens",
    "patch-tokens-mean",
    "token",
    "token-pair",
];
