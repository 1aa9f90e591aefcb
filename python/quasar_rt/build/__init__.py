"""From a float network and its ranges to a subnet: the arithmetic of every exporter."""

from .network import ACCUMULATOR_LIMIT as ACCUMULATOR_LIMIT
from .network import ATTENTION_GAIN_LIMIT as ATTENTION_GAIN_LIMIT
from .network import BIAS_LIMIT as BIAS_LIMIT
from .network import MULTIPLIER_LIMIT as MULTIPLIER_LIMIT
from .network import Affine as Affine
from .network import BlockSpec as BlockSpec
from .network import Float as Float
from .network import Int as Int
from .network import LinearSpec as LinearSpec
from .network import NetworkSpec as NetworkSpec
from .network import NormSpec as NormSpec
from .network import activation_table as activation_table
from .network import build_subnet as build_subnet
from .network import gelu as gelu
from .network import norm_out_range as norm_out_range
from .network import norm_tensors as norm_tensors
from .network import random_subnet as random_subnet
from .network import requantizer as requantizer
