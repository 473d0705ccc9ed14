"""What a benchmark gives away before any network has seen it: `audit(folder)`.

Duplicates within and across train and test, file properties that predict the label, class balance,
unreadable files, patients on both sides. What it finds is about the files; whether a score learned
it has to be measured (see `d2ue.experiments`, tables on the published and the cleaned split).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from d2ue.audit.duplicates import (
    ALTERED,
    RESOLUTION,
    SAME,
    SYMMETRIES,
    Pairs,
    clusters_of,
    find_pairs,
    transform,
)
from d2ue.audit.files import NUMBERS, WORDS, read_files
from d2ue.datasets.decode import show
from d2ue.datasets.folder import (
    DATA_JSON,
    find_images,
    find_listing,
    has_data_json,
    listing_name,
)
from d2ue.datasets.listing import listed_names, parse_listing
from d2ue.datasets.medical import scan_kind
from d2ue.errors import InputError
from d2ue.statistics.significance import mean_auc

__all__ = ["ALTERED", "RESOLUTION", "SAME", "SYMMETRIES", "Audit", "Pairs", "audit", "transform"]

KINDS = ("same file", "same pixels", "re-encoded", "altered")


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found.

    Attributes:
        name: the data set's.
        files: a row an image of train/0 and test, in the order of data.json: name, split ("train",
            "test" or, for a plain folder, "all"), label (0, 1; -1 unknown), problem, the properties
            of `d2ue.audit.files`, cluster and nearest (largest coarse correlation).
        images: grey pixels, uint8 (n, 64, 64).
        pairs: near duplicates, a row a pair: first, second (rows of `files`), kind (of `KINDS`),
            symmetry, coarse, fine.
        candidates: what `find_pairs` kept, as rows of `files`.
        properties: what file properties tell: comparison, property, AUC with interval, n.
        identifiers: patients or sources by file name: a row each, images in every part; None
            without a pattern.
        listing: the .json file that was read; None for a plain folder.
    """

    name: str
    files: pd.DataFrame
    images: np.ndarray
    pairs: pd.DataFrame
    candidates: Pairs
    properties: pd.DataFrame
    identifiers: pd.DataFrame | None
    listing: Path | None

    @property
    def groups(self) -> np.ndarray:
        """Each image's part: "train/0", "test/0", "test/1" or "all"."""
        words = self.files["split"] + "/" + self.files["label"].astype(str)
        return np.where(self.files["label"] >= 0, words, self.files["split"])

    @property
    def leaked(self) -> np.ndarray:
        """bool, shape (n,): test images in a cluster with a training image."""
        split, cluster = self.files["split"].to_numpy(), self.files["cluster"].to_numpy()
        return (split == "test") & np.isin(cluster, cluster[split == "train"])

    @property
    def contradictory(self) -> np.ndarray:
        """bool, shape (n,): images in a cluster that holds normal and abnormal ones."""
        cluster, label = self.files["cluster"].to_numpy(), self.files["label"].to_numpy()
        return np.isin(cluster, np.intersect1d(cluster[label == 0], cluster[label == 1]))


def audit(
    folder: str | os.PathLike[str], *, id_pattern: str | None = None, progress: bool = True
) -> Audit:
    """Look at the images of a folder as files and pictures.

    Args:
        folder: the published layout, a .json split beside images/, or a plain folder of images.
        id_pattern: regular expression with one group, searched in every file name: the patient.
        progress: show bars of what takes more than two seconds.

    Returns:
        What was found. Files that cannot be read are listed, and left out of all comparisons.

    Raises:
        InputError: if the folder or its list of names cannot be used, none of its files can be
            read, there are scans among them, or the pattern is none.
    """
    pattern = _pattern(id_pattern)
    folder, listing = find_listing(folder)
    name = listing_name(folder, listing)
    rows: list[tuple[str, str, int]]
    if listing is None and not has_data_json(folder):
        root, rows = folder, [(file, "all", -1) for file in find_images(folder)]
    else:
        listing = listing or folder / DATA_JSON
        root, data = folder / "images", parse_listing(listing)
        # Not checked for names in two lists: that is a finding here, not an error.
        rows = [
            (file, part, int(label))
            for part, label in (("train", "0"), ("test", "0"), ("test", "1"))
            for file in listed_names(listing, data, part, label)
        ]
        if not rows:
            raise InputError(f"{show(listing)} lists no images under train/0, test/0 or test/1.")
    scans = [row[0] for row in rows if scan_kind(root / row[0])]
    if scans:
        raise InputError(
            f"audit reads pictures, and {len(scans)} of {len(rows)} files of {show(folder)} are "
            f"scans, such as {show(scans[0])}: export their slices as pictures first."
        )
    found, images = read_files(root, [row[0] for row in rows], progress=progress)
    if rows and (found["problem"] != "").all():
        raise InputError(
            f"None of the {len(rows)} files of {show(folder)} could be read; the first: "
            f"{found['problem'][0]}"
        )
    files = pd.concat([pd.DataFrame(rows, columns=["name", "split", "label"]), found], axis=1)
    readable = np.flatnonzero(files["problem"] == "")
    candidates, nearest = find_pairs(images[readable])
    candidates = replace(
        candidates, first=readable[candidates.first], second=readable[candidates.second]
    )
    pairs = _near_duplicates(files, readable, candidates)
    files["cluster"] = clusters_of(len(files), pairs["first"], pairs["second"])
    files["nearest"] = np.nan
    files.loc[readable, "nearest"] = nearest
    identifiers = None if pattern is None else _identifiers(files, pattern)
    return Audit(name, files, images, pairs, candidates, _properties(files), identifiers, listing)


def _near_duplicates(files: pd.DataFrame, readable: np.ndarray, found: Pairs) -> pd.DataFrame:
    near = found.near
    frame = pd.DataFrame(
        {
            "first": found.first[near],
            "second": found.second[near],
            "kind": np.where(found.coarse[near] >= SAME, "re-encoded", "altered"),
            "symmetry": found.symmetry[near],
            "coarse": found.coarse[near],
            "fine": found.fine[near],
        }
    )
    # Blank pictures correlate with nothing; what is equal is found by its hash.
    seen = set(zip(frame["first"], frame["second"], strict=True))
    extra = []
    for _, rows in files.loc[readable].groupby("pixels", sort=False):
        links = pairwise(rows.index)  # enough to make them one cluster
        extra += [(i, j, "same pixels", 0, 1.0, np.nan) for i, j in links if (i, j) not in seen]
    if extra:
        more = pd.DataFrame(extra, columns=frame.columns)
        frame = pd.concat([frame, more], ignore_index=True) if len(frame) else more
    for kind, column in (("same pixels", "pixels"), ("same file", "content")):
        values = files[column].to_numpy()
        equal = values[frame["first"]] == values[frame["second"]]
        frame.loc[equal, ["kind", "symmetry"]] = [kind, 0]
    return frame.sort_values(["first", "second"], ignore_index=True)


def _properties(files: pd.DataFrame) -> pd.DataFrame:
    """AUC of every property that varies: for the label, and for train against test normals."""
    readable = files[files["problem"] == ""]
    test, normal = readable["split"] == "test", readable["label"] == 0
    comparisons = {
        "abnormal against normal test images": (readable[test], readable["label"] == 1),
        "test normals against training images": (readable[normal], test),
    }
    rows = []
    for title, (own, positive) in comparisons.items():
        truth = positive[own.index].to_numpy(np.int8)
        if np.bincount(truth, minlength=2).min() < 2:
            continue
        for name, values in _scores(own):
            if len(np.unique(values)) < 2:
                continue
            try:
                found = mean_auc(truth, values[None], clusters=own["cluster"].to_numpy())
            except InputError:  # fewer than two clusters of a class
                continue
            rows.append((title, name, found.value, found.low, found.high, len(own)))
    return pd.DataFrame(rows, columns=["comparison", "property", "auc", "low", "high", "n"])


def _scores(files: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Numbers as they are (unknown ones lowest); words as one yes-or-no each, the 8 commonest."""
    found = [(name, files[name].fillna(-1.0).to_numpy(float)) for name in NUMBERS]
    for name in WORDS:
        for word in files[name].value_counts().index[:8]:
            found.append((f"{name}: {word}", (files[name] == word).to_numpy(float)))
    return found


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"The id pattern {text!r} is no regular expression ({error}).") from error
    if pattern.groups != 1:
        raise InputError(
            f"The id pattern {text!r} has {pattern.groups} groups: put one pair of parentheses "
            "around what names the patient."
        )
    return pattern


def _identifiers(files: pd.DataFrame, pattern: re.Pattern[str]) -> pd.DataFrame:
    matches = [pattern.search(name) for name in files["name"]]
    ids = pd.Series([m.group(1) if m else None for m in matches], dtype=object)
    known = ids.notna()
    parts = files["split"] + "/" + files["label"].astype(str)
    return pd.crosstab(ids[known], parts[known]).rename_axis(index="id", columns=None).reset_index()


def chosen_pairs(found: Audit, n: int) -> np.ndarray:
    """Rows of `found.pairs`, evenly over their coarse correlation, least alike first."""
    order = np.argsort(found.pairs["coarse"].to_numpy(), kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, n).astype(int))] if len(order) else order
