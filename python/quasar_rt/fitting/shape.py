"""The workload of a float network before it is quantized."""

from __future__ import annotations

from ..build import random_subnet
from ..errors import InvalidValueError
from ..export.float_vit import ViT
from ..export.post_training import Prepared
from ..hardware import Workload
from ..space import Architecture, BlockShape, Space

__all__ = ["why_outside", "workload_of"]


def why_outside(net: ViT, space: Space) -> str | None:
    """Returns why a network is none of a space, in words; None if it is one. Its classes and widths do not count."""
    image = {"height": net.height, "width": net.width, "channels": net.channels}
    for key, own in (("image", image), ("patch", {"kernel": net.kernel, "stride": net.stride})):
        theirs = {name: space.settings[key][name] for name in own}
        if own != theirs:
            mine, others = (", ".join(f"{name} {n}" for name, n in sizes.items()) for sizes in (own, theirs))
            return f"the network's {key} has {mine}; that of the space '{space.name}' has {others}"
    eight_bit = space.decode(space.smallest).blocks[0].eight_bit
    blocks = (BlockShape(b.heads, b.head_dim, len(b.fc1.weight), eight_bit) for b in net.blocks)
    try:
        space.encode(Architecture(len(net.embed.weight), tuple(blocks)))
    except InvalidValueError as error:
        return str(error)
    return None


def workload_of(prepared: Prepared, width: int) -> Workload:
    """Returns the workload of a network whose blocks have rows of one width.

    Raises:
        quasar_rt.QuasarError: a shape that the integer model does not allow.
    """
    net, words = prepared.net, prepared.words
    projected = len(net.embed.weight) if prepared.projects(width == 8) else None
    if words is not None and words.projection is not None:
        projected = len(words.projection)
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
        classes=len(net.head.weight) if words is None else len(words.names),
        embedding=prepared.embedding,
        projected=projected,
        patch_tokens=net.patch_tokens,
        embed_norm=net.norm_pre is not None,
        rotary=net.rotary is not None,
        eight_bit_fraction=float(width == 8),
    )
    return Workload.of_subnet(shape)
