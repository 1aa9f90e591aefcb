//! A score for search without a checkpoint: the capacity of a network, from size and widths of its
//! weights alone.
//!
//! It is deterministic, has a closed form, and rises with every choice of a space (embed, depth,
//! heads, MLP ratio, 8-bit fractions). It is a placeholder with which the search runs, **not** an
//! estimate of accuracy: it was neither fitted to nor checked against trained networks. It is
//! called "proxy score" wherever it appears. `docs/search-core.md` has the formula. Depends on
//! [`crate::space`].

use quasar_core::error::Result;

use crate::additive::{Additive, Choice};
use crate::space::{Architecture, Granularity, Space, MATRICES};

/// The weight of a block relative to the previous one.
const DEPTH_DECAY: f64 = 0.9;
/// The part of a matrix's term that is lost if all its weights have 4 bits.
const FOUR_BIT_LOSS: f64 = 0.3;
/// Weights whose term is 1.
const UNIT: f64 = 65536.0;

/// Returns the diminishing return of a number of weights. Square roots are exact to the last bit on
/// every machine; logarithms are not.
fn capacity(weights: usize) -> f64 {
    (weights as f64 / UNIT).sqrt()
}

/// Returns the remaining part of a matrix's term: the worst rows get 8 bits first, so the loss
/// falls with the square of the 4-bit share.
fn kept(eight_bit: f64) -> f64 {
    1.0 - FOUR_BIT_LOSS * (1.0 - eight_bit) * (1.0 - eight_bit)
}

/// Returns the part that attention's matrices q, k, v and proj keep on average, from their parts.
fn kept_in_attention([q, k, v, proj]: [f64; 4]) -> f64 {
    0.5 * ((q + k + v) / 3.0 + proj)
}

/// Returns the part that fc1 and fc2 keep on average, from their parts.
fn kept_in_mlp([fc1, fc2]: [f64; 2]) -> f64 {
    0.5 * (fc1 + fc2)
}

/// Computes the proxy score of a network.
///
/// ```text
/// sum over blocks i of 0.9^i ( sqrt(4 D I / 2^16) (k(f_q)/3 + k(f_k)/3 + k(f_v)/3 + k(f_proj)) / 2
///                            + sqrt(2 D H / 2^16) (k(f_fc1) + k(f_fc2)) / 2 )
/// k(f) = 1 - 0.3 (1 - f)^2
/// ```
///
/// with D the embedding size, I = heads * head dimension, H the rows of fc1, f the fractions of
/// 8-bit rows.
pub fn proxy_score(architecture: &Architecture) -> f64 {
    let mut weight = 1.0;
    let mut sum = 0.0;
    for block in &architecture.blocks {
        let [q, k, v, proj, fc1, fc2] = block.eight_bit.map(kept);
        let embed = architecture.embed;
        let attention = capacity(4 * embed * block.heads * block.head_dim);
        let mlp = capacity(2 * embed * block.hidden);
        sum += weight
            * (attention * kept_in_attention([q, k, v, proj]) + mlp * kept_in_mlp([fc1, fc2]));
        weight *= DEPTH_DECAY;
    }
    sum
}

/// [`proxy_score`] of a space's genomes from tables: the same bits, without decoding.
#[derive(Clone, Debug)]
pub struct ProxyTable {
    depth: Vec<usize>,
    /// [embed, heads].
    attention: Vec<f64>,
    heads: usize,
    /// [embed, MLP ratio].
    mlp: Vec<f64>,
    ratios: usize,
    /// The part that a matrix keeps: [fraction].
    kept: Vec<f64>,
    granularity: Granularity,
    /// For each block.
    weights: Vec<f64>,
}

impl ProxyTable {
    /// Makes the tables of a space.
    pub fn new(space: &Space) -> Self {
        let choices = &space.choices;
        let mut attention = Vec::new();
        let mut mlp = Vec::new();
        for &embed in &choices.embed {
            for &heads in &choices.heads {
                attention.push(capacity(4 * embed * heads * space.head_dim));
            }
            for ratio in 0..choices.mlp_ratio.len() {
                mlp.push(capacity(2 * embed * space.hidden(embed, ratio)));
            }
        }
        let weights = std::iter::successors(Some(1.0), |weight| Some(weight * DEPTH_DECAY))
            .take(space.max_depth())
            .collect();
        Self {
            depth: choices.depth.clone(),
            attention,
            heads: choices.heads.len(),
            mlp,
            ratios: choices.mlp_ratio.len(),
            kept: choices.eight_bit.iter().map(|&f| kept(f)).collect(),
            granularity: space.eight_bit_per,
            weights,
        }
    }

    /// Computes the proxy score of a valid genome.
    pub fn score(&self, genome: &[u8]) -> f64 {
        let embed = genome[0] as usize;
        let depth = self.depth[genome[1] as usize];
        let genes = match self.granularity {
            Granularity::Block => 3,
            Granularity::Matrix => 2 + MATRICES.len(),
        };
        let mut sum = 0.0;
        for (block, weight) in genome[2..].chunks_exact(genes).zip(&self.weights[..depth]) {
            sum += weight * self.block(embed, block);
        }
        sum
    }

    /// Returns the score of a block's genes in a first block.
    fn block(&self, embed: usize, genes: &[u8]) -> f64 {
        let attention = self.attention[embed * self.heads + genes[0] as usize];
        let mlp = self.mlp[embed * self.ratios + genes[1] as usize];
        let kept = |gene: usize| self.kept[genes[gene] as usize];
        let fractions = if genes.len() == 3 {
            [kept(2); MATRICES.len()]
        } else {
            std::array::from_fn(|m| kept(2 + m))
        };
        let [q, k, v, proj, fc1, fc2] = fractions;
        attention * kept_in_attention([q, k, v, proj]) + mlp * kept_in_mlp([fc1, fc2])
    }

    /// Computes [`Self::score`] of any genome.
    ///
    /// # Errors
    /// [`crate::Error::InvalidValue`] for a genome that is not of this space.
    pub fn score_checked(&self, space: &Space, genome: &[u8]) -> Result<f64> {
        space.check_genome(genome)?;
        Ok(self.score(genome))
    }
}

impl Additive for ProxyTable {
    fn ends(&self, _embed: usize, _depth: usize) -> f64 {
        0.0
    }

    fn shares(&self, embed: usize, block: usize, part: usize, choices: &[Choice]) -> Vec<f64> {
        let attention = &self.attention[embed * self.heads..][..self.heads];
        let mlp = &self.mlp[embed * self.ratios..][..self.ratios];
        let kept = |gene: u8| self.kept[gene as usize];
        let value = |choice: &Choice| match (self.granularity, part, choice.genes.as_slice()) {
            (Granularity::Block, _, &[heads, ratio, fraction]) => {
                let each = kept(fraction);
                attention[heads as usize] * kept_in_attention([each; 4])
                    + mlp[ratio as usize] * kept_in_mlp([each; 2])
            }
            (Granularity::Matrix, 0, &[heads, q, k, v, proj]) => {
                attention[heads as usize] * kept_in_attention([q, k, v, proj].map(kept))
            }
            (Granularity::Matrix, _, &[ratio, fc1, fc2]) => {
                mlp[ratio as usize] * kept_in_mlp([fc1, fc2].map(kept))
            }
            (_, _, genes) => unreachable!("a part of {} genes", genes.len()),
        };
        (choices.iter())
            .map(|choice| self.weights[block] * value(choice))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(name: &str) -> Space {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt/spaces");
        Space::from_toml(&std::fs::read_to_string(format!("{folder}/{name}.toml")).unwrap())
            .unwrap()
    }

    #[test]
    fn tables_give_the_formula_to_the_last_bit() {
        for name in ["tiny", "digits"] {
            let space = space(name);
            let table = ProxyTable::new(&space);
            for step in 0..500 {
                let genome = space.sample(1, &[step]);
                let expected = proxy_score(&space.decode(&genome).unwrap());
                assert_eq!(table.score(&genome), expected);
                assert_eq!(table.score_checked(&space, &genome).unwrap(), expected);
            }
            assert!(table.score_checked(&space, &[0]).is_err());
        }
    }

    #[test]
    fn every_larger_choice_scores_higher() {
        for name in ["tiny", "digits", "base"] {
            let space = space(name);
            let table = ProxyTable::new(&space);
            for step in 0..100 {
                let genome = space.sample(2, &[step]);
                let used = 2 + space.choices.depth[genome[1] as usize] * space.block_genes();
                for gene in 0..used {
                    let mut larger = genome.clone();
                    larger[gene] += 1;
                    if (larger[gene] as usize) < space.choices_of(gene) {
                        assert!(
                            table.score(&larger) > table.score(&genome),
                            "{} of {genome:?}",
                            space.gene_name(gene)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn one_value_by_hand() {
        let space = space("tiny");
        let architecture = space.decode(&space.smallest()).unwrap();
        let block =
            f64::sqrt(4.0 * 192.0 * 192.0 / 65536.0) + f64::sqrt(2.0 * 192.0 * 672.0 / 65536.0);
        let blocks = (1.0 - 0.9f64.powi(12)) / (1.0 - 0.9);
        assert!((proxy_score(&architecture) - 0.7 * block * blocks).abs() < 1e-9);
    }
}
