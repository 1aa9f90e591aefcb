"""Prediction and Predictions: plain values, equality, arrays of a batch."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest

import quasar_rt
from quasar_rt import Engine, Prediction, Predictions, Score, Timings

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


@pytest.fixture(scope="module")
def batch(gray_subnet):
    pictures = np.random.default_rng(7).integers(0, 256, (5, 28, 28), np.uint8)
    with Engine(gray_subnet, "cpu") as engine:
        return engine.infer_batch(pictures, top_k=3)


def altered(prediction, **changes):
    fields = ("top_k", "logits", "integer_logits", "timings")
    return Prediction(**{name: changes.get(name, getattr(prediction, name)) for name in fields})


def test_to_dict_survives_json_and_has_what_the_prediction_has(batch):
    prediction = batch[0]
    document = json.loads(json.dumps(prediction.to_dict(), allow_nan=False))
    assert set(document) == {"label", "index", "probability", "top_k", "timings"}
    for name in ("label", "index", "probability"):
        assert document[name] == getattr(prediction, name)
    assert [Score(**score) for score in document["top_k"]] == prediction.top_k
    assert Timings(**document["timings"]) == prediction.timings


def test_to_dict_has_logits_when_asked(batch):
    document = json.loads(json.dumps(batch[1].to_dict(logits=True), allow_nan=False))
    np.testing.assert_array_equal(np.array(document["logits"], np.float32), batch[1].logits)
    np.testing.assert_array_equal(document["integer_logits"], batch[1].integer_logits)


def test_predictions_are_equal_whatever_their_timings(batch):
    prediction = batch[0]
    slower = altered(prediction, timings=Timings(1e3, 1e3, 1e3))
    assert prediction == slower
    assert hash(prediction) == hash(slower)
    assert len({prediction, slower, copy.deepcopy(prediction)}) == 1
    assert pickle.loads(pickle.dumps(prediction)) == prediction


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_prediction_that_nobody_has_read_can_be_copied(gray_subnet, protocol):
    picture = np.random.default_rng(8).integers(0, 256, (28, 28), np.uint8)
    with Engine(gray_subnet, "cpu") as engine:
        read = engine.infer(picture)
        assert read.to_dict(logits=True)
        for copied in (copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p, protocol)), altered):
            prediction = engine.infer(picture)
            found = copied(prediction)
            assert found == read
            assert (found.label, found.index, found.probability) == (read.label, read.index, read.probability)
            assert found.timings == prediction.timings


def test_an_attribute_is_made_once_and_can_only_be_read(gray_subnet):
    with Engine(gray_subnet, "cpu") as engine:
        prediction = engine.infer(np.zeros((28, 28), np.uint8), top_k=10**30)
    assert "top_k" not in vars(prediction)
    assert {"top_k", "logits", "integer_logits", "timings", "embedding", "label"} <= set(dir(prediction))
    assert (prediction.label, prediction.index) == (
        gray_subnet.config["classes"][prediction.index],
        prediction.index,
    )
    assert "top_k" not in vars(prediction), "probabilities take time"
    assert prediction.index == int(np.argmax(prediction.logits)) == prediction.top_k[0].index
    assert prediction.label == prediction.top_k[0].label
    assert len(prediction.top_k) == len(prediction.logits)
    for name in ("top_k", "logits", "integer_logits", "timings"):
        assert getattr(prediction, name) is getattr(prediction, name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(prediction, name, None)
    with pytest.raises(AttributeError, match="'Prediction' object has no attribute 'lable'"):
        prediction.lable  # noqa: B018
    assert not hasattr(
        Prediction([], prediction.logits, prediction.integer_logits, prediction.timings), "_outcome"
    )


def test_predictions_differ_in_logits_or_classes(batch):
    prediction = batch[0]
    integer_logits = prediction.integer_logits.copy()
    integer_logits[-1] += 1
    renamed = [Score("another", score.index, score.probability) for score in prediction.top_k]
    for other in (
        batch[1],
        altered(prediction, integer_logits=integer_logits),
        altered(prediction, logits=prediction.logits * 2),
        altered(prediction, top_k=prediction.top_k[:1]),
        altered(prediction, top_k=renamed),
        prediction.to_dict(),
    ):
        assert prediction != other
    assert len(set(batch)) == 5


def test_a_batch_gives_arrays_with_an_entry_for_each_image(batch):
    assert isinstance(batch, list)
    for name, dtype in (
        ("logits", np.float32),
        ("integer_logits", np.int32),
        ("indices", np.int64),
        ("probabilities", np.float64),
    ):
        array = getattr(batch, name)
        assert array.dtype == dtype
        single = {"indices": "index", "probabilities": "probability"}.get(name, name)
        np.testing.assert_array_equal(array, [getattr(prediction, single) for prediction in batch])
    assert batch.logits.shape == batch.integer_logits.shape == (5, 10)
    assert batch.labels.tolist() == [prediction.label for prediction in batch]
    assert (batch.labels == batch[3].label)[3]
    assert batch.to_dicts() == [prediction.to_dict() for prediction in batch]


def test_slices_copies_and_pickles_of_a_batch_are_batches(batch):
    for other in (batch[:], copy.copy(batch), pickle.loads(pickle.dumps(batch))):
        assert isinstance(other, Predictions)
        assert other == batch
        np.testing.assert_array_equal(other.logits, batch.logits)
    assert isinstance(batch[-1], Prediction)
    np.testing.assert_array_equal(batch[3:0:-1].indices, batch.indices[3:0:-1])
    assert batch[5:].logits.shape == (0, 10)


def test_an_empty_batch_has_the_classes_of_its_engine(gray_subnet):
    with Engine(gray_subnet, "cpu") as engine:
        empty = engine.infer_batch([])
    assert empty == []
    assert empty.logits.shape == empty.integer_logits.shape == (0, 10)
    assert empty.labels.shape == empty.indices.shape == empty.probabilities.shape == (0,)
    assert quasar_rt.Predictions().logits.shape == (0, 0)
