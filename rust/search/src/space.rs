//! The family of networks of a supernet, from which a search chooses, and the genomes that name its
//! members.
//!
//! A genome is one choice index for each gene: embed, depth, then for each of the deepest network's
//! blocks heads, MLP ratio and the 8-bit fraction (one for the block, or one for each of its
//! [`MATRICES`]). Depth d means the first d blocks; in a canonical genome the genes of all further
//! blocks are 0. Spaces of this kind: Quasar-ViT (arXiv 2407.18175), `AutoFormer` (Chen et al.
//! 2021).
//!
//! Depends on [`quasar_hardware::settings`] and the limits of [`quasar_core::subnet::config`].

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::{
    within, Image, Patch, MAX_CLASSES, MAX_COLUMNS, MAX_DEPTH, MAX_EMBED, MAX_HEADS, MAX_HEAD_DIM,
    MAX_NAME, MAX_TOKENS,
};
use quasar_hardware::settings;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::random::{self, GOLDEN};

/// The matrices of a block whose 8-bit fractions are chosen, in the order of a frame's path. The
/// rows of queries, keys and values, one matrix in a file (qkv), are counted apart: the array
/// multiplies them one after the other.
pub const MATRICES: [&str; 6] = ["q", "k", "v", "proj", "fc1", "fc2"];
/// Choices of a gene, at most.
pub const MAX_CHOICES: usize = 64;

/// A search space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// Classes, one for each of the head's first rows.
    pub classes: usize,
    /// True if the networks also give the image's embedding; absent in the file otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embedding: bool,
    /// Size of each attention head.
    pub head_dim: usize,
    /// The scope of an 8-bit fraction.
    pub eight_bit_per: Granularity,
    /// The image that the networks see.
    pub image: Image,
    /// Geometry of the patches.
    pub patch: Patch,
    /// The choices of each gene.
    pub choices: Choices,
}

/// The scope of an 8-bit fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// All matrices of a block.
    Block,
    /// Each of [`MATRICES`].
    Matrix,
}

/// The choices of each gene, ascending.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choices {
    /// Embedding sizes, one for a network.
    pub embed: Vec<usize>,
    /// Numbers of blocks, one for a network.
    pub depth: Vec<usize>,
    /// Attention heads, for each block.
    pub heads: Vec<usize>,
    /// Rows of fc1 over embed, for each block; the product is whole.
    pub mlp_ratio: Vec<f64>,
    /// Fractions of 8-bit rows, for each block or matrix.
    pub eight_bit: Vec<f64>,
}

/// One network of a space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Embedding size.
    pub embed: usize,
    /// The blocks, in order.
    pub blocks: Vec<BlockShape>,
}

/// One block of an [`Architecture`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockShape {
    /// Attention heads.
    pub heads: usize,
    /// Size of each head.
    pub head_dim: usize,
    /// Rows of fc1.
    pub hidden: usize,
    /// Fraction of 8-bit rows of each of [`MATRICES`].
    pub eight_bit: [f64; MATRICES.len()],
}

impl BlockShape {
    /// Returns the rows of each of [`MATRICES`] in a network of this embedding size.
    pub fn rows(&self, embed: usize) -> [usize; MATRICES.len()] {
        let inner = self.heads * self.head_dim;
        [inner, inner, inner, embed, self.hidden, embed]
    }

    /// Returns the 8-bit rows of each of [`MATRICES`].
    pub fn eight_bit_rows(&self, embed: usize) -> [usize; MATRICES.len()] {
        let rows = self.rows(embed);
        std::array::from_fn(|m| eight_bit_rows(rows[m], self.eight_bit[m]))
    }
}

/// Returns the 8-bit rows among `rows`: the number nearest to `fraction * rows` that leaves an even
/// number of 4-bit rows, so that no row pair of the array is half empty. Of two equally near
/// numbers the larger counts. The result never falls as the fraction rises.
pub fn eight_bit_rows(rows: usize, fraction: f64) -> usize {
    let four_bit = rows as f64 * (1.0 - fraction.clamp(0.0, 1.0));
    let pairs = (four_bit / 2.0 - 0.5).ceil().max(0.0) as usize;
    rows - 2 * pairs.min(rows / 2)
}

/// One position of a genome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gene {
    /// Embedding size.
    Embed,
    /// Number of blocks.
    Depth,
    /// Heads of a block.
    Heads(usize),
    /// MLP ratio of a block.
    MlpRatio(usize),
    /// 8-bit fraction of a block's matrix (always 0 where one fraction counts for the block).
    EightBit(usize, usize),
}

impl Space {
    /// Parses and checks a space.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] names the key; [`Error::TooLarge`] beyond 1 MiB.
    pub fn from_toml(text: &str) -> Result<Self> {
        let space: Self = settings::parse("space", text)?;
        space.check()?;
        Ok(space)
    }

    /// Writes the space as TOML, for [`Self::from_toml`].
    ///
    /// # Panics
    /// Never: every value of a space has a TOML form.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers, strings and lists")
    }

    /// Writes the space as JSON, with the TOML file's keys.
    ///
    /// # Panics
    /// Never: every value of a space has a JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and lists")
    }

    /// Returns the SHA-256 (hex) of [`Self::to_toml`].
    pub fn sha256(&self) -> String {
        format!("{:x}", Sha256::digest(self.to_toml()))
    }

    fn document(&self) -> String {
        format!("space {:?}", self.name)
    }

    fn check(&self) -> Result<()> {
        let document = self.document();
        self.check_shapes()
            .map_err(|e| settings::of_config(&document, e))
    }

    fn check_shapes(&self) -> Result<()> {
        let Choices {
            embed,
            depth,
            heads,
            mlp_ratio,
            eight_bit,
        } = &self.choices;
        within(
            "name (its length)",
            self.name.chars().count(),
            1,
            MAX_NAME.min(100),
        )?;
        if self.name.chars().any(char::is_control) {
            return Err(Error::config("name", "has control characters"));
        }
        self.image.check()?;
        self.patch.check(self.image)?;
        within(
            "tokens (from image and patch)",
            self.tokens(),
            1,
            MAX_TOKENS,
        )?;
        let most = MAX_CLASSES - if self.embedding { MAX_EMBED } else { 0 };
        within("classes", self.classes, 1, most)?;
        within("head_dim", self.head_dim, 1, MAX_HEAD_DIM)?;
        ascending("choices.embed", embed, 1, MAX_EMBED)?;
        ascending("choices.depth", depth, 1, MAX_DEPTH)?;
        ascending(
            "choices.heads",
            heads,
            1,
            MAX_HEADS.min(MAX_COLUMNS / self.head_dim),
        )?;
        ascending("choices.mlp_ratio", mlp_ratio, 1e-3, MAX_COLUMNS as f64)?;
        ascending("choices.eight_bit", eight_bit, 0.0, 1.0)?;
        for &ratio in mlp_ratio {
            for &embed in embed {
                let hidden = ratio * embed as f64;
                if (hidden - hidden.round()).abs() > 1e-6 {
                    return Err(Error::config(
                        "choices.mlp_ratio",
                        format!("{ratio} * {embed} is {hidden}, not a whole number of rows"),
                    ));
                }
                within(
                    "choices.mlp_ratio: mlp_ratio * embed",
                    hidden.round() as usize,
                    1,
                    MAX_COLUMNS,
                )?;
            }
        }
        Ok(())
    }

    /// Returns the patches of an image.
    pub fn patches(&self) -> usize {
        let (rows, columns) = self.patch.grid(self.image);
        rows * columns
    }

    /// Returns the number of tokens: the class token and the patches.
    pub fn tokens(&self) -> usize {
        1 + self.patches()
    }

    /// Returns the values of a patch: channels * kernel^2.
    pub fn patch_len(&self) -> usize {
        self.patch.len(self.image)
    }

    /// Returns the blocks of the deepest network.
    pub fn max_depth(&self) -> usize {
        self.choices.depth.last().copied().unwrap_or(0)
    }

    /// Returns the number of 8-bit genes of a block.
    pub fn fractions(&self) -> usize {
        match self.eight_bit_per {
            Granularity::Block => 1,
            Granularity::Matrix => MATRICES.len(),
        }
    }

    /// Returns the number of genes of a block.
    pub fn block_genes(&self) -> usize {
        2 + self.fractions()
    }

    /// Returns the number of genes of a genome.
    pub fn genes(&self) -> usize {
        2 + self.max_depth() * self.block_genes()
    }

    /// Returns the meaning of the gene at a position.
    pub fn gene(&self, position: usize) -> Gene {
        match position {
            0 => Gene::Embed,
            1 => Gene::Depth,
            _ => {
                let (block, part) = (
                    (position - 2) / self.block_genes(),
                    (position - 2) % self.block_genes(),
                );
                match part {
                    0 => Gene::Heads(block),
                    1 => Gene::MlpRatio(block),
                    _ => Gene::EightBit(block, part - 2),
                }
            }
        }
    }

    /// Returns the gene's name (`blocks.0.eight_bit.q`).
    pub fn gene_name(&self, position: usize) -> String {
        match self.gene(position) {
            Gene::Embed => "embed".into(),
            Gene::Depth => "depth".into(),
            Gene::Heads(block) => format!("blocks.{block}.heads"),
            Gene::MlpRatio(block) => format!("blocks.{block}.mlp_ratio"),
            Gene::EightBit(block, matrix) => match self.eight_bit_per {
                Granularity::Block => format!("blocks.{block}.eight_bit"),
                Granularity::Matrix => format!("blocks.{block}.eight_bit.{}", MATRICES[matrix]),
            },
        }
    }

    /// Returns the number of choices of the gene at a position, 1 to [`MAX_CHOICES`].
    pub fn choices_of(&self, position: usize) -> usize {
        match self.gene(position) {
            Gene::Embed => self.choices.embed.len(),
            Gene::Depth => self.choices.depth.len(),
            Gene::Heads(_) => self.choices.heads.len(),
            Gene::MlpRatio(_) => self.choices.mlp_ratio.len(),
            Gene::EightBit(..) => self.choices.eight_bit.len(),
        }
    }

    /// Returns the number of different networks, as a float (it can exceed any integer type).
    pub fn size(&self) -> f64 {
        let block = (self.choices.heads.len() * self.choices.mlp_ratio.len()) as f64
            * (self.choices.eight_bit.len() as f64).powi(self.fractions() as i32);
        let deep: f64 = self
            .choices
            .depth
            .iter()
            .map(|&depth| block.powi(depth as i32))
            .sum();
        self.choices.embed.len() as f64 * deep
    }

    /// Refuses a genome that has the wrong length or an index beyond its gene's choices.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] names the gene.
    pub fn check_genome(&self, genome: &[u8]) -> Result<()> {
        if genome.len() != self.genes() {
            return Err(Error::InvalidValue(format!(
                "a genome of {} has {} genes, not {}",
                self.document(),
                self.genes(),
                genome.len()
            )));
        }
        for (position, &index) in genome.iter().enumerate() {
            if index as usize >= self.choices_of(position) {
                return Err(Error::InvalidValue(format!(
                    "gene {} is choice {index}; {} has {} choices for it",
                    self.gene_name(position),
                    self.document(),
                    self.choices_of(position)
                )));
            }
        }
        Ok(())
    }

    /// Sets the genes of unused blocks to 0. The genome must be valid.
    pub fn canonicalize(&self, genome: &mut [u8]) {
        let used = 2 + self.choices.depth[genome[1] as usize] * self.block_genes();
        genome[used..].fill(0);
    }

    /// Returns the network of a genome.
    ///
    /// # Errors
    /// As [`Self::check_genome`].
    pub fn decode(&self, genome: &[u8]) -> Result<Architecture> {
        self.check_genome(genome)?;
        let embed = self.choices.embed[genome[0] as usize];
        let depth = self.choices.depth[genome[1] as usize];
        let blocks = genome[2..]
            .chunks_exact(self.block_genes())
            .take(depth)
            .map(|genes| BlockShape {
                heads: self.choices.heads[genes[0] as usize],
                head_dim: self.head_dim,
                hidden: self.hidden(embed, genes[1] as usize),
                eight_bit: std::array::from_fn(|m| {
                    self.choices.eight_bit[genes[2 + m.min(self.fractions() - 1)] as usize]
                }),
            })
            .collect();
        Ok(Architecture { embed, blocks })
    }

    /// Returns the rows of fc1 for an embedding size and the index of an MLP ratio.
    pub fn hidden(&self, embed: usize, mlp_ratio: usize) -> usize {
        (self.choices.mlp_ratio[mlp_ratio] * embed as f64).round() as usize
    }

    /// Returns the canonical genome of a network. Fractions are choices of the file, so they are
    /// compared exactly.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] names the size that is not a choice of this space.
    #[allow(clippy::float_cmp)]
    pub fn encode(&self, architecture: &Architecture) -> Result<Vec<u8>> {
        let refuse = |what: String| {
            Error::InvalidValue(format!(
                "{what} is not a choice of {}; its file lists them",
                self.document()
            ))
        };
        let embed = position(&self.choices.embed, &architecture.embed)
            .ok_or_else(|| refuse(format!("embed = {}", architecture.embed)))?;
        let depth = position(&self.choices.depth, &architecture.blocks.len())
            .ok_or_else(|| refuse(format!("a depth of {}", architecture.blocks.len())))?;
        let mut genome = vec![embed, depth];
        for (i, block) in architecture.blocks.iter().enumerate() {
            let at = |key: &str, value: String| refuse(format!("blocks.{i}.{key} = {value}"));
            if block.head_dim != self.head_dim {
                return Err(at("head_dim", block.head_dim.to_string()));
            }
            genome.push(
                position(&self.choices.heads, &block.heads)
                    .ok_or_else(|| at("heads", block.heads.to_string()))?,
            );
            genome.push(
                (0..self.choices.mlp_ratio.len())
                    .find(|&ratio| self.hidden(architecture.embed, ratio) == block.hidden)
                    .ok_or_else(|| at("hidden", block.hidden.to_string()))? as u8,
            );
            if self.eight_bit_per == Granularity::Block
                && block.eight_bit.windows(2).any(|pair| pair[0] != pair[1])
            {
                return Err(at("eight_bit", format!("{:?}", block.eight_bit)));
            }
            for &fraction in &block.eight_bit[..self.fractions()] {
                genome.push(
                    position(&self.choices.eight_bit, &fraction)
                        .ok_or_else(|| at("eight_bit", fraction.to_string()))?,
                );
            }
        }
        genome.resize(self.genes(), 0);
        Ok(genome)
    }

    /// Returns the genome with the last choice everywhere.
    pub fn largest(&self) -> Vec<u8> {
        (0..self.genes())
            .map(|position| (self.choices_of(position) - 1) as u8)
            .collect()
    }

    /// Returns the genome with the first choice everywhere.
    pub fn smallest(&self) -> Vec<u8> {
        vec![0; self.genes()]
    }

    /// Samples a canonical genome evenly. The result is a pure function of the arguments: the same
    /// on every machine and process.
    pub fn sample(&self, seed: u64, stream: &[u64]) -> Vec<u8> {
        let key = stream
            .iter()
            .fold(mix(seed), |key, &part| mix(key ^ mix(part)));
        let mut genome: Vec<u8> = (0..self.genes())
            .map(|position| {
                let random = mix(key.wrapping_add(GOLDEN.wrapping_mul(position as u64 + 1)));
                ((u128::from(random) * self.choices_of(position) as u128) >> 64) as u8
            })
            .collect();
        self.canonicalize(&mut genome);
        genome
    }
}

/// Returns the first output of `SplitMix64` from this state.
fn mix(state: u64) -> u64 {
    random::mix(state.wrapping_add(GOLDEN))
}

fn position<T: PartialEq>(choices: &[T], value: &T) -> Option<u8> {
    choices.iter().position(|c| c == value).map(|i| i as u8)
}

fn ascending<T: PartialOrd + Copy + std::fmt::Display>(
    key: &str,
    choices: &[T],
    least: T,
    most: T,
) -> Result<()> {
    within(
        &format!("{key} (number of choices)"),
        choices.len(),
        1,
        MAX_CHOICES,
    )?;
    for &choice in choices {
        // Written so that NaN is refused.
        if !(choice >= least && choice <= most) {
            return Err(Error::config(
                key,
                format!("{choice} is outside [{least}, {most}]"),
            ));
        }
    }
    match choices.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(Error::config(
            key,
            format!("{} stands before {}: choices must ascend", pair[0], pair[1]),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shipped() -> Vec<Space> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt/spaces");
        let mut spaces: Vec<Space> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .map(|text| Space::from_toml(&text).unwrap())
            .collect();
        spaces.sort_by(|a, b| a.name.cmp(&b.name));
        spaces
    }

    fn space(name: &str) -> Space {
        shipped().into_iter().find(|s| s.name == name).unwrap()
    }

    #[test]
    fn eight_bit_rows_leave_no_half_empty_pair() {
        for rows in 0..200 {
            assert_eq!(eight_bit_rows(rows, 1.0), rows);
            assert_eq!(eight_bit_rows(rows, 0.0), rows % 2);
            let mut last = 0;
            for step in 0..=100 {
                let fraction = f64::from(step) / 100.0;
                let eight = eight_bit_rows(rows, fraction);
                assert!(eight <= rows && (rows - eight).is_multiple_of(2) && eight >= last);
                assert!((eight as f64 - fraction * rows as f64).abs() <= 1.0 + 1e-9);
                last = eight;
            }
        }
        assert_eq!(eight_bit_rows(192, 0.25), 48);
        assert_eq!(
            eight_bit_rows(6, 0.5),
            4,
            "of two equally near numbers the larger"
        );
    }

    #[test]
    fn bad_spaces_name_the_key() {
        let good = space("digits").to_toml();
        // Old text -> new text: part of the message.
        let changes = r#"
            name =  -> nome = : unknown field `nome`
            "digits" -> "": name (its length): 0 is outside
            "digits" -> "\u001b[2J": name: has control characters
            height = 8 -> height = 4096: tokens (from image and patch)
            depth = [1, 2, 3] -> depth = [3, 65]: choices.depth: 65 is outside
            [1.0, 2.0] -> [1.0, 1000.0]: mlp_ratio * embed
            classes = 10 -> classes = 0: classes: 0 is outside
            classes = 10 -> classes = -1: invalid value: integer `-1`
            classes = 10 -> embedding = 1\nclasses = 10: invalid type: integer `1`
            classes = 10 -> embedding = true\nclasses = 32000: classes: 32000 is outside [1, 31744]
            [16, 24, 32] -> []: choices.embed (number of choices): 0
            [16, 24, 32] -> [24, 16]: 24 stands before 16
            [16, 24, 32] -> [16, 16]: 16 stands before 16
            [16, 24, 32] -> [5000]: choices.embed: 5000 is outside
            [0.0, 0.5, 1.0] -> [0.0, nan]: choices.eight_bit: NaN is outside
            [0.0, 0.5, 1.0] -> [0.0, 1.5]: choices.eight_bit: 1.5 is outside
            [1.0, 2.0] -> [1.3]: not a whole number of rows
            [1.0, 2.0] -> [inf]: choices.mlp_ratio: inf is outside
            kernel = 2 -> kernel = 99: patch.kernel
            "matrix" -> "row": unknown variant `row`
            depth = [1, 2, 3] -> : missing field `depth`
        "#;
        for change in changes.trim().lines().map(str::trim) {
            let (old, rest) = change.split_once(" -> ").unwrap();
            let (new, part) = rest.split_once(": ").unwrap();
            let bad = good.replacen(old, &new.replace("\\n", "\n"), 1);
            assert_ne!(bad, good, "{old}");
            let message = Space::from_toml(&bad).unwrap_err().to_string();
            assert!(message.contains(part), "{new}: {message}");
        }
        assert!(Space::from_toml(&"#".repeat(settings::MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn samples_are_even_and_a_function_of_their_key() {
        let space = space("digits");
        let mut counts = vec![[0usize; 3]; 2];
        for step in 0..3000 {
            let genome = space.sample(7, &[step, 1]);
            assert_eq!(genome, space.sample(7, &[step, 1]));
            counts[0][genome[0] as usize] += 1;
            counts[1][genome[1] as usize] += 1;
        }
        assert!(
            counts.iter().flatten().all(|n| (880..1120).contains(n)),
            "{counts:?}"
        );
        assert_ne!(space.sample(7, &[0, 1]), space.sample(7, &[1, 0]));
        // Recorded values, so that a change of the generator (and of every training run) is
        // noticed.
        assert_eq!(space.sample(0, &[0, 0]), SAMPLE);
    }

    const SAMPLE: [u8; 26] = [
        2, 1, 1, 1, 0, 2, 0, 1, 1, 1, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    proptest! {

        #[test]
        fn any_bytes_are_refused_or_read(text in "\\PC{0,200}", genome in proptest::collection::vec(any::<u8>(), 0..30)) {
            let _ = Space::from_toml(&text);
            let _ = space("digits").decode(&genome);
        }
    }
}
