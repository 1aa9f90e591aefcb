//! Which layers and tensors a config calls for: the one definition that reading, writing and the executor share.
//!
//! Depends on [`super::config`] only.

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
    /// Whether it is requantized with a shift (all but the head).
    pub shifted: bool,
    /// Multiply-accumulates with each of its weights, a frame (tokens that need it).
    pub tokens: usize,
}

/// What a tensor's values must be.
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

/// A tensor that the config calls for. `shape` is `None` for packed weights, whose size depends on the bits.
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

/// All linear layers, in the order of a frame's path.
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
    all.push(LinearSpec {
        name: "head".into(),
        rows: config.classes.len(),
        k: config.embed,
        shifted: false,
        tokens: 1,
    });
    all
}

/// All tensors.
pub fn tensors(config: &Config) -> Vec<TensorSpec> {
    let mut all = Vec::new();
    let mut add = |name: String, dtype, shape: Option<Vec<usize>>, rule| {
        all.push(TensorSpec {
            name,
            dtype,
            shape,
            rule,
        })
    };
    for LinearSpec {
        name,
        rows,
        shifted,
        ..
    } in linears(config)
    {
        add(
            format!("{name}.bits"),
            Dtype::U8,
            Some(vec![rows]),
            Rule::Bits,
        );
        add(format!("{name}.weight"), Dtype::U8, None, Rule::Weight);
        add(
            format!("{name}.bias"),
            Dtype::I32,
            Some(vec![rows]),
            Rule::Any,
        );
        let mult = if shifted {
            Rule::Mantissa
        } else {
            Rule::Range(0, 0x7fff)
        };
        add(format!("{name}.mult"), Dtype::I16, Some(vec![rows]), mult);
        if shifted {
            add(
                format!("{name}.shift"),
                Dtype::U8,
                Some(vec![rows]),
                Rule::Range(1, 30),
            );
        }
    }
    let mut norms = vec!["norm".to_owned()];
    for (i, block) in config.blocks.iter().enumerate() {
        norms.extend([format!("blocks.{i}.norm1"), format!("blocks.{i}.norm2")]);
        let heads = Some(vec![block.heads]);
        add(
            format!("blocks.{i}.attn.mult"),
            Dtype::I32,
            heads.clone(),
            Rule::Range(1, 1 << 24),
        );
        add(
            format!("blocks.{i}.attn.out_mult"),
            Dtype::I16,
            heads.clone(),
            Rule::Range(1 << 14, 0x7fff),
        );
        add(
            format!("blocks.{i}.attn.out_shift"),
            Dtype::U8,
            heads,
            Rule::Range(11, 29),
        );
        add(
            format!("blocks.{i}.gelu"),
            Dtype::I8,
            Some(vec![256]),
            Rule::Any,
        );
    }
    for name in norms {
        add(
            format!("{name}.gain"),
            Dtype::I16,
            Some(vec![config.embed]),
            Rule::Any,
        );
        add(
            format!("{name}.bias"),
            Dtype::I16,
            Some(vec![config.embed]),
            Rule::Any,
        );
        add(
            format!("{name}.frac"),
            Dtype::U8,
            Some(vec![1]),
            Rule::Range(0, 8),
        );
        add(
            format!("{name}.epsilon"),
            Dtype::I64,
            Some(vec![1]),
            Rule::Range(1, (1 << 50) - 1),
        );
    }
    let residual = Rule::Range(-32767, 32767);
    add(
        "position".into(),
        Dtype::I16,
        Some(vec![config.patches(), config.embed]),
        residual,
    );
    if config.prefix_tokens > 0 {
        add(
            "prefix".into(),
            Dtype::I16,
            Some(vec![config.prefix_tokens, config.embed]),
            residual,
        );
    }
    all
}
