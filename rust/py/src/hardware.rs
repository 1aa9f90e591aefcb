//! `_native.Board`, `Hardware`, `Workload`, `CostTable`, `estimate`: the hardware model.
//! `python/quasar_rt/hardware` is the public face.

use std::collections::BTreeMap;
use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use quasar_accelerator::compile::schedule;
use quasar_accelerator::header;
use quasar_accelerator::identity::configuration_hash;
use quasar_accelerator::run::time::steady;
use quasar_core::Error;
use quasar_cost::{explore_by, Resources};
use quasar_hardware::declared::segment_gap;
use quasar_hardware::design;
use quasar_search::designs::OnDesign;
use quasar_search::explore_space_by;
use quasar_search::space::{Architecture, BlockShape};
use quasar_search::widths::{with_eight_bit_rows, PRODUCTS};

use crate::errors::{invalid_value, to_py};
use crate::space::Space;
use crate::subnet::Subnet;

/// A block: heads, `head_dim`, hidden, 8-bit fractions.
type Block = (usize, usize, usize, (f64, f64, f64, f64, f64, f64));
/// fps, latency in seconds, joules of a frame (NaN if they are not known), whether it fits.
type Costs<'py> = (
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<bool>>,
);
/// fps without and with the host, latency in seconds, joules of a frame, violation, the
/// configuration's number.
type OnDesigns<'py> = (
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<u32>>,
);
/// A genome, its fps and its latency in seconds.
type Extreme<'py> = (Bound<'py, PyArray1<u8>>, f64, f64);

fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| invalid_value(e.to_string()))
}

/// Returns the cycles between two frames of a network, event by event; `gap` as in [`steady`].
pub fn period(
    workload: &quasar_hardware::Workload,
    hardware: &quasar_hardware::Hardware,
    gap: Option<u64>,
) -> Result<u64, Error> {
    Ok(steady(hardware, &schedule(workload, hardware)?, gap)?.period)
}

/// Returns the same with the host's gaps between segments.
pub fn period_with_gaps(
    workload: &quasar_hardware::Workload,
    hardware: &quasar_hardware::Hardware,
) -> Result<u64, Error> {
    period(workload, hardware, Some(segment_gap(hardware)))
}

/// A checked board, immutable.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Board {
    board: quasar_hardware::Board,
}

#[pymethods]
impl Board {
    #[staticmethod]
    fn from_toml(text: &str) -> PyResult<Self> {
        Ok(Self {
            board: quasar_hardware::Board::from_toml(text).map_err(to_py)?,
        })
    }

    fn to_toml(&self) -> String {
        self.board.to_toml()
    }

    fn to_json(&self) -> PyResult<String> {
        json(&self.board)
    }
}

/// A network's sizes and row widths, immutable.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Workload {
    pub workload: quasar_hardware::Workload,
}

#[pymethods]
impl Workload {
    #[staticmethod]
    fn of_subnet(subnet: &Subnet) -> PyResult<Self> {
        let workload = quasar_hardware::Workload::of_subnet(&subnet.subnet);
        Ok(Self {
            workload: workload.map_err(to_py)?,
        })
    }

    #[staticmethod]
    fn of_architecture(
        name: &str,
        space: &Space,
        embed: usize,
        blocks: Vec<Block>,
    ) -> PyResult<Self> {
        let blocks = blocks.into_iter();
        let blocks = blocks.map(|(heads, head_dim, hidden, eight_bit)| BlockShape {
            heads,
            head_dim,
            hidden,
            eight_bit: eight_bit.into(),
        });
        let architecture = Architecture {
            embed,
            blocks: blocks.collect(),
        };
        let workload = space.space.workload(name, &architecture);
        Ok(Self {
            workload: workload.map_err(to_py)?,
        })
    }

    fn to_json(&self) -> PyResult<String> {
        json(&self.workload)
    }

    fn macs(&self) -> u64 {
        self.workload.macs()
    }

    /// Returns the network with these 8-bit rows in the products of each block.
    fn with_eight_bit_rows(&self, eight_bit: Vec<[usize; PRODUCTS]>) -> PyResult<Self> {
        Ok(Self {
            workload: with_eight_bit_rows(&self.workload, &eight_bit).map_err(to_py)?,
        })
    }
}

/// 8-bit rows of each product of each block, their worth, cycles between two frames, exactness.
type Widths = (Vec<[usize; PRODUCTS]>, f64, u64, bool);

/// The choices of all rows of a network on a configuration, immutable.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct WidthChoices {
    choices: quasar_search::widths::WidthChoices,
}

#[pymethods]
impl WidthChoices {
    #[new]
    fn new(
        py: Python<'_>,
        workload: &Workload,
        hardware: &Hardware,
        gains: Vec<[Vec<f64>; PRODUCTS]>,
    ) -> PyResult<Self> {
        let (workload, hardware) = (&workload.workload, &hardware.hardware);
        let choices =
            py.detach(|| quasar_search::widths::WidthChoices::new(workload, hardware, &gains));
        Ok(Self {
            choices: choices.map_err(to_py)?,
        })
    }

    fn range(&self) -> (u64, u64) {
        self.choices.range()
    }

    fn within(&self, py: Python<'_>, cycles: u64) -> PyResult<Widths> {
        let choice = py.detach(|| self.choices.within(cycles)).map_err(to_py)?;
        Ok((choice.eight_bit, choice.worth, choice.cycles, choice.exact))
    }
}

/// A checked configuration for a board, immutable.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Hardware {
    pub hardware: quasar_hardware::Hardware,
}

#[pymethods]
impl Hardware {
    #[staticmethod]
    fn board_name(text: &str) -> PyResult<String> {
        quasar_hardware::Hardware::board_name(text).map_err(to_py)
    }

    #[staticmethod]
    fn from_toml(text: &str, board: &Board) -> PyResult<Self> {
        Ok(Self {
            hardware: quasar_hardware::Hardware::from_toml(text, board.board.clone())
                .map_err(to_py)?,
        })
    }

    #[staticmethod]
    fn explore(
        py: Python<'_>,
        board: &Board,
        workloads: Vec<PyRef<'_, Workload>>,
        clock_mhz: f64,
    ) -> PyResult<Self> {
        let workloads: Vec<_> = workloads.iter().map(|w| w.workload.clone()).collect();
        let board = &board.board;
        py.detach(|| explore_by(board, &workloads, clock_mhz, &period_with_gaps))
            .map(|hardware| Self { hardware })
            .map_err(to_py)
    }

    #[staticmethod]
    fn explore_space(
        py: Python<'_>,
        board: &Board,
        space: &Space,
        clock_mhz: f64,
    ) -> PyResult<Self> {
        let (board, space) = (&board.board, &space.space);
        py.detach(|| explore_space_by(board, space, clock_mhz, &period_with_gaps))
            .map(|hardware| Self { hardware })
            .map_err(to_py)
    }

    fn with_clock(&self, clock_mhz: f64) -> PyResult<Self> {
        Ok(Self {
            hardware: self.hardware.with_clock(clock_mhz).map_err(to_py)?,
        })
    }

    fn board(&self) -> Board {
        Board {
            board: self.hardware.board().clone(),
        }
    }

    fn to_toml(&self) -> String {
        self.hardware.to_toml()
    }

    fn configuration_hash(&self) -> u64 {
        configuration_hash(&self.hardware)
    }

    fn to_json(&self) -> PyResult<String> {
        json(self.hardware.configuration())
    }

    /// Returns the modelled resources, as JSON.
    fn resources(&self) -> PyResult<String> {
        json(&Resources::of(&self.hardware))
    }

    /// The files that a build of the bitstream reads, by name.
    fn build_files(&self) -> BTreeMap<&'static str, String> {
        let mut files = BTreeMap::from([
            ("config.hpp", header::config_header(&self.hardware)),
            ("design.txt", design::block_design(&self.hardware)),
            ("array_cell.v", design::array_cell(&self.hardware)),
            ("lanes_cell.v", design::lanes_cell(&self.hardware)),
            ("counters_cell.v", design::counters_cell(&self.hardware)),
        ]);
        files.retain(|_, text| !text.is_empty());
        files
    }

    /// Refuses a design that needs more than the usable part of its board.
    fn check_board(&self) -> PyResult<()> {
        let board = self.hardware.board();
        Resources::of(&self.hardware).check(board).map_err(to_py)
    }
}

/// Models one frame; returns it as JSON.
#[pyfunction]
pub fn estimate(py: Python<'_>, workload: &Workload, hardware: &Hardware) -> PyResult<String> {
    let (workload, hardware) = (&workload.workload, &hardware.hardware);
    let estimate = py
        .detach(|| quasar_cost::estimate(workload, hardware))
        .map_err(to_py)?;
    json(&estimate)
}

/// Costs of every network of a space.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct CostTable {
    pub table: quasar_search::CostTable,
}

#[pymethods]
impl CostTable {
    #[new]
    fn new(py: Python<'_>, space: &Space, hardware: &Hardware) -> PyResult<Self> {
        let (space, hardware) = (&space.space, &hardware.hardware);
        let table = py.detach(|| quasar_search::CostTable::new(space, hardware));
        Ok(Self {
            table: table.map_err(to_py)?,
        })
    }

    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        genomes: PyReadonlyArray2<'py, u8>,
    ) -> PyResult<Costs<'py>> {
        let [count, genes] = [genomes.shape()[0], genomes.shape()[1]];
        let genomes = genomes.as_slice()?;
        let (fps, latency, energy, fits) = py
            .detach(|| {
                let mut columns = (
                    Vec::with_capacity(count),
                    Vec::with_capacity(count),
                    Vec::with_capacity(count),
                    Vec::with_capacity(count),
                );
                for i in 0..count {
                    let genome = &genomes[i * genes..(i + 1) * genes];
                    self.table.check(genome)?;
                    let cost = self.table.cost(genome);
                    columns.0.push(cost.fps);
                    columns.1.push(cost.latency_s);
                    columns
                        .2
                        .push(self.table.energy_j(&cost).unwrap_or(f64::NAN));
                    columns.3.push(cost.fits);
                }
                Ok(columns)
            })
            .map_err(to_py)?;
        Ok((
            fps.into_pyarray(py),
            latency.into_pyarray(py),
            energy.into_pyarray(py),
            fits.into_pyarray(py),
        ))
    }

    fn fastest<'py>(&self, py: Python<'py>) -> PyResult<Extreme<'py>> {
        let (genome, cost) = self.table.fastest().map_err(to_py)?;
        Ok((genome.into_pyarray(py), cost.fps, cost.latency_s))
    }

    fn slowest<'py>(&self, py: Python<'py>) -> PyResult<Extreme<'py>> {
        let (genome, cost) = self.table.slowest().map_err(to_py)?;
        Ok((genome.into_pyarray(py), cost.fps, cost.latency_s))
    }

    /// Returns the lowest rate of a network that fits, by an objective; none if nothing fits.
    fn lowest_rate(&self, objective: &str) -> PyResult<Option<f64>> {
        let objective = quasar_search::Objective::named(objective).map_err(to_py)?;
        self.table.check_objective(objective).map_err(to_py)?;
        let genotype = quasar_search::Genotype::of(self.table.space());
        Ok(self.table.shares(objective).lowest_rate(&genotype))
    }

    /// Returns the watts without frames; none if the board's file has no powers.
    #[getter]
    fn standing_w(&self) -> Option<f64> {
        self.table.standing_w()
    }

    /// Returns the processor's share of a frame, as JSON.
    fn host(&self) -> PyResult<String> {
        json(self.table.host())
    }
}

/// Configurations of a board, of which each network of a space has the one that suits it best.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Designs {
    pub designs: Arc<quasar_search::Designs>,
}

impl Designs {
    pub fn space(&self) -> &quasar_search::Space {
        self.designs.designs()[0].table.space()
    }
}

#[pymethods]
impl Designs {
    #[new]
    fn new(
        tables: Vec<PyRef<'_, CostTable>>,
        scales: Vec<f64>,
        max_latency_s: Option<f64>,
        max_energy_j: Option<f64>,
    ) -> PyResult<Self> {
        if tables.len() != scales.len() {
            return Err(invalid_value(
                "each hardware configuration needs a scale".into(),
            ));
        }
        let design = |(table, scale): (&PyRef<'_, CostTable>, f64)| quasar_search::Design {
            table: table.table.clone(),
            scale,
        };
        let limits = quasar_search::Limits {
            latency_s: max_latency_s,
            energy_j: max_energy_j,
        };
        let designs = tables.iter().zip(scales).map(design).collect();
        let designs = quasar_search::Designs::new(designs, limits).map_err(to_py)?;
        Ok(Self {
            designs: Arc::new(designs),
        })
    }

    /// Returns the costs of genomes, each on the configuration `design`, or on the best one.
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        genomes: PyReadonlyArray2<'py, u8>,
        design: Option<usize>,
    ) -> PyResult<OnDesigns<'py>> {
        let genes = genomes.shape()[1];
        let genomes = genomes.as_slice()?;
        let designs = &self.designs;
        if design.is_some_and(|number| number >= designs.designs().len()) {
            return Err(invalid_value("there is no such configuration".into()));
        }
        let found = py
            .detach(|| {
                let table = &designs.designs()[0].table;
                let rows = genomes.chunks_exact(genes.max(1));
                rows.map(|genome| {
                    table.check(genome)?;
                    Ok(design.map_or_else(|| designs.best(genome), |n| designs.on(n, genome)))
                })
                .collect::<quasar_core::error::Result<Vec<OnDesign>>>()
            })
            .map_err(to_py)?;
        let column = |value: fn(&OnDesign) -> f64| {
            let values: Vec<f64> = found.iter().map(value).collect();
            values.into_pyarray(py)
        };
        let numbers: Vec<u32> = found.iter().map(|on| on.design as u32).collect();
        Ok((
            column(|on| on.fps),
            column(|on| on.fps_with_host),
            column(|on| on.latency_s),
            column(|on| on.energy_j.unwrap_or(f64::NAN)),
            column(|on| on.violation),
            numbers.into_pyarray(py),
        ))
    }

    fn fastest<'py>(&self, py: Python<'py>) -> PyResult<Extreme<'py>> {
        let (genome, on) = self.designs.fastest().map_err(to_py)?;
        Ok((genome.into_pyarray(py), on.fps, on.latency_s))
    }
}
