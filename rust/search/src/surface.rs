//! A smooth model of scores as a function of genes, for searches whose scores are expensive: ridge
//! regression on products of polynomials (a response surface; Box and Wilson 1951).
//!
//! Choices of a gene are ordered, and blocks are alike. So a gene's effect is a polynomial of its
//! choice and of the block's position, and effects of two genes of a part multiply. One sample
//! informs about all blocks and all choices. The model adds up over parts, so its
//! exact front is known ([`crate::additive`]).
//!
//! The ridge is a normal prior of the weights, narrower for those of a higher degree. Its strength,
//! and how fast the scales fall with the degree, are those that make the samples likeliest (the
//! evidence). From the same formula follow the noise of the scores and the uncertainty of each
//! weight ([`Fit::draw`]). Depends on [`crate::genome`], [`crate::random`].

use std::sync::Arc;

use crate::additive::{Additive, Choice};
use crate::genome::Genotype;
use crate::random::SplitMix64;

/// Strengths of the ridge, in units of one sample.
const RIDGES: [f64; 8] = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];
/// Scales of a weight relative to one of a degree less: smooth effects are more likely.
const DECAYS: [f64; 3] = [0.5, 0.25, 0.125];
/// Features, at most: the total degree of the products is lowered until there are no more.
const MAX_FEATURES: usize = 400;
/// Total degree of a product, at most.
const DEGREE: usize = 4;
/// Degrees in a gene, in embed, and in the position, at most.
const GENE_DEGREE: usize = 2;
const EMBED_DEGREE: usize = 2;
const POSITION_DEGREE: usize = 3;
/// The scale of the effect of one choice of embed and depth.
const ENDS_SCALE: f64 = 2.0;
/// The spread of drawn surfaces, in units of that of the possible ones. From noisy scores, 2 found
/// better networks than 1, 1.4 or 3.
const WIDTH: f64 = 2.0;
/// The least part of the scores' variance that counts as noise: rounding leaves less than that.
const LEAST_NOISE: f64 = 1e-12;

/// A product of polynomials in at most two genes of a part.
#[derive(Clone, Debug)]
struct Monomial {
    part: usize,
    /// Places in the part, and degrees.
    genes: Vec<(usize, usize)>,
}

/// A feature: a monomial, summed over the blocks with a polynomial of their positions, times a
/// polynomial of embed.
#[derive(Clone, Debug)]
struct Term {
    monomial: usize,
    embed: usize,
    position: usize,
    /// The sum of all degrees.
    degree: usize,
}

#[derive(Debug)]
struct Features {
    genotype: Genotype,
    embed: Vec<Vec<f64>>,
    position: Vec<Vec<f64>>,
    /// By part and place in it: polynomials of the gene's choice.
    genes: Vec<Vec<Vec<Vec<f64>>>>,
    monomials: Vec<Monomial>,
    terms: Vec<Term>,
    depths: usize,
}

impl Features {
    fn new(genotype: &Genotype) -> Self {
        let choices = genotype.choices();
        let genes: Vec<Vec<Vec<Vec<f64>>>> = (genotype.parts().iter())
            .map(|part| {
                let polynomials =
                    |&gene: &usize| polynomials(choices[2 + gene].into(), GENE_DEGREE);
                part.iter().map(polynomials).collect()
            })
            .collect();
        let mut features = Self {
            genotype: genotype.clone(),
            embed: polynomials(choices[0].into(), EMBED_DEGREE),
            position: polynomials(genotype.blocks(), POSITION_DEGREE),
            genes,
            monomials: Vec::new(),
            terms: Vec::new(),
            depths: choices[1].into(),
        };
        for degree in (1..=DEGREE).rev() {
            features.list(degree);
            if features.len() <= MAX_FEATURES {
                break;
            }
        }
        features
    }

    /// Lists the products of a total degree.
    fn list(&mut self, degree: usize) {
        self.terms.clear();
        // A block, whatever its genes.
        self.monomials = vec![Monomial {
            part: 0,
            genes: Vec::new(),
        }];
        for (part, genes) in self.genes.iter().enumerate() {
            for (i, first) in genes.iter().enumerate() {
                for a in 1..first.len() {
                    self.monomials.push(Monomial {
                        part,
                        genes: vec![(i, a)],
                    });
                    for (j, second) in genes.iter().enumerate().skip(i + 1) {
                        self.monomials.extend((1..second.len()).map(|b| Monomial {
                            part,
                            genes: vec![(i, a), (j, b)],
                        }));
                    }
                }
            }
        }
        for (number, monomial) in self.monomials.iter().enumerate() {
            let own: usize = monomial.genes.iter().map(|gene| gene.1).sum();
            for embed in 0..self.embed.len() {
                for position in 0..self.position.len() {
                    let total = own + embed + position;
                    if total <= degree {
                        self.terms.push(Term {
                            monomial: number,
                            embed,
                            position,
                            degree: total,
                        });
                    }
                }
            }
        }
    }

    fn ends(&self) -> usize {
        self.embed[0].len() * self.depths
    }

    fn len(&self) -> usize {
        self.ends() + self.terms.len()
    }

    /// Returns the prior scales of the weights.
    fn scales(&self, decay: f64) -> Vec<f64> {
        let powers: Vec<f64> = (0..=DEGREE).map(|n| decay.powi(n as i32)).collect();
        let terms = self.terms.iter().map(|term| powers[term.degree]);
        std::iter::repeat_n(1.0, self.ends()).chain(terms).collect()
    }

    /// Returns the value of a monomial for the genes of a part.
    fn monomial(&self, monomial: &Monomial, genes: impl Fn(usize) -> u8) -> f64 {
        let value = |&(place, degree): &(usize, usize)| {
            self.genes[monomial.part][place][degree][genes(place) as usize]
        };
        monomial.genes.iter().map(value).product()
    }

    /// Writes a genome's features.
    fn of(&self, genome: &[u8], values: &mut Vec<f64>) {
        values.clear();
        values.resize(self.ends(), 0.0);
        values[genome[0] as usize * self.depths + genome[1] as usize] = ENDS_SCALE;
        let (block, used) = (self.genotype.block_genes(), self.genotype.used(genome));
        let positions = self.position.len();
        let mut sums = vec![0.0; self.monomials.len() * positions];
        for (at, genes) in genome[2..used].chunks_exact(block).enumerate() {
            for (number, monomial) in self.monomials.iter().enumerate() {
                let part = &self.genotype.parts()[monomial.part];
                let value = self.monomial(monomial, |place| genes[part[place]]);
                for (position, polynomial) in self.position.iter().enumerate() {
                    sums[number * positions + position] += value * polynomial[at];
                }
            }
        }
        values.extend(self.terms.iter().map(|term| {
            self.embed[term.embed][genome[0] as usize]
                * sums[term.monomial * positions + term.position]
        }));
    }
}

/// Returns orthogonal polynomials of degrees 0, 1, ... over `n` even steps, each with a mean square
/// of 1, by degree and step.
fn polynomials(n: usize, degree: usize) -> Vec<Vec<f64>> {
    let x = |i: usize| {
        if n > 1 {
            2.0 * i as f64 / (n - 1) as f64 - 1.0
        } else {
            0.0
        }
    };
    let mut found = vec![vec![1.0; n]];
    for degree in 1..=degree.min(n.saturating_sub(1)) {
        let mut next: Vec<f64> = (0..n).map(|i| x(i).powi(degree as i32)).collect();
        for other in &found {
            let product: f64 = next.iter().zip(other).map(|(a, b)| a * b).sum::<f64>() / n as f64;
            for (value, other) in next.iter_mut().zip(other) {
                *value -= product * other;
            }
        }
        let square: f64 = next.iter().map(|value| value * value).sum::<f64>() / n as f64;
        let scale = 1.0 / square.sqrt();
        found.push(next.into_iter().map(|value| value * scale).collect());
    }
    found
}

/// Returns the binary logarithm of a positive normal number, by operations that have the same bits
/// on every machine (the standard library's logarithm need not).
fn log2(x: f64) -> f64 {
    const FRACTION: u64 = (1 << 52) - 1;
    let exponent = (x.to_bits() >> 52) as i64 - 1023;
    let fraction = f64::from_bits(x.to_bits() & FRACTION | 1.0f64.to_bits());
    // ln f = 2 atanh t
    let t = (fraction - 1.0) / (fraction + 1.0);
    let series = (0..18u32)
        .rev()
        .fold(0.0, |sum, k| sum * t * t + 1.0 / f64::from(2 * k + 1));
    exponent as f64 + 2.0 * t * series / std::f64::consts::LN_2
}

/// A prior: places in the lists of ridges and of decays.
pub type Prior = (usize, usize);

/// The sums over samples from which surfaces are fitted.
#[derive(Clone, Debug)]
pub struct Samples {
    features: Arc<Features>,
    n: f64,
    xx: Vec<f64>,
    x: Vec<f64>,
    xy: Vec<f64>,
    y: f64,
    yy: f64,
    row: Vec<f64>,
}

impl Samples {
    /// Returns the sums of no samples.
    pub fn new(genotype: &Genotype) -> Self {
        let features = Arc::new(Features::new(genotype));
        let number = features.len();
        Self {
            features,
            n: 0.0,
            xx: vec![0.0; number * number],
            x: vec![0.0; number],
            xy: vec![0.0; number],
            y: 0.0,
            yy: 0.0,
            row: Vec::new(),
        }
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.n as usize
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0.0
    }

    /// Adds a valid genome's score.
    pub fn add(&mut self, genome: &[u8], score: f64) {
        self.features.of(genome, &mut self.row);
        let number = self.row.len();
        self.n += 1.0;
        self.y += score;
        self.yy += score * score;
        for (i, &value) in self.row.iter().enumerate() {
            if value == 0.0 {
                continue;
            }
            self.x[i] += value;
            self.xy[i] += value * score;
            let sums = &mut self.xx[i * number + i..(i + 1) * number];
            for (sum, other) in sums.iter_mut().zip(&self.row[i..]) {
                *sum += value * other;
            }
        }
    }

    /// Fits a surface with the prior of most evidence: of all priors, or of those that a climb from
    /// `start` meets. There must be a sample.
    pub fn fit(&self, start: Option<Prior>) -> Fit {
        let near = |place: usize, all: usize| match start {
            Some(_) => place.saturating_sub(1)..(place + 2).min(all),
            None => 0..all,
        };
        let mut best = self.fit_with(start.unwrap_or_default());
        let mut seen = vec![best.prior];
        loop {
            let (ridge, decay) = best.prior;
            for ridge in near(ridge, RIDGES.len()) {
                for decay in near(decay, DECAYS.len()) {
                    if !seen.contains(&(ridge, decay)) {
                        seen.push((ridge, decay));
                        best = best.better(self.fit_with((ridge, decay)));
                    }
                }
            }
            if best.prior == (ridge, decay) {
                return best;
            }
        }
    }

    /// Fits a surface: least squared error plus the ridge times the squared weights in units of
    /// their scales.
    fn fit_with(&self, prior: Prior) -> Fit {
        let (ridge, scales) = (RIDGES[prior.0], self.features.scales(DECAYS[prior.1]));
        let number = scales.len();
        let (n, mean) = (self.n, self.y / self.n);
        let centred = |i: usize| scales[i] * (self.xy[i] - self.x[i] * mean);
        let right: Vec<f64> = (0..number).map(centred).collect();
        let mut factor = self.xx.clone();
        for i in 0..number {
            let share = self.x[i] / n;
            let row = &mut factor[i * number + i..(i + 1) * number];
            for ((value, x), scale) in row.iter_mut().zip(&self.x[i..]).zip(&scales[i..]) {
                *value = (*value - share * x) * scales[i] * scale;
            }
            row[0] += ridge;
        }
        let mut weights = right.clone();
        solve(&mut factor, &mut weights);
        // The likelihood of the scores, integrated over the weights and at the likeliest noise.
        let explained: f64 = right.iter().zip(&weights).map(|(a, b)| a * b).sum();
        let spread = (self.yy - self.y * mean).max(f64::MIN_POSITIVE / LEAST_NOISE);
        let rest = (spread - explained).max(LEAST_NOISE * spread);
        let diagonal = (0..number).map(|i| factor[i * number + i]);
        let determinant: f64 = diagonal.map(|d| 2.0 * log2(d) - log2(ridge)).sum();
        for (weight, scale) in weights.iter_mut().zip(&scales) {
            *weight *= scale;
        }
        let means: Vec<f64> = self.x.iter().map(|x| x / n).collect();
        let offset: f64 = means.iter().zip(&weights).map(|(x, w)| x * w).sum();
        Fit {
            surface: Surface {
                features: Arc::clone(&self.features),
                intercept: mean - offset,
                weights,
            },
            prior,
            evidence: -0.5 * ((n - 1.0) * log2(rest) + determinant),
            noise: (rest / (n - 1.0).max(1.0)).sqrt(),
            factor,
            scales,
            means,
        }
    }
}

/// A surface, and how sure the samples make it.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The likeliest surface.
    pub surface: Surface,
    /// The prior that was assumed.
    pub prior: Prior,
    /// The standard deviation of the scores around the surface.
    noise: f64,
    /// The binary logarithm of the samples' likelihood under the prior, up to a constant.
    evidence: f64,
    /// The Cholesky factor of the weights' precision, in units of the noise and of `scales`.
    factor: Vec<f64>,
    scales: Vec<f64>,
    /// Of the features.
    means: Vec<f64>,
}

impl Fit {
    fn better(self, other: Self) -> Self {
        if other.evidence > self.evidence {
            other
        } else {
            self
        }
    }

    /// Draws a surface from those that the samples leave possible, with [`WIDTH`] times their
    /// spread.
    pub fn draw(&self, random: &mut SplitMix64) -> Surface {
        let mut errors: Vec<f64> = self.scales.iter().map(|_| random.normal()).collect();
        solve_upper(&self.factor, &mut errors);
        for (error, scale) in errors.iter_mut().zip(&self.scales) {
            *error *= WIDTH * self.noise * scale;
        }
        // The mean of the scores is known.
        let offset: f64 = self.means.iter().zip(&errors).map(|(x, e)| x * e).sum();
        let weights = self.surface.weights.iter().zip(errors);
        Surface {
            intercept: self.surface.intercept - offset,
            weights: weights.map(|(weight, error)| weight + error).collect(),
            ..self.surface.clone()
        }
    }
}

/// A fitted model of scores.
#[derive(Clone, Debug)]
pub struct Surface {
    features: Arc<Features>,
    intercept: f64,
    weights: Vec<f64>,
}

impl Surface {
    /// Predicts the score of a valid genome.
    pub fn predict(&self, genome: &[u8]) -> f64 {
        let mut row = Vec::new();
        self.features.of(genome, &mut row);
        self.intercept
            + row
                .iter()
                .zip(&self.weights)
                .map(|(x, w)| x * w)
                .sum::<f64>()
    }
}

impl Additive for Surface {
    fn ends(&self, embed: usize, depth: usize) -> f64 {
        self.intercept + ENDS_SCALE * self.weights[embed * self.features.depths + depth]
    }

    fn shares(&self, embed: usize, block: usize, part: usize, choices: &[Choice]) -> Vec<f64> {
        let f = &*self.features;
        let mut factors = vec![0.0; f.monomials.len()];
        for (term, weight) in f.terms.iter().zip(&self.weights[f.ends()..]) {
            factors[term.monomial] +=
                weight * f.embed[term.embed][embed] * f.position[term.position][block];
        }
        let of_part: Vec<(&Monomial, f64)> = (f.monomials.iter().zip(factors))
            .filter(|(monomial, _)| monomial.part == part)
            .collect();
        let value = |choice: &Choice| {
            let each = of_part.iter();
            each.map(|(m, factor)| factor * f.monomial(m, |place| choice.genes[place]))
                .sum()
        };
        choices.iter().map(value).collect()
    }
}

/// Solves a symmetric positive definite system in place (Cholesky, upper triangle); leaves the
/// factor in the upper triangle.
fn solve(matrix: &mut [f64], right: &mut [f64]) {
    let n = right.len();
    for i in 0..n {
        let (above, row) = matrix.split_at_mut(i * n);
        let row = &mut row[i..n];
        for k in 0..i {
            let factor = above[k * n + i];
            if factor != 0.0 {
                for (value, other) in row.iter_mut().zip(&above[k * n + i..(k + 1) * n]) {
                    *value -= factor * other;
                }
            }
        }
        let scale = 1.0 / row[0].sqrt();
        for value in row {
            *value *= scale;
        }
    }
    for i in 0..n {
        right[i] /= matrix[i * n + i];
        let value = right[i];
        for j in i + 1..n {
            right[j] -= matrix[i * n + j] * value;
        }
    }
    solve_upper(matrix, right);
}

/// Solves a system of an upper triangle in place.
fn solve_upper(matrix: &[f64], right: &mut [f64]) {
    let n = right.len();
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| matrix[i * n + j] * right[j]).sum();
        right[i] = (right[i] - known) / matrix[i * n + i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::genome::tests::toy;

    /// Returns the fit to `number` random networks of a toy space. The score adds up, with normal
    /// noise of a standard deviation of `noise`.
    fn fitted(number: usize, noise: f64, start: Option<Prior>) -> (Genotype, Fit) {
        let genotype = toy(4, &[2, 3, 4], &[2, 5]);
        let (mut samples, mut random) = (Samples::new(&genotype), SplitMix64::new(7, 0));
        let mut genome = vec![0; genotype.genes()];
        for _ in 0..number {
            for (gene, &choices) in genome.iter_mut().zip(genotype.choices()) {
                *gene = random.below(choices.into()) as u8;
            }
            genotype.canonicalize(&mut genome);
            samples.add(&genome, score(&genome) + noise * random.normal());
        }
        (genotype, samples.fit(start))
    }

    fn score(genome: &[u8]) -> f64 {
        10.0 + genome[2..].iter().map(|&gene| f64::from(gene)).sum::<f64>()
    }

    #[test]
    fn the_evidence_tells_noise_from_score() {
        for noise in [0.1, 1.0] {
            let (_, fit) = fitted(400, noise, None);
            assert!(
                (fit.noise / noise - 1.0).abs() < 0.1,
                "{noise}: {}",
                fit.noise
            );
        }
        let none = fitted(400, 0.0, None).1.noise;
        assert!(none < 0.01, "{none}");
    }

    #[test]
    fn a_climb_from_any_prior_ends_at_the_best_one() {
        for (number, noise) in [(40, 0.5), (400, 0.1), (400, 1.0)] {
            let best = fitted(number, noise, None).1.prior;
            for start in [(0, 0), (7, 2), (0, 2)] {
                assert_eq!(fitted(number, noise, Some(start)).1.prior, best);
            }
        }
    }

    #[test]
    fn drawn_surfaces_are_around_the_likeliest_one_and_closer_with_more_samples() {
        let spread = |number: usize| {
            let (genotype, fit) = fitted(number, 1.0, None);
            let mut random = SplitMix64::new(3, 0);
            let genome: Vec<u8> = genotype.choices().iter().map(|n| n - 1).collect();
            let likeliest = fit.surface.predict(&genome);
            let drawn: Vec<f64> = (0..400)
                .map(|_| fit.draw(&mut random).predict(&genome) - likeliest)
                .collect();
            let mean = drawn.iter().sum::<f64>() / 400.0;
            let deviation = (drawn.iter().map(|d| d * d).sum::<f64>() / 400.0).sqrt();
            assert!(mean.abs() < 0.2 * deviation, "{mean} {deviation}");
            // The true score is among what is possible.
            assert!((likeliest - score(&genome)).abs() < 2.0 * deviation);
            deviation
        };
        let (few, many) = (spread(50), spread(800));
        assert!(many < 0.5 * few, "{few} {many}");
    }

    #[test]
    fn the_logarithm_is_that_of_the_standard_library() {
        for x in [
            1.0,
            1.5,
            2.0 - f64::EPSILON,
            0.1,
            3e-300,
            7e300,
            f64::MIN_POSITIVE,
        ] {
            let error = (log2(x) - x.log2()).abs();
            assert!(
                error <= 4.0 * f64::EPSILON * x.log2().abs().max(1.0),
                "{x}: {error}"
            );
        }
    }
}
