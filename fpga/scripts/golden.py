"""Writes the golden vectors as text for the testbench `golden`.

Usage: golden.py VECTORS OUT. VECTORS is tests/vectors: subnets, and for each an image with the oracle's results.
OUT gets a line for each tensor: name of the subnet, name of the tensor, number of values, values. The oracle's
results are called `golden.NAME`; numbers of the config are tensors, too (`config.blocks.0.heads`). Skips networks
with further stages (a pair of tokens, a norm of the embedding) or outputs (patch tokens), which the tests of the
simulated device compare.
"""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMATS = {"I8": "b", "U8": "B", "I16": "h", "I32": "i", "I64": "q"}  # safetensors' names, struct's
POOLS = {"token": 0, "mean": 1, "mean_after_norm": 2}


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Reads a safetensors file: its metadata, and its tensors flattened."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, tensor in header.items():
        begin, end = (8 + length + offset for offset in tensor["data_offsets"])
        kind = FORMATS[tensor["dtype"]]
        tensors[name] = struct.unpack(f"<{(end - begin) // struct.calcsize(kind)}{kind}", data[begin:end])
    return metadata, tensors


def numbers(name: str, value: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the integers of a config, by name."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(f"{name}.{key}", part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from numbers(f"{name}.{index}", part)
    elif isinstance(value, int):
        yield name, (int(value),)


def main(vectors: Path, out: Path) -> None:
    """Writes the tensors of all golden vectors."""
    lines = []
    for path in sorted(vectors.glob("*.qvit")):
        metadata, tensors = read(path)
        _, trace = read(path.with_suffix(".safetensors"))
        config = json.loads(metadata["config"])
        if config["pool"] not in POOLS or {"embed_norm", "patch_tokens", "rotary"} & config.keys():
            continue
        shape = {key: config[key] for key in ("image", "patch", "embed", "prefix_tokens", "blocks")}
        shape |= {"pool": POOLS[config["pool"]], "outputs": len(tensors["head.bits"])}
        named = {**tensors, **{f"golden.{name}": values for name, values in trace.items()}}
        named.update(numbers("config", shape))
        for name, values in named.items():
            lines.append(f"{path.stem} {name} {len(values)} {' '.join(map(str, values))}\n")
    out.write_text("".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
