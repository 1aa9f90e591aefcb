//! Binds the search, the knapsack and the statistics; `nsga2.py`, `scores.py`,
//! `knapsack.py` and `stats.py` of `python/quasar_rt/nas` are the public faces and have checked
//! dtypes, dimensions and contiguity.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use numpy::ndarray::Array2;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use quasar_core::Error;
use quasar_search::{
    self as search, additive::Member, best_front, knapsack::Knapsack, pareto, proxy::ProxyTable,
    statistics, BestFront, Candidate, CostModel, Genomes, Genotype, Nsga2, Objective, Settings,
    Strategy,
};

use crate::errors::{invalid_value, to_py};
use crate::hardware::Designs;
use crate::space::Space;

/// The interval at which a search in Rust lets Python check for signals such as Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Genomes [n, genes], scores, FPS, violations.
type Candidates<'py> = (
    Bound<'py, PyArray2<u8>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
);
/// Evaluations, hypervolume, best score for each target.
type Generation = (usize, f64, Vec<Option<f64>>);
/// Choices, value, cost.
type Solution = (Vec<usize>, f64, u64);

type Core = Nsga2<Arc<quasar_search::Designs>>;

/// A search of a space on one or several hardware configurations.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Search {
    core: Mutex<Core>,
    space: quasar_search::space::Space,
}

#[pymethods]
impl Search {
    #[new]
    #[pyo3(signature = (
        space, costs, population, generations, targets, seed, guided, objectives
    ))]
    #[allow(clippy::too_many_arguments)] // keyword arguments of the Python class
    fn new(
        py: Python<'_>,
        space: &Space,
        costs: &Designs,
        population: usize,
        generations: usize,
        targets: Vec<f64>,
        seed: u64,
        guided: bool,
        objectives: Vec<String>,
    ) -> PyResult<Self> {
        if costs.space() != &space.space {
            return Err(invalid_value(
                "the cost table is of another space than the search".into(),
            ));
        }
        let objectives = objectives.iter().map(|name| Objective::named(name));
        let settings = Settings {
            objectives: objectives.collect::<Result<_, _>>().map_err(to_py)?,
            population,
            generations,
            targets,
            seed,
            strategy: if guided {
                Strategy::Guided
            } else {
                Strategy::Evolution
            },
        };
        let table = Arc::clone(&costs.designs);
        let genotype = Genotype::of(&space.space);
        let search = py
            .detach(|| Nsga2::new(genotype, table, settings))
            .map_err(to_py)?;
        Ok(Self {
            core: Mutex::new(search),
            space: space.space.clone(),
        })
    }

    #[getter]
    fn done(&self) -> bool {
        self.lock().done()
    }

    fn ask<'py>(
        &self,
        py: Python<'py>,
        limit: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray2<u8>>> {
        let flat = py.detach(|| self.lock().ask(limit));
        self.matrix(py, flat)
    }

    fn tell(&self, py: Python<'_>, scores: PyReadonlyArray1<'_, f64>) -> PyResult<()> {
        let scores = scores.as_slice()?;
        py.detach(|| self.lock().tell(scores)).map_err(to_py)
    }

    fn add_known_scores(
        &self,
        py: Python<'_>,
        genomes: PyReadonlyArray2<'_, u8>,
        scores: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<()> {
        let genomes = view(&genomes)?;
        let scores = scores.as_slice()?;
        py.detach(|| self.lock().add_known_scores(genomes, scores))
            .map_err(to_py)
    }

    /// Runs to the end, scored by the proxy.
    fn run_proxy(&self, py: Python<'_>) -> PyResult<()> {
        let table = ProxyTable::new(&self.space);
        self.run(py, |genome| table.score(genome))
    }

    /// Returns tau, root mean squared error and number of the guide's predictions.
    fn guide_report(&self) -> Option<(f64, f64, usize)> {
        let report = self.lock().guide_report()?;
        Some((report.tau, report.rmse, report.samples))
    }

    /// Returns the best front of the guide's model of the scores, by an objective.
    fn model_front<'py>(
        &self,
        py: Python<'py>,
        objective: &str,
    ) -> PyResult<Option<FrontArrays<'py>>> {
        let objective = Objective::named(objective).map_err(to_py)?;
        let front = py
            .detach(|| self.lock().model_front(objective))
            .map_err(to_py)?;
        front.map(|front| front_arrays(py, &front)).transpose()
    }

    /// Predicts scores by the guide's model.
    fn estimates<'py>(
        &self,
        py: Python<'py>,
        genomes: PyReadonlyArray2<'py, u8>,
    ) -> PyResult<Option<Bound<'py, PyArray1<f64>>>> {
        let genomes = view(&genomes)?;
        let found = py
            .detach(|| self.lock().estimates(genomes))
            .map_err(to_py)?;
        Ok(found.map(|scores| scores.into_pyarray(py)))
    }

    fn front<'py>(&self, py: Python<'py>) -> PyResult<Candidates<'py>> {
        let candidates = py.detach(|| self.lock().front());
        self.arrays(py, &candidates)
    }

    fn population<'py>(&self, py: Python<'py>) -> PyResult<Candidates<'py>> {
        let candidates = py.detach(|| self.lock().population());
        self.arrays(py, &candidates)
    }

    fn evaluated<'py>(&self, py: Python<'py>) -> PyResult<Candidates<'py>> {
        let candidates = py.detach(|| self.lock().evaluated());
        self.arrays(py, &candidates)
    }

    /// Returns the best network that reaches `fps`, if any: at most one row.
    fn best<'py>(&self, py: Python<'py>, fps: f64) -> PyResult<Candidates<'py>> {
        let candidates: Vec<Candidate> = self.lock().best(fps).into_iter().collect();
        self.arrays(py, &candidates)
    }

    fn history(&self) -> Vec<Generation> {
        let search = self.lock();
        let entry = |g: &search::nsga2::Generation| (g.evaluations, g.hypervolume, g.best.clone());
        search.history().iter().map(entry).collect()
    }
}

impl Search {
    fn lock(&self) -> MutexGuard<'_, Core> {
        // The core checks what it is given before it changes anything.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, py: Python<'_>, score: impl Fn(&[u8]) -> f64 + Sync) -> PyResult<()> {
        let mut signal = Ok(());
        let result = py.detach(|| {
            let mut looked = Instant::now();
            self.lock().run_with(|genomes, scores| {
                for (genome, value) in genomes.rows().zip(scores) {
                    *value = score(genome);
                }
                if looked.elapsed() > SIGNAL_INTERVAL {
                    signal = Python::attach(|py| py.check_signals());
                    looked = Instant::now();
                }
                match signal {
                    Ok(()) => Ok(()),
                    Err(_) => Err(Error::Interrupted),
                }
            })
        });
        signal.and(result.map_err(to_py))
    }

    fn matrix<'py>(&self, py: Python<'py>, flat: Vec<u8>) -> PyResult<Bound<'py, PyArray2<u8>>> {
        let genes = self.space.genes();
        Array2::from_shape_vec((flat.len() / genes, genes), flat)
            .map(|matrix| matrix.into_pyarray(py))
            .map_err(|error| invalid_value(error.to_string()))
    }

    fn arrays<'py>(&self, py: Python<'py>, candidates: &[Candidate]) -> PyResult<Candidates<'py>> {
        let column = |value: fn(&Candidate) -> f64| {
            let values: Vec<f64> = candidates.iter().map(value).collect();
            values.into_pyarray(py)
        };
        let flat = candidates
            .iter()
            .flat_map(|c| c.genome.iter().copied())
            .collect();
        Ok((
            self.matrix(py, flat)?,
            column(|c| c.score),
            column(|c| c.fps),
            column(|c| c.violation),
        ))
    }
}

/// Genomes [n, genes], rates, scores, whether the front is exact.
type FrontArrays<'py> = (
    Bound<'py, PyArray2<u8>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    bool,
);

fn front_arrays<'py>(py: Python<'py>, front: &BestFront) -> PyResult<FrontArrays<'py>> {
    let members = &front.members;
    let genes = members.first().map_or(0, |member| member.genome.len());
    let flat = members.iter().flat_map(|m| m.genome.iter().copied());
    let genomes = Array2::from_shape_vec((members.len(), genes), flat.collect())
        .map_err(|error| invalid_value(error.to_string()))?;
    let column = |value: fn(&Member) -> f64| {
        let values: Vec<f64> = members.iter().map(value).collect();
        values.into_pyarray(py)
    };
    Ok((
        genomes.into_pyarray(py),
        column(|member| member.rate),
        column(|member| member.score),
        front.exact,
    ))
}

/// Returns the exact front of the proxy score and of an objective, or a bound.
#[pyfunction]
pub fn proxy_front<'py>(
    py: Python<'py>,
    space: &Space,
    costs: &Designs,
    objective: &str,
) -> PyResult<FrontArrays<'py>> {
    if costs.space() != &space.space {
        return Err(invalid_value("the cost table is of another space".into()));
    }
    let objective = Objective::named(objective).map_err(to_py)?;
    costs.designs.check(objective).map_err(to_py)?;
    let front = py.detach(|| {
        let genotype = Genotype::of(&space.space);
        let score = ProxyTable::new(&space.space);
        let shares = costs.designs.shares(objective);
        let fronts = shares.iter().map(|one| best_front(&genotype, one, &score));
        fronts.collect::<Result<Vec<_>, _>>()
    });
    let merged = BestFront::merged(front.map_err(to_py)?).expect("at least one configuration");
    front_arrays(py, &merged)
}

/// Borrows the rows of a C-contiguous array.
fn view<'a>(genomes: &'a PyReadonlyArray2<'_, u8>) -> PyResult<Genomes<'a>> {
    Genomes::new(genomes.as_slice()?, genomes.shape()[1]).map_err(to_py)
}

/// Returns the proxy score of each genome.
#[pyfunction]
pub fn proxy_scores<'py>(
    py: Python<'py>,
    space: &Space,
    genomes: PyReadonlyArray2<'py, u8>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let genomes = view(&genomes)?;
    let scores = py
        .detach(|| {
            let table = ProxyTable::new(&space.space);
            let score = |genome: &[u8]| table.score_checked(&space.space, genome);
            genomes.rows().map(score).collect::<Result<Vec<_>, _>>()
        })
        .map_err(to_py)?;
    Ok(scores.into_pyarray(py))
}

/// Returns the best choices within the budget.
#[pyfunction]
pub fn knapsack(
    py: Python<'_>,
    values: Vec<Vec<f64>>,
    costs: Vec<Vec<u64>>,
    budget: u64,
) -> PyResult<Solution> {
    let solution = py
        .detach(|| Knapsack::new(&values, &costs)?.solve(budget))
        .map_err(to_py)?;
    Ok((solution.choices, solution.value, solution.cost))
}

/// Returns all non-dominated sums up to the budget.
#[pyfunction]
pub fn knapsack_front(
    py: Python<'_>,
    values: Vec<Vec<f64>>,
    costs: Vec<Vec<u64>>,
    budget: Option<u64>,
) -> PyResult<Vec<Solution>> {
    let front = py
        .detach(|| Knapsack::new(&values, &costs)?.front(budget.unwrap_or(u64::MAX)))
        .map_err(to_py)?;
    Ok(front
        .into_iter()
        .map(|s| (s.choices, s.value, s.cost))
        .collect())
}

/// Returns Kendall's tau-b and the ends of its interval.
#[pyfunction]
pub fn kendall_tau(
    py: Python<'_>,
    x: PyReadonlyArray1<'_, f64>,
    y: PyReadonlyArray1<'_, f64>,
    confidence: f64,
    resamples: usize,
    seed: u64,
) -> PyResult<(f64, f64, f64)> {
    let (x, y) = (x.as_slice()?, y.as_slice()?);
    let result = py
        .detach(|| statistics::kendall(x, y, confidence, resamples, seed))
        .map_err(to_py)?;
    Ok((result.tau, result.low, result.high))
}

/// Returns the area that points [n, 2] dominate above the reference.
#[pyfunction]
pub fn hypervolume(points: PyReadonlyArray2<'_, f64>, reference: (f64, f64)) -> PyResult<f64> {
    let points: Vec<(f64, f64)> = points
        .as_slice()?
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    Ok(pareto::hypervolume(&points, reference))
}
