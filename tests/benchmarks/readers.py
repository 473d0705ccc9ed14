"""Files of pydicom's, nibabel's and Pillow's own tests, read by this project and by SimpleITK.

    python tests/benchmarks/readers.py [FOLDER ...]     # without one: what pydicom and nibabel ship

Each file is cut to the smallest and largest value that SimpleITK finds. Right: no pixel differs by
more than one grey level of 256 from its reading. SimpleITK is not among the project's packages.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from d2ue.datasets.decode import quiet_readers
from d2ue.datasets.dicom import dicom_depth, dicom_slices
from d2ue.datasets.medical import scan_kind
from d2ue.datasets.nifti import nifti_depth, nifti_slices
from d2ue.errors import InputError


def ours(path: str, window: str = "0%,100%") -> np.ndarray:
    """All slices, uint8 (n, h, w); of a volume those along z."""
    if scan_kind(path) == "NIfTI":
        wanted = [("z", k) for k in range(nifti_depth(path, "z"))]
        return np.stack([np.asarray(p) for p in nifti_slices(path, wanted, window)])
    wanted = [("frame", k) for k in range(dicom_depth(path))]
    return np.stack([np.asarray(p) for p in dicom_slices(path, wanted, window)])


def others(path: str) -> tuple[np.ndarray, str]:
    """The same by SimpleITK (GDCM and ITK's NIfTI reader), and the window that it was cut to."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    image = SimpleITK.ReadImage(path)
    if scan_kind(path) == "NIfTI":
        image = SimpleITK.DICOMOrient(image, "LPS")  # x to the left, y to the back
    values = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 3:
        frames = values.reshape(-1, *values.shape[-3:])
        frames = (frames >> (8 * frames.itemsize - 8)).astype(np.uint8)
        return np.stack([np.asarray(Image.fromarray(f).convert("L")) for f in frames]), "auto"
    values = values.reshape(-1, *values.shape[-2:]).astype(np.float64)
    low, high = values.min(), values.max()
    grey = np.rint(255 * (values - low) / ((high - low) or 1)).astype(np.uint8)
    return grey, f"{(low + high) / 2!r},{(high - low) or 1!r}".replace("np.float64(", "").replace(
        ")", ""
    )


def verdict(path: str) -> str:
    """How both read a file: "right", "wrong", "refused", "ours alone" or "neither"."""
    try:
        expected, window = others(path)
    except Exception:
        expected, window = None, ""
    apart = []
    # Padding is outside of ours, and 1 bit is 0 and 255 of theirs: one of two windows fits both.
    for each in filter(None, (window, "0%,100%")):
        try:
            found = ours(path, each)
        except InputError as error:
            return f"{'neither' if expected is None else 'refused'} {error}"
        except Exception as error:  # what the reader around it turns into one sentence
            return f"{'neither' if expected is None else 'refused'} damaged ({error!r:.40})"
        if expected is None:
            return "ours alone"
        if found.shape != expected.shape:
            return f"wrong {found.shape} {expected.shape}"
        apart.append(int(np.abs(found.astype(int) - expected).max()))
    return "right" if min(apart) <= 1 else f"wrong by {min(apart)}"


def main(folders: list[str]) -> None:
    """Print a line a file that is not right, and the counts of each folder."""
    if not folders:
        import nibabel
        import pydicom

        folders = [
            os.path.join(os.path.dirname(pydicom.__file__), "data", "test_files"),
            os.path.join(os.path.dirname(nibabel.__file__), "tests", "data"),
        ]
    warnings.simplefilter("ignore")
    for folder in folders:
        counts: Counter[str] = Counter()
        with quiet_readers():
            for path in sorted(Path(folder).rglob("*")):
                if not path.is_file() or scan_kind(path) is None:
                    continue
                said = verdict(str(path))
                counts[said.split()[0]] += 1
                if said != "right":
                    print(f"  {path.relative_to(folder)}: {said.replace(str(path), '')}"[:150])
        print(folder, dict(counts))


if __name__ == "__main__":
    main(sys.argv[1:])
