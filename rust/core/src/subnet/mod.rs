//! The subnet: configuration and tensors, checked once, when it is made. Reads and writes `.qvit`
//! files.
//!
//! Depends on [`crate::error`], [`crate::memory`], [`crate::rows`] and [`crate::embedding`].
//! `docs/subnet-file.md` describes the file.

pub mod config;
pub mod container;
mod file;
mod json;
pub mod schema;

use std::io::BufReader;
use std::path::Path;

use crate::embedding;
use crate::error::{Error, Result};
use crate::memory;
use crate::rows;
use config::Config;
use container::{Dtype, Tensor, Tensors};
use schema::{LinearSpec, Rule, TensorSpec};

/// A valid subnet. Every constructor checks everything that `docs/subnet-file.md` lists, and the
/// rest of the crate relies on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Subnet {
    config: Config,
    config_json: String,
    tensors: Tensors,
}

/// A linear layer's parameters, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearTensors {
    /// 4 or 8 for each row.
    pub bits: Vec<u8>,
    /// `rows * k` codes, row-major.
    pub codes: Vec<i8>,
    /// One for each row, the input's zero point folded in.
    pub bias: Vec<i32>,
    /// Mantissas M.
    pub mult: Vec<i16>,
    /// Shifts p; empty for the head.
    pub shift: Vec<u8>,
}

/// Sizes and work of one linear layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// The layer's name.
    pub name: String,
    /// Rows R.
    pub rows: usize,
    /// Columns K.
    pub k: usize,
    /// Number of 4-bit rows.
    pub rows4: usize,
    /// Number of 8-bit rows.
    pub rows8: usize,
    /// Packed weight bytes.
    pub bytes: usize,
    /// Multiply-accumulates of a frame that an output depends on.
    pub macs: u64,
}

/// Sizes and work of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Linear layers in the order of a frame's path.
    pub layers: Vec<LayerSummary>,
    /// Trained parameters: weights, one bias a row, norms, position and prefix tables. The rows
    /// that repeat the embedding are none.
    pub parameters: usize,
    /// Packed weight bytes of all layers.
    pub weight_bytes: usize,
    /// Bytes of all tensors.
    pub tensor_bytes: usize,
    /// Multiply-accumulates of a frame as networks are compared: linear layers and attention's two
    /// products, all tokens.
    pub nominal_macs: u64,
    /// Multiply-accumulates of a frame that an output depends on. With `token` pooling the last
    /// block needs queries, projection and MLP for one token only (with `token_pair` for two), and
    /// the executor leaves out the rest.
    pub macs: u64,
}

impl Subnet {
    /// Makes a subnet from a `config` document and tensors `(name, dtype, shape, little-endian
    /// bytes)`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], [`Error::InvalidTensor`], [`Error::AccumulatorOverflow`],
    /// [`Error::TooLarge`].
    pub fn from_parts(
        config_json: &str,
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>, Vec<u8>)>,
    ) -> Result<Self> {
        let mut map = Tensors::new();
        for (name, dtype, shape, data) in tensors {
            let tensor = Tensor::new(&name, dtype, shape, data)?;
            if map.insert(name.clone(), tensor).is_some() {
                return Err(Error::tensor(name, "is given twice"));
            }
        }
        Self::checked(config_json.to_owned(), map)
    }

    /// Reads a subnet file's bytes.
    ///
    /// # Errors
    /// Every variant that `docs/subnet-file.md` names under "What a reader checks".
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let contents = container::parse_bytes(bytes)?;
        contents.verify()?;
        Self::of_contents(contents)
    }

    /// Reads a subnet file's bytes without a check of the digest, which fuzzing could not pass.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn from_bytes_unverified(bytes: &[u8]) -> Result<Self> {
        Self::of_contents(container::parse_bytes(bytes)?)
    }

    /// Returns the subnet file's bytes. The same subnet always gives the same bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        container::serialize(self.config.version(), &self.config_json, &self.tensors)
    }

    /// Reads a subnet file.
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`Self::from_bytes`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        memory::check("a subnet", 0)?;
        let path = path.as_ref();
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        // Checks the opened file, not the path: the path may name another file by now.
        let file = file::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(io(std::io::Error::other(
                "not a regular file; give the path of a .qvit file",
            )));
        }
        let contents = container::parse(BufReader::new(file), metadata.len(), io)?;
        contents.verify()?;
        Self::of_contents(contents)
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the configuration as in the file, byte for byte.
    pub fn config_json(&self) -> &str {
        &self.config_json
    }

    /// Returns the digest (hex) that the file states.
    pub fn sha256(&self) -> String {
        container::digest(&self.config_json, &self.tensors)
    }

    /// Iterates over all tensors by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Returns a tensor by its name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Returns sizes and work, in total and by layer.
    pub fn summary(&self) -> Summary {
        let config = &self.config;
        let mut layers = Vec::new();
        let mut nominal_macs = 0;
        let leading = config.leading();
        let last_block = leading.map(|leading| {
            let last = config.blocks.len() - 1;
            (format!("blocks.{last}."), leading)
        });
        for LinearSpec {
            name,
            rows,
            k,
            tokens,
            ..
        } in schema::linears(config)
        {
            let bits = self.expect(&format!("{name}.bits")).data();
            let rows4 = bits.iter().map(|&b| usize::from(b == 4)).sum();
            let bytes = bits.iter().map(|&b| rows::row_bytes(k, b)).sum();
            let last = last_block
                .as_ref()
                .and_then(|(block, leading)| Some((name.strip_prefix(block)?, leading)));
            // Of the last block, heads that read leading tokens need keys and values of all tokens,
            // and all else of those that they read.
            let needed = match last {
                Some(("qkv", leading)) => (tokens * 2 + leading) * rows / 3,
                Some((_, leading)) => leading * rows,
                None => rows * tokens,
            };
            nominal_macs += (rows * k * tokens) as u64;
            layers.push(LayerSummary {
                name,
                rows,
                k,
                rows4,
                rows8: rows - rows4,
                bytes,
                macs: (needed * k) as u64,
            });
        }
        let n = config.tokens();
        let attention: u64 = config
            .blocks
            .iter()
            .map(|b| (2 * n * n * b.inner()) as u64)
            .sum();
        let skipped = match (leading, config.blocks.last()) {
            (Some(leading), Some(last)) => (2 * (n - leading) * n * last.inner()) as u64,
            _ => 0,
        };
        // `embed_proj` holds nothing but the norm's gains and offsets.
        let (norms, carried) = if config.embed_norm {
            (2, config.embed * (config.embed + 1))
        } else {
            (1, 0)
        };
        let norms = (2 * config.blocks.len() + norms) * 2 * config.embed;
        let heads = config.pool.heads().len();
        let repeated = if config.repeats_inputs() {
            heads * config.embed * (config.embed + 1)
        } else {
            0
        };
        Summary {
            parameters: layers.iter().map(|l| l.rows * (l.k + 1)).sum::<usize>()
                - repeated
                - carried
                + norms
                + n * config.embed,
            weight_bytes: layers.iter().map(|l| l.bytes).sum(),
            tensor_bytes: self.tensors.values().map(|t| t.data().len()).sum(),
            nominal_macs: nominal_macs + attention,
            macs: layers.iter().map(|l| l.macs).sum::<u64>() + attention - skipped,
            layers,
        }
    }

    /// Decodes a linear layer's parameters. `spec` is one of [`schema::linears`].
    ///
    /// # Panics
    /// If `spec` is not one of this subnet's.
    pub fn linear(&self, spec: &LinearSpec) -> LinearTensors {
        let part = |part: &str| self.expect(&format!("{}.{part}", spec.name));
        let bits = part("bits").data().to_vec();
        let codes = rows::unpack_rows(part("weight").data(), spec.rows, spec.k, &bits)
            .expect("packed rows are checked when the subnet is made");
        LinearTensors {
            codes,
            bits,
            bias: part("bias").i32s(),
            mult: part("mult").i16s(),
            shift: if spec.shifted {
                part("shift").data().to_vec()
            } else {
                Vec::new()
            },
        }
    }

    /// Returns a tensor that the configuration calls for.
    ///
    /// # Panics
    /// If the configuration does not call for it.
    pub fn expect(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .expect("the set of tensors is checked when the subnet is made")
    }

    /// Takes what a file holds.
    fn of_contents(mut contents: container::Contents) -> Result<Self> {
        let tensors = std::mem::take(&mut contents.tensors);
        let subnet = Self::checked(contents.config.clone(), tensors)?;
        contents.check_version(subnet.config.version())?;
        Ok(subnet)
    }

    fn checked(config_json: String, tensors: Tensors) -> Result<Self> {
        let config = Config::from_json(&config_json)?;
        // Layers are decoded to be checked, one at a time.
        let largest = tensors.values().map(|tensor| tensor.data().len()).max();
        memory::check("the check of the subnet", 8 * largest.unwrap_or(0))?;
        check_tensors(&config, &tensors)?;
        let subnet = Self {
            config,
            config_json,
            tensors,
        };
        if subnet.config.rotary {
            (0..subnet.config.blocks.len()).try_for_each(|block| subnet.check_pairs(block))?;
        }
        for spec in schema::linears(&subnet.config) {
            subnet.check_linear(&spec)?;
            let heads = subnet.config.pool.heads();
            let head = heads.iter().position(|name| *name == spec.name);
            if let (Some(head), true) = (head, subnet.config.repeats_inputs()) {
                subnet.check_embedding(&spec, head)?;
            }
        }
        Ok(subnet)
    }

    /// Checks the packed weights and the accumulator bound of one layer.
    fn check_linear(&self, spec: &LinearSpec) -> Result<()> {
        let name = format!("{}.weight", spec.name);
        let weight = self.expect(&name);
        let bits = self.expect(&format!("{}.bits", spec.name)).data();
        let bytes: usize = bits.iter().map(|&b| rows::row_bytes(spec.k, b)).sum();
        if weight.shape() != [bytes] {
            let shape = weight.shape();
            return Err(Error::tensor(
                name,
                format!("has shape {shape:?}; the rows' bits need [{bytes}]"),
            ));
        }
        let codes = rows::unpack_rows(weight.data(), spec.rows, spec.k, bits)
            .map_err(|e| Error::tensor(&name, e.to_string()))?;
        let bias = self.expect(&format!("{}.bias", spec.name)).i32s();
        for (row, (codes, bias)) in codes.chunks_exact(spec.k).zip(bias).enumerate() {
            let sum: u64 = codes.iter().map(|c| u64::from(c.unsigned_abs())).sum();
            let bound = 128 * sum + u64::from(bias.unsigned_abs());
            if bound >= 1 << 26 {
                return Err(Error::AccumulatorOverflow {
                    layer: spec.name.clone(),
                    row,
                    bound,
                });
            }
        }
        Ok(())
    }

    /// Checks that both rows of each pair that is rotated have one width.
    fn check_pairs(&self, block: usize) -> Result<()> {
        let name = format!("blocks.{block}.qkv.bits");
        let bits = &self.expect(&name).data()[..2 * self.config.blocks[block].inner()];
        match bits.as_chunks::<2>().0.iter().position(|[a, b]| a != b) {
            Some(pair) => Err(Error::tensor(
                name,
                format!(
                    "rows {} and {} are rotated together and must have one width",
                    2 * pair,
                    2 * pair + 1
                ),
            )),
            None => Ok(()),
        }
    }

    /// Checks that the last rows of a head repeat its D inputs: row `classes + i` is 4-bit, with
    /// the code 1 at column i, 0 elsewhere, and with the bias and the mantissa that
    /// [`embedding::rows`] states for the head of token `token`.
    fn check_embedding(&self, spec: &LinearSpec, token: usize) -> Result<()> {
        let (bias, mult) = embedding::rows(self.config.pool, token);
        let (head, classes) = (self.linear(spec), self.config.classes.len());
        let rows = head.codes.chunks_exact(spec.k).enumerate().skip(classes);
        for (i, (row, codes)) in rows.enumerate() {
            let repeats = |(column, &code): (usize, &i8)| code == i8::from(column == i);
            let (part, problem) = if head.bits[row] != 4 {
                ("bits", "is 8-bit, not 4-bit".into())
            } else if !codes.iter().enumerate().all(repeats) {
                ("weight", format!("is not 1 at column {i} and 0 elsewhere"))
            } else if head.bias[row] != bias {
                ("bias", format!("is {}, not {bias}", head.bias[row]))
            } else if head.mult[row] != mult {
                ("mult", format!("is {}, not {mult}", head.mult[row]))
            } else {
                continue;
            };
            return Err(Error::tensor(
                format!("{}.{part}", spec.name),
                format!("row {row}, which gives value {i} of the embedding, {problem}"),
            ));
        }
        Ok(())
    }
}

/// Checks that the tensors are exactly those of the configuration, each with its dtype, shape and
/// range of values.
fn check_tensors(config: &Config, tensors: &Tensors) -> Result<()> {
    let specs = schema::tensors(config);
    for TensorSpec {
        name,
        dtype,
        shape,
        rule,
    } in &specs
    {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| Error::tensor(name, "is missing"))?;
        if tensor.dtype() != *dtype {
            return Err(Error::tensor(
                name,
                format!(
                    "has dtype {}; {} is expected",
                    tensor.dtype().name(),
                    dtype.name()
                ),
            ));
        }
        if let Some(shape) = shape {
            if tensor.shape() != shape {
                return Err(Error::tensor(
                    name,
                    format!("has shape {:?}; {shape:?} is expected", tensor.shape()),
                ));
            }
        }
        check_values(name, tensor, *rule)?;
    }
    if tensors.len() != specs.len() {
        let known: std::collections::HashSet<_> = specs.iter().map(|s| &s.name).collect();
        let extra = tensors
            .keys()
            .find(|name| !known.contains(name))
            .map_or("", String::as_str);
        return Err(Error::tensor(
            extra,
            "is not part of a subnet with this config",
        ));
    }
    Ok(())
}

fn check_values(name: &str, tensor: &Tensor, rule: Rule) -> Result<()> {
    let (valid, expected): (Box<dyn Fn(i64) -> bool>, String) = match rule {
        Rule::Weight | Rule::Any => return Ok(()),
        Rule::Bits => (Box::new(|v| v == 4 || v == 8), "4 or 8".into()),
        Rule::Range(least, most) => (
            Box::new(move |v| (least..=most).contains(&v)),
            format!("within [{least}, {most}]"),
        ),
        Rule::Mantissa => (
            Box::new(|v| v == 0 || (1 << 14..1 << 15).contains(&v)),
            "0 or within [16384, 32767]".into(),
        ),
    };
    match tensor.values().enumerate().find(|(_, v)| !valid(*v)) {
        Some((at, v)) => Err(Error::tensor(
            name,
            format!("element {at} is {v}; it must be {expected}"),
        )),
        None => Ok(()),
    }
}
