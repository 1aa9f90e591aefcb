"""Training on the host: supernets and single networks, quantization-aware, and export (needs the ``[host]`` extra).

`train` runs a recipe, `train_architecture` trains one network of its space, `load_supernet` reads the result of a run.
``tools/train.py`` is the command line. The modules:

- inputs: `recipe` reads the TOML file, `architecture_file` a network that a search found, `data` the images;
- the network: `model`, its fake `quantizers`, and `networks`, which makes it from a recipe;
- a run: `run` has its stages in order, `job` its folder and processes, `loop` trains one stage by a `schedule`;
- a step: `slices` and `optimizer` update a part of the network, `distributed` sums gradients over processes;
- `widths` ranks rows and units, `checkpoint` reads and writes files, `report` exports and writes the model card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .networks import load_supernet as load_supernet
    from .recipe import Recipe as Recipe
    from .recipe import load_recipe as load_recipe
    from .run import Trained as Trained
    from .run import train as train
    from .run import train_architecture as train_architecture

__all__ = ["Recipe", "Trained", "load_recipe", "load_supernet", "train", "train_architecture"]


def __getattr__(name: str) -> Any:
    # torch is imported when something of it is wanted.
    if name in ("Recipe", "load_recipe"):
        from . import recipe

        return getattr(recipe, name)
    if name == "load_supernet":
        from . import networks

        return networks.load_supernet
    if name in __all__:
        from . import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
