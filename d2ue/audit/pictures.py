"""Pictures of an audit: how alike images are, and pairs side by side."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from d2ue.audit import ALTERED, SAME, Audit, chosen_pairs, transform
from d2ue.plotting import FONT, PALETTE, axes_grid


def distances(found: Audit) -> Figure:
    """Each image's distance to its nearest neighbour; pairs by both correlations, with the rule.

    A distance is one minus a correlation, on a logarithmic scale; 1e-5 and less is drawn at 1e-5.
    """
    label = found.files["label"].to_numpy()
    nearest = found.files["nearest"].to_numpy()
    with plt.rc_context(FONT):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
        bins = np.logspace(-5, 0.3, 54)
        parts = [part for part in ("train/0", "test/0", "test/1", "all") if part in found.groups]
        names = {"train/0": "training", "test/0": "normal test", "test/1": "abnormal test"}
        values = [
            np.clip(1 - nearest[(found.groups == p) & np.isfinite(nearest)], 1.001e-5, 1.9)
            for p in parts
        ]
        labels = [f"{names.get(p, p)} ({len(v)})" for p, v in zip(parts, values, strict=True)]
        left.hist(values, bins, stacked=True, color=PALETTE[: len(parts)], label=labels)
        left.axvline(1 - SAME, color="black", linestyle="--", label="re-encoded: left of this")
        left.set(xscale="log", xlabel="distance to the nearest image (1 - coarse correlation)")
        left.set(ylabel="images", title="Nearest neighbours")
        left.legend(fontsize=10)
        pairs = found.candidates
        open_ = np.isfinite(pairs.fine)
        two = label[pairs.first] != label[pairs.second]
        abnormal = (label[pairs.first] == 1) & ~two
        for own, title, colour, marker in (
            (open_ & ~two & ~abnormal, "both normal", PALETTE[0], "."),
            (open_ & abnormal, "both abnormal", PALETTE[1], "^"),
            (open_ & two, "of two labels: no copies", "black", "x"),
        ):
            if own.any():
                x, y, text = 1 - pairs.coarse[own], 1 - pairs.fine[own], f"{title} ({own.sum()})"
                right.scatter(x, y, s=14, marker=marker, color=colour, alpha=0.5, label=text)
        right.plot([0.01, 0.1, 0.1], [1 - ALTERED[1]] * 2 + [0.001], "k--", label="altered: below")
        right.set(xscale="log", yscale="log", xlim=(0.1, 0.01), ylim=(0.003, 1.5))
        right.set_xticks([0.1, 0.05, 0.02, 0.01], ["0.1", "0.05", "0.02", "0.01"])
        right.xaxis.set_minor_formatter(NullFormatter())
        right.set(xlabel="1 - coarse correlation (more alike to the right)")
        right.set(ylabel="1 - fine correlation", title="Pairs that the coarse leaves open")
        right.legend(fontsize=10)
    return figure


def pairs_sheet(found: Audit, columns: int = 6, rows: int = 3) -> Figure:
    """Near duplicates side by side, evenly over how alike they are, the least alike first."""
    pairs = found.pairs.iloc[chosen_pairs(found, columns * rows)]
    lines = max(1, -(-len(pairs) // columns))
    with plt.rc_context(FONT):
        figure, axes = axes_grid(lines, columns, (2.3 * columns, 1.45 * lines), layout="compressed")
        for axis, pair in zip(axes.flat, pairs.itertuples(), strict=False):
            one, other = found.images[pair.first], found.images[pair.second]
            gap = np.full((len(one), 2), 255, np.uint8)
            both = np.hstack([one, gap, transform(other, pair.symmetry)])
            axis.imshow(both, cmap="gray", vmin=0, vmax=255)
            fine = "" if np.isnan(pair.fine) else f", fine {pair.fine:.2f}"
            places = f"{found.groups[pair.first]}, {found.groups[pair.second]}"
            axis.set_title(f"{pair.coarse:.3f}{fine}\n{places}", fontsize=9)
        for axis in axes.flat:
            axis.axis("off")
    return figure
