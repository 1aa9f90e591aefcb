//! The layers and tensors that a config calls for: the one definition for reading, writing and the
//! executor.
//!
//! Depends on [`super::config`] and the limits of the kernels.

use super::config::Config;
use super::container::Dtype;

/// A linear layer that the config calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSpec {
    /// Its name (`blocks.0.qkv`).
    pub name: String,
    /// Rows R.
    pub rows: usize,
    /// Columns K.
    pub k: usize,
    /// True for a layer that is requantized with a shift: all but the heads.
    pub shifted: bool,
    /// Tokens that the layer runs on: the multiply-accumulates of a frame with each of its weights.
    pub tokens: usize,
}

/// The condition on a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// 4 or 8.
    Bits,
    /// Checked with the layer's bits.
    Weight,
    /// Any value; the accumulator bound is checked with the layer.
    Any,
    /// Within the range, ends included.
    Range(i64, i64),
    /// 0, or within [2^14, 2^15).
    Mantissa,
}

/// A tensor that the config calls for. `shape` is `None` for packed weights, whose size depends on
/// the bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Option<Vec<usize>>,
    /// Its values.
    pub rule: Rule,
}

/// Returns all linear layers, in the order of a frame's path.
pub fn linears(config: &Config) -> Vec<LinearSpec> {
    let tokens = config.tokens();
    let linear = |name: String, rows, k, tokens| LinearSpec {
        name,
        rows,
        k,
        shifted: true,
        tokens,
    };
    let mut all = vec![linear(
        "embed".into(),
        config.embed,
        config.patch_len(),
        config.patches(),
    )];
    if config.embed_norm {
        let name = "embed_proj".into();
        all.push(linear(name, config.embed, config.embed, config.patches()));
    }
    for (i, block) in config.blocks.iter().enumerate() {
        all.push(linear(
            format!("blocks.{i}.qkv"),
            3 * block.inner(),
            config.embed,
            tokens,
        ));
        all.push(linear(
            format!("blocks.{i}.proj"),
            config.embed,
            block.inner(),
            tokens,
        ));
        all.push(linear(
            format!("blocks.{i}.fc1"),
            block.hidden,
            config.embed,
            tokens,
        ));
        all.push(linear(
            format!("blocks.{i}.fc2"),
            config.embed,
            block.hidden,
            tokens,
        ));
    }
    all.extend(config.pool.heads().iter().map(|&head| LinearSpec {
        name: head.into(),
        rows: config.head_rows(),
        k: config.embed,
        shifted: false,
        tokens: config.head_tokens(),
    }));
    all
}

/// Returns all tensors.
pub fn tensors(config: &Config) -> Vec<TensorSpec> {
    let mut all = Vec::new();
    for linear in linears(config) {
        add_linear(&mut all, &linear);
    }
    for (i, block) in config.blocks.iter().enumerate() {
        add_norm(&mut all, &format!("blocks.{i}.norm1"), config.embed);
        add_norm(&mut all, &format!("blocks.{i}.norm2"), config.embed);
        let heads = [block.heads];
        add(
            &mut all,
            format!("blocks.{i}.attn.mult"),
            Dtype::I32,
            &heads,
            Rule::Range(1, 1 << 24),
        );
        add(
            &mut all,
            format!("blocks.{i}.attn.out_mult"),
            Dtype::I16,
            &heads,
            Rule::Range(1 << 14, 0x7fff),
        );
        add(
            &mut all,
            format!("blocks.{i}.attn.out_shift"),
            Dtype::U8,
            &heads,
            Rule::Range(11, 29),
        );
        add(
            &mut all,
            format!("blocks.{i}.gelu"),
            Dtype::I8,
            &[256],
            Rule::Any,
        );
    }
    add_norm(&mut all, "norm", config.embed);
    if config.embed_norm {
        add_norm(&mut all, "embed_norm", config.embed);
    }
    if config.rotary {
        let (rows, columns) = config.grid();
        for (name, positions) in [("rotary.rows", rows), ("rotary.columns", columns)] {
            let shape = [positions, config.blocks[0].head_dim / 4, 2];
            let one = i64::from(quasar_kernels::ROTARY_ONE);
            add(
                &mut all,
                name.into(),
                Dtype::I16,
                &shape,
                Rule::Range(-one, one),
            );
        }
    }
    let residual = Rule::Range(-32767, 32767);
    add(
        &mut all,
        "position".into(),
        Dtype::I16,
        &[config.patches(), config.embed],
        residual,
    );
    if config.prefix_tokens > 0 {
        add(
            &mut all,
            "prefix".into(),
            Dtype::I16,
            &[config.prefix_tokens, config.embed],
            residual,
        );
    }
    all
}

fn add(all: &mut Vec<TensorSpec>, name: String, dtype: Dtype, shape: &[usize], rule: Rule) {
    all.push(TensorSpec {
        name,
        dtype,
        shape: Some(shape.to_vec()),
        rule,
    });
}

fn add_linear(all: &mut Vec<TensorSpec>, spec: &LinearSpec) {
    let LinearSpec { name, shifted, .. } = spec;
    let rows = [spec.rows];
    add(all, format!("{name}.bits"), Dtype::U8, &rows, Rule::Bits);
    all.push(TensorSpec {
        name: format!("{name}.weight"),
        dtype: Dtype::U8,
        shape: None,
        rule: Rule::Weight,
    });
    add(all, format!("{name}.bias"), Dtype::I32, &rows, Rule::Any);
    let mantissa = if *shifted {
        Rule::Mantissa
    } else {
        Rule::Range(0, 0x7fff)
    };
    add(all, format!("{name}.mult"), Dtype::I16, &rows, mantissa);
    if *shifted {
        add(
            all,
            format!("{name}.shift"),
            Dtype::U8,
            &rows,
            Rule::Range(1, 30),
        );
    }
}

fn add_norm(all: &mut Vec<TensorSpec>, name: &str, embed: usize) {
    add(all, format!("{name}.gain"), Dtype::I16, &[embed], Rule::Any);
    add(all, format!("{name}.bias"), Dtype::I16, &[embed], Rule::Any);
    add(
        all,
        format!("{name}.frac"),
        Dtype::U8,
        &[1],
        Rule::Range(0, 8),
    );
    add(
        all,
        format!("{name}.epsilon"),
        Dtype::I64,
        &[1],
        Rule::Range(1, (1 << 50) - 1),
    );
}
