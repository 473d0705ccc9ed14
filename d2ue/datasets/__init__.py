"""Images to train and test on: folders, the built-in phantoms, the paper's sets by name."""

from __future__ import annotations

import os

from d2ue.datasets.boxes import box_cover
from d2ue.datasets.download import download
from d2ue.datasets.folder import load_folder, load_images
from d2ue.datasets.medical import ScanConfig
from d2ue.datasets.phantom import phantom
from d2ue.datasets.registry import (
    BUILT_IN,
    SOURCES,
    Source,
    find_folder,
    load_named,
    overview,
    paper_title,
)
from d2ue.datasets.types import ABNORMAL, NORMAL, Dataset, ImageSet
from d2ue.errors import InputError

__all__ = [
    "ABNORMAL",
    "BUILT_IN",
    "NORMAL",
    "SOURCES",
    "Dataset",
    "ImageSet",
    "ScanConfig",
    "Source",
    "box_cover",
    "download",
    "find_folder",
    "load",
    "load_folder",
    "load_images",
    "load_named",
    "overview",
    "paper_title",
    "phantom",
]


def load(
    source: str | os.PathLike[str],
    image_size: int = 64,
    *,
    progress: bool = True,
    scan: ScanConfig | None = None,
) -> Dataset:
    """A data set by name or folder.

    Args:
        source: "phantom" or "phantom-chest" (built in, default sizes, seed 0), or a folder as
            `load_folder` takes it ("./phantom" for a folder of that name).
        image_size: pixels a side.
        progress: whether to show a bar when it takes over two seconds.
        scan: which slices of DICOM and NIfTI files to take, and their window.

    Raises:
        InputError: if the folder cannot be used; the sentence says why.
    """
    if source in BUILT_IN:
        if scan is not None:
            raise InputError(f"slices, axis and window are for scans, not for {source}.")
        return phantom(BUILT_IN[str(source)], image_size=image_size, progress=progress)
    return load_folder(source, image_size, progress=progress, scan=scan)
