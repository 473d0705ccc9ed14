"""A cleaned split: clusters of near duplicates wholly on one side, beside the published split.

Two rules, two questions:

- `train`: a cluster that touches the training set stays there, and its test members leave the test
  set. Trained learners stay valid: how much of the published number are the copies? The test
  images that remain may be of another kind than those that went.
- `random`: a cluster on both sides goes wholly to one, with the share of its images in training as
  the chance of that side, so that both keep their expected sizes. Learners have to be trained anew:
  what would a split without copies, of the same images, have given?

Duplicates within the test set stay, so statistics have to resample clusters. Of a cluster that
holds normal and abnormal images nobody knows which label is right: its test images are left out,
and by `random` its training images too. Unreadable files are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from d2ue.audit import ALTERED, SAME, Audit
from d2ue.datasets.decode import show
from d2ue.datasets.folder import DATA_JSON
from d2ue.errors import InputError
from d2ue.store.files import write_text

Keep = Literal["train", "random"]


def cleaned_split(found: Audit, keep: Keep = "train", seed: int = 0) -> dict[str, Any]:
    """The lists of a data.json without near duplicates across its sides; `seed` is for "random".

    Raises:
        InputError: if there is no split to clean, the rule is not known, or a part would be empty.
    """
    if found.listing is None:
        raise InputError(f"{found.name} is a plain folder: it has no split that could be cleaned.")
    if keep not in ("train", "random"):
        raise InputError(f"A split is cleaned by the rule train or random, not {keep!r}.")
    files = found.files
    cluster, label = files["cluster"].to_numpy(), files["label"].to_numpy()
    trained = (files["split"] == "train").to_numpy()
    side, stays = trained.copy(), (files["problem"] == "").to_numpy(copy=True)
    if keep == "train":
        stays &= ~found.leaked & ~(found.contradictory & ~trained)
    else:
        stays &= ~found.contradictory
        rng = np.random.default_rng(seed)
        for name in np.unique(cluster[found.leaked]):  # in the order of their first images
            members = cluster == name
            side[members] = rng.random() < trained[members].mean()
    lists = {
        "train/0": stays & side,
        "test/0": stays & ~side & (label == 0),
        "test/1": stays & ~side & (label == 1),
    }
    for part, chosen in lists.items():
        if not chosen.any():
            raise InputError(
                f"Without near duplicates nothing of {found.name} is left under {part}: this split "
                "cannot be cleaned by that rule."
            )
    names = {part: files["name"][chosen].tolist() for part, chosen in lists.items()}
    return {
        "about": {
            "rule": keep,
            "seed": seed if keep == "random" else None,
            "made from": found.listing.name,
            "sha256": hashlib.sha256(found.listing.read_bytes()).hexdigest(),
            "near duplicates": {"coarse": SAME, "or coarse and fine": list(ALTERED)},
            "left out": int((~stays).sum()),
            "moved": int((stays & (side != trained)).sum()),
        },
        "train": {"0": names["train/0"]},
        "test": {"0": names["test/0"], "1": names["test/1"]},
    }


def write_split(
    found: Audit, keep: Keep = "train", seed: int = 0, path: str | os.PathLike[str] | None = None
) -> Path:
    """Write `cleaned_split` beside the published one; nothing that is there is changed.

    Args:
        found: as for `cleaned_split`.
        keep: "train" or "random".
        seed: of the draws of "random".
        path: file to write; default: data.cleaned.json or data.cleaned-random-SEED.json.

    Raises:
        InputError: as `cleaned_split`, or if another file stands there, or it cannot be written.
    """
    split = cleaned_split(found, keep, seed)
    assert found.listing is not None
    name = "data.cleaned.json" if keep == "train" else f"data.cleaned-random-{seed}.json"
    target = found.listing.parent / name if path is None else Path(path)
    if target.name == DATA_JSON or target.suffix != ".json":
        raise InputError(
            f"{show(target)}: a cleaned split is a .json file of another name than data.json."
        )
    text = json.dumps(split, indent=1, ensure_ascii=False) + "\n"
    if os.path.lexists(target):
        if target.is_file() and target.read_bytes() == text.encode("utf-8", "surrogateescape"):
            return target
        raise InputError(f"{show(target)} is there and is another split: move it away first.")
    write_text(target, text)
    return target
