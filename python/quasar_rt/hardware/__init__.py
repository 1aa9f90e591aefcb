"""The hardware model: throughput, latency and resources of the accelerator for a network, **modelled**.

>>> from quasar_rt.hardware import Hardware, Workload, estimate
>>> zcu102 = Hardware.for_board("zcu102", Workload.deit("deit-tiny"))
>>> result = estimate(Workload.deit("deit-tiny"), zcu102)
>>> result.fps > 400  # modelled frames a second at the board's default clock, 150 MHz
True

No figure comes from synthesis or from a board. ``docs/hardware-model.md`` has the schedule, the formulas and the kind
of each constant; Rust does the work (``rust/hardware``, ``rust/cost``, ``rust/accelerator``). A `Workload` on the
`Hardware` of a `Board` gives an `Estimate` (`closed_form`), or a `Replay` and `Rates` (`event_model`); a `CostTable`
serves a search, `Designs` one over several configurations. `report` and `pictures` make tables and pictures.
"""

from .board import Amounts as Amounts
from .board import Board as Board
from .board import board_names as board_names
from .closed_form import Estimate as Estimate
from .closed_form import Host as Host
from .closed_form import Layer as Layer
from .closed_form import VectorStage as VectorStage
from .closed_form import estimate as estimate
from .configuration import Hardware as Hardware
from .configuration import Part as Part
from .cost_table import CostTable as CostTable
from .designs import Designs as Designs
from .event_model import RATES_OF as RATES_OF
from .event_model import Rates as Rates
from .event_model import RatesOf as RatesOf
from .event_model import Replay as Replay
from .event_model import Span as Span
from .event_model import rates as rates
from .event_model import replay as replay
from .event_model import replay_periods as replay_periods
from .workload import DEIT_HEADS as DEIT_HEADS
from .workload import Workload as Workload
