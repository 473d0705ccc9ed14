r"""The paper's Fig. 2 drawn from code: training above, inference below, with this package's names.

What is drawn is data (`TRAINING`, `INFERENCE`): boxes with a title, a formula and the names of the
functions behind it, and arrows between them. Every name is relative to `d2ue` and can be resolved
(`resolve`), so that a diagram that speaks of a function that is gone is an error.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Outline
from matplotlib.text import Text

from d2ue.errors import InputError
from d2ue.runs import write_text

#: Fill and edge by kind of box; light enough for black text, apart in lightness as well as in hue.
COLOURS = {
    "values": ("#f4f4f4", "#666666"),
    "frozen": ("#cfe3f3", "#0173b2"),
    "training": ("#fbdcb8", "#b35900"),
    "loss": ("#fdf6c9", "#8a7500"),
    "uncertainty": ("#e6dcf3", "#6a3d9a"),
}
LEGEND = {
    "values": "values",
    "frozen": "learner, frozen",
    "training": "learner in training",
    "loss": "training loss",
    "uncertainty": "score map, score",
}
_WIDTH = 13.1  # inches; the axes' unit is the inch
_RC = {"svg.hashsalt": "d2ue", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
_ROUND = 0.06  # by how much a box reaches over its place


@dataclass(frozen=True)
class Box:
    """A station.

    Attributes:
        key: what arrows call it.
        title: its name for people.
        formula: lines in matplotlib's mathtext, or plain text.
        names: what it is in the code, relative to d2ue: "module.function" or "module.Class.field".
        kind: a key of COLOURS.
        place: left, bottom, width and height in inches.
        stacked: whether it stands for several alike.
    """

    key: str
    title: str
    formula: tuple[str, ...]
    names: tuple[str, ...]
    kind: str
    place: tuple[float, float, float, float]
    stacked: bool = False

    def at(self, side: str, share: float = 0.5) -> tuple[float, float]:
        """A point on a side, `share` of the way along it (from the left or from below)."""
        x, y, w, h = self.place
        return {
            "left": (x - _ROUND, y + share * h),
            "right": (x + w + _ROUND, y + share * h),
            "top": (x + share * w, y + h + _ROUND),
            "bottom": (x + share * w, y - _ROUND),
        }[side]


@dataclass(frozen=True)
class Arrow:
    """A way from one box to another: along `via`, a list of corners, in inches.

    Attributes:
        start: key of a box, side, and share of the way along the side.
        end: likewise.
        via: corners on the way.
        label: said beside it, at `label_at`.
        dashed: whether what goes along it is not values but a gradient or a change of state.
    """

    start: tuple[str, str, float]
    end: tuple[str, str, float]
    via: tuple[tuple[float, float], ...] = ()
    label: str = ""
    label_at: tuple[float, float] = (0.0, 0.0)
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One stage: its boxes and arrows, in a strip of `height` inches."""

    title: str
    name: str
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...] = field(repr=False)

    def box(self, key: str) -> Box:
        """The box of that key."""
        return next(box for box in self.boxes if box.key == key)

    def points(self, arrow: Arrow) -> list[tuple[float, float]]:
        """The corners of an arrow, both ends included."""
        (start, *leave), (end, *enter) = arrow.start, arrow.end
        return [self.box(start).at(*leave), *arrow.via, self.box(end).at(*enter)]


_A, _B, _C, _D, _E = (0.25, 1.9), (2.6, 2.3), (5.35, 2.35), (8.15, 2.3), (10.9, 1.75)  # columns


def _row(column: tuple[float, float], bottom: float, height: float) -> tuple[float, ...]:
    return column[0], bottom, column[1], height


TRAINING = Panel(
    "Training: learners one after another, each pushed away from its frozen seniors",
    "training.train_ensemble",
    5.85,
    (
        Box(
            "images",
            "normal images",
            (r"$X$",),
            ("datasets.ImageSet", "ensemble.to_unit_range"),
            "values",
            _row(_A, 1.95, 1.2),
        ),
        Box(
            "seniors",
            r"seniors $f_1 \ldots f_{n-1}$",
            ("evaluation mode,", "features computed once"),
            ("ensemble.features_of",),
            "frozen",
            _row(_B, 3.7, 1.25),
            stacked=True,
        ),
        Box(
            "learner",
            r"learner $f_n$",
            ("training mode,", "weights drawn anew"),
            ("training.initial_network", "backbones.Autoencoder"),
            "training",
            _row(_B, 1.15, 1.45),
        ),
        Box(
            "p",
            "seniors' features",
            (r"$P_1 \ldots P_{n-1}$",),
            ("config.TrainConfig.layer",),
            "values",
            _row(_C, 3.8, 1.0),
        ),
        Box(
            "q",
            "its own feature",
            (r"$Q_n$",),
            ("backbones.Reconstruction.feature",),
            "values",
            _row(_C, 2.3, 1.0),
        ),
        Box(
            "f",
            "its reconstruction",
            (r"$f_n(X)$",),
            ("backbones.Reconstruction.mean",),
            "values",
            _row(_C, 0.75, 1.0),
        ),
        Box(
            "cka",
            "similarity, Eq. 2 and 3",
            (r"$\mathrm{CKA}(P_j, Q_n)$",),
            ("similarity.linear_cka", "similarity.hsic"),
            "loss",
            _row(_D, 3.75, 1.2),
        ),
        Box(
            "sim",
            "repulsion, Eq. 1",
            (r"$\mathcal{L}_{sim}=\frac{1}{n-1}\sum_j\,\mathrm{CKA}(P_j, Q_n)$",),
            ("training.repulsion_loss",),
            "loss",
            _row(_D, 2.3, 1.0),
        ),
        Box(
            "orig",
            "reconstruction loss",
            (r"$\mathcal{L}_{orig}$",),
            ("training.reconstruction_loss",),
            "loss",
            _row(_D, 0.75, 1.0),
        ),
        Box(
            "total",
            "total loss, Eq. 4",
            (r"$\mathcal{L}_{orig}+\lambda\,\mathcal{L}_{sim}$",),
            ("training.total_loss",),
            "loss",
            _row(_E, 1.5, 1.0),
        ),
    ),
    (
        Arrow(("images", "right", 0.75), ("seniors", "left", 0.5), ((2.4, 2.85), (2.4, 4.325))),
        Arrow(("images", "right", 0.25), ("learner", "left", 0.7586)),
        Arrow(("seniors", "right", 0.48), ("p", "left", 0.5)),
        Arrow(("learner", "right", 0.8), ("q", "left", 0.5), ((5.1, 2.31), (5.1, 2.8))),
        Arrow(("learner", "right", 0.2), ("f", "left", 0.5), ((5.1, 1.44), (5.1, 1.25))),
        Arrow(("p", "right", 0.5), ("cka", "left", 0.458)),
        Arrow(("q", "right", 0.5), ("cka", "left", 0.2), ((7.9, 2.8), (7.9, 3.99))),
        Arrow(("cka", "bottom", 0.5), ("sim", "top", 0.5)),
        Arrow(("f", "right", 0.5), ("orig", "left", 0.5)),
        Arrow(("sim", "right", 0.5), ("total", "top", 0.5), ((11.775, 2.8),)),
        Arrow(("orig", "right", 0.5), ("total", "bottom", 0.5), ((11.775, 1.25),)),
        Arrow(
            ("total", "right", 0.5),
            ("learner", "bottom", 0.5),
            ((12.88, 2.0), (12.88, 0.4), (3.75, 0.4)),
            r"gradient: Adam changes $f_n$ alone  (training.train_learners)",
            (8.2, 0.22),
            dashed=True,
        ),
        Arrow(
            ("learner", "top", 0.5),
            ("seniors", "bottom", 0.5),
            (),
            "when trained,\nfrozen as the next",
            (4.55, 3.1),
            dashed=True,
        ),
    ),
)

INFERENCE = Panel(
    "Inference: where the learners disagree, in output space and in input space",
    "uncertainty.score_maps",
    5.6,
    (
        Box(
            "images",
            "test images",
            (r"$X$",),
            ("ensemble.Ensemble.batches",),
            "values",
            _row(_A, 3.65, 1.1),
        ),
        Box(
            "learners",
            r"learners $f_1 \ldots f_N$",
            ("evaluation mode, side by side",),
            ("ensemble.Ensemble", "ensemble.forward"),
            "frozen",
            _row(_B, 3.6, 1.2),
            stacked=True,
        ),
        Box(
            "f",
            "reconstructions",
            (r"$f_i(X)$",),
            ("ensemble.Ensemble.reconstruct",),
            "values",
            _row(_C, 3.7, 1.0),
        ),
        Box(
            "gradient",
            "input gradients",
            (r"$\nabla_{\!X}\,\mathcal{L}_i$",),
            ("uncertainty.reconstruction_error", "uncertainty.input_gradients"),
            "values",
            _row(_C, 0.55, 1.2),
        ),
        Box(
            "ens",
            "Ens: error of the mean",
            (r"$(X-\overline{f(X)})^2$",),
            ("uncertainty.ensemble_map",),
            "uncertainty",
            _row(_D, 3.75, 0.95),
        ),
        Box(
            "unc",
            "Unc: output space, Eq. 5",
            (r"$D\,(f_i(X))$",),
            ("uncertainty.output_map", "uncertainty.deviation"),
            "uncertainty",
            _row(_D, 2.15, 1.2),
        ),
        Box(
            "dual",
            "DSU: dual space, Eq. 6",
            (r"$D\,(\nabla_{\!X}\,\mathcal{L}_i\,\odot\,|f_i(X)-X|)$",),
            ("uncertainty.dual_map", "uncertainty.deviation"),
            "uncertainty",
            _row(_D, 0.55, 1.2),
        ),
        Box(
            "score",
            "image score",
            ("mean over pixels,", "higher: more abnormal"),
            ("uncertainty.image_score", "uncertainty.image_scores"),
            "uncertainty",
            _row(_E, 2.05, 1.4),
        ),
    ),
    (
        Arrow(("images", "right", 0.5), ("learners", "left", 0.5)),
        Arrow(("learners", "right", 0.5), ("f", "left", 0.5)),
        Arrow(("f", "right", 0.7), ("ens", "left", 0.684)),
        Arrow(("f", "right", 0.3), ("unc", "left", 0.5), ((7.98, 4.0), (7.98, 2.75))),
        Arrow(
            ("f", "bottom", 0.75),
            ("dual", "left", 0.8),
            ((7.1125, 2.05), (7.93, 2.05), (7.93, 1.51)),
            r"$|f_i(X)-X|$",
            (6.5, 2.85),
        ),
        Arrow(("gradient", "right", 0.35), ("dual", "left", 0.35)),
        Arrow(
            ("learners", "bottom", 0.5),
            ("gradient", "left", 0.5),
            ((3.75, 1.15),),
            "one backward pass\nthrough each learner",
            (2.6, 1.9),
            dashed=True,
        ),
        Arrow(("ens", "right", 0.5), ("score", "top", 0.5), ((11.775, 4.225),)),
        Arrow(("unc", "right", 0.5), ("score", "left", 0.5)),
        Arrow(("dual", "right", 0.5), ("score", "bottom", 0.5), ((11.775, 1.15),)),
    ),
)
PANELS = (TRAINING, INFERENCE)


def overview(panels: Sequence[Panel] = PANELS) -> Figure:
    """Fig. 2: the panels below each other, with a legend.

    Every box is a patch of the one axes with its key as gid, and its texts follow it there with the
    same gid, so that a picture can be checked against what it is drawn from.
    """
    height = sum(panel.height for panel in panels) + 0.45
    with plt.rc_context(_RC):
        figure = plt.figure(figsize=(_WIDTH, height), facecolor="white")
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height))
        axis.axis("off")
        top = height
        for panel in panels:
            top -= panel.height
            _draw_panel(axis, panel, top)
        _draw_legend(axis)
    return figure


def names(panels: Sequence[Panel] = PANELS) -> Iterator[str]:
    """Every name in the diagram, relative to d2ue; some more than once."""
    for panel in panels:
        yield panel.name
        for box in panel.boxes:
            yield from box.names


def resolve(name: str) -> Any:
    """What a name of the diagram stands for: "similarity.hsic" is d2ue.similarity.hsic.

    Raises:
        InputError: if there is no such module, function, class or field.
    """
    module, *path = name.split(".")
    try:
        found: Any = importlib.import_module(f"d2ue.{module}")
        for part in path:
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"The diagram names d2ue.{name}, which is not there.") from error
    return found


def stations(panels: Sequence[Panel] = PANELS) -> pd.DataFrame:
    """The diagram as a table: one row a name, with the first line of what the code says of it.

    Returns:
        Columns stage, station, file (relative to the repository), name (in that file) and says.
    """
    rows = []
    for panel in panels:
        for box in panel.boxes:
            for name in box.names:
                module, _, rest = name.partition(".")
                found = importlib.import_module(f"d2ue.{module}")
                file = Path(str(found.__file__))
                inside = file.parent.name if file.stem == "__init__" else file.name
                place = f"d2ue/{inside}"
                says = (inspect.getdoc(resolve(name)) or "").partition("\n")[0]
                if not _is_documented(name):
                    says = f"A field of {rest.partition('.')[0]}."
                stage = panel.title.partition(":")[0]
                rows.append((stage, _spoken(box.title), place, rest, says))
    return pd.DataFrame(rows, columns=["stage", "station", "file", "name", "says"])


def stations_markdown(panels: Sequence[Panel] = PANELS, root: str = "..") -> str:
    """`stations` as Markdown, a list a stage, a line a station, each name a link to its file.

    Lists and no table: a table of four columns is unreadable on a telephone.

    Args:
        panels: what is drawn.
        root: the repository, from where the page stands.
    """
    lines = []
    for stage, table in stations(panels).groupby("stage", sort=False):
        lines += [f"**{stage}**", ""]
        for station, rows in table.groupby("station", sort=False):
            links = [f"[{row.name}]({root}/{row.file}): {row.says}" for row in rows.itertuples()]
            lines.append(f"- *{station}*. {' '.join(links)}")
        lines.append("")
    return "\n".join(lines)


def _is_documented(name: str) -> bool:
    """Whether a name is of something with a text of its own, not of a plain value or field."""
    found = resolve(name)
    return inspect.isfunction(found) or inspect.isclass(found)


def description(panels: Sequence[Panel] = PANELS) -> str:
    """The diagram in words: what a reader who cannot see it is told; part of the SVG.

    It ends in a digest of everything drawn, by which a file can be known to be up to date.
    """
    lines = []
    for panel in panels:
        lines.append(f"{panel.title} ({panel.name}).")
        for box in panel.boxes:
            lines.append(f"{_spoken(box.title)}: {', '.join(box.names)}.")
        for arrow in panel.arrows:
            start, end = (_spoken(panel.box(at[0]).title) for at in (arrow.start, arrow.end))
            said = f" ({_spoken(arrow.label)})" if arrow.label else ""
            lines.append(f"From {start} to {end}{said}.")
    digest = hashlib.sha256(repr((panels, [p.arrows for p in panels], COLOURS)).encode())
    return " ".join(lines) + f" Drawn from {digest.hexdigest()[:12]}."


def save_overview(path: str | Path, panels: Sequence[Panel] = PANELS) -> Path:
    """Write the diagram as SVG: letters as outlines, the same bytes every time.

    Raises:
        InputError: if the file cannot be written.
    """
    figure, buffer = overview(panels), io.BytesIO()
    metadata = {"Date": None, "Title": "Overview of D2UE", "Description": description(panels)}
    with plt.rc_context(_RC):
        figure.savefig(buffer, format="svg", metadata=metadata)
    plt.close(figure)
    # A fixed width is cut off on a narrower page; this one takes the page's, by its viewBox.
    sizes = re.compile(r'width="[0-9.]+pt" height="[0-9.]+pt"')
    text, found = sizes.subn('width="100%"', buffer.getvalue().decode(), count=1)
    assert found, "matplotlib writes the root's size another way"
    write_text(path, text)
    return Path(path)


def _spoken(text: str) -> str:
    """A title or label without the signs of mathtext."""
    for sign, word in ((r"\ldots", "to"), ("$", ""), ("{", ""), ("}", ""), ("\n", " ")):
        text = text.replace(sign, word)
    return text


def _draw_panel(axis: Axes, panel: Panel, bottom: float) -> None:
    """One panel with its lower edge at `bottom`."""
    frame = (0.1, bottom + 0.04), _WIDTH - 0.2, panel.height - 0.1
    axis.add_patch(
        FancyBboxPatch(*frame, boxstyle="round,pad=0,rounding_size=0.1", fc="none", ec="0.75")
    )
    y = bottom + panel.height - 0.32
    _write(axis, 0.3, y, panel.title, "title", size=13, weight="bold", ha="left")
    _write(axis, _WIDTH - 0.3, y, panel.name, "title", size=9, family="monospace", ha="right")
    for arrow in panel.arrows:
        _draw_arrow(axis, [(x, y + bottom) for x, y in panel.points(arrow)], arrow)
        if arrow.label:
            x, y = arrow.label_at
            _write(axis, x, y + bottom, arrow.label, "label", size=9, style="italic")
    for box in panel.boxes:
        _draw_box(axis, box, bottom)


def _draw_arrow(axis: Axes, points: list[tuple[float, float]], arrow: Arrow) -> None:
    axis.add_patch(
        FancyArrowPatch(
            path=Outline(points),
            arrowstyle="-|>",
            mutation_scale=11,
            linewidth=1.3,
            linestyle=(0, (4, 2.5)) if arrow.dashed else "solid",
            color="#b35900" if arrow.dashed else "0.25",
            joinstyle="round",
            gid="arrow",
        )
    )


def _draw_box(axis: Axes, box: Box, bottom: float) -> None:
    x, y, w, h = box.place
    fill, edge = COLOURS[box.kind]
    look = {
        "boxstyle": f"round,pad={_ROUND},rounding_size=0.1",
        "facecolor": fill,
        "edgecolor": edge,
        "linewidth": 1.6,
    }
    for offset in (0.16, 0.08) if box.stacked else ():
        place = (x + offset, y + bottom + offset)
        axis.add_patch(FancyBboxPatch(place, w, h, **look))
    axis.add_patch(FancyBboxPatch((x, y + bottom), w, h, **look, gid=f"box {box.key}"))
    lines = [(box.title, {"size": 11, "weight": "bold"})]
    for line in box.formula:
        lines.append((line, {"size": 13 if "$" in line else 9.5}))
    lines += [(name, {"size": 8, "family": "monospace"}) for name in box.names]
    heights = [style["size"] * (2.1 if "frac" in line else 1.5) / 72 for line, style in lines]
    at = y + bottom + h / 2 + sum(heights) / 2
    for (line, style), height in zip(lines, heights, strict=True):
        _write(axis, x + w / 2, at - height / 2, line, f"box {box.key}", **style)
        at -= height


def _draw_legend(axis: Axes) -> None:
    handles = [
        FancyBboxPatch((0, 0), 1, 1, facecolor=COLOURS[kind][0], edgecolor=COLOURS[kind][1])
        for kind in LEGEND
    ]
    handles += [
        Line2D([], [], color="0.25", linewidth=1.3),
        Line2D([], [], color="#b35900", linewidth=1.3, linestyle=(0, (4, 2.5))),
    ]
    labels = [*LEGEND.values(), "values go on", "gradient, or change of state"]
    axis.legend(
        handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=9.5,
        bbox_to_anchor=(0.5, 0), borderaxespad=0.3, columnspacing=1.6, handlelength=2.2,
    )  # fmt: skip


def _write(axis: Axes, x: float, y: float, text: str, gid: str, **style: Any) -> Text:
    place = {"ha": "center", "va": "center", "gid": gid}
    return axis.text(x, y, text, **(place | style))
