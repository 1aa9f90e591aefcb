//! A smooth model of scores as a function of genes, for searches whose scores are expensive: ridge
//! regression on products of polynomials (a response surface; Box and Wilson 1951).
//!
//! Choices of a gene are ordered, and blocks are alike. So a gene's effect is a polynomial of its
//! choice and of the block's position, and effects of two genes of a part multiply. One sample
//! informs about all blocks and all choices, which one-hot genes ([`crate::predictor`]) leave to
//! chance; it takes fewer samples and averages more noise. The model adds up over parts, so its
//! exact front is known ([`crate::additive`]). Depends on [`crate::genome`], [`crate::predictor`].

use std::sync::Arc;

use crate::additive::{Additive, Choice};
use crate::genome::Genotype;
use crate::predictor::solve;

/// Strengths of the ridge, in units of one sample.
pub const RIDGES: [f64; 6] = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];
/// Features, at most: the total degree of the products is lowered until there are no more.
const MAX_FEATURES: usize = 400;
/// Total degree of a product, at most.
const DEGREE: usize = 4;
/// Degrees in a gene, in embed, and in the position, at most.
const GENE_DEGREE: usize = 2;
const EMBED_DEGREE: usize = 2;
const POSITION_DEGREE: usize = 3;
/// The scale of a product relative to one of a degree less: smooth effects are more likely.
const DECAY: f64 = 0.5;
/// The scale of the effect of one choice of embed and depth.
const ENDS_SCALE: f64 = 2.0;

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
    scale: f64,
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
                            scale: DECAY.powi(total as i32),
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
            term.scale
                * self.embed[term.embed][genome[0] as usize]
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

/// The sums over samples from which surfaces are fitted.
#[derive(Clone, Debug)]
pub struct Samples {
    features: Arc<Features>,
    n: f64,
    xx: Vec<f64>,
    x: Vec<f64>,
    xy: Vec<f64>,
    y: f64,
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

    /// Fits a surface: least squared error plus `ridge` times the squared weights. There must be a
    /// sample.
    pub fn fit(&self, ridge: f64) -> Surface {
        let number = self.x.len();
        let (n, mean) = (self.n, self.y / self.n);
        let mut matrix = self.xx.clone();
        let mut weights: Vec<f64> = (0..number).map(|i| self.xy[i] - self.x[i] * mean).collect();
        for i in 0..number {
            let share = self.x[i] / n;
            let row = &mut matrix[i * number + i..(i + 1) * number];
            for (value, x) in row.iter_mut().zip(&self.x[i..]) {
                *value -= share * x;
            }
            row[0] += ridge;
        }
        solve(&mut matrix, &mut weights);
        let offset = self.x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() / n;
        Surface {
            features: Arc::clone(&self.features),
            intercept: mean - offset,
            weights,
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
                weight * term.scale * f.embed[term.embed][embed] * f.position[term.position][block];
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
