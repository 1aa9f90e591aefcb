"""From PyTorch to a subnet (needs the ``[host]`` extra).

`export_timm` quantizes a timm ``VisionTransformer`` after training. The model is read into plain matrices, which run
in float on a few calibration images. That run must reproduce the model's own logits: a model that computes anything
else is refused rather than exported wrongly. The run also yields what quantization needs: the range of every
activation and, from the gradients, the worth of 8 bits for every weight row.
"""

from .post_training import export_timm as export_timm
from .timm_reader import UnsupportedModelError as UnsupportedModelError
