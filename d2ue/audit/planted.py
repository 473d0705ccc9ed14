"""Phantoms with duplicates planted in them: what an audit finds can be counted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from d2ue.audit import Audit
from d2ue.datasets.phantom import phantom
from d2ue.errors import InputError
from d2ue.store.files import write_text, writing

#: What is done to a copy.
PLANTED = ("exact", "re-encoded", "resized", "turned", "brighter")


def plant(
    folder: str | os.PathLike[str],
    *,
    kind: str = "head",
    n: int = 1000,
    each: int = 50,
    image_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Write a benchmark of phantoms whose test set holds altered copies of other images.

    No image is copied twice. Copies are exact files; JPEG of quality 50 to 90; resized to 0.7 to
    1.5 times; mirrored or turned by right angles; 2 % brighter or darker. Those of training and
    normal test images become normal test images, those of abnormal ones abnormal test images.

    Args:
        folder: written to; new or empty.
        kind: "head" or "chest".
        n: images that are drawn: 60 % training, 20 % normal and 20 % abnormal test images.
        each: copies of every kind of `PLANTED`.
        image_size: pixels a side.
        seed: of phantoms and copies.
        progress: show a bar once drawing has taken two seconds.

    Returns:
        A row a copy: original and copy (names), kind.

    Raises:
        InputError: if there are fewer images than copies, or the folder is not empty.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is there and not empty: give a new folder.")
    if n < 5 or each < 0 or each * len(PLANTED) > n:
        raise InputError(f"{each} copies of {len(PLANTED)} kinds need more than {n} images.")
    drawn = phantom(
        kind,
        n_train=n - 2 * (n // 5),
        n_test_normal=n // 5,
        n_test_abnormal=n // 5,
        image_size=image_size,
        seed=seed,
        progress=progress,
    )
    pictures = np.concatenate([drawn.train.images, drawn.labelled.images])[:, 0]
    names = [f"{name}.png" for name in (*drawn.train.names, *drawn.labelled.names)]
    abnormal = np.array(["abnormal" in name for name in names])
    rng = np.random.default_rng(seed)
    originals = rng.permutation(n)[: each * len(PLANTED)]
    copies = []
    lists: dict[bool, list[str]] = {False: [], True: []}
    n_train = len(drawn.train)
    for name, label in zip(names[n_train:], abnormal[n_train:], strict=True):
        lists[bool(label)].append(name)
    with writing(path):
        (path / "images").mkdir(parents=True, exist_ok=True)
        for name, picture in zip(names, pictures, strict=True):
            Image.fromarray(picture).save(path / "images" / name)
        for number, i in enumerate(originals):
            planted = PLANTED[number % len(PLANTED)]
            name = f"copy-{number:04d}.{'jpg' if planted == 're-encoded' else 'png'}"
            _copy(Image.fromarray(pictures[i]), planted, rng, path / "images" / name)
            copies.append((names[i], name, planted))
            lists[bool(abnormal[i])].append(name)
    split = {"train": {"0": names[:n_train]}, "test": {"0": lists[False], "1": lists[True]}}
    write_text(path / "data.json", json.dumps(split, indent=1) + "\n")
    return pd.DataFrame(copies, columns=["original", "copy", "kind"])


def _copy(image: Image.Image, kind: str, rng: np.random.Generator, path: Path) -> None:
    if kind == "re-encoded":
        image.save(path, "JPEG", quality=int(rng.integers(50, 91)))
        return
    if kind == "resized":
        side = round(image.width * float(rng.choice([0.7, 0.8, 0.9, 1.25, 1.5])))
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    elif kind == "turned":
        image = image.transpose(Image.Transpose(int(rng.integers(0, 7))))
    elif kind == "brighter":
        values = np.asarray(image) * rng.choice([0.98, 1.02])
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    image.save(path)


def recall_and_precision(found: Audit, truth: pd.DataFrame) -> pd.DataFrame:
    """How much of what `plant` returned was found as a pair, and how much of what was found it is.

    A row a kind: planted, found, recall; and the row "all" with pairs reported and precision.
    """
    names = found.files["name"].to_numpy()
    ends = zip(names[found.pairs["first"]], names[found.pairs["second"]], strict=True)
    reported = {frozenset(pair) for pair in ends}
    pairs = [frozenset(p) for p in zip(truth["original"], truth["copy"], strict=True)]
    hit = np.array([pair in reported for pair in pairs], bool)
    kinds = truth["kind"].to_numpy()
    rows = [(k, int((kinds == k).sum()), int(hit[kinds == k].sum())) for k in PLANTED]
    rows.append(("all", len(truth), int(hit.sum())))
    frame = pd.DataFrame(rows, columns=["kind", "planted", "found"])
    frame["recall"] = frame["found"] / frame["planted"].clip(lower=1)
    right = len(reported & set(pairs))
    frame["reported"] = [*[""] * len(PLANTED), len(reported)]
    frame["precision"] = [*[""] * len(PLANTED), round(right / max(len(reported), 1), 4)]
    return frame
