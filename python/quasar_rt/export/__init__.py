"""From PyTorch to a subnet (needs the ``[host]`` extra).

`export_timm` quantizes a timm ``VisionTransformer`` after training. The model is read into plain matrices, which run
in float on a few calibration images. That run must reproduce the model's own logits: a model that computes anything
else is refused rather than exported wrongly. The run also yields the range of every activation and the gradients that
say how much an error of each row costs. Then the matrices are quantized one after the other (`layerwise`), each on the
inputs that the quantized part before it gives, with GPTQ (`gptq`).
"""

from ..quantization import LayerReport as LayerReport
from .post_training import export_named as export_named
from .post_training import export_timm as export_timm
from .reference import reference_embeddings as reference_embeddings
from .reference import reference_logits as reference_logits
from .timm_reader import UnsupportedModelError as UnsupportedModelError
