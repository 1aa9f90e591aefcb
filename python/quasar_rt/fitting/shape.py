"""The workload of a float network before it is quantized."""

from __future__ import annotations

from ..build import random_subnet
from ..export.post_training import Prepared
from ..hardware import Workload

__all__ = ["workload_of"]


def workload_of(prepared: Prepared, width: int) -> Workload:
    """Returns the workload of a network whose blocks have rows of one width.

    Raises:
        quasar_rt.QuasarError: a shape that the integer model does not allow.
    """
    net = prepared.net
    shape = random_subnet(
        name=prepared.name,
        embed=len(net.embed.weight),
        depth=len(net.blocks),
        heads=[block.heads for block in net.blocks],
        head_dim=[block.head_dim for block in net.blocks],
        hidden=[len(block.fc1.weight) for block in net.blocks],
        image_size=(net.height, net.width),
        channels=net.channels,
        kernel=net.kernel,
        stride=net.stride,
        prefix_tokens=len(net.prefix),
        pool=net.pool,
        classes=len(net.head.weight),
        embedding=prepared.embedding,
        projected=len(net.embed.weight) if prepared.projects(width == 8) else None,
        patch_tokens=net.patch_tokens,
        embed_norm=net.norm_pre is not None,
        eight_bit_fraction=float(width == 8),
    )
    return Workload.of_subnet(shape)
