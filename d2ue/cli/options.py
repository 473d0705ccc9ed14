"""Options that several commands have, and the paper's settings as their defaults."""

from __future__ import annotations

from typing import Annotated

import typer

from d2ue.config import TrainConfig
from d2ue.datasets import BUILT_IN

DEFAULTS = TrainConfig()

Data = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER",
        help="images/ with data.json, a plain folder of images, or a built-in set: "
        + ", ".join(BUILT_IN),
    ),
]


Precision = Annotated[
    str,
    typer.Option(
        help="number format of products while training: float32, tf32 (CUDA only) or bf16 "
        "(coarser: see figures/README.md; slow on processors without instructions for it)"
    ),
]
Slices = Annotated[
    str | None,
    typer.Option(
        help="which slices of a scan: middle, all, 75, 40:110, or parts of its depth, 0.25:0.75; "
        "default: middle, or what the run was fitted with"
    ),
]
Axis = Annotated[
    str | None,
    typer.Option(
        help="direction of NIfTI slices: axial, coronal or sagittal; default: axial, or that of "
        "the run"
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        help="grey values of a scan that are shown: CENTRE,WIDTH, percentiles 1%,99%, or auto (the "
        "file's own); default: auto"
    ),
]
Device = Annotated[str, typer.Option(help="where to compute: auto, cpu, cuda, cuda:1, mps")]
