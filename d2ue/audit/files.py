"""What files are, beside their pixels: size, format, compression. None of it is medicine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from d2ue.audit.duplicates import RESOLUTION
from d2ue.datasets.decode import make_readers, opened_image, quiet_readers, thread_count, to_grey
from d2ue.errors import InputError
from d2ue.progress import bar as progress_bar

#: Properties whose power to predict the label is measured; numbers, or words of a few kinds.
NUMBERS = ("width", "height", "aspect", "bytes", "bytes a pixel", "quantisation")
WORDS = ("format", "mode", "extension", "grey in colour", "EXIF", "resolution tag", "progressive")


def read_files(
    root: Path, names: Sequence[str], *, progress: bool = True
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read every file below `root` once.

    Returns:
        A row a file: `problem` (a sentence; "" where it could be read), `content` and `pixels`
        (hashes of the bytes, and of grey pixels with their size) and the properties; and the grey
        pixels, uint8 (n, 64, 64), 0 where a file could not be read.
    """
    images = np.zeros((len(names), RESOLUTION, RESOLUTION), np.uint8)

    def work(i: int) -> dict[str, object]:
        try:
            found, images[i] = _read(root / names[i])
        except InputError as error:  # a report travels, the path does not
            return {"problem": str(error).replace(f"{root}{os.sep}", "")}
        return found

    make_readers()  # not made for two threads at once
    with quiet_readers(), ThreadPoolExecutor(thread_count()) as pool:
        style = {"desc": "reading", "unit": "image", "delay": 2, "leave": False}
        results = pool.map(work, range(len(names)))
        rows = progress_bar(results, total=len(names), disable=not progress, **style)
        frame = pd.DataFrame(list(rows), index=range(len(names)))
    for column in ("problem", "content", "pixels", *WORDS):
        frame[column] = frame[column].fillna("") if column in frame else ""
    for column in NUMBERS:
        frame[column] = frame[column].astype(float) if column in frame else np.nan
    return frame, images


def _read(path: Path) -> tuple[dict[str, object], np.ndarray]:
    with opened_image(path) as image:
        grey = to_grey(image)
        small = grey.resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR)
        pixels = hashlib.sha256(repr(grey.size).encode() + grey.tobytes()).hexdigest()
        tables = getattr(image, "quantization", None) or {}
        content = path.read_bytes()
        width, height = image.size
        return {
            "content": hashlib.sha256(content).hexdigest(),
            "pixels": pixels,
            "width": width,
            "height": height,
            "aspect": width / height,
            "bytes": len(content),
            "bytes a pixel": len(content) / (width * height),
            "quantisation": float(np.mean(tables[0])) if 0 in tables else np.nan,
            "format": image.format or "",
            "mode": image.mode,
            "extension": path.suffix.lower(),
            "grey in colour": _grey_in_colour(image, grey),
            "EXIF": "yes" if image.getexif() else "no",
            "resolution tag": str(image.info.get("dpi", "none")),
            "progressive": "yes" if image.info.get("progressive") else "no",
        }, np.asarray(small, np.uint8)


def _grey_in_colour(image: Image.Image, grey: Image.Image) -> str:
    """Whether a file of three channels holds a grey picture."""
    if image.mode != "RGB":
        return "one channel" if image.mode in ("L", "1") else "other"
    red, green, blue = (np.asarray(band) for band in image.split())
    return "yes" if (red == green).all() and (green == blue).all() else "no"
