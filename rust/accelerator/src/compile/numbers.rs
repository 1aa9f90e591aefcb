//! Collects the numbers of commands that only weights have.

use quasar_core::Subnet;
use quasar_hardware::Workload;

/// Numbers of one head's softmax.
#[derive(Clone, Copy, Default)]
pub(super) struct Head {
    pub(super) mult: u32,
    pub(super) out_mult: u32,
    pub(super) out_shift: u32,
}

/// Numbers of commands that do not follow from sizes.
pub(super) struct Numbers {
    /// f and E of the norm before each phase except the first.
    pub(super) norms: Vec<(u32, u64)>,
    /// Heads of each block.
    pub(super) heads: Vec<Vec<Head>>,
    /// Zero point of each block's fc1.
    pub(super) zero_points: Vec<i32>,
}

impl Numbers {
    /// Collects the numbers of a subnet.
    pub(super) fn of(subnet: &Subnet) -> Self {
        let config = subnet.config();
        let norm = |name: String| {
            let part = |part: &str| value(subnet, &format!("{name}.{part}"), 0);
            (part("frac") as u32, part("epsilon") as u64)
        };
        let blocks = || config.blocks.iter().enumerate();
        let norms = blocks().flat_map(|(i, _)| [1, 2].map(|n| format!("blocks.{i}.norm{n}")));
        let heads = |(i, block): (usize, &quasar_core::subnet::config::Block)| {
            let part = |part: &str, head| value(subnet, &format!("blocks.{i}.attn.{part}"), head);
            (0..block.heads)
                .map(|head| Head {
                    mult: part("mult", head) as u32,
                    out_mult: part("out_mult", head) as u32,
                    out_shift: part("out_shift", head) as u32,
                })
                .collect()
        };
        Self {
            norms: (config.embed_norm.then(|| "embed_norm".into()))
                .into_iter()
                .chain(norms)
                .chain(config.pool.heads().iter().map(|_| "norm".into()))
                .map(norm)
                .collect(),
            heads: blocks().map(heads).collect(),
            zero_points: blocks().map(|(_, b)| b.fc1_zero_point.into()).collect(),
        }
    }

    /// Returns zeros for a network whose weights are not known.
    pub(super) fn unknown(workload: &Workload) -> Self {
        let blocks = &workload.blocks;
        let heads = |heads: u64| vec![Head::default(); heads as usize];
        Self {
            norms: vec![
                (0, 0);
                2 * blocks.len()
                    + workload.setting.pool.heads().len()
                    + usize::from(workload.embed_proj.is_some())
            ],
            heads: blocks.iter().map(|block| heads(block.heads)).collect(),
            zero_points: vec![0; blocks.len()],
        }
    }
}

/// Returns an element of a tensor that the config calls for.
fn value(subnet: &Subnet, name: &str, at: usize) -> i64 {
    subnet
        .tensor(name)
        .and_then(|tensor| tensor.values().nth(at))
        .expect("the set of tensors is checked when the subnet is made")
}
