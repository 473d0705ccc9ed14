"""The paper's tables as runs: which ensemble, judged by which score, stands behind every cell.

A **row** is a line of a table: an ensemble's settings and a score. A **cell** is a row on one data
set, over seeds. Rows share learners (the first of every lambda, metric and layer; the seniors) and
ensembles (scored by several methods); `d2ue.experiments.batch` trains each once.

An ensemble's AUC is that of one ranking: of its own score, not a mean over learners' AUCs.

| table | rows | paper |
|---|---|---|
| table1 | AE, MemAE, AEU (single learners), DDAD, Ours (AE), Ours (AEU) | AUC and AP on five sets |
| baselines | the other methods of table 1, and controls of theirs | AUC and AP on five sets |
| table2 | Ens, Unc, +RAR, +DSU, both, by backbone; and three more of ours | AUC on five sets |
| controls | what needs no method, see `d2ue.experiments.controls`; stands under table2's rows | - |
| table3 | the six similarities and debiased CKA, by Unc and by DSU | AUC on RSNA, Unc |
| lambda | repulsion weights 0 to 10 | supplement, not printed |
| layer | the nine layers, by CKA and by debiased CKA | supplement, not printed |
| learners | 2 to 8 learners, without and with repulsion | - |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from d2ue.baselines import METHODS
from d2ue.config import BACKBONE_TITLES, TrainConfig, layer_names
from d2ue.datasets.registry import SOURCES
from d2ue.errors import InputError
from d2ue.evaluation import auc, average_precision
from d2ue.experiments import paper, rivals
from d2ue.experiments.controls import IMAGE_CONTROLS
from d2ue.similarity import SIMILARITIES
from d2ue.statistics.clusters import check_clusters, independence
from d2ue.store.results import DataKey, Record, record_name

WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0)
LEARNERS = tuple(range(2, 9))
#: The scores that tables of several settings show, and what they are called there.
_SCORES = (("output", "Unc"), ("dual", "DSU"))
#: What stands under table 2's rows; also the group of these rows.
CONTROL_GROUP = "control"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: what the line is called, in the paper's words where it has it.
        group: what the label is of: a backbone, a score; "" where there is nothing to say.
        config: the ensemble's settings; the seed is replaced by each of the seeds.
        method: the score, as in `d2ue.config.METHODS`.
        published: the paper's AUC by data set title ("Average" too); empty if it has none.
        published_ap: its AP by data set title.
        control: one of `d2ue.store.results.CONTROLS`, or of another method as `rivals.control_name`
            gives it; "" for a trained ensemble.
        directed: whether higher was known to mean more abnormal before any label was looked at.
    """

    label: str
    group: str
    config: TrainConfig
    method: str
    published: Mapping[str, float] = field(default_factory=dict)
    published_ap: Mapping[str, float] = field(default_factory=dict)
    control: str = ""
    directed: bool = True

    @property
    def deterministic(self) -> bool:
        """Whether no seed acts on it: it is run once, whatever the seeds."""
        rival = rivals.of_control(self.control)
        return self.control == "images" or bool(rival and rival[0].is_control)

    def record_name(self, key: DataKey, seed: int) -> str:
        """The name of its record on a data set."""
        return record_name(self.config.replace(seed=seed), key, self.control)


def rows(table: str, base: TrainConfig | None = None, backbones: Sequence[str] = ()) -> list[Row]:
    """The rows of a table.

    Args:
        table: "table1", "baselines", "table2", "controls", "table3", "lambda", "layer", "learners".
        base: the settings that rows do not set themselves (epochs, batch size, ...); None = the
            paper's.
        backbones: keep these alone; () = those of the table. Controls that look at images alone
            have none, and stay.

    Raises:
        InputError: if the table or a backbone is unknown, or the table has no row of them.
    """
    if table not in _ROWS:
        raise InputError(f"There is no table {table!r}: take one of {', '.join(_ROWS)}.")
    unknown = [name for name in backbones if name not in BACKBONE_TITLES]
    if unknown:
        raise InputError(
            f"There is no backbone {', '.join(unknown)}: take some of {', '.join(BACKBONE_TITLES)}."
        )
    every = _ROWS[table](base or TrainConfig())
    kept = [r for r in every if not backbones or r.deterministic or r.config.backbone in backbones]
    if backbones and not kept:
        raise InputError(f"{table} has no rows for {', '.join(backbones)}.")
    return kept


def _table1(base: TrainConfig) -> list[Row]:
    def row(label: str, group: str, method: str, **changes: Any) -> Row:
        by_auc, by_ap = (
            dict(zip(paper.COLUMNS, values, strict=True)) for values in paper.TABLE1[label, group]
        )
        return Row(label, group, base.replace(**changes), method, by_auc, by_ap)

    return [
        row("AE", "", "ensemble", backbone="ae", n_learners=1),
        row("MemAE", "", "ensemble", backbone="memae", n_learners=1),
        row("AEU", "", "ensemble", backbone="aeu", n_learners=1),
        row("DDAD", "", "output", backbone="aeu", repulsion_weight=0.0),
        row("Ours", "AE", "dual", backbone="ae"),
        row("Ours", "AEU", "dual", backbone="aeu"),
    ]


def _baselines(base: TrainConfig) -> list[Row]:
    """The presets for images of this size; the paper's values stand beside the published alone."""
    config = base.replace(backbone="ae", n_learners=1, repulsion_weight=0.0)
    table = []
    for name, method in METHODS.items():
        for preset, settings in method.presets.items():
            if settings.image_size != base.image_size:
                continue
            by_auc, by_ap = {}, {}
            if preset == "published" and (method.title, "") in paper.TABLE1:
                by_auc, by_ap = (
                    dict(zip(paper.COLUMNS, values, strict=True))
                    for values in paper.TABLE1[method.title, ""]
                )
            control = rivals.control_name(name, preset)
            common = {"published": by_auc, "published_ap": by_ap, "control": control}
            table.append(Row(method.title, preset, config, "score", **common))
            if method.is_control:
                table.append(Row("Mahalanobis distance", preset, config, "mahalanobis", **common))
    return table


#: Table 2's rows: label, whether learners repel each other, score. The last four are not the
#: paper's: they cost nothing more, and tell apart what its rows mix.
TABLE2_ROWS = (
    ("Ens", False, "ensemble"),
    ("Unc", False, "output"),
    ("Unc+RAR", True, "output"),
    ("Unc+DSU", False, "dual"),
    ("Unc+RAR+DSU", True, "dual"),
    ("Ens+RAR", True, "ensemble"),
    ("gradient only", False, "input"),
    ("gradient only+RAR", True, "input"),
)


def _table2(base: TrainConfig) -> list[Row]:
    table = []
    for backbone, title in BACKBONE_TITLES.items():
        for label, repelled, method in TABLE2_ROWS:
            weight = base.repulsion_weight if repelled else 0.0
            config = base.replace(backbone=backbone, repulsion_weight=weight)
            values = paper.TABLE2.get((label, title), ())
            published = dict(zip(paper.COLUMNS, values, strict=False))
            table.append(Row(label, title, config, method, published))
    return table


def _controls(base: TrainConfig) -> list[Row]:
    def row(label: str, method: str, control: str, config: TrainConfig) -> Row:
        return Row(label, CONTROL_GROUP, config, method, control=control)

    table = [
        Row(c.title, CONTROL_GROUP, base, name, control="images", directed=c.directed)
        for name, c in IMAGE_CONTROLS.items()
    ]
    for backbone, title in BACKBONE_TITLES.items():
        config = base.replace(backbone=backbone, n_learners=1)
        table.append(row(f"{title}, gradient", "gradient", "gradient", config))
    for backbone, title in BACKBONE_TITLES.items():
        for name, method in (("Ens", "ensemble"), ("Unc", "output"), ("Unc+DSU", "dual")):
            config = base.replace(backbone=backbone, repulsion_weight=0.0)
            table.append(row(f"untrained {title}, {name}", method, "untrained", config))
    return table


def _table3(base: TrainConfig) -> list[Row]:
    table = []
    for method, title in _SCORES:
        for name in SIMILARITIES:
            has = method == "output" and name in paper.TABLE3
            published = {"RSNA": paper.TABLE3[name]} if has else {}
            config = base.replace(backbone="ae", similarity=name)
            table.append(Row(name, title, config, method, published))
    return table


def _lambda(base: TrainConfig) -> list[Row]:
    configs = [base.replace(backbone="ae", repulsion_weight=weight) for weight in WEIGHTS]
    return [
        Row(f"λ = {c.repulsion_weight:g}", title, c, method)
        for method, title in _SCORES
        for c in configs
    ]


def _layer(base: TrainConfig) -> list[Row]:
    configs = [
        base.replace(backbone="ae", layer=layer, similarity=similarity)
        for similarity in ("cka", "debiased-cka")
        for layer in layer_names(base.image_size)
    ]
    return [
        Row(c.layer, f"{title}, {c.similarity}", c, method)
        for method, title in _SCORES
        for c in configs
    ]


def _learners(base: TrainConfig) -> list[Row]:
    configs = [
        base.replace(backbone="ae", n_learners=n, repulsion_weight=weight)
        for weight in (0.0, base.repulsion_weight)
        for n in LEARNERS
    ]
    return [
        Row(f"N = {c.n_learners}", title + "+RAR" * (c.repulsion_weight > 0), c, method)
        for method, title in _SCORES
        for c in configs
    ]


_ROWS = {
    "table1": _table1,
    "baselines": _baselines,
    "table2": _table2,
    "controls": _controls,
    "table3": _table3,
    "lambda": _lambda,
    "layer": _layer,
    "learners": _learners,
}
#: What each notebook of the batch draws.
TABLES = {
    "table1": ("table1", "baselines"),
    "table2": ("table2", "controls"),
    "table3": ("table3",),
    "ablations": ("lambda", "layer", "learners"),
}
TABLES["all"] = tuple(dict.fromkeys(name for names in TABLES.values() for name in names))


@dataclass(frozen=True)
class Cell:
    """A row on one data set, over those of the seeds that were run.

    Attributes:
        row: its row.
        data: the data set's key.
        records: by seed; seeds that were not run are missing. A deterministic row has one.
        clusters: of near duplicates, an integer for each test image; None = images count as
            independent.
    """

    row: Row
    data: DataKey
    records: Mapping[int, Record]
    clusters: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """int8 [n], 0 or 1."""
        return next(iter(self.records.values())).labels

    def scores(self, method: str | None = None, seeds: Sequence[int] | None = None) -> np.ndarray:
        """float64 [seeds, images] by the row's method, or another."""
        if self.row.deterministic:
            (only,) = self.records
            wanted = [only] * (1 if seeds is None else len(seeds))
        else:
            wanted = sorted(self.records) if seeds is None else list(seeds)
        values = [self.records[seed].scores[method or self.row.method] for seed in wanted]
        return np.stack(values).astype(np.float64)

    @property
    def independence(self) -> str:
        """What counts as independent among the test images; see `d2ue.statistics.clusters`."""
        tested = self.data.n_normal + self.data.n_abnormal
        known = None if self.clusters is None else len(np.unique(self.clusters))
        return independence(tested, known)

    def auc(self) -> list[float]:
        """Percent, by seed in order."""
        return [100 * auc(self.labels, values) for values in self.scores()]

    def ap(self) -> list[float]:
        """Average precision in percent, by seed in order."""
        return [100 * average_precision(self.labels, values) for values in self.scores()]


def collect(
    table: str | Sequence[Row],
    records: Mapping[str, Record],
    data: Sequence[DataKey],
    seeds: Sequence[int],
    clusters: Mapping[str, np.ndarray] | None = None,
) -> list[Cell]:
    """The cells of a table out of records; what was not run is an empty cell.

    Args:
        table: its name, or its rows.
        records: by name, as `d2ue.store.results.read_records` gives them.
        data: the data sets, in the order of the columns.
        seeds: the seeds asked for.
        clusters: of near duplicates, by data set: an integer for each test image. Intervals and
            tests of these cells resample clusters.

    Raises:
        InputError: if clusters do not fit the test images.
    """
    clusters = clusters or {}
    for key in data:
        if key.name in clusters:
            check_clusters(clusters[key.name], key.n_normal + key.n_abnormal)
    cells = []
    for row in rows(table) if isinstance(table, str) else table:
        for key in data:
            run = {}
            for seed in seeds[:1] if row.deterministic else seeds:
                if (name := row.record_name(key, seed)) in records:
                    run[seed] = records[name]
            cells.append(Cell(row, key, run, clusters.get(key.name)))
    return cells


def departures(key: DataKey, config: TrainConfig) -> list[str]:
    """Why results cannot be the paper's numbers; empty if they can."""
    paper_has, found = TrainConfig(), []
    for name in ("epochs", "batch_size", "image_size", "precision"):
        value = getattr(config, name)
        if value != getattr(paper_has, name):
            found.append(f"{name.replace('_', ' ')} {value} instead of {getattr(paper_has, name)}")
    known = SOURCES.get(key.name)
    if known is None:
        found.append("a data set that is not the paper's")
    elif known.counts and known.counts != (key.n_train, key.n_normal, key.n_abnormal):
        found.append("not the published split")
    return found
