"""The integer model in pure int64 NumPy, the reference that every device is tested against.

It is written to be read next to ``docs/integer-model.md``, not to be fast: every value is an int64 array, every
narrowing is an explicit clamp, and each documented width is asserted. It depends on NumPy alone and on nothing else
of this package.
"""

from .camera import YUV_MATRICES as YUV_MATRICES
from .camera import pixels_of_frame as pixels_of_frame
from .camera import rgb_of_yuv as rgb_of_yuv
from .integer_model import EXP_TABLE as EXP_TABLE
from .integer_model import Int as Int
from .integer_model import Linear as Linear
from .integer_model import Trace as Trace
from .integer_model import attention as attention
from .integer_model import bitlen as bitlen
from .integer_model import clamp8 as clamp8
from .integer_model import layer_norm as layer_norm
from .integer_model import patches as patches
from .integer_model import requant8 as requant8
from .integer_model import requant16 as requant16
from .integer_model import rotate as rotate
from .integer_model import rotations as rotations
from .integer_model import rounded_mean as rounded_mean
from .integer_model import rshift as rshift
from .integer_model import run as run
from .integer_model import sat16 as sat16
from .integer_model import sat_residual as sat_residual
from .integer_model import unpack_rows as unpack_rows
