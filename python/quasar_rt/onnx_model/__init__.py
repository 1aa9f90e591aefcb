"""A subnet as an ONNX model, for other runtimes.

`build` makes one. The modules: `graph` collects nodes, `network` has the order of a frame, and the two forms of the
arithmetic are `qdq` (float between codes, which runtimes turn into integer kernels) and `exact` (the integer model's
own steps). Both use ONNX's standard operators alone. Depends on the onnx package and `quasar_rt.rows`.
"""

from __future__ import annotations

from typing import Literal

import onnx

from ..errors import InvalidValueError
from .exact import Exact
from .network import INPUT, INTEGER_OUTPUT, OPSET, OUTPUT, Network, Source
from .qdq import Qdq

__all__ = ["FORMS", "INPUT", "INTEGER_OUTPUT", "OPSET", "OUTPUT", "Form", "Source", "build"]

Form = Literal["exact", "qdq"]
FORMS: dict[str, type[Network]] = {"exact": Exact, "qdq": Qdq}


def build(subnet: Source, form: Form = "exact") -> onnx.ModelProto:
    """Builds the ONNX model of a subnet.

    The input ``pixels`` is uint8 [batch, height, width, channels]: images of the network's size
    (`quasar_rt.images.preprocess`). The output ``logits`` is float32 [batch, classes]; the form ``"exact"`` also has
    ``integer_logits``, int32 [batch, classes]. A subnet with an embedding has the output ``embedding``, float32
    [batch, embed]: `quasar_rt.Embedding.values`. One with patch tokens has the same outputs of each patch, too:
    ``patch_logits``, ``patch_integer_logits`` and ``patch_embedding``, [batch, rows, columns, ...]. The metadata has
    the classes, the preprocessing and the subnet's digest. Equal subnets give equal models.

    Args:
        subnet: the subnet.
        form: ``"exact"`` computes the integer model bit for bit, with elementwise steps in float64. ``"qdq"`` has a
            QuantizeLinear and a DequantizeLinear at each code, and float operators between them.

    Raises:
        quasar_rt.InvalidValueError: another form.
    """
    if form not in FORMS:
        raise InvalidValueError(f"form is {form!r}; it must be {' or '.join(map(repr, FORMS))}")
    return FORMS[form](subnet).model()
