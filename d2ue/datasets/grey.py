"""Values of a scan -> grey levels: windows, percentiles, and the sentences for what has none."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from d2ue.datasets.decode import show
from d2ue.errors import InputError

#: Where a window is not known: these percentiles of all values of the file are black and white.
AUTO_PERCENTILES = (0.5, 99.5)
#: Values in one file: 800 x 800 x 800; as float32, 2 GiB.
MOST_VALUES = 2**29

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_WINDOW = re.compile(rf"({_NUMBER})(%?),({_NUMBER})(%?)", re.ASCII | re.I)


def limits(window: str) -> tuple[str, float, float]:
    """The option `window`, checked: "auto", "%" or "", and its two numbers.

    Raises:
        InputError: if it is none of the forms that `ScanConfig.window` lists.
    """
    if window == "auto":
        return "auto", *AUTO_PERCENTILES
    match = _WINDOW.fullmatch(window.replace(" ", ""))
    if match and match[2] == match[4]:
        first, second = float(match[1]), float(match[3])
        if match[2] and 0 <= first < second <= 100:
            return "%", first, second
        if not match[2] and abs(first) < 1e30 and 1e-30 < second < 1e30:
            return "", first, second
    raise InputError(
        "window must be auto, CENTRE,WIDTH in the file's units such as 40,80, or percentiles such "
        f"as 1%,99%, not {show(window[:40])}."
    )


def percentile_limits(
    values: np.ndarray, low: float, high: float, counts: np.ndarray | None = None
) -> tuple[float, float]:
    """The percentiles of values; the extremes where the percentiles are one value.

    Args:
        values: any shape; with `counts`, shape (k,).
        low: percentile that is black, 0 to 100.
        high: percentile that is white.
        counts: how often each value occurs; None = once.
    """
    if counts is None:
        black, white = (float(v) for v in np.percentile(values, (low, high)))
    else:
        order = np.argsort(values, kind="stable")
        values, ends = np.asarray(values, np.float64)[order], np.cumsum(counts[order])
        black, white = (_interpolated(values, ends, share / 100) for share in (low, high))
    if black == white:
        black, white = float(values.min()), float(values.max())
    return black, white


def _interpolated(values: np.ndarray, ends: np.ndarray, share: float) -> float:
    """NumPy's linear percentile of sorted values that occur until the positions `ends`."""
    place = share * (int(ends[-1]) - 1)
    below, above = np.searchsorted(ends, (math.floor(place), math.ceil(place)), side="right")
    part = place - math.floor(place)
    return float(values[below] + (values[above] - values[below]) * part)


def scale(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Values -> uint8: `black` and less is 0, `white` and more is 255, linear between, rounded."""
    if white <= black:
        return np.zeros(values.shape, np.uint8)
    share = (values.astype(np.float64) - black) / (white - black)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def refuse(path: str, problem: str) -> InputError:
    """The error that says what is wrong with a file."""
    return InputError(f"{show(path)} {problem}.")


def check_finite(path: str, values: np.ndarray) -> None:
    """Refuse NaN and infinite values."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise refuse(path, "holds values that are not finite (NaN or infinite): replace them first")


def check_count(path: str, shape: Sequence[int]) -> None:
    """Refuse a file without values, or with too many."""
    if any(n < 1 for n in shape):
        raise refuse(path, f"holds no values (its shape is {' x '.join(map(str, shape))})")
    if math.prod(shape) > MOST_VALUES:
        raise refuse(path, f"is too large to open safely ({math.prod(shape):.1e} values)")


def package(kind: str, path: str) -> Any:
    """The library that reads files of a kind; `path` is the file it is needed for."""
    name = {"DICOM": "pydicom", "NIfTI": "nibabel"}[kind]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{show(path)} is a {kind} file, and reading those needs {name}: install the package "
            "with its extra [medical]."
        ) from error
