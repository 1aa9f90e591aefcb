//! Binds `quasar_core::rows`: takes and returns `NumPy` arrays, and releases the GIL meanwhile.
//!
//! `python/quasar_rt/rows` is the public API; it checks dtypes, dimensions and contiguity first.

use numpy::ndarray::Array2;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use quasar_core::rows::{self, Method, RowPairs};

use crate::errors::{invalid_value, to_py};

type Quantized<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<f32>>);

fn matrix<T: Copy>(values: Vec<T>, rows: usize, columns: usize) -> PyResult<Array2<T>> {
    Array2::from_shape_vec((rows, columns), values)
        .map_err(|error| invalid_value(error.to_string()))
}

/// Quantizes and packs rows. Returns the packed bytes and the scales.
#[pyfunction]
pub fn quantize_rows<'py>(
    py: Python<'py>,
    weights: PyReadonlyArray2<'py, f32>,
    bits: PyReadonlyArray1<'py, u8>,
    scales: Option<PyReadonlyArray1<'py, f32>>,
    method: &str,
) -> PyResult<Quantized<'py>> {
    let method = match method {
        "mse" => Method::Mse,
        "minmax" => Method::MinMax,
        other => {
            return Err(invalid_value(format!(
                "method is {other:?}; it must be \"mse\" or \"minmax\""
            )))
        }
    };
    let [rows, columns] = [weights.shape()[0], weights.shape()[1]];
    let (weights, bits) = (weights.as_slice()?, bits.as_slice()?);
    let scales = scales
        .as_ref()
        .map(|scales| scales.as_slice())
        .transpose()?;
    let quantized = py
        .detach(|| rows::quantize_rows(weights, rows, columns, bits, scales, method))
        .map_err(to_py)?;
    Ok((
        quantized.packed.into_pyarray(py),
        quantized.scales.into_pyarray(py),
    ))
}

/// Packs codes into bytes.
#[pyfunction]
pub fn pack_rows<'py>(
    py: Python<'py>,
    codes: PyReadonlyArray2<'py, i8>,
    bits: PyReadonlyArray1<'py, u8>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let [rows, columns] = [codes.shape()[0], codes.shape()[1]];
    let (codes, bits) = (codes.as_slice()?, bits.as_slice()?);
    let packed = py
        .detach(|| rows::pack_rows(codes, rows, columns, bits))
        .map_err(to_py)?;
    Ok(packed.into_pyarray(py))
}

/// Unpacks bytes into codes.
#[pyfunction]
pub fn unpack_rows<'py>(
    py: Python<'py>,
    data: PyReadonlyArray1<'py, u8>,
    bits: PyReadonlyArray1<'py, u8>,
    columns: usize,
) -> PyResult<Bound<'py, PyArray2<i8>>> {
    let (data, bits) = (data.as_slice()?, bits.as_slice()?);
    let codes = py
        .detach(|| rows::unpack_rows(data, bits.len(), columns, bits))
        .map_err(to_py)?;
    Ok(matrix(codes, bits.len(), columns)?.into_pyarray(py))
}

type Pairs<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray2<i32>>);

/// Pairs rows. Returns widths and addresses (-1 for an empty lane).
#[pyfunction]
pub fn row_pairs<'py>(py: Python<'py>, bits: PyReadonlyArray1<'py, u8>) -> PyResult<Pairs<'py>> {
    let pairs = RowPairs::new(bits.as_slice()?).map_err(to_py)?;
    let addresses: Vec<i32> = pairs
        .addresses()
        .iter()
        .flatten()
        .map(|&row| row as i32)
        .collect();
    let addresses = matrix(addresses, pairs.widths().len(), 2)?;
    Ok((
        pairs.widths().to_vec().into_pyarray(py),
        addresses.into_pyarray(py),
    ))
}
