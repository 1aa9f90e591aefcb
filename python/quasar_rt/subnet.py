"""A subnet: one packed, integer-only Vision Transformer, and its file (``docs/subnet-file.md``).

Reading checks everything before anything is used; `quasar_rt.errors` lists the errors. Depends on the native
module and NumPy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._native import Subnet as NativeSubnet
from .arguments import did_you_mean, shown
from .embedding import embedding_size
from .errors import ConfigError, InvalidValueError, MissingFileError, SubnetError, TensorError
from .files import file_name, make_folder, write_bytes
from .packaged import subnet_names, subnet_path
from .settings import NativeObject

if TYPE_CHECKING:
    import numpy.typing as npt

    from .images import ImageLike
    from .onnx_model import Form

__all__ = ["Layer", "Subnet", "Summary"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
"""The file's dtypes, by their safetensors names."""


class Layer(NamedTuple):
    """A linear layer in numbers."""

    name: str
    rows: int
    columns: int
    rows4: int
    """Number of 4-bit rows."""
    rows8: int
    """Number of 8-bit rows."""
    bytes: int
    """Bytes of the packed weights."""
    macs: int
    """Multiply-accumulates a frame that an output depends on."""


class Summary(NamedTuple):
    """A subnet in numbers."""

    parameters: int
    """Trained numbers: weights, biases, norms, position and prefix tables."""
    weight_bytes: int
    """Bytes of the packed weights of all layers."""
    tensor_bytes: int
    """Bytes of all tensors."""
    nominal_macs: int
    """Multiply-accumulates of a frame as networks are compared: all tokens in all layers, attention included."""
    macs: int
    """Multiply-accumulates that an output depends on. With ``token`` pooling the last block needs queries, projection
    and MLP for one token only, and the engine leaves out the rest."""
    layers: list[Layer]
    """The layers in the order of a frame's path."""


class Subnet(NativeObject[NativeSubnet]):
    """One trained and quantized network, immutable; share it freely between engines and threads.

    `load`, `from_bytes` and `from_parts` make one; each checks everything.

    Example:
        >>> subnet = Subnet.load("fashion-mnist")
        >>> subnet.classes[:3]
        ['T-shirt/top', 'Trouser', 'Pullover']
        >>> subnet.tensors()["embed.bias"].dtype
        dtype('int32')
    """

    __slots__ = ()

    _made_by = "Subnet.load(path), Subnet.from_bytes(data) or Subnet.from_parts(config, tensors)"

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Subnet:
        """Reads a ``.qvit`` file, or a packaged subnet by its name (``"digits"``, ``"fashion-mnist"``).

        Raises:
            quasar_rt.FileError: the file cannot be read.
            quasar_rt.SubnetError: it is not a valid subnet; the subclass has the kind of error.
        """
        if not isinstance(source, (str, os.PathLike)):
            raise InvalidValueError(
                f"subnet is {shown(source)}; it must be a Subnet, the path of a .qvit file or a packaged subnet's name"
            )
        path = subnet_path(source) if isinstance(source, str) else None
        if path is None:
            path = Path(source)
            # os.path.exists, unlike Path.exists, is False for names that no file can have.
            if not os.path.exists(path):
                names = subnet_names()
                raise MissingFileError(
                    f"there is no file {shown(str(source))} and no packaged subnet of that name"
                    f"{did_you_mean(str(source), names)} (there are: {', '.join(names) or 'none'})"
                )
        try:
            return cls._wrap(NativeSubnet.load(path))
        except SubnetError as error:
            raise type(error)(f"{shown(str(path))}: {error}") from None

    @property
    def about(self) -> str:
        """Its name, its classes and the images that it takes, in a line.

        >>> print(Subnet.load("fashion-mnist").about)
        fashion-mnist: 10 classes (T-shirt/top, Trouser, Pullover, ...), 28x28 gray
        """
        config = self.config
        image, classes = config["image"], config["classes"]
        some = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
        what = (
            f"{len(classes)} classes ({some})" if classes else f"embeddings of {self.embedding_size} values"
        )
        colour = "gray" if image["channels"] == 1 else "RGB"
        return f"{config['name']}: {what}, {image['height']}x{image['width']} {colour}"

    def preprocess(self, image: ImageLike) -> npt.NDArray[np.uint8]:
        """Returns an image as the network gets it: uint8 [height, width, channels], resized and cropped.

        An engine does the same by itself, and to `infer` the result is the same picture as `image`.

        >>> from quasar_rt.packaged import sample_images
        >>> Subnet.load("digits").preprocess(sample_images("fashion-mnist")[0].path).shape
        (8, 8, 1)

        Args:
            image: as `Engine.infer` takes it.

        Raises:
            quasar_rt.ImageError: it cannot be used, or is too small to be cropped.
        """
        from .images import preprocess

        size = self.config["image"]
        return preprocess(image, (size["height"], size["width"], size["channels"]), self.config["preprocess"])

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        filename: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Subnet:
        """Reads a subnet from a folder, or from a repository of the Hugging Face Hub.

        A folder of that name comes first, so nothing is downloaded where there is one. The Hub needs the ``[hub]``
        extra; its cache and ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` work as ever. A subnet's file executes no
        code.

        Args:
            source: a folder with one ``.qvit`` file, such a file, a packaged subnet's name, or a repository's
                ``"owner/name"``.
            filename: the file in the folder or repository, where it has several subnets.
            revision: a branch, a tag or, so that it never changes, a commit of the repository.
            cache_dir: the cache's folder, if not the Hub's default.
            token: a token for a private repository; the one of ``hf auth login`` if None, none if False.
            local_files_only: true to take the repository from the cache and not to use the network.

        Raises:
            quasar_rt.FileError: there is no such folder or repository, it has no subnet or several, or the Hub cannot
                be reached; the message names the remedy.
            quasar_rt.SubnetError: the file is not a valid subnet.
            ImportError: the Hub is needed, and the extra is missing.

        Example:
            >>> Subnet.from_pretrained("fashion-mnist").name
            'fashion-mnist'
        """
        from .hub import find_pretrained

        return cls.load(find_pretrained(source, filename, revision, cache_dir, token, local_files_only))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Subnet:
        """Reads a subnet from the bytes of a ``.qvit`` file. Raises like `load`."""
        return cls._wrap(NativeSubnet.from_bytes(bytes(data)))

    @classmethod
    def from_parts(cls, config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Subnet:
        """Builds a subnet from its configuration and tensors, named as in ``docs/subnet-file.md``.

        The arrays must have the dtypes and shapes that the document gives; nothing is converted.

        Raises:
            quasar_rt.SubnetError: like `load`.
        """
        try:
            document = json.dumps(config, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the config cannot be written as JSON: {error}") from None
        return cls._wrap(
            NativeSubnet.from_parts(document, [_to_raw(name, array) for name, array in tensors.items()])
        )

    def to_bytes(self) -> bytes:
        """Returns the bytes of the ``.qvit`` file. Equal subnets give equal bytes."""
        return self._inner.to_bytes()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a ``.qvit`` file atomically: to a temporary file in the same folder, which is then renamed.

        It replaces a subnet, whose mode it keeps, or an empty file.

        Raises:
            quasar_rt.FileError: it cannot be written, or `path` is a symbolic link or something other than a subnet.
        """
        write_bytes(Path(path), self.to_bytes())

    def save_pretrained(self, folder: str | os.PathLike[str], *, filename: str | None = None) -> Path:
        """Writes the subnet into a folder, from which `from_pretrained` reads it, and returns the file's path.

        Args:
            folder: the folder; it is made if it is missing.
            filename: the file's name; ``NAME.qvit`` if None, where `_` stands for signs that are not in file names.

        Raises:
            quasar_rt.FileError: the folder or the file cannot be written.
        """
        name = filename or f"{file_name(self.name).lstrip('.') or 'subnet'}.qvit"
        make_folder(Path(folder))
        path = Path(folder) / name
        self.save(path)
        return path

    def to_onnx(self, path: str | os.PathLike[str], form: Form = "exact") -> None:
        """Writes the subnet as an ONNX model of standard operators, atomically (``docs/onnx.md``).

        Args:
            path: the file.
            form: ``"exact"`` computes the integer model bit for bit. ``"qdq"`` has float operators between quantized
                values, which other runtimes turn into integer kernels of their own; its logits differ a little.

        Raises:
            ImportError: the onnx package is missing; the message names the extra.
            quasar_rt.FileError: the file cannot be written.
            quasar_rt.InvalidValueError: another form.
        """
        try:
            from .onnx_model import build
        except ImportError as error:
            raise ImportError(f"{error}; install the onnx extra: pip install 'quasar-rt[onnx]'") from error
        data = build(self, form).SerializeToString(deterministic=True)
        write_bytes(Path(path), data)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration (``docs/subnet-file.md``), a fresh copy."""
        config: dict[str, Any] = json.loads(self._inner.config())
        return config

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Returns copies of all tensors by name, with the dtypes and shapes of ``docs/subnet-file.md``."""
        return {
            name: np.frombuffer(data, _DTYPES[dtype]).reshape(shape).copy()
            for name, dtype, shape, data in self._inner.tensors()
        }

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return str(self.config["name"])

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the logits; empty in a subnet that gives an embedding only."""
        return list(self.config["classes"])

    @property
    def has_embedding(self) -> bool:
        """True if the subnet gives an embedding (`Engine.embed`); it may have no classes then."""
        return "embedding" in self.config

    @property
    def embedding_size(self) -> int:
        """The number of the embedding's values; 0 without an embedding."""
        return embedding_size(self.config)

    @property
    def has_patch_tokens(self) -> bool:
        """True if the subnet also gives the outputs of each patch: ``Engine.embed(image, tokens="patch")``."""
        return bool(self.config.get("patch_tokens"))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        image, patch = self.config["image"], self.config["patch"]
        reach, stride = 2 * patch["pad"] - patch["kernel"], patch["stride"]
        return (image["height"] + reach) // stride + 1, (image["width"] + reach) // stride + 1

    @property
    def trained(self) -> bool:
        """True if the weights come from training; False for a random subnet, which is for speed tests."""
        return bool(self.config["trained"])

    @property
    def sha256(self) -> str:
        """The digest (hex) of configuration and tensors, as the file states it."""
        return self._inner.sha256()

    def summary(self) -> Summary:
        """Returns sizes and work, in total and by layer."""
        parameters, weight_bytes, tensor_bytes, nominal, macs, layers = self._inner.summary()
        return Summary(
            parameters, weight_bytes, tensor_bytes, nominal, macs, [Layer(*layer) for layer in layers]
        )

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return Subnet.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        config, summary = self.config, self.summary()
        image, blocks = config["image"], len(config["blocks"])
        outputs = [f"{len(config['classes'])} classes"] if config["classes"] else []
        outputs += [f"an embedding of {self.embedding_size}"] if self.has_embedding else []
        outputs += ["those of each patch"] if self.has_patch_tokens else []
        return (
            f"<Subnet {config['name']!r}: {image['height']}x{image['width']}x{image['channels']} to "
            f"{' and '.join(outputs)}, {blocks} block{'' if blocks == 1 else 's'} of {config['embed']}, "
            f"{summary.parameters:,} parameters, {summary.tensor_bytes / 1000:,.0f} kB"
            f"{'' if config['trained'] else ', untrained'}>"
        )

    def __eq__(self, other: object) -> bool:
        return self.sha256 == other.sha256 if isinstance(other, Subnet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.sha256)


def _to_raw(name: str, array: npt.NDArray[Any]) -> tuple[str, str, list[int], bytes]:
    array = np.asarray(array)
    for dtype, little_endian in _DTYPES.items():
        if array.dtype.newbyteorder("<") == little_endian:
            return name, dtype, list(array.shape), array.astype(little_endian).tobytes()
    known = ", ".join(str(dtype) for dtype in _DTYPES.values())
    raise TensorError(f"tensor {name} has dtype {array.dtype}; a subnet's tensors are {known}")
