"""Search spaces from Python: the shipped files, genomes, architectures, refusals."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from quasar_rt import FileError, InvalidValueError, SettingsError
from quasar_rt.space import Architecture, BlockShape, Space, space_names


@pytest.mark.parametrize("name", space_names())
def test_shipped_spaces_decode_encode_and_survive_pickling(name):
    space = Space.load(name)
    assert space.name == name
    assert pickle.loads(pickle.dumps(space)) == space
    for k in range(20):
        architecture = space.sample(3, 5, k)
        genome = space.encode(architecture)
        assert len(genome) == len(space.genes)
        assert space.decode(genome) == architecture
        assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_the_tiny_space_is_the_papers_kind():
    space = Space.load("tiny")
    assert len(space.genes) == 44
    block = ["blocks.0.heads", "blocks.0.mlp_ratio", "blocks.0.eight_bit"]
    assert [name for name, _ in space.genes[:5]] == ["embed", "depth", *block]
    smallest = space.decode(space.smallest)
    assert smallest == Architecture(192, (BlockShape(3, 64, 672, (0.0,) * 6),) * 12)
    assert smallest.blocks[0].eight_bit_rows(192) == (0,) * 6


def test_unused_blocks_do_not_count():
    space = Space.load("digits")
    genome = space.largest
    genome[1] = 0
    canonical = space.canonical(genome)
    assert not canonical[2 + 8 :].any()
    assert space.decode(genome) == space.decode(canonical)
    assert np.array_equal(space.encode(space.decode(genome)), canonical)


def test_refusals_name_what_is_wrong():
    space = Space.load("digits")
    with pytest.raises(FileError, match=r"shipped spaces: .*digits"):
        Space.load("diggits")
    with pytest.raises(SettingsError, match="unknown field `colour`"):
        Space.from_toml(space.to_toml() + "\n[colour]\n")
    with pytest.raises(InvalidValueError, match="26 genes, not 3"):
        space.decode([0, 0, 0])
    with pytest.raises(InvalidValueError, match=r"blocks\.0\.heads is choice 9"):
        space.decode([0, 0, 9] + [0] * 23)
    with pytest.raises(InvalidValueError, match="0 to 255"):
        space.decode([-1] + [0] * 25)
    with pytest.raises(InvalidValueError, match="embed = 17 is not a choice"):
        space.encode(Architecture(17, space.sample(0).blocks))
    with pytest.raises(InvalidValueError, match=r"blocks\.0\.eight_bit = 0.3"):
        space.encode(Architecture(16, (BlockShape(2, 8, 16, (0.3, 0.0, 0.0, 0.0, 0.0, 0.0)),)))
    with pytest.raises(InvalidValueError, match="an architecture is"):
        Architecture.from_dict({"embed": 16})
    with pytest.raises(InvalidValueError, match="an architecture is"):
        Architecture.from_dict(
            {"embed": 16, "blocks": [{"heads": 2, "eight_bit": [0, 0, 0, 0, 0, 0], "x": 1}]}
        )


def test_old_records_of_four_fractions_give_qkvs_to_queries_keys_and_values():
    block = {"heads": 2, "head_dim": 8, "hidden": 16, "eight_bit": [0.5, 1.0, 0.0, 0.25]}
    old = Architecture.from_dict({"embed": 16, "blocks": [block]})
    assert old.blocks[0].eight_bit == (0.5, 0.5, 0.5, 1.0, 0.0, 0.25)
    assert old.blocks[0].eight_bit_rows(16) == (8, 8, 8, 16, 0, 4)
    for wrong in ([0.5] * 3, [0.5] * 5, [0.5] * 7):
        with pytest.raises(InvalidValueError, match="fractions of q, k, v, proj, fc1, fc2"):
            Architecture.from_dict({"embed": 16, "blocks": [block | {"eight_bit": wrong}]})
