"""Classification of images as they come, from a folder or a camera: sources, live view in the terminal, web page.

`sources` finds the images, `live` keeps the state that `terminal` and `web` show. ``quasar-rt watch`` ties them
together. Depends on `engine` and what it depends on; `web` needs the ``[web]`` extra and cameras the ``[camera]`` one.
"""

from __future__ import annotations

from .live import Live, Sighting
from .sources import CameraError, CameraSource, FolderSource, open_source, sightings

__all__ = ["CameraError", "CameraSource", "FolderSource", "Live", "Sighting", "open_source", "sightings"]
