"""What an audit found as text, JSON, a table of clusters, pictures, and one HTML page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2ue.audit import ALTERED, KINDS, SAME, SYMMETRIES, Audit, chosen_pairs, transform
from d2ue.audit.duplicates import clusters_of
from d2ue.audit.files import NUMBERS, WORDS
from d2ue.datasets.results_folder import claim
from d2ue.plotting.webpage import render
from d2ue.store.files import write_text, writing

_SHOWN = 48  # pairs on the page
_PARTS = {
    "train/0": "training images",
    "test/0": "normal test images",
    "test/1": "abnormal test images",
    "all": "images",
}


def summary(found: Audit) -> dict[str, Any]:
    """The findings in numbers, for JSON; no path of the machine, no image."""
    files, groups = found.files, found.groups
    cluster, unreadable = files["cluster"].to_numpy(), files["problem"] != ""
    parts = {}
    for part in _PARTS:
        own = groups == part
        if own.any():
            sizes = np.unique(cluster[own], return_counts=True)[1]
            parts[part] = {
                "images": int(own.sum()),
                "unreadable": int(unreadable[own].sum()),
                "clusters": len(sizes),
                "with a near duplicate in the same part": int(sizes[sizes > 1].sum()),
                "with a near duplicate in training": int(found.leaked[own].sum()),
            }
    sizes = np.bincount(cluster)
    result: dict[str, Any] = {
        "name": found.name,
        "parts": parts,
        "near duplicates": {
            "rule": {"coarse": SAME, "or coarse and fine": list(ALTERED)},
            "pairs": {k: int((found.pairs["kind"] == k).sum()) for k in KINDS},
            "alike in the coarse": {
                "pairs": found.candidates.total,
                "kept": len(found.candidates.first),
            },
            "turned or mirrored": int((found.pairs["symmetry"] > 0).sum()),
            "by parts": _by_parts(found),
            "images in a cluster of two or more": int((sizes[cluster] > 1).sum()),
            "clusters of two or more": int((sizes > 1).sum()),
            "largest cluster": int(sizes.max(initial=0)),
            "images in clusters of both labels": int(found.contradictory.sum()),
        },
        "other rules": _other_rules(found),
        "pairs of two labels": _negative_control(found),
        "properties": json.loads(found.properties.to_json(orient="records", double_precision=4)),
        "properties alike for all": _constant(files),
        "unreadable": files.loc[unreadable, ["name", "problem"]].values.tolist(),
    }
    if found.identifiers is not None:
        result["identifiers"] = _identifier_counts(found.identifiers, len(files))
    return result


def _other_rules(found: Audit) -> list[dict[str, Any]]:
    """How far the findings depend on the thresholds: the same counts by stricter and laxer ones."""
    pairs, split = found.candidates, found.files["split"].to_numpy()
    rows = []
    for coarse, fine in (
        (0.999, None), (0.99, None), (0.99, 0.97), (0.99, 0.95), (0.99, 0.9), (0.98, 0.9),
    ):  # fmt: skip
        near = pairs.coarse >= coarse
        if fine is not None:
            near |= pairs.fine >= fine
        cluster = clusters_of(len(split), pairs.first[near], pairs.second[near])
        leaked = (split == "test") & np.isin(cluster, cluster[split == "train"])
        rows.append(
            {
                "coarse": coarse,
                "or fine": fine,
                "clusters": int(cluster.max(initial=-1) + 1),
                "test images leaked": int(leaked.sum()),
            }
        )
    return rows


def text_report(found: Audit, numbers: dict[str, Any] | None = None) -> str:
    """The findings as sentences; `numbers` are those of `summary`, where they are at hand."""
    s = numbers or summary(found)
    lines = [f"Audit of {s['name']}", ""]
    for part, n in s["parts"].items():
        line = f"{n['images']} {_PARTS[part]} in {n['clusters']} clusters"
        line += f"; {n['with a near duplicate in the same part']} have a near duplicate among them"
        if part.startswith("test"):
            line += f", {n['with a near duplicate in training']} one in training"
        lines.append(line + ".")
    near = s["near duplicates"]
    alike = near["alike in the coarse"]
    if alike["kept"] < alike["pairs"]:
        lines += [
            "",
            f"{alike['pairs']} pairs are alike in the coarse (correlation of {ALTERED[0]} or "
            f"more). Kept and counted below are {alike['kept']} of them, which link the same "
            "clusters as all.",
        ]
    kinds = ", ".join(f"{n} {kind}" for kind, n in near["pairs"].items())
    lines += [
        "",
        f"Pairs of near duplicates: {kinds}; {near['turned or mirrored']} of them turned or "
        "mirrored.",
        f"{near['images in a cluster of two or more']} images in {near['clusters of two or more']}"
        f" clusters of two or more, the largest of {near['largest cluster']}; "
        f"{near['images in clusters of both labels']} images in clusters of both labels.",
        f"Rule: coarse correlation >= {SAME}, or coarse >= {ALTERED[0]} and fine >= {ALTERED[1]}.",
    ]
    for row in s["other rules"]:
        or_fine = "" if row["or fine"] is None else f" or fine >= {row['or fine']}"
        lines.append(
            f"  by coarse >= {row['coarse']}{or_fine}: {row['clusters']} clusters, "
            f"{row['test images leaked']} test images with one in training"
        )
    control = s["pairs of two labels"]
    if control["pairs compared"]:
        lines.append(
            f"Pairs of two labels, which cannot be copies unless a label is wrong: "
            f"{control['pairs compared']} compared, {control['near duplicates']} near duplicates."
        )
    lines += ["", "File properties (AUC; 0.5 = tells nothing; clusters respected):"]
    lines += [
        f"  {row['comparison']}, by {row['property']}: {row['auc']:.3f} "
        f"({row['low']:.3f} to {row['high']:.3f}), n = {row['n']}"
        for row in s["properties"]
    ]
    same = ", ".join(f"{k} {v}" for k, v in s["properties alike for all"].items())
    lines += [f"  alike for all: {same or 'none'}."]
    if "identifiers" in s:
        n = s["identifiers"]
        lines += [
            "",
            f"Names: {n['ids']} ids in {n['images']} images ({n['images without an id']} without); "
            f"{n['ids in train and test']} ids stand in train and test, with "
            f"{n['their test images']} test images; {n['ids of both labels']} have both labels.",
        ]
    lines += ["", f"Unreadable files: {len(s['unreadable'])}."]
    lines += [f"  {problem}" for _, problem in s["unreadable"][:50]]
    if len(s["unreadable"]) > 50:
        lines.append(f"  and {len(s['unreadable']) - 50} more, see report.json")
    return "\n".join(lines) + "\n"


def html_page(found: Audit) -> str:
    """The page, with thumbnails of pairs."""
    s = summary(found)
    parts = [
        (_PARTS[p], n["images"], n["clusters"], n["with a near duplicate in the same part"],
         n["with a near duplicate in training"] if p.startswith("test") else "", n["unreadable"])
        for p, n in s["parts"].items()
    ]  # fmt: skip
    return render(
        "audit/report.html.j2",
        name=found.name,
        parts=parts,
        pairs=s["near duplicates"]["by parts"].items(),
        shown=_thumbnails(found, chosen_pairs(found, _SHOWN)),
        properties=found.properties.itertuples(index=False),
        text=[line for line in text_report(found, s).splitlines() if line],
    )


def write_report(found: Audit, out: str | os.PathLike[str]) -> Path:
    """Write report.txt, .json and .html, clusters.csv, pairs.csv and .png, and distances.png.

    Args:
        found: an audit.
        out: folder; new, empty, or with an earlier report, which is replaced.

    Raises:
        InputError: if it cannot be written.
    """
    from d2ue.audit.pictures import distances, pairs_sheet

    names = found.files["name"].to_numpy()
    pairs = found.pairs.assign(
        first=names[found.pairs["first"]],
        second=names[found.pairs["second"]],
        symmetry=[SYMMETRIES[s] for s in found.pairs["symmetry"]],
    )
    clusters = found.files[["name", "split", "label", "cluster"]]  # as `read_clusters` reads it
    folder = claim(out)
    write_text(folder / "report.txt", text_report(found))
    write_text(folder / "report.json", json.dumps(summary(found), indent=1) + "\n")
    write_text(folder / "clusters.csv", clusters.to_csv(index=False, lineterminator="\n"))
    text = pairs.to_csv(index=False, float_format="%.5f", lineterminator="\n")
    write_text(folder / "pairs.csv", text)
    write_text(folder / "report.html", html_page(found))
    for name, draw in (("distances", distances), ("pairs", pairs_sheet)):
        with writing(folder / f"{name}.png"):
            draw(found).savefig(folder / f"{name}.png", dpi=80)
    return folder


def _thumbnails(found: Audit, rows: np.ndarray) -> list[dict[str, Any]]:
    names, groups = found.files["name"], found.groups
    return [
        {
            "caption": f"{names[pair.first]} and {names[pair.second]} "
            f"({groups[pair.first]} and {groups[pair.second]}): {pair.kind}, "
            f"{SYMMETRIES[pair.symmetry]}, coarse {pair.coarse:.3f}",
            "pictures": [
                (found.images[pair.first], names[pair.first]),
                (transform(found.images[pair.second], pair.symmetry), names[pair.second]),
            ],
        }
        for pair in found.pairs.iloc[rows].itertuples()
    ]


def _by_parts(found: Audit) -> dict[str, int]:
    groups = found.groups
    order = {part: i for i, part in enumerate(_PARTS)}
    ends = zip(groups[found.pairs["first"]], groups[found.pairs["second"]], strict=True)
    named = pd.Series([" and ".join(sorted(pair, key=order.__getitem__)) for pair in ends])
    return {k: int(v) for k, v in named.value_counts().items()}


def _negative_control(found: Audit) -> dict[str, Any]:
    label = found.files["label"].to_numpy()
    readable = label[found.files["problem"] == ""]
    pairs = found.candidates
    two = (label[pairs.first] != label[pairs.second]) & (label[pairs.first] >= 0)
    both = label[found.pairs["first"]] != label[found.pairs["second"]]
    return {
        "pairs compared": int((readable == 0).sum() * (readable == 1).sum()),
        "near duplicates": int(both.sum()),
        "coarse of 0.9 or more": int(two.sum()),
        "largest coarse": round(float(pairs.coarse[two].max()), 4) if two.any() else None,
    }


def _constant(files: pd.DataFrame) -> dict[str, Any]:
    own = files[files["problem"] == ""]
    alike = [c for c in (*NUMBERS, *WORDS) if len(own) and own[c].nunique(dropna=False) == 1]
    values = {c: own[c].iloc[0] for c in alike}
    return {c: round(float(v), 4) if c in NUMBERS else v for c, v in values.items() if v == v}


def _identifier_counts(table: pd.DataFrame, n_files: int) -> dict[str, int]:
    parts = table.drop(columns="id").reindex(columns=list(_PARTS), fill_value=0)
    test = parts["test/0"] + parts["test/1"]
    both = (parts["train/0"] > 0) & (test > 0)
    normal = parts["train/0"] + parts["test/0"]
    images = int(table.drop(columns="id").to_numpy().sum())
    return {
        "ids": len(table),
        "images": images,
        "images without an id": n_files - images,
        "ids in train and test": int(both.sum()),
        "their test images": int(test[both].sum()),
        "ids of both labels": int(((normal > 0) & (parts["test/1"] > 0)).sum()),
    }
