"""Training on the host: supernets and single networks, quantization-aware, and export (needs the ``[host]`` extra).

`train` runs a recipe, `train_architecture` one network of its space, `load_supernet` reads what a run left. Behind
them: `recipe` reads the TOML file, `found` a network that a search found, `data` the images, `model` is the network,
`quantizers` its fake quantizers, `slices` and `optimizer` update a part of it, `widths` ranks rows and units, `loop`
trains in stages, `checkpoint` keeps them, `distributed` joins processes, `report` evaluates, exports and writes the
model card. ``tools/train.py`` is the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import Trained as Trained
    from .loop import load_supernet as load_supernet
    from .loop import train as train
    from .loop import train_architecture as train_architecture
    from .recipe import Recipe as Recipe
    from .recipe import load_recipe as load_recipe

__all__ = ["Recipe", "Trained", "load_recipe", "load_supernet", "train", "train_architecture"]


def __getattr__(name: str) -> Any:
    # torch is imported when something of it is wanted.
    if name in ("Recipe", "load_recipe"):
        from . import recipe

        return getattr(recipe, name)
    if name in __all__:
        from . import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
