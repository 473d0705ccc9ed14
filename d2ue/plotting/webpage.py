"""Reports as one HTML file that opens anywhere: no script, no font, no picture from outside."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image


def render(template: str, **data: object) -> str:
    """A page from a template below d2ue/; whatever is put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["png"] = _png
    return environment.get_template(template).render(data)


def _png(image: np.ndarray) -> str:
    """Pixels, uint8 (H, W) or (H, W, 3), as the address of a picture that carries them."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
