"""Reports as one HTML file that opens anywhere: no script, no font, no picture from outside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem;
       box-sizing: border-box; color: #1a1a1a; background: #fff; }
p { max-width: 60rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #ddd; }
td + td { overflow-wrap: anywhere; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0 0 .5rem; max-width: 100%; }
figure > div { display: flex; align-items: flex-start; gap: 2px; }
figcaption { font-size: .85rem; max-width: 24rem; overflow-wrap: anywhere; }
img { image-rendering: pixelated; border: 1px solid #ddd; min-width: 0; max-width: 100%;
      height: auto; box-sizing: border-box; }
img.drawn { image-rendering: auto; border: 0; }
"""


def picture(image: np.ndarray, alt: str, width: int = 128, *, drawn: bool = False) -> str:
    """An image as an <img> element that carries its own pixels.

    Args:
        image: uint8, [H, W] grey or [H, W, 3] colour.
        alt: what it shows, for those who do not see it.
        width: on the page, in pixels.
        drawn: whether it is a diagram, which is made smaller smoothly; pixels of images stay
            squares.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind = ' class="drawn"' if drawn else ""
    return (
        f'<img{kind} src="data:image/png;base64,{data}" alt="{html.escape(alt)}" width="{width}">'
    )


def figure(pictures: Iterable[str], caption: str) -> str:
    """Pictures in one row, narrower where there is no room, over one caption (plain text)."""
    row = f"<div>{''.join(pictures)}</div>"
    return f"<figure>{row}<figcaption>{html.escape(caption)}</figcaption></figure>"


def gallery(figures: Iterable[str]) -> str:
    """Figures that flow into as many columns as the window has room for."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of plain values; numbers stand to the right. Floats are shown to 4 digits."""

    def cell(value: object) -> str:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        kind = ' class="number"' if isinstance(value, int | float) else ""
        return f"<td{kind}>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def heading(text: str) -> str:
    """A heading within the page."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def page(title: str, body: Iterable[str]) -> str:
    """A whole page out of what the functions above give."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="generator" content="d2ue">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{chr(10).join(body)}\n</body></html>\n"
    )
