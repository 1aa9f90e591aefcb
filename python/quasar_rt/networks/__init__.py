"""Float networks that others trained: timm's, folders of Hugging Face's transformers, and ONNX files.

Each becomes a timm ``VisionTransformer`` with the preprocessing in its ``pretrained_cfg``: export and training read one
kind of network. No code in a file is run. Depends on: torch, timm, `quasar_rt.weights`; onnx for ONNX files.
"""

from __future__ import annotations

from .loading import load_network
from .vit import LoadedNetwork, NetworkError

__all__ = ["LoadedNetwork", "NetworkError", "load_network"]
