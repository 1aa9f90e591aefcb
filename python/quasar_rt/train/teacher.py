"""An external teacher: a trained network whose answers a stage learns from.

A teacher is a timm model with a checkpoint, or a file that ``torch.export`` or TorchScript wrote. Such a file is a
program, so it is loaded only if the user names it in the environment, where no recipe can. Depends on: torch,
`quasar_rt.train`; on timm where a model of it is named.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FileError, InvalidValueError
from ..files import open_regular, reason
from .data import Shape
from .recipe import Recipe
from .recipe import Teacher as TeacherRecipe

__all__ = ["Teacher", "distillation_loss", "load_teacher"]

#: The variable of the environment that names the program whose code the user trusts.
TRUSTED = "QUASAR_RT_TRUSTED_TEACHER"


class Teacher:
    """Answers of a trained network for the images of a batch, in evaluation mode and without gradients.

    Args:
        network: takes normalised images float32 [n, channels, height, width] and returns logits [n, classes].
        mean, std: of pixel/255, as the network was trained, one number or one for each channel.
        size: side of the images that it takes; None for those of the student's size.
        identity: what is part of the digest of a run's checkpoints.
        name: of messages.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: int | None,
        identity: str,
        name: str,
    ) -> None:
        self._network, self._size, self.identity, self._name = network, size, identity, name
        self._mean, self._std = (255 * torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Returns logits float32 [n, classes] for images [n, channels, height, width] of 0 to 255."""
        mean, std = (values.to(images.device) for values in (self._mean, self._std))
        x = (images.float() - mean) / std
        if self._size is not None and x.shape[-2:] != (self._size, self._size):
            x = F.interpolate(x, size=(self._size, self._size), mode="bicubic", antialias=True)
        logits: Tensor = self._network(x)
        return logits.float()

    def check(self, shape: Shape, device: torch.device) -> None:
        """Tries the teacher on blank images.

        Raises:
            quasar_rt.InvalidValueError: it does not take the student's images, or has other classes.
        """
        # Two, since an exported file may hold the number of images fast; 1 would not show it.
        images = torch.zeros((2, shape.channels, shape.height, shape.width), dtype=torch.uint8, device=device)
        try:
            logits = self(images)
        # Each network has its own kind of error for what it does not take.
        except Exception as error:
            size = f"{self._size}x{self._size}" if self._size else f"{shape.height}x{shape.width}"
            raise InvalidValueError(
                f"teacher.model '{self._name}' does not take two images of {size} with {shape.channels} channels "
                f"({' '.join(str(error).split())[:200]}): set teacher.size to the side that it takes; a file of "
                "torch.export needs a dynamic number of images"
            ) from error
        if tuple(logits.shape) != (2, shape.classes):
            raise InvalidValueError(
                f"teacher.model '{self._name}' returns {list(logits.shape[1:])} logits for an image, but the space has "
                f"{shape.classes} classes: the teacher must know the same classes in the same order"
            )


def load_teacher(whole: Recipe, shape: Shape, device: torch.device) -> Teacher:
    """Loads the recipe's teacher and tries it.

    Args:
        whole: its ``[teacher]``.
        shape: of the student's images and classes.
        device: on which it computes.

    Raises:
        quasar_rt.FileError: neither a timm model with its checkpoint nor a file of an exported network, or such a
            file that ``QUASAR_RT_TRUSTED_TEACHER`` does not name.
        quasar_rt.InvalidValueError: the checkpoint is another model's, or the teacher does not fit the student.
    """
    recipe = whole.teacher
    assert recipe is not None
    if recipe.model.startswith("timm:"):
        network, identity = _from_timm(recipe, shape)
        network = network.to(device).eval()
    else:
        network, identity = _from_file(Path(recipe.model), device)
    mean, std = recipe.mean or whole.data.mean, recipe.std or whole.data.std
    teacher = Teacher(network, mean, std, recipe.size or None, identity, recipe.model)
    teacher.check(shape, device)
    return teacher


def _from_timm(recipe: TeacherRecipe, shape: Shape) -> tuple[nn.Module, str]:
    import timm

    from ..weights import make_timm, read_weights

    name = recipe.model.removeprefix("timm:")
    if not timm.is_model(name.split(".")[0]):
        raise FileError(f"teacher.model: timm has no model '{name}'")
    options: dict[str, Any] = {"num_classes": shape.classes, "in_chans": shape.channels}
    if recipe.checkpoint:
        identity = _digest(Path(recipe.checkpoint), "teacher.checkpoint")
        network, state = make_timm(name, **options), read_weights(recipe.checkpoint)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            lines = str(error).splitlines()
            raise InvalidValueError(
                f"teacher.checkpoint '{recipe.checkpoint}' does not fit timm's '{name}' with {shape.classes} classes "
                f"and {shape.channels} channels: {' '.join(' '.join(lines[1:3]).split())[:300]}"
            ) from error
        return network, identity
    try:
        return make_timm(name, pretrained=True, **options), name
    except (OSError, RuntimeError) as error:
        raise FileError(
            f"timm could not make '{name}' with its own weights ({' '.join(str(error).split())[:200]}): give their "
            "file as teacher.checkpoint"
        ) from error


def _from_file(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Any], str]:
    identity = _digest(path, "teacher.model")
    if os.path.realpath(os.environ.get(TRUSTED, "")) != os.path.realpath(path):
        raise FileError(
            f"teacher.model '{path}' is not loaded: a file of torch.export or TorchScript is a program, which can do "
            f"all that you can do. If you trust whoever made it, set {TRUSTED}={shlex.quote(str(path))}. "
            'Weights run no code: teacher.model = "timm:NAME" and teacher.checkpoint = "FILE"'
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        names = []
    exported = any("models/" in name or name.endswith("serialized_exported_program.json") for name in names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, but its files are there
            if exported:
                return torch.export.load(str(path)).module().to(device), identity
            return torch.jit.load(str(path), map_location=device).eval(), identity
    # Both raise whatever their readers do.
    except Exception as error:
        raise FileError(
            f"teacher.model '{path}' is no file of torch.export (.pt2) or TorchScript: for a checkpoint of weights "
            'write teacher.model = "timm:NAME" and teacher.checkpoint = "FILE"'
        ) from error


def _digest(path: Path, key: str) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (OSError, ValueError) as error:  # no file has a name with a null byte
        raise FileError(f"{key}: '{path}' cannot be read: {reason(error)}") from error


def distillation_loss(logits: Tensor, answers: Tensor, hard: bool, temperature: float) -> Tensor:
    """Returns the mean loss of logits [n, classes] against a teacher's.

    Soft: the cross-entropy with the teacher's probabilities at `temperature`, times its square (Hinton et al. 2015).
    Hard: the cross-entropy with the teacher's class (Touvron et al. 2021).
    """
    if hard:
        return F.cross_entropy(logits, answers.argmax(dim=1))
    t = temperature
    return F.cross_entropy(logits / t, (answers / t).softmax(dim=1)) * t**2
