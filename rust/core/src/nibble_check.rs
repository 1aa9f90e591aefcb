//! Runs the linear layers again as an accelerator does (nibbles, row pairs, output address table)
//! and compares their outputs.
//!
//! Slow: for tests and the `verify` command. Depends on [`crate::rows`], [`crate::subnet`],
//! [`crate::preprocess`], [`crate::network`], [`crate::trace`], [`crate::logits`],
//! [`crate::error`] and the kernels.

use std::sync::atomic::{AtomicBool, Ordering};

use quasar_kernels::scalar;

use crate::error::{Error, Result};
use crate::logits::scaled;
use crate::network::rotary;
use crate::preprocess;
use crate::rows::PairedMatrix;

use crate::subnet::config::Config;
use crate::subnet::schema::{self, LinearSpec};
use crate::subnet::{LinearTensors, Subnet};
use crate::trace::{Trace, TraceData};

/// The outcome for one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerCheck {
    /// The layer's name.
    pub layer: String,
    /// Number of outputs compared.
    pub values: usize,
    /// Number of outputs that differ.
    pub differing: usize,
}

/// Runs every linear layer on its traced input, as nibbles in row pairs, and compares the result
/// with its traced output.
///
/// `image` is the preprocessed image that was traced. Setting `cancel` ends the check early.
///
/// # Errors
/// [`Error::InvalidValue`] if the trace or the image belongs to another subnet,
/// [`Error::Interrupted`].
pub fn check(
    subnet: &Subnet,
    image: &[u8],
    trace: &Trace,
    cancel: &AtomicBool,
) -> Result<Vec<LayerCheck>> {
    let config = subnet.config();
    if image.len() != config.image.bytes() {
        return Err(Error::InvalidValue(format!(
            "an image of {} bytes is not this subnet's",
            image.len()
        )));
    }
    let mut patches = vec![0; config.patches() * config.patch_len()];
    preprocess::patches_channels_first(
        image,
        config.image,
        config.patch,
        config.grid().1,
        0,
        &mut patches,
    );
    let layers = schema::linears(config);
    layers
        .iter()
        .map(|spec| check_layer(subnet, spec, trace, &patches, cancel))
        .collect()
}

fn check_layer(
    subnet: &Subnet,
    spec: &LinearSpec,
    trace: &Trace,
    patches: &[i8],
    cancel: &AtomicBool,
) -> Result<LayerCheck> {
    let config = subnet.config();
    let layer = Layer::new(subnet, spec, cancel)?;
    let (block, part) = spec.name.rsplit_once('.').unwrap_or(("", &spec.name));
    let of_block = |part: &str| format!("{block}.{part}");
    let number: usize = block
        .rsplit('.')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    match part {
        "embed" => {
            let position = subnet.expect("position").i16s();
            let embedded = if config.embed_norm {
                i16s(trace, "embed_sum")?
            } else {
                embedded_patches(config, trace)?
            };
            layer.compare_residual(patches, &position, embedded)
        }
        "embed_proj" => layer.compare_residual(
            i8s(trace, "embed_norm")?,
            &vec![0; config.patches() * config.embed],
            embedded_patches(config, trace)?,
        ),
        "qkv" => {
            let rotary = rotary(subnet);
            // The last block computes only the queries of tokens that the heads read.
            layer.compare_codes(
                i8s(trace, &of_block("norm1"))?,
                i8s(trace, &of_block("qkv"))?,
                (config.needed(number), config.blocks[number].inner()),
                |layer, token, row, acc| {
                    let z =
                        |row: usize| scalar::requant16(acc[row], layer.shift[row], layer.mult[row]);
                    match &rotary {
                        Some(rotary) if row < spec.rows / 3 * 2 => {
                            let even = row / 2 * 2;
                            let angle = rotary.angle(token, row / 2);
                            scalar::rotate(z(even), z(even + 1), angle)[row % 2]
                        }
                        _ => scalar::requant8(acc[row], layer.shift[row], layer.mult[row], 0),
                    }
                },
            )
        }
        "proj" => {
            let before = if number == 0 {
                "embed".into()
            } else {
                format!("blocks.{}.x", number - 1)
            };
            let none = vec![0; config.embed];
            layer.compare_residual(
                i8s(trace, &of_block("attn"))?,
                if config.pools(number) {
                    &none
                } else {
                    i16s(trace, &before)?
                },
                i16s(trace, &of_block("mid"))?,
            )
        }
        "fc1" => {
            let table = subnet.expect(&of_block("gelu")).data();
            let zero_point = config.blocks[number].fc1_zero_point;
            layer.compare_codes(
                i8s(trace, &of_block("norm2"))?,
                i8s(trace, &of_block("act"))?,
                (usize::MAX, 0),
                |layer, _, row, acc| {
                    let code =
                        scalar::requant8(acc[row], layer.shift[row], layer.mult[row], zero_point);
                    table[(i32::from(code) + 128) as usize] as i8
                },
            )
        }
        "fc2" => layer.compare_residual(
            i8s(trace, &of_block("act"))?,
            i16s(trace, &of_block("mid"))?,
            i16s(trace, &of_block("x"))?,
        ),
        _ => layer.compare_head(subnet, trace),
    }
}

/// A layer as an accelerator stores it.
struct Layer<'a> {
    spec: &'a LinearSpec,
    parameters: LinearTensors,
    matrix: PairedMatrix,
    cancel: &'a AtomicBool,
}

impl<'a> Layer<'a> {
    fn new(subnet: &Subnet, spec: &'a LinearSpec, cancel: &'a AtomicBool) -> Result<Self> {
        let parameters = subnet.linear(spec);
        let matrix = PairedMatrix::new(&parameters.codes, spec.rows, spec.k, &parameters.bits)?;
        Ok(Self {
            spec,
            parameters,
            matrix,
            cancel,
        })
    }

    /// Compares `output` with `expect(token, row, accumulators of all rows)`; skips an output where
    /// that is `None`.
    fn compare<T: Copy + PartialEq>(
        &self,
        input: &[i8],
        output: &[T],
        expect: impl Fn(usize, usize, &[i32]) -> Option<T>,
    ) -> Result<LayerCheck> {
        let LinearSpec { name, rows, k, .. } = self.spec;
        // With `token` pooling the last block has fewer outputs than inputs.
        let tokens = output.len() / rows;
        if input.len() < tokens * k || output.len() != tokens * rows || tokens == 0 {
            return Err(mismatch(name));
        }
        let mut check = LayerCheck {
            layer: name.clone(),
            values: 0,
            differing: 0,
        };
        let mut accumulators = vec![0; *rows];
        for (token, (input, output)) in input
            .chunks_exact(*k)
            .zip(output.chunks_exact(*rows))
            .enumerate()
        {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            self.matrix
                .matvec(input, &self.parameters.bias, &mut accumulators);
            for (row, &value) in output.iter().enumerate() {
                if let Some(expected) = expect(token, row, &accumulators) {
                    check.values += 1;
                    check.differing += usize::from(expected != value);
                }
            }
        }
        Ok(check)
    }

    /// Compares a layer that produces codes. `skipped` is a number of tokens, and of rows that are
    /// skipped after these tokens.
    fn compare_codes(
        &self,
        input: &[i8],
        output: &[i8],
        (tokens, unused): (usize, usize),
        requantize: impl Fn(&LinearTensors, usize, usize, &[i32]) -> i8,
    ) -> Result<LayerCheck> {
        self.compare(input, output, |token, row, acc| {
            let used = token < tokens || row >= unused;
            used.then(|| requantize(&self.parameters, token, row, acc))
        })
    }

    /// Compares a head.
    fn compare_head(&self, subnet: &Subnet, trace: &Trace) -> Result<LayerCheck> {
        let (config, spec) = (subnet.config(), self.spec);
        let TraceData::I32(logits) = values(trace, "logits")? else {
            return Err(mismatch("logits"));
        };
        let pooled = i8s(trace, "pooled")?;
        if config.patch_tokens {
            // The outputs of the image are those of a token, or a mean, and are left out.
            let tokens = pooled.get(config.prefix_tokens * config.embed..);
            let outputs = logits.get(spec.rows..);
            return self.compare(
                tokens.unwrap_or_default(),
                outputs.unwrap_or_default(),
                |_, row, acc| Some(scaled(acc[row], self.parameters.mult[row])),
            );
        }
        let heads = config.pool.heads();
        if pooled.len() != heads.len() * config.embed {
            return Err(mismatch("pooled"));
        }
        // The heads' outputs are added: those of the others are taken as plain products.
        let mut own = &pooled[..config.embed];
        let mut others = vec![0; spec.rows];
        for (name, pooled) in heads.iter().zip(pooled.chunks_exact(config.embed)) {
            if *name == spec.name {
                own = pooled;
                continue;
            }
            let head = subnet.linear(&LinearSpec {
                name: (*name).into(),
                ..spec.clone()
            });
            for (row, other) in others.iter_mut().enumerate() {
                let codes = head.codes[row * spec.k..][..spec.k].iter().zip(pooled);
                let products = codes.map(|(&w, &a)| i32::from(w) * i32::from(a));
                *other += scaled(head.bias[row] + products.sum::<i32>(), head.mult[row]);
            }
        }
        self.compare(own, logits, |_, row, acc| {
            Some(scaled(acc[row], self.parameters.mult[row]) + others[row])
        })
    }

    /// Compares a layer that adds to the residual.
    fn compare_residual(&self, input: &[i8], before: &[i16], after: &[i16]) -> Result<LayerCheck> {
        if before.len() < after.len() {
            return Err(mismatch(&self.spec.name));
        }
        let LinearTensors { shift, mult, .. } = &self.parameters;
        self.compare(input, after, |token, row, acc| {
            let update = scalar::requant16(acc[row], shift[row], mult[row]);
            Some(scalar::add_residual(
                before[token * self.spec.rows + row],
                update,
            ))
        })
    }
}

/// Returns the residual stream of the patch tokens before the first block.
fn embedded_patches<'a>(config: &Config, trace: &'a Trace) -> Result<&'a [i16]> {
    let all = i16s(trace, "embed")?;
    Ok(all
        .get(config.prefix_tokens * config.embed..)
        .unwrap_or(&[]))
}

fn mismatch(what: &str) -> Error {
    Error::InvalidValue(format!("the trace does not fit this subnet at {what}"))
}

fn values<'a>(trace: &'a Trace, name: &str) -> Result<&'a TraceData> {
    trace
        .tensor(name)
        .map(|tensor| &tensor.data)
        .ok_or_else(|| mismatch(name))
}

fn i8s<'a>(trace: &'a Trace, name: &str) -> Result<&'a [i8]> {
    match values(trace, name)? {
        TraceData::I8(data) => Ok(data),
        _ => Err(mismatch(name)),
    }
}

fn i16s<'a>(trace: &'a Trace, name: &str) -> Result<&'a [i16]> {
    match values(trace, name)? {
        TraceData::I16(data) => Ok(data),
        _ => Err(mismatch(name)),
    }
}
