"""From a user's own trained network to subnets for a board's frame rates (needs the ``[host]`` extra).

`entry` has the function, which `run` carries out: it reads the network, measures what 8 bits are worth for each row,
and quantizes. `choice` chooses the widths for a frame rate and replays them; `result` holds the subnets with their
rates and errors, which `picture` draws.
"""

from .entry import fit as fit
from .result import Errors as Errors
from .result import Fit as Fit
from .result import Fitted as Fitted
