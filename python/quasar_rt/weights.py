"""Weights that others trained: their files, and the models of timm. No code in a file is run.

All files with weights of others are read here. Depends on: torch, timm.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import _builder
from torch import Tensor

from .errors import FileError
from .files import open_regular, refused

__all__ = ["make_timm", "read_weights"]

#: Keys under which a training's checkpoint has its weights; the averaged ones come first.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
_REMEDY = (
    "code in a file is not run: where it was made, save the state dict alone with "
    "torch.save(model.state_dict(), FILE), or with safetensors"
)

# timm asks for tensors only, but where that raises a TypeError, which a file can cause, it asks again for everything.
_builder.load_state_dict_from_url = partial(torch.hub.load_state_dict_from_url, weights_only=True)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint by their names: a ``.safetensors`` file, or what ``torch.save`` wrote.

    That is a state dict, or a dictionary that has it under ``model`` or ``state_dict``. If the checkpoint has averaged
    weights, too (``model_ema``, ``state_dict_ema``), these are returned.

    Raises:
        quasar_rt.FileError: the file cannot be read, or holds something other than tensors in main memory.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            if path.suffix.lower() == ".safetensors":
                from safetensors.torch import load_file

                state = load_file(path)
            else:
                # timm's training writes its arguments into a checkpoint; they are plain values.
                with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of what a foreign file looks like
                    state = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(state, Mapping):
            state = next((state[key] for key in _KEYS if state.get(key) is not None), state)
        if not isinstance(state, Mapping) or not all(map(_is_whole, state.values())):
            raise TypeError("a value is no tensor")
        # The prefixes of networks that were trained in parallel or compiled.
        return {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in state.items()}
    except OSError as error:
        raise refused(f"'{path}' cannot be read", error) from error
    # torch and safetensors raise nearly anything, and torch's own message advises to run the code in the file.
    except Exception as error:
        raise FileError(f"'{path}' is no checkpoint of tensors, or a damaged one ({_REMEDY})") from error


def _is_whole(value: object) -> bool:
    """Returns whether a value is a tensor that has all its elements: a few bytes may claim to be gigabytes."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def make_timm(name: str, **options: Any) -> Any:
    """Makes a model by ``timm.create_model`` with these options; no code in a file that timm reads for it is run.

    Raises:
        quasar_rt.FileError: the model's weights are a file with code.
        Others: as ``timm.create_model`` does.
    """
    try:
        return timm.create_model(name, **options)
    except Exception as error:
        # torch and timm refuse code in errors of several kinds, which advise to run it.
        if not any(advice in str(error) for advice in ("weights_only", "allow_pickle")):
            raise
        raise FileError(f"the file of its weights holds more than tensors ({_REMEDY})") from error
