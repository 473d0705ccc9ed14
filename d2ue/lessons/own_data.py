"""For the page about one's own images: a folder to try it on, and detectors side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from d2ue.datasets.types import ABNORMAL, NORMAL, ImageSet
from d2ue.statistics.significance import mean_auc
from d2ue.store.files import write_text, writing


def write_folder(images: ImageSet, folder: str | Path) -> Path:
    """Write images as PNG files: a plain folder, or, with abnormal ones, images/ + data.json.

    The folder is made if need be; files of these names are replaced.

    Raises:
        InputError: if it cannot be written to.
    """
    target = Path(folder)
    names = [f"{name}.png" for name in images.names]
    labelled = images.labels is not None and bool((images.labels == ABNORMAL).any())
    place = target / "images" if labelled else target
    with writing(target):
        place.mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, images.images, strict=True):
            Image.fromarray(image[0]).save(place / name)
    if labelled:
        classes = {
            str(label): np.array(names)[images.labels == label].tolist()
            for label in (NORMAL, ABNORMAL)
        }
        write_text(target / "data.json", json.dumps({"test": classes}, indent=1) + "\n")
    return target


def compare(
    detectors: Mapping[str, Any], train: np.ndarray, test: np.ndarray, labels: np.ndarray
) -> pd.DataFrame:
    """Detectors of any library on the same flat images, by the same two calls.

    `fit(train)`, then `decision_function(test)`. In scikit-learn, and here, that is higher for
    normal images; in PyOD, known by its module, for abnormal ones.

    Args:
        detectors: by name; unfitted.
        train: normal images, one a row, (n, d).
        test: images to score, (m, d).
        labels: (m,), 0 = normal, 1 = abnormal.

    Returns:
        One row a detector, the highest AUC first: AUC and the ends of its 95 % interval over test
        images (DeLong's), in percent; seconds of both calls; n, the number of test images.

    Raises:
        InputError: if the labels are not of both classes, one an image, or scores are not finite.
    """
    rows = []
    for name, detector in detectors.items():
        start = time.perf_counter()
        detector.fit(train)
        trained = time.perf_counter()
        values = np.asarray(detector.decision_function(test), np.float64)
        scored = time.perf_counter()
        higher_is_abnormal = type(detector).__module__.split(".")[0] == "pyod"
        interval = mean_auc(labels, (values if higher_is_abnormal else -values)[None])
        rows.append(
            {
                "detector": name,
                "AUC": 100 * interval.value,
                "low": 100 * interval.low,
                "high": 100 * interval.high,
                "n": interval.n_images,
                "seconds to fit": trained - start,
                "seconds to score": scored - trained,
            }
        )
    table = pd.DataFrame(rows).set_index("detector")
    return table.sort_values("AUC", ascending=False, kind="stable")
