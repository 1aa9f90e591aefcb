"""From PyTorch to a subnet (needs the ``[host]`` extra)."""

from .post_training import UnsupportedModelError as UnsupportedModelError
from .post_training import export_timm as export_timm
