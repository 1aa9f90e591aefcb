"""From a float network and its ranges to a :class:`~quasar_rt.Subnet`: the arithmetic of every exporter.

Describe a trained or calibrated Vision Transformer as a `NetworkSpec` (NumPy arrays, float ranges, a width for each
weight row) and call `build_subnet`. The rules are those of ``docs/integer-model.md``. The package needs NumPy and the
native quantizer, not torch: a board builds random subnets (`random_subnet`) for benchmarks.
"""

from .integers import ACCUMULATOR_LIMIT as ACCUMULATOR_LIMIT
from .integers import ATTENTION_GAIN_LIMIT as ATTENTION_GAIN_LIMIT
from .integers import BIAS_LIMIT as BIAS_LIMIT
from .integers import MULTIPLIER_LIMIT as MULTIPLIER_LIMIT
from .integers import activation_table as activation_table
from .integers import embed_norm_tensors as embed_norm_tensors
from .integers import norm_out_range as norm_out_range
from .integers import norm_tensors as norm_tensors
from .integers import requantizer as requantizer
from .integers import unnormalised as unnormalised
from .network import build_subnet as build_subnet
from .random_network import random_subnet as random_subnet
from .spec import Affine as Affine
from .spec import BlockSpec as BlockSpec
from .spec import EmbedNormSpec as EmbedNormSpec
from .spec import LinearSpec as LinearSpec
from .spec import NetworkSpec as NetworkSpec
from .spec import NormSpec as NormSpec
from .spec import gelu as gelu
