"""Training on the host: supernets and single networks, quantization-aware, and export (needs the ``[host]`` extra).

`train` runs a recipe, `train_architecture` trains one network of its space, `load_supernet` reads the result of a run.
``quasar-rt train`` is the command line. The modules:

- inputs: `options` has the arguments; `recipe` reads the TOML file, `architecture_file` a network that a search
  found, `data` the images; `batches` shuffles and augments the images;
- the network: `model` consists of a `block` for each layer and its fake `quantizers`; `networks` makes the model from
  a recipe, `pretrained` starts it from a timm model, and `widths` ranks its rows and units;
- a run: `run` has the stages in order, `job` the folder and the processes; `loop` trains one stage by a `schedule`,
  `evaluation` measures accuracy, and `progress` shows how far the stage is;
- a step: `slices` and `optimizer` update a part of the network; `distributed` sums gradients over processes;
- files: `checkpoint` reads and writes checkpoints, `report` exports the network and writes the model card, and
  `pictures` draws the curves;
- the process: `runtime` sets what makes training fast.
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
