"""The seeds of the fuzz corpus: golden subnets, damaged copies of one, hostile headers, odd images.

Also edits of subnets, frames of a camera, commands and answers of a device. Seeds are named for what they hold. Needs
nothing but Python.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"


def container(header: bytes | str, data: bytes = b"") -> bytes:
    """Returns a safetensors container with this header, valid or not."""
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header)) + header + data


def split(subnet: bytes) -> tuple[dict[str, dict[str, object]], bytes]:
    """Returns the header and the data of a container."""
    (length,) = struct.unpack("<Q", subnet[:8])
    return json.loads(subnet[8 : 8 + length]), subnet[8 + length :]


def hostile_headers() -> dict[str, bytes]:
    """Containers that are no subnets."""

    def one(**entry: object) -> bytes:
        return container(
            json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], **entry}}), b"abcd"
        )

    return {
        "empty": b"",
        "length-only": struct.pack("<Q", 16),
        "length-huge": struct.pack("<Q", 2**64 - 1) + b"{",
        "length-past-limit": struct.pack("<Q", 2**22 + 8) + b'{"a":1}',
        "zip": b"PK\x03\x04" + bytes(60),
        "not-json": container("hello"),
        "not-utf8": container(b'{"\xff\xfe":1}'),
        "array": container("[]"),
        "deep-array": container("[" * 20000),
        "deep-object": container('{"a":' * 20000),
        "deep-metadata": container('{"__metadata__":' + "[" * 20000),
        "no-metadata": one(),
        "shape-overflow": one(shape=[2**63, 2**63]),
        "shape-huge": one(shape=[2**40]),
        "shape-negative": one(shape=[-4]),
        "shape-float": one(shape=[4.5]),
        "shape-many": one(shape=[1] * 5000),
        "offsets-reversed": one(data_offsets=[4, 0]),
        "offsets-past-end": one(data_offsets=[0, 2**62]),
        "offsets-hole": one(shape=[2], data_offsets=[2, 4]),
        "dtype-unknown": one(dtype="Q9"),
        "dtype-float": one(dtype="F16", shape=[2]),
        "offsets-overlap": container(
            json.dumps({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"}), b"abcd"
        ),
        "name-twice": container(
            '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
            b"abcd",
        ),
        "metadata-number": container('{"__metadata__":{"format":1}}'),
        "format-other": container('{"__metadata__":{"format":"pt"}}'),
        "version-other": container(
            '{"__metadata__":{"format":"qvit","version":"99","config":"{}","sha256":""}}'
        ),
    }


def hostile_configs(subnet: bytes) -> dict[str, bytes]:
    """Returns the subnet with other configs; the digest no longer matches."""
    header, data = split(subnet)

    def with_config(config: str) -> bytes:
        metadata = {**header["__metadata__"], "config": config}
        return container(json.dumps({**header, "__metadata__": metadata}), data)

    text = str(header["__metadata__"]["config"])
    config = json.loads(text)
    changes: dict[str, dict[str, object]] = {
        "embed-negative": {"embed": -1},
        "embed-huge": {"embed": 2**62},
        "embed-float": {"embed": 17.0},
        "tokens-many": {"image": {"height": 4096, "width": 4096, "channels": 3}},
        "channels-zero": {"image": {"height": 9, "width": 9, "channels": 0}},
        "stride-zero": {"patch": {**config["patch"], "stride": 0}},
        "kernel-zero": {"patch": {**config["patch"], "kernel": 0, "pad": 0}},
        "kernel-huge": {"patch": {**config["patch"], "kernel": 2**63}},
        "pad-huge": {"patch": {**config["patch"], "pad": 2**63}},
        "heads-zero": {"blocks": [{**config["blocks"][0], "heads": 0}]},
        "heads-overflow": {"blocks": [{**config["blocks"][0], "heads": 2**33, "head_dim": 2**33}]},
        "blocks-many": {"blocks": config["blocks"] * 65},
        "classes-none": {"classes": []},
        "classes-many": {"classes": [""] * 32769},
        "scale-negative": {"logit_scale": -1.0},
        "resize-zero": {"preprocess": {"resize": {"mode": "shorter", "size": [0], "filter": "box"}}},
        "unknown-key": {"hook": "os.system"},
    }
    found = {name: with_config(json.dumps({**config, **change})) for name, change in changes.items()}
    found["scale-nan"] = with_config(json.dumps({**config, "logit_scale": float("nan")}))
    found["scale-infinite"] = with_config(json.dumps({**config, "logit_scale": float("inf")}))
    found["scale-overflow"] = with_config(text.replace('"logit_scale":', '"logit_scale":1e999,"x":'))
    found["key-twice"] = with_config(text.replace('"embed":', '"embed":1,"embed":'))
    found["provenance-deep"] = with_config(text.replace('"provenance":', '"provenance":' + "[" * 20000))
    found["config-empty"] = with_config("")
    found["accepted-but-unsigned"] = with_config(text + " ")
    return found


def damaged(subnet: bytes) -> dict[str, bytes]:
    """Returns the subnet cut, lengthened and overwritten."""
    length = 8 + struct.unpack("<Q", subnet[:8])[0]
    return {
        "cut-in-header": subnet[: length // 2],
        "cut-in-data": subnet[:-100],
        "longer": subnet + bytes(8),
        "first-data-byte": subnet[:length] + bytes([subnet[length] ^ 0x80]) + subnet[length + 1 :],
        "last-byte": subnet[:-1] + bytes([subnet[-1] ^ 0x80]),
        "data-zero": subnet[:length] + bytes(len(subnet) - length),
        "data-ones": subnet[:length] + b"\xff" * (len(subnet) - length),
    }


def images() -> dict[str, bytes]:
    """Inputs of the preprocess target: its ten parameter bytes, then pixels."""

    def image(
        height: int, width: int, size: tuple[int, int], crop: tuple[int, int], flags: int, kernel: int
    ) -> bytes:
        return struct.pack("<HH6B", height, width, *size, *crop, flags, kernel) + bytes(range(256))

    found = {
        "empty": b"",
        "nothing": image(0, 0, (8, 8), (8, 8), 0b00101, 4),
        "one-pixel": image(1, 1, (8, 0), (8, 8), 0b00111, 4),
        "wide": image(1, 65500, (32, 0), (32, 32), 0b00101, 4),
        "tall": image(65500, 1, (32, 0), (32, 32), 0b00101, 4),
        "too-large": image(65535, 65535, (32, 0), (32, 32), 0b00111, 4),
        "two-channels": image(9, 9, (8, 0), (8, 8), 0b00110, 1),
        "crop-larger": image(9, 9, (8, 0), (9, 9), 0b00101, 1),
        "none": image(16, 17, (0, 0), (16, 17), 0b10001, 0),
        "strided": image(16, 17, (8, 9), (7, 8), 0b11101011, 3),
    }
    for number in range(5):
        found[f"exact-{number}"] = image(40, 23, (13, 29), (12, 28), 0b11011, number)
        found[f"shorter-{number}"] = image(23, 40, (16, 0), (16, 16), 0b00111, number)
    # A camera's formats, counted in the last byte behind the five filters: BGR, NV12, YUYV.
    for number, name in enumerate(("bgr", "nv12", "yuyv"), 1):
        found[name] = image(40, 32, (16, 0), (16, 16), 0b1000111 | number << 4 & 0b10000, 5 * number + 2)
        found[f"{name}-exact"] = image(50, 24, (13, 29), (12, 28), 0b11011, 5 * number + 4)
        found[f"{name}-as-it-is"] = image(16, 18, (0, 0), (16, 18), 0b10000, 5 * number)
    found["nv12-odd"] = image(15, 18, (8, 0), (8, 8), 0b10111, 12)
    return found


def frames() -> dict[str, bytes]:
    """Inputs of the target camera_frame: its ten parameter bytes, then pixels."""

    def frame(number: int, flags: int, height: int, width: int, *rest: int) -> bytes:
        return bytes([number, flags, height, width, *rest]) + bytes(range(200))

    found = {"empty": b""}
    # Format, flags, sides, their high parts, what is added to the stride, to the data, to the luma; size, filter.
    for number, name in enumerate(("gray", "rgb", "bgr", "nv12", "yuyv")):
        found[name] = frame(number, 0b10000, 18, 34, 0, 0, 0, 0, 12, 2)
        found[f"{name}-strided"] = frame(number, 0b11000, 18, 34, 0, 13, 0, 0, 50, 4)
        found[f"{name}-short"] = frame(number, 0b10001, 18, 34, 0, 3, 255, 0, 12, 1)
        found[f"{name}-narrow"] = frame(number, 0b10010000, 18, 34, 0, 255, 0, 0, 12, 1)
        found[f"{name}-stride-huge"] = frame(number, 0b11010000, 18, 34, 0, 1, 0, 0, 12, 1)
        found[f"{name}-planes"] = frame(number, 0b10100, 18, 34, 0, 5, 0, 0, 12, 3)
        found[f"{name}-large"] = frame(number, 0, 2, 2, 0xFF, 0, 0, 0, 12, 3)
    found["nv12-planes-off"] = frame(3, 0b10111, 18, 34, 0, 5, 0, 255, 12, 3)
    return found


def edits() -> dict[str, bytes]:
    """Inputs of the target signed_subnet: a golden subnet, edits of eight bytes, sizes of an accelerator."""

    def edit(kind: int, how: int, place: int, value: int) -> bytes:
        return struct.pack("<BBHi", kind, how, place, value)

    sizes = bytes([7, 3, 2, 1, 2, 1, 3, 0])
    fit = edit(8, 0, 0, 0)
    found = {f"golden-{number}": bytes([number]) + sizes for number in (*range(8), *range(128, 136))}
    found["empty"] = b""
    # Each leaf of the configuration one more, then tensors that fit it.
    for place in range(20):
        found[f"more-{place}"] = bytes([128 + place % 4]) + edit(0, 0, place, 0) + fit + sizes
    # Each kind of edit, with and without tensors that fit.
    for kind in range(10):
        for how in (0, 3, 8, 0x41, 0x83):
            one = edit(kind, how, 1 + how, 5)
            found[f"edit-{kind}-{how:x}"] = b"\x80" + one + sizes
            found[f"edit-{kind}-{how:x}-fit"] = b"\x81" + one + fit + sizes
    # All values of a tensor at an end of what is allowed.
    for place in range(60):
        found[f"ends-{place}"] = (
            bytes([128 + place % 4]) + edit(5, 1 + 2 * (place % 5), place, 1) + fit + sizes
        )
    for place in range(0, 40, 3):
        found[f"header-{place}"] = b"\x80" + edit(250, place % 12, place, 9) + sizes
    return found


def commands() -> dict[str, bytes]:
    """Returns a command of each unit and code with all fields 0, some with all bits set, and a part of one."""
    found = {f"unit-{unit}": b"" for unit in range(8)}
    for unit in range(8):
        for code in range(8):
            found[f"unit-{unit}"] += struct.pack("<8I", unit | code << 3, *[0] * 7)
    found["all-bits"] = b"".join(struct.pack("<8I", head, *[0xFFFFFFFF] * 7) for head in range(64))
    found["half"] = bytes(17)
    found["empty"] = b""
    return found


def answers() -> dict[str, bytes]:
    """Outputs of a device, each behind its nonce: too short, too long, zeros, ones."""
    return {
        "empty": b"",
        "nonce-alone": b"\1\0\0\0",
        "zeros": bytes(68),
        "ones": b"\xff" * 68,
        "nonce-none": bytes(4) + bytes(range(64)),
        "flip-of-the-nonce": bytes(66) + b"\x80\1",
        "long": bytes(range(256)) * 8,
    }


def seeds() -> dict[str, dict[str, bytes]]:
    """Returns the seeds of each target by their names."""
    subnets = {path.stem: path.read_bytes() for path in VECTORS.glob("*.qvit")}
    small = subnets["mean-after-norm"]
    return {
        "subnet_bytes": {
            "mean-after-norm": small,
            "overlap": subnets["overlap"],
            "all-4": subnets["all-4"],
            **hostile_headers(),
            **hostile_configs(small),
            **damaged(small),
        },
        "preprocess": images(),
        "camera_frame": frames(),
        "signed_subnet": edits(),
        "command_words": commands(),
        "device_output": answers(),
    }
