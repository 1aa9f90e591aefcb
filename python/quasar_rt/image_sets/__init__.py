"""Image sets by name: folders of images, WebDataset's shards, Hugging Face data sets; every record by its index.

A name is a folder, ``wds:SHARDS`` or ``hf:NAME`` (docs/training.md, "Data"). Shards need the extra ``[webdataset]``,
Hugging Face data sets the extra ``[datasets]``; nothing here needs PyTorch. Depends on `quasar_rt.datasets` and
`quasar_rt.images`.
"""

from __future__ import annotations

from .base import ImageFiles, Images, ImageSet, Part, Records
from .opening import folder_classes, images_of, is_named, labelled_images, read_image_set

__all__ = [
    "ImageFiles",
    "ImageSet",
    "Images",
    "Part",
    "Records",
    "folder_classes",
    "images_of",
    "is_named",
    "labelled_images",
    "read_image_set",
]
