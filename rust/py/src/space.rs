//! `_native.Space`: search spaces and their genomes. `python/quasar_rt/space.py` is the public
//! face.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use quasar_search::space::{self, Architecture, BlockShape};

use crate::errors::to_py;

/// A block: heads, `head_dim`, hidden, 8-bit fractions.
type Block = (usize, usize, usize, (f64, f64, f64, f64, f64, f64));

/// A checked search space, immutable.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Space {
    pub space: space::Space,
}

#[pymethods]
impl Space {
    #[staticmethod]
    fn from_toml(text: &str) -> PyResult<Self> {
        Ok(Self {
            space: space::Space::from_toml(text).map_err(to_py)?,
        })
    }

    fn to_toml(&self) -> String {
        self.space.to_toml()
    }

    fn to_json(&self) -> String {
        self.space.to_json()
    }

    fn sha256(&self) -> String {
        self.space.sha256()
    }

    /// Returns the name and the number of choices of each gene.
    fn genes(&self) -> Vec<(String, usize)> {
        (0..self.space.genes())
            .map(|i| (self.space.gene_name(i), self.space.choices_of(i)))
            .collect()
    }

    fn size(&self) -> f64 {
        self.space.size()
    }

    fn tokens(&self) -> usize {
        self.space.tokens()
    }

    fn decode(&self, genome: PyReadonlyArray1<'_, u8>) -> PyResult<(usize, Vec<Block>)> {
        let architecture = self.space.decode(genome.as_slice()?).map_err(to_py)?;
        let blocks = architecture.blocks.iter();
        let blocks = blocks.map(|b| (b.heads, b.head_dim, b.hidden, b.eight_bit.into()));
        Ok((architecture.embed, blocks.collect()))
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        embed: usize,
        blocks: Vec<Block>,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let blocks = blocks
            .into_iter()
            .map(|(heads, head_dim, hidden, eight_bit)| BlockShape {
                heads,
                head_dim,
                hidden,
                eight_bit: eight_bit.into(),
            })
            .collect();
        let genome = self.space.encode(&Architecture { embed, blocks });
        Ok(genome.map_err(to_py)?.into_pyarray(py))
    }

    fn canonical<'py>(
        &self,
        py: Python<'py>,
        genome: PyReadonlyArray1<'_, u8>,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let mut genome = genome.as_slice()?.to_vec();
        self.space.check_genome(&genome).map_err(to_py)?;
        self.space.canonicalize(&mut genome);
        Ok(genome.into_pyarray(py))
    }

    fn largest<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u8>> {
        self.space.largest().into_pyarray(py)
    }

    fn smallest<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u8>> {
        self.space.smallest().into_pyarray(py)
    }

    fn sample<'py>(
        &self,
        py: Python<'py>,
        seed: u64,
        stream: Vec<u64>,
    ) -> Bound<'py, PyArray1<u8>> {
        self.space.sample(seed, &stream).into_pyarray(py)
    }
}

/// Returns the number of 8-bit rows of a matrix of `rows` rows.
#[pyfunction]
pub fn eight_bit_rows(rows: usize, fraction: f64) -> usize {
    space::eight_bit_rows(rows, fraction)
}
