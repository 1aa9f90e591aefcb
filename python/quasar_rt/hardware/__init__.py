"""The hardware model: throughput, latency and resources of the accelerator for a network, **modelled**."""

from .configuration import DEIT_HEADS as DEIT_HEADS
from .configuration import Amounts as Amounts
from .configuration import Board as Board
from .configuration import CostTable as CostTable
from .configuration import Estimate as Estimate
from .configuration import Hardware as Hardware
from .configuration import Host as Host
from .configuration import Layer as Layer
from .configuration import Part as Part
from .configuration import Replay as Replay
from .configuration import Span as Span
from .configuration import VectorStage as VectorStage
from .configuration import Workload as Workload
from .configuration import board_names as board_names
from .configuration import estimate as estimate
from .configuration import modes as modes
from .configuration import replay as replay
