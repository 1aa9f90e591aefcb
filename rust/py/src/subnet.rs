//! `_native.Subnet`: a checked subnet that Python and the engine share.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quasar_core::memory;
use quasar_core::subnet::container::Dtype;

use crate::errors::{invalid_value, to_py};

/// A tensor in the binding: name, safetensors dtype, shape, little-endian bytes.
type Tensor<'py> = (String, String, Vec<usize>, Bound<'py, PyBytes>);
/// A linear layer: name, rows, columns, 4-bit rows, 8-bit rows, bytes, multiply-accumulates.
type Layer = (String, usize, usize, usize, usize, usize, u64);
/// Parameters, weight bytes, tensor bytes, multiply-accumulates, layers.
type Summary = (usize, usize, usize, u64, u64, Vec<Layer>);

/// A valid subnet, immutable.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Subnet {
    pub subnet: Arc<quasar_core::Subnet>,
}

impl Subnet {
    fn new(subnet: quasar_core::Result<quasar_core::Subnet>) -> PyResult<Self> {
        Ok(Self {
            subnet: Arc::new(subnet.map_err(to_py)?),
        })
    }
}

#[pymethods]
impl Subnet {
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Self::new(py.detach(|| quasar_core::Subnet::load(path)))
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        Self::new(py.detach(|| quasar_core::Subnet::from_bytes(data)))
    }

    #[staticmethod]
    fn from_parts(py: Python<'_>, config: &str, tensors: Vec<Tensor<'_>>) -> PyResult<Self> {
        let bytes = tensors.iter().map(|(_, _, _, data)| data.as_bytes().len());
        memory::check("a subnet", bytes.sum()).map_err(to_py)?;
        let tensors = tensors
            .into_iter()
            .map(|(name, dtype, shape, data)| {
                let known = Dtype::from_name(&dtype).ok_or_else(|| {
                    invalid_value(format!("tensor {name} has the unknown dtype {dtype}"))
                })?;
                Ok((name, known, shape, data.as_bytes().to_vec()))
            })
            .collect::<PyResult<Vec<_>>>()?;
        Self::new(py.detach(|| quasar_core::Subnet::from_parts(config, tensors)))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| {
            let bytes = self.subnet.to_bytes()?;
            memory::check("the subnet's file", bytes.len())?;
            Ok(bytes)
        });
        Ok(PyBytes::new(py, &bytes.map_err(to_py)?))
    }

    fn config(&self) -> &str {
        self.subnet.config_json()
    }

    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Vec<Tensor<'py>>> {
        let bytes = self.subnet.tensors().map(|(_, tensor)| tensor.data().len());
        memory::check("the tensors", bytes.sum()).map_err(to_py)?;
        let tensor = |(name, tensor): (&str, &quasar_core::subnet::container::Tensor)| {
            (
                name.to_owned(),
                tensor.dtype().name().to_owned(),
                tensor.shape().to_vec(),
                PyBytes::new(py, tensor.data()),
            )
        };
        Ok(self.subnet.tensors().map(tensor).collect())
    }

    fn sha256(&self, py: Python<'_>) -> String {
        py.detach(|| self.subnet.sha256())
    }

    fn summary(&self) -> Summary {
        let summary = self.subnet.summary();
        let layer = |l: quasar_core::subnet::LayerSummary| {
            (l.name, l.rows, l.k, l.rows4, l.rows8, l.bytes, l.macs)
        };
        let layers = summary.layers.into_iter().map(layer).collect();
        (
            summary.parameters,
            summary.weight_bytes,
            summary.tensor_bytes,
            summary.nominal_macs,
            summary.macs,
            layers,
        )
    }
}
