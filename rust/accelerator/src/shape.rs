//! A subnet of sizes and row widths alone: all weights 0. Command lists and their timing depend on nothing else.
//!
//! Depends on [`quasar_core`].

use quasar_core::error::{Error, Result};
use quasar_core::hardware::workload::Rows;
use quasar_core::hardware::Workload;
use quasar_core::rows::row_bytes;
use quasar_core::subnet::config::{Config, Pool};
use quasar_core::subnet::schema::{self, Rule};
use quasar_core::Subnet;
use serde_json::json;

/// A subnet whose [`Workload::of_subnet`] is `workload`, but for pixels and how they are resized.
///
/// # Errors
/// [`Error::InvalidValue`] where a patch is not a square of one or three channels; else as [`Subnet::from_parts`].
pub fn subnet_of(workload: &Workload) -> Result<Subnet> {
    let text = config_of(workload)?;
    let config = Config::from_json(&text)?;
    let widths = widths(workload);
    let mut layers = schema::linears(&config).into_iter().zip(widths);
    let mut tensors = Vec::new();
    let mut packed = 0;
    for spec in schema::tensors(&config) {
        let data = match spec.rule {
            Rule::Bits => {
                let (layer, bits) = layers.next().expect("a layer's bits come first");
                packed = bits.iter().map(|&bits| row_bytes(layer.k, bits)).sum();
                bits
            }
            Rule::Weight => vec![0; packed],
            rule => {
                let least = match rule {
                    Rule::Range(least, _) => least.max(0),
                    _ => 0,
                };
                let size = spec.dtype.size();
                let count: usize = spec.shape.iter().flatten().product();
                least.to_le_bytes()[..size].repeat(count)
            }
        };
        let shape = spec.shape.unwrap_or_else(|| vec![data.len()]);
        tensors.push((spec.name, spec.dtype, shape, data));
    }
    Subnet::from_parts(&text, tensors)
}

fn config_of(workload: &Workload) -> Result<String> {
    let setting = &workload.setting;
    let kernels = (1..).take_while(|k| k * k <= setting.patch_len);
    let (channels, kernel) = kernels
        .flat_map(|k| [(1, k), (3, k)])
        .find(|(channels, k)| channels * k * k == setting.patch_len)
        .ok_or_else(|| {
            Error::InvalidValue(format!(
                "a patch of {} values is no square of one or three channels",
                setting.patch_len
            ))
        })?;
    let rows = (1..=setting.patches)
        .take_while(|rows| rows * rows <= setting.patches)
        .filter(|rows| setting.patches % rows == 0)
        .last()
        .unwrap_or(1);
    let blocks: Vec<_> = workload
        .blocks
        .iter()
        .map(|block| {
            json!({"heads": block.heads, "head_dim": block.head_dim, "hidden": block.hidden, "fc1_zero_point": 0})
        })
        .collect();
    let classes: Vec<_> = (0..setting.classes).map(|class| class.to_string()).collect();
    let pool = match setting.pool {
        Pool::Token => "token",
        Pool::Mean => "mean",
        Pool::MeanAfterNorm => "mean_after_norm",
    };
    let config = json!({
        "name": workload.name,
        "image": {"height": rows * kernel, "width": setting.patches / rows * kernel, "channels": channels},
        "patch": {"kernel": kernel, "stride": kernel, "pad": 0, "pad_value": 0},
        "embed": workload.embed,
        "prefix_tokens": setting.prefix_tokens,
        "blocks": blocks,
        "pool": pool,
        "classes": classes,
        "logit_scale": 1.0,
        "trained": false,
        "provenance": {},
        "preprocess": {"resize": {"mode": "none"}},
    });
    Ok(config.to_string())
}

/// Bits of each layer's rows, layer by layer. Of the rows of keys and values each has its half of either width.
fn widths(workload: &Workload) -> Vec<Vec<u8>> {
    let of = |rows: Rows| {
        let mut bits = vec![4; rows.four_bit as usize];
        bits.resize(rows.total() as usize, 8);
        bits
    };
    let mut all = vec![of(workload.patch_rows)];
    for block in &workload.blocks {
        let mut qkv = of(block.query);
        qkv.extend(of(block.key));
        qkv.extend(of(block.value));
        all.extend([qkv, of(block.proj), of(block.fc1), of(block.fc2)]);
    }
    all.push(of(workload.head_rows));
    all
}
