"""Subnets as files, bytes and parts; what is wrong with a file is a named error, whatever it is."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quasar_rt
from quasar_rt import Subnet, SubnetError


def parts(data):
    """Returns the header (parsed) and the tensors' bytes of a safetensors container."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def container(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_a_file_keeps_everything(tmp_path, colour_subnet):
    path = tmp_path / "colour.qvit"
    colour_subnet.save(path)
    for again in (Subnet.load(path), Subnet.load(str(path)), Subnet.from_bytes(path.read_bytes())):
        assert again == colour_subnet
        assert again.config == colour_subnet.config
        assert again.to_bytes() == path.read_bytes()
        assert hash(again) == hash(colour_subnet)
        tensors = again.tensors()
        assert tensors.keys() == colour_subnet.tensors().keys()
        for name, value in colour_subnet.tensors().items():
            assert tensors[name].dtype == value.dtype
            np.testing.assert_array_equal(tensors[name], value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["colour.qvit"]


VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.qvit")), ids=lambda path: path.stem)
def test_a_file_has_the_oldest_version_that_is_enough(path):
    data = path.read_bytes()
    header, body = parts(data)
    config = json.loads(header["__metadata__"]["config"])
    version = "2" if config["pool"] == "token_pair" or "embed_norm" in config else "1"
    version = "3" if "patch_tokens" in config else version
    version = "5" if "rotary" in config or config["pool"] == "attention" else version
    assert header["__metadata__"]["version"] == version
    assert Subnet.from_bytes(data).to_bytes() == data
    header["__metadata__"]["version"] = "2" if version == "1" else "1"
    with pytest.raises(
        SubnetError, match=r'states version "\d", but a subnet with its config has version "\d"'
    ):
        Subnet.from_bytes(container(header, body))
    header["__metadata__"]["version"] = "6"
    with pytest.raises(
        quasar_rt.UnsupportedVersionError, match=r'"6" .*\(this build reads versions "1" to "5"\)'
    ):
        Subnet.from_bytes(container(header, body))


def test_a_pair_of_heads_needs_two_prefix_tokens_and_both_heads():
    pair = Subnet.load(VECTORS / "token-pair.qvit")
    with pytest.raises(quasar_rt.ConfigError, match=r"prefix_tokens: 1 is outside \[2, 1023\]"):
        rebuilt(pair, config={"prefix_tokens": 1})
    embed = pair.config["embed"]
    with pytest.raises(quasar_rt.ConfigError, match=rf"classes .*: 16384 is outside \[0, {16384 - embed}\]"):
        rebuilt(pair, config={"classes": [str(i) for i in range(16384)]})
    lacks = {name: value for name, value in pair.tensors().items() if name != "head_dist.bits"}
    with pytest.raises(quasar_rt.TensorError, match=r"head_dist\.bits"):
        Subnet.from_parts(pair.config, lacks)
    with pytest.raises(quasar_rt.TensorError, match=r"head_dist\..* is not part of"):
        rebuilt(pair, config={"pool": "token"})
    bias = pair.tensors()["head_dist.bias"]
    bias[-1] = 0
    with pytest.raises(quasar_rt.TensorError, match=r"head_dist.bias.* is 0, not -1"):
        rebuilt(pair, tensors={"head_dist.bias": bias})


def test_parts_make_the_same_subnet(gray_subnet):
    assert Subnet.from_parts(gray_subnet.config, gray_subnet.tensors()) == gray_subnet
    for memory in (bytearray(gray_subnet.to_bytes()), memoryview(gray_subnet.to_bytes())):
        assert Subnet.from_bytes(memory) == gray_subnet
    swapped = {
        name: value.astype(value.dtype.newbyteorder(">")) for name, value in gray_subnet.tensors().items()
    }
    assert Subnet.from_parts(gray_subnet.config, swapped) == gray_subnet
    backwards = {name: value[::-1].copy()[::-1] for name, value in gray_subnet.tensors().items()}
    assert Subnet.from_parts(gray_subnet.config, backwards) == gray_subnet


def test_subnets_pickle(gray_subnet):
    assert pickle.loads(pickle.dumps(gray_subnet)) == gray_subnet


def test_what_is_handed_out_is_a_copy(gray_subnet):
    before = gray_subnet.to_bytes()
    gray_subnet.tensors()["position"][:] = 0
    gray_subnet.config["name"] = "other"
    gray_subnet.classes.clear()
    assert gray_subnet.to_bytes() == before
    assert gray_subnet.name == "gray"
    assert len(gray_subnet.classes) == 10


def test_repr_and_summary_say_what_it_is(gray_subnet):
    assert repr(gray_subnet).startswith("<Subnet 'gray': 28x28x1 to 10 classes, 2 blocks of 32")
    assert "untrained" in repr(gray_subnet)
    summary = gray_subnet.summary()
    tensors = gray_subnet.tensors()
    assert summary.tensor_bytes == sum(value.nbytes for value in tensors.values())
    for layer in summary.layers:
        bits = tensors[f"{layer.name}.bits"]
        assert layer.rows4 == np.count_nonzero(bits == 4)
        assert layer.rows8 == np.count_nonzero(bits == 8)
        assert layer.bytes == tensors[f"{layer.name}.weight"].size
    assert summary.weight_bytes == sum(layer.bytes for layer in summary.layers)
    tokens, inner = 17, 32
    attention = 2 * tokens * tokens * inner
    # The last block has one query, the class token's.
    assert summary.macs == sum(layer.macs for layer in summary.layers) + attention + attention // tokens
    assert summary.macs < summary.nominal_macs


def test_other_readers_of_safetensors_read_it(tmp_path, gray_subnet):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "gray.qvit"
    gray_subnet.save(path)
    for name, value in safetensors.load_file(path).items():
        np.testing.assert_array_equal(value, gray_subnet.tensors()[name])


def test_saving_is_atomic_and_failing_leaves_nothing(tmp_path, gray_subnet, tiny_subnet):
    path = tmp_path / "subnet.qvit"
    tiny_subnet.save(path)
    gray_subnet.save(path)
    assert Subnet.load(path) == gray_subnet
    with pytest.raises(quasar_rt.FileError, match="nowhere"):
        gray_subnet.save(tmp_path / "nowhere" / "subnet.qvit")
    (tmp_path / "folder").mkdir()
    with pytest.raises(quasar_rt.FileError):
        gray_subnet.save(tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "subnet.qvit"]


def test_loading_never_waits_for_a_fifo_that_takes_the_files_place(tmp_path, tiny_subnet):
    tiny_subnet.save(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import os, sys, time, quasar_rt\n"
        "quasar_rt.Subnet, quasar_rt.FileError  # imported when they are named\n"
        "folder, end = sys.argv[1], time.monotonic() + 1\n"
        "if os.fork() == 0:\n"
        "    while time.monotonic() < end:\n"
        "        for name in ('file', 'fifo'):\n"
        "            os.link(f'{folder}/{name}', f'{folder}/next')\n"
        "            os.rename(f'{folder}/next', f'{folder}/subnet.qvit')\n"
        "    os._exit(0)\n"
        "outcomes = set()\n"
        "while time.monotonic() < end:\n"
        "    try:\n"
        "        outcomes.add(quasar_rt.Subnet.load(f'{folder}/subnet.qvit').name)\n"
        "    except quasar_rt.FileError as error:\n"
        "        outcomes.add('regular' if 'not a regular file' in str(error) else 'missing')\n"
        "print(*sorted(outcomes - {'missing'}))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.stdout.split() == sorted(["regular", tiny_subnet.name]), done.stderr


def test_a_long_name_can_be_saved_and_a_too_long_one_is_an_error(tmp_path, tiny_subnet):
    path = tmp_path / ("n" * 250 + ".qvit")
    tiny_subnet.save(path)
    assert Subnet.load(path) == tiny_subnet
    with pytest.raises(quasar_rt.FileError):
        tiny_subnet.save(tmp_path / ("n" * 256))
    for name in ("x" * 300, "a\0b"):
        for use in (Subnet.load, tiny_subnet.save):
            with pytest.raises(quasar_rt.FileError):
                use(name)


def test_text_from_a_config_reaches_messages_short_and_escaped(tiny_subnet):
    for change in (
        {"k" * 900_000: 1},
        {"\x1b]0;k\x07": 1},
        {"pool": "\x1b" * 100_000},
        {"name": "\x1b[2J"},
        {"classes": ["a", "b\n"]},
    ):
        with pytest.raises(quasar_rt.ConfigError) as raised:
            Subnet.from_parts({**tiny_subnet.config, **change}, tiny_subnet.tensors())
        message = str(raised.value)
        assert message.isprintable()
        assert len(message) < 3000


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(quasar_rt.FileError, match="missing"):
        Subnet.load(tmp_path / "missing.qvit")
    with pytest.raises(quasar_rt.FileError, match="no packaged subnet"):
        Subnet.load("no-such-name")
    with pytest.raises(quasar_rt.FileError):
        Subnet.load(tmp_path)
    with pytest.raises(quasar_rt.FileError):
        Subnet.load(Path("/dev/zero"))


def test_the_constructor_names_the_ways_to_make_one():
    with pytest.raises(TypeError, match=r"Subnet\.load"):
        Subnet()


def test_another_digest_and_format_are_named(tiny_subnet):
    header, body = parts(tiny_subnet.to_bytes())
    header["__metadata__"].update(sha256="0" * 64)
    with pytest.raises(quasar_rt.ChecksumError):
        Subnet.from_bytes(container(header, body))
    header["__metadata__"].update(format="gguf")
    with pytest.raises(quasar_rt.NotASubnetError):
        Subnet.from_bytes(container(header, body))


def rebuilt(subnet, config=None, tensors=None):
    return Subnet.from_parts({**subnet.config, **(config or {})}, {**subnet.tensors(), **(tensors or {})})


def test_configs_that_are_no_json_are_named(tiny_subnet):
    with pytest.raises(quasar_rt.ConfigError, match="JSON"):
        rebuilt(tiny_subnet, config={"embed": np.int64(4)})
    with pytest.raises(quasar_rt.ConfigError, match="JSON"):
        rebuilt(tiny_subnet, config={"logit_scale": float("nan")})


def test_unsound_tensors_are_named(tiny_subnet):
    tensors = tiny_subnet.tensors()
    for name, value in tensors.items():
        without = {other: tensors[other] for other in tensors if other != name}
        with pytest.raises(SubnetError, match=name.rpartition(".")[0] or name):
            Subnet.from_parts(tiny_subnet.config, without)
        for wrong in (np.append(value.ravel(), value.ravel()[:1]), value.ravel()[:0]):
            with pytest.raises(SubnetError):
                rebuilt(tiny_subnet, tensors={name: wrong})
        with pytest.raises(quasar_rt.TensorError, match="float32"):
            rebuilt(tiny_subnet, tensors={name: value.astype(np.float32)})
    with pytest.raises(quasar_rt.TensorError, match="extra"):
        rebuilt(tiny_subnet, tensors={"extra": np.zeros(1, np.int8)})
    with pytest.raises(quasar_rt.TensorError, match="bits"):
        rebuilt(tiny_subnet, tensors={"embed.bits": np.full(4, 5, np.uint8)})
    bias = tensors["embed.bias"]
    bias[2] = 2**26
    with pytest.raises(quasar_rt.AccumulatorOverflowError, match="row 2"):
        rebuilt(tiny_subnet, tensors={"embed.bias": bias})


def test_the_packaged_subnets_load():
    from quasar_rt import packaged

    for name in packaged.subnet_names():
        subnet = Subnet.load(name)
        assert subnet.trained
        assert subnet.name == name
        for sample in packaged.sample_images(name):
            assert sample.path.is_file()
            assert sample.label is None or sample.label in subnet.classes


def test_paths_in_messages_have_no_control_characters(tmp_path):
    path = tmp_path / "x\x1b[31m.qvit"
    with pytest.raises(quasar_rt.FileError, match=r"there is no file '.*x\\x1b\[31m\.qvit' and no packaged"):
        Subnet.load(path)
    path.write_bytes(b"junk")
    with pytest.raises(
        quasar_rt.TruncatedError, match=r"^'.*x\\x1b\[31m\.qvit': the subnet file is truncated"
    ):
        Subnet.load(path)
