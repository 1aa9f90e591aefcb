//! A linear model of accuracy as a function of genes: ridge regression (Hoerl and Kennard 1970) on
//! one-hot genes.
//!
//! Features of a genome: one column for each choice of each gene that counts (a block beyond the
//! depth has none), and one for each pair of the two leading genes (embed and depth), which a sum
//! of their own effects does not capture. Depends on `genome`, `statistics`.

use quasar_core::error::{Error, Result};

use super::genome::{Genomes, Genotype};
use super::random::SplitMix64;
use super::statistics::kendall_tau;

/// Strengths that cross-validation chooses from, in units of one sample.
pub const RIDGES: [f64; 7] = [0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0];
/// Features, at most: the time of a fit grows with their cube.
pub const MAX_FEATURES: usize = 4096;
/// Parts that cross-validation takes in turn.
pub const FOLDS: usize = 5;

/// Quality of a predictor on samples that were left out of its fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossValidation {
    /// Kendall's tau-b between predicted and given accuracies (NaN if either is constant).
    pub tau: f64,
    /// Root of the mean squared error, in the unit of the accuracies.
    pub rmse: f64,
    /// The chosen strength: the one with the least error.
    pub ridge: f64,
    /// Samples.
    pub samples: usize,
}

/// The first feature of each gene.
#[derive(Clone, Debug)]
struct Features {
    offsets: Vec<u32>,
    pairs: u32,
    second: u32,
    number: usize,
}

impl Features {
    fn of(genotype: &Genotype) -> Result<Self> {
        let choices = genotype.choices();
        let mut number = 0u32;
        let offsets = choices
            .iter()
            .map(|&n| {
                number += u32::from(n);
                number - u32::from(n)
            })
            .collect();
        let (pairs, second) = (number, u32::from(choices[1]));
        let number = number as usize + choices[0] as usize * choices[1] as usize;
        if number > MAX_FEATURES {
            return Err(Error::TooLarge {
                what: "the predictor's number of features".into(),
                size: number as u64,
                limit: MAX_FEATURES as u64,
                unit: "columns",
            });
        }
        Ok(Self {
            offsets,
            pairs,
            second,
            number,
        })
    }

    /// Returns the columns of a valid genome that are 1; all others are 0.
    fn active(&self, genome: &[u8], used: usize, columns: &mut Vec<u32>) {
        columns.clear();
        columns.extend(
            genome[..used]
                .iter()
                .zip(&self.offsets)
                .map(|(&gene, offset)| offset + u32::from(gene)),
        );
        columns.push(self.pairs + u32::from(genome[0]) * self.second + u32::from(genome[1]));
    }
}

/// Sums over samples, from which a fit is computed. Adding a sample takes the square of the number
/// of genes.
#[derive(Clone, Debug)]
pub struct Samples {
    features: Features,
    n: f64,
    /// Upper triangle of the sum of x xT, row-major [number, number].
    xx: Vec<f64>,
    /// Sum of x.
    x: Vec<f64>,
    /// Sum of x y.
    xy: Vec<f64>,
    /// Sum of y.
    y: f64,
    columns: Vec<u32>,
}

impl Samples {
    /// Returns the sums of no samples.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`MAX_FEATURES`].
    pub fn new(genotype: &Genotype) -> Result<Self> {
        let features = Features::of(genotype)?;
        let number = features.number;
        Ok(Self {
            features,
            n: 0.0,
            xx: vec![0.0; number * number],
            x: vec![0.0; number],
            xy: vec![0.0; number],
            y: 0.0,
            columns: Vec::new(),
        })
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.n as usize
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0.0
    }

    /// Adds a valid genome's accuracy.
    pub fn add(&mut self, genotype: &Genotype, genome: &[u8], accuracy: f64) {
        let number = self.features.number;
        self.features
            .active(genome, genotype.used(genome), &mut self.columns);
        self.n += 1.0;
        self.y += accuracy;
        // Columns ascend, so i <= j.
        for (at, &i) in self.columns.iter().enumerate() {
            let i = i as usize;
            self.x[i] += 1.0;
            self.xy[i] += accuracy;
            for &j in &self.columns[at..] {
                self.xx[i * number + j as usize] += 1.0;
            }
        }
    }

    /// Returns the sums without some of the samples.
    fn without(&self, part: &Self) -> Self {
        let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        Self {
            features: self.features.clone(),
            n: self.n - part.n,
            xx: minus(&self.xx, &part.xx),
            x: minus(&self.x, &part.x),
            xy: minus(&self.xy, &part.xy),
            y: self.y - part.y,
            columns: Vec::new(),
        }
    }

    /// Fits the predictor that minimises squared error plus `ridge` times the squared weights; the
    /// mean is not penalised.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] without samples or for a strength that is not positive.
    pub fn fit(&self, ridge: f64) -> Result<Predictor> {
        if self.is_empty() || !(ridge > 0.0 && ridge.is_finite()) {
            return Err(Error::InvalidValue(format!(
                "a predictor takes at least one sample and a positive ridge; there are {} samples and ridge is {ridge}",
                self.len()
            )));
        }
        let number = self.features.number;
        let n = self.n;
        let mean = self.y / n;
        let mut matrix = self.xx.clone();
        let mut weights: Vec<f64> = (0..number).map(|i| self.xy[i] - self.x[i] * mean).collect();
        for i in 0..number {
            let share = self.x[i] / n;
            for (value, x) in matrix[i * number + i..][..number - i]
                .iter_mut()
                .zip(&self.x[i..])
            {
                *value -= share * x;
            }
            matrix[i * number + i] += ridge;
        }
        solve(&mut matrix, &mut weights);
        let offset = self.x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() / n;
        Ok(Predictor {
            features: self.features.clone(),
            intercept: mean - offset,
            weights,
        })
    }
}

/// Solves a symmetric positive definite system in place (Cholesky, upper triangle); leaves the
/// factor in the upper triangle.
pub(crate) fn solve(matrix: &mut [f64], right: &mut [f64]) {
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
pub(crate) fn solve_upper(matrix: &[f64], right: &mut [f64]) {
    let n = right.len();
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| matrix[i * n + j] * right[j]).sum();
        right[i] = (right[i] - known) / matrix[i * n + i];
    }
}

/// Predicts the accuracy of genomes of the space it was fitted for.
#[derive(Clone, Debug)]
pub struct Predictor {
    features: Features,
    intercept: f64,
    weights: Vec<f64>,
}

impl Predictor {
    /// Fits samples with the strength of [`RIDGES`] that has the least cross-validated error
    /// ([`FOLDS`] folds, shuffled by `seed`). The report is of predictions for samples that were
    /// left out. It is slightly optimistic, because the strength was chosen on the same samples.
    ///
    /// # Errors
    /// [`Error::InvalidValue`]: fewer than 10 samples, lists of different lengths, a genome that is
    /// not the space's or not canonical, an accuracy that is not finite.
    pub fn fit(
        genotype: &Genotype,
        genomes: Genomes<'_>,
        accuracies: &[f64],
        seed: u64,
    ) -> Result<(Self, CrossValidation)> {
        if genomes.len() != accuracies.len() || genomes.len() < 2 * FOLDS {
            return Err(Error::InvalidValue(format!(
                "there are {} genomes and {} accuracies; a predictor takes as many of both, at least {}",
                genomes.len(),
                accuracies.len(),
                2 * FOLDS
            )));
        }
        if let Some(accuracy) = accuracies.iter().find(|a| !a.is_finite()) {
            return Err(Error::InvalidValue(format!("an accuracy is {accuracy}")));
        }
        let mut fold: Vec<usize> = (0..genomes.len()).map(|i| i % FOLDS).collect();
        SplitMix64::new(seed, genomes.len() as u64).shuffle(&mut fold);
        let mut all = Samples::new(genotype)?;
        let mut parts = vec![all.clone(); FOLDS];
        for ((genome, &accuracy), &fold) in genomes.rows().zip(accuracies).zip(&fold) {
            genotype.check(genome)?;
            all.add(genotype, genome, accuracy);
            parts[fold].add(genotype, genome, accuracy);
        }
        let rest: Vec<Samples> = parts.iter().map(|part| all.without(part)).collect();
        drop(parts);
        let mut best = CrossValidation {
            tau: f64::NAN,
            rmse: f64::INFINITY,
            ridge: RIDGES[0],
            samples: accuracies.len(),
        };
        for ridge in RIDGES {
            let models = rest
                .iter()
                .map(|samples| samples.fit(ridge))
                .collect::<Result<Vec<_>>>()?;
            let predicted: Vec<f64> = genomes
                .rows()
                .zip(&fold)
                .map(|(genome, &fold)| models[fold].predict(genotype, genome))
                .collect();
            let error: f64 = predicted
                .iter()
                .zip(accuracies)
                .map(|(p, a)| (p - a) * (p - a))
                .sum();
            let rmse = (error / accuracies.len() as f64).sqrt();
            if rmse < best.rmse {
                best.tau = kendall_tau(&predicted, accuracies)?;
                (best.rmse, best.ridge) = (rmse, ridge);
            }
        }
        Ok((all.fit(best.ridge)?, best))
    }

    /// Predicts the accuracy of a valid genome.
    pub fn predict(&self, genotype: &Genotype, genome: &[u8]) -> f64 {
        let used = genotype.used(genome);
        let mut sum = self.intercept;
        for (&gene, &offset) in genome[..used].iter().zip(&self.features.offsets) {
            sum += self.weights[offset as usize + gene as usize];
        }
        let pair = self.features.pairs
            + u32::from(genome[0]) * self.features.second
            + u32::from(genome[1]);
        sum + self.weights[pair as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::super::genome::tests::toy as toy_of;
    use super::*;

    fn toy() -> Genotype {
        toy_of(3, &[2, 3, 4], &[2, 5])
    }

    fn sample(toy: &Genotype, n: usize, seed: u64) -> Vec<u8> {
        let mut random = SplitMix64::new(seed, 0);
        let mut flat = Vec::new();
        for _ in 0..n {
            let mut genome: Vec<u8> = toy
                .choices()
                .iter()
                .map(|&c| random.below(c as usize) as u8)
                .collect();
            toy.canonicalize(&mut genome);
            flat.extend(genome);
        }
        flat
    }

    /// Returns a score that is additive in the genes, with an interaction of embed and depth.
    fn truth(toy: &Genotype, genome: &[u8]) -> f64 {
        let genes = &genome[..toy.used(genome)];
        let sum: f64 = genes
            .iter()
            .enumerate()
            .map(|(i, &g)| f64::from(g).sqrt() / (i + 1) as f64)
            .sum();
        70.0 + sum + 0.5 * f64::from(genome[0] * genome[1])
    }

    #[test]
    fn additive_accuracies_are_learned() {
        let toy = toy();
        let flat = sample(&toy, 300, 1);
        let genomes = Genomes::new(&flat, toy.genes()).unwrap();
        let accuracies: Vec<f64> = genomes.rows().map(|g| truth(&toy, g)).collect();
        let (predictor, report) = Predictor::fit(&toy, genomes, &accuracies, 0).unwrap();
        assert!(report.tau > 0.97 && report.rmse < 0.02, "{report:?}");
        let unseen = sample(&toy, 200, 2);
        for genome in unseen.chunks_exact(toy.genes()) {
            assert!((predictor.predict(&toy, genome) - truth(&toy, genome)).abs() < 0.1);
        }
    }

    #[test]
    fn noise_shows_in_the_report() {
        let toy = toy();
        let flat = sample(&toy, 400, 1);
        let genomes = Genomes::new(&flat, toy.genes()).unwrap();
        let mut random = SplitMix64::new(5, 5);
        let noise: Vec<f64> = genomes.rows().map(|_| random.unit()).collect();
        let (_, report) = Predictor::fit(&toy, genomes, &noise, 0).unwrap();
        assert!(report.tau.abs() < 0.12, "{report:?}");
        // The standard deviation of even noise.
        assert!((report.rmse - (1.0f64 / 12.0).sqrt()).abs() < 0.02);
        assert_eq!(report.ridge, 100.0, "noise calls for the strongest ridge");
    }

    #[test]
    fn a_fit_solves_the_ridge_equations() {
        // At the minimum the gradient is zero: sum over samples of error * x + ridge * w = 0, and
        // errors sum to 0.
        let toy = toy();
        let flat = sample(&toy, 60, 3);
        let mut samples = Samples::new(&toy).unwrap();
        let mut random = SplitMix64::new(9, 9);
        let accuracies: Vec<f64> = flat
            .chunks_exact(toy.genes())
            .map(|genome| {
                let accuracy = truth(&toy, genome) + random.unit();
                samples.add(&toy, genome, accuracy);
                accuracy
            })
            .collect();
        let ridge = 0.7;
        let predictor = samples.fit(ridge).unwrap();
        let mut gradient: Vec<f64> = predictor.weights.iter().map(|w| ridge * w).collect();
        let mut errors = 0.0;
        let mut columns = Vec::new();
        for (genome, accuracy) in flat.chunks_exact(toy.genes()).zip(accuracies) {
            let error = predictor.predict(&toy, genome) - accuracy;
            errors += error;
            predictor
                .features
                .active(genome, toy.used(genome), &mut columns);
            for &column in &columns {
                gradient[column as usize] += error;
            }
        }
        assert!(errors.abs() < 1e-8);
        assert!(gradient.iter().all(|g| g.abs() < 1e-8), "{gradient:?}");
    }

    #[test]
    fn unusable_samples_are_refused() {
        let toy = toy();
        let flat = sample(&toy, 10, 1);
        let genomes = Genomes::new(&flat, toy.genes()).unwrap();
        let mut accuracies = vec![1.0; 10];
        assert!(Predictor::fit(&toy, genomes, &accuracies[..9], 0).is_err());
        accuracies[3] = f64::INFINITY;
        assert!(Predictor::fit(&toy, genomes, &accuracies, 0).is_err());
        let bad = vec![9; 10 * toy.genes()];
        let genomes = Genomes::new(&bad, toy.genes()).unwrap();
        assert!(Predictor::fit(&toy, genomes, &[1.0; 10], 0).is_err());
        assert!(Samples::new(&toy).unwrap().fit(1.0).is_err());
    }
}
