"""Rows of 4 and 8 bits, against NumPy written down plainly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quasar_rt import (
    InvalidValueError,
    pack_rows,
    quantize_rows,
    row_pairs,
    unpack_rows,
)

shapes = st.tuples(st.integers(0, 9), st.integers(0, 40))
widths = st.sampled_from([4, 8])


def limits(bits):
    return np.where(np.asarray(bits) == 4, 7, 127)


def plain_pack(codes, bits):
    """Packs in the document's layout, a row and a byte at a time."""
    data = bytearray()
    for row, width in zip(codes.tolist(), bits, strict=True):
        if width == 8:
            data += bytes(code & 255 for code in row)
        else:
            padded = row + [0] * (len(row) % 2)
            data += bytes(
                (low & 15) | (high & 15) << 4 for low, high in zip(padded[::2], padded[1::2], strict=True)
            )
    return np.frombuffer(bytes(data), np.uint8)


@st.composite
def code_matrices(draw):
    rows, columns = draw(shapes)
    bits = draw(st.lists(widths, min_size=rows, max_size=rows))
    wide = draw(hnp.arrays(np.int8, (rows, columns), elements=st.integers(-127, 127)))
    limit = limits(bits).reshape(rows, 1)
    return np.clip(wide, -limit, limit).astype(np.int8), np.array(bits, np.uint8)


@given(code_matrices())
def test_packing_is_the_documents_layout_and_unpacking_its_inverse(case):
    codes, bits = case
    data = pack_rows(codes, bits)
    np.testing.assert_array_equal(data, plain_pack(codes, bits))
    unpacked = unpack_rows(data, bits, codes.shape[1])
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, codes)


finite = st.floats(-(2.0**100), 2.0**100, width=32)


@given(shapes, st.data(), st.sampled_from(["mse", "minmax"]), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=150)
def test_quantized_rows_are_within_half_a_step(shape, data, method, dtype):
    weights = data.draw(hnp.arrays(np.float32, shape, elements=finite)).astype(dtype)
    bits = data.draw(st.lists(widths, min_size=shape[0], max_size=shape[0]))
    rows = quantize_rows(weights, bits, method=method)
    codes = rows.unpack()
    assert codes.shape == shape
    assert rows.scales.dtype == np.float32
    assert np.all(rows.scales > 0)
    limit = limits(bits).reshape(-1, 1)
    assert np.all(np.abs(codes) <= limit)
    step = rows.scales.astype(np.float64)[:, np.newaxis]
    clipped = np.clip(weights, -limit * step, limit * step)
    assert np.all(np.abs(clipped - codes * step) <= step * (0.5 + 1e-5))
    if method == "minmax":
        assert np.all(np.abs(weights) <= limit * step * (1 + 1e-6))
    np.testing.assert_allclose(rows.dequantize(), codes * step, rtol=1e-6)


def test_mse_beats_minmax_where_a_row_has_an_outlier():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 256))
    weights[:, 0] = 6
    errors = {
        method: np.square(quantize_rows(weights, 4, method=method).dequantize() - weights).sum()
        for method in ("mse", "minmax")
    }
    assert errors["mse"] < 0.9 * errors["minmax"]


def test_given_scales_are_used_and_round_half_to_even():
    rows = quantize_rows(np.array([[0.5, 1.5, 2.5, -0.5, 100.0]]), 4, scales=[1.0])
    assert rows.unpack().tolist() == [[0, 2, 2, 0, 7]]
    assert rows.scales.tolist() == [1.0]


def test_zero_rows_and_empty_matrices():
    rows = quantize_rows(np.zeros((3, 5)), [4, 8, 4])
    assert not rows.unpack().any()
    assert np.array_equal(rows.scales, np.ones(3))
    assert quantize_rows(np.zeros((0, 5)), 4).unpack().shape == (0, 5)
    assert quantize_rows(np.zeros((5, 0)), 8).unpack().shape == (5, 0)


def test_layouts_other_than_c_are_the_same_matrix():
    weights = np.random.default_rng(1).normal(size=(6, 10)).astype(np.float32)
    expected = quantize_rows(weights, 4).unpack()
    for other in (np.asfortranarray(weights), np.repeat(weights, 2, axis=1)[:, ::2], weights[::-1][::-1]):
        np.testing.assert_array_equal(quantize_rows(other, 4).unpack(), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scales", [None, [1.0, 1.0]])
def test_a_weight_that_is_not_finite_is_named(bad, scales):
    weights = np.zeros((2, 3))
    weights[1, 2] = bad
    with pytest.raises(InvalidValueError, match="row 1, column 2"):
        quantize_rows(weights, 8, scales=scales)


def test_a_weight_beyond_float32_is_an_error_without_a_warning():
    with pytest.raises(InvalidValueError, match="row 0, column 0"):
        quantize_rows(np.array([[1e300]]), 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 2), np.int64), 4), "int64"),
        ((np.zeros(4), 4), r"\(4,\)"),
        ((np.zeros((2, 2)), 5), "row 0 has bits 5"),
        ((np.zeros((2, 2)), [4, 260]), "row 1 has bits 260"),
        ((np.zeros((2, 2)), [4, 4, 4]), "3 bits for 2 rows"),
        ((np.zeros((2, 2)), [[4, 4]]), "bits must have shape"),
        ((np.zeros((2, 2)), 4, [1.0]), "1 scales for 2 rows"),
        ((np.zeros((2, 2)), 4, [[1.0, 1.0]]), "scales must have shape"),
        ((np.zeros((2, 2)), 4, [1.0, 0.0]), "row 1"),
        ((np.zeros((2, 2)), 4, [np.nan, 1.0]), "row 0"),
        ((np.zeros((2, 2)), 4, None, "best"), "best"),
    ],
)
def test_unusable_arguments_are_named(arguments, message):
    with pytest.raises(InvalidValueError, match=message):
        quantize_rows(*arguments)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        ([[8]], 4, "code 8 at row 0"),
        ([[0], [-128]], 8, "code -128 at row 1"),
    ],
)
def test_codes_out_of_range_cannot_be_packed(codes, bits, message):
    with pytest.raises(InvalidValueError, match=message):
        pack_rows(np.array(codes, np.int8), bits)
    with pytest.raises(InvalidValueError, match="int64"):
        pack_rows(np.array(codes, np.int64), bits)


@pytest.mark.parametrize(
    ("data", "bits", "columns"),
    [
        ([0], [4], 3),
        ([0, 0, 0], [4], 3),
        ([0x08], [4], 1),
        ([0x10], [4], 1),
        ([0x80], [8], 1),
        ([], [4], 2**62),
    ],
)
def test_bytes_that_are_no_rows_cannot_be_unpacked(data, bits, columns):
    with pytest.raises(InvalidValueError):
        unpack_rows(np.array(data, np.uint8), bits, columns)


def test_negative_columns_are_an_error():
    with pytest.raises(InvalidValueError, match="columns is -1"):
        unpack_rows(np.zeros(0, np.uint8), [], -1)


@given(st.lists(widths, max_size=50))
def test_row_pairs_cover_each_row_once_in_two_runs(bits):
    pairs = row_pairs(bits)
    assert pairs.addresses.shape == (len(pairs.widths), 2)
    assert pairs.widths.tolist() == sorted(pairs.widths.tolist())
    written = []
    for width, (first, second) in zip(pairs.widths.tolist(), pairs.addresses.tolist(), strict=True):
        if width == 8:
            assert first == second
            written.append(first)
        else:
            written += [row for row in (first, second) if row >= 0]
        assert all(bits[row] == width for row in (first, second) if row >= 0)
    assert sorted(written) == list(range(len(bits)))
    assert np.count_nonzero(pairs.addresses < 0) == bits.count(4) % 2
