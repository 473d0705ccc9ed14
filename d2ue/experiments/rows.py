"""The paper's tables as runs: which ensemble, judged by which score, stands behind every cell.

A **row** is a line of a table: an ensemble's settings and a score. A **cell** is a row on one data
set, over seeds. Rows share learners (the first of every lambda, metric and layer; the seniors) and
ensembles (scored by several methods); `d2ue.batch` trains each once.

An ensemble's AUC is that of one ranking: of its own score, not a mean over learners' AUCs.

| table | rows | paper |
|---|---|---|
| table1 | AE, MemAE, AEU (single learners), DDAD, Ours (AE), Ours (AEU) | AUC and AP on five sets |
| table2 | Ens, Unc, +RAR, +DSU, both, by backbone; and three more of ours | AUC on five sets |
| controls | what needs no method, see `d2ue.experiments.controls`; stands under table2's rows | - |
| table3 | the six similarities and debiased CKA, by Unc and by DSU | AUC on RSNA, Unc |
| lambda | repulsion weights 0 to 10 | supplement, not printed |
| layer | the nine layers, by CKA and by debiased CKA | supplement, not printed |
| learners | 2 to 8 learners, without and with repulsion | - |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from d2ue.config import TrainConfig, layer_names
from d2ue.datasets.registry import SOURCES, marked, paper_title
from d2ue.errors import InputError
from d2ue.evaluation import auc, average_precision
from d2ue.experiments import paper
from d2ue.experiments.controls import IMAGE_CONTROLS
from d2ue.similarity import SIMILARITIES, is_orthogonal_invariant, is_scale_invariant
from d2ue.statistics.clusters import check_clusters, independence
from d2ue.statistics.significance import mean_auc
from d2ue.store.results import DataKey, Record, record_name

BACKBONE_TITLES = {"ae": "AE", "memae": "MemAE", "aeu": "AEU"}
WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0)
LEARNERS = tuple(range(2, 9))


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: what the line is called, in the paper's words where it has it.
        group: what the label is of: a backbone, a score; "" where there is nothing to say.
        config: the ensemble's settings; the seed is replaced by each of the seeds.
        method: the score, as in `d2ue.config.METHODS`.
        published: the paper's AUC by data set title ("Average" too); empty if it has none.
        published_ap: its AP likewise.
        control: one of `d2ue.store.results.CONTROLS`; "" for a trained ensemble.
        directed: whether higher was known to mean more abnormal before any label was looked at.
    """

    label: str
    group: str
    config: TrainConfig
    method: str
    published: Mapping[str, float]
    published_ap: Mapping[str, float]
    control: str = ""
    directed: bool = True

    @property
    def deterministic(self) -> bool:
        """Whether no seed acts on it: it is run once, whatever the seeds."""
        return self.control == "images"

    def record_name(self, key: DataKey, seed: int) -> str:
        """The name of its record on a data set."""
        return record_name(self.config.replace(seed=seed), key, self.control)


def rows(table: str, base: TrainConfig | None = None, backbones: Sequence[str] = ()) -> list[Row]:
    """The rows of a table.

    Args:
        table: "table1", "table2", "controls", "table3", "lambda", "layer", "learners".
        base: the settings that rows do not set themselves (epochs, batch size, ...); None = the
            paper's.
        backbones: keep these alone; () = those of the table. Controls that look at images alone
            have none, and stay.

    Raises:
        InputError: if the table or a backbone is unknown, or the table has no row of them.
    """
    if table not in _ROWS:
        raise InputError(f"There is no table {table!r}: take one of {', '.join(_ROWS)}.")
    found = _ROWS[table](base or TrainConfig())
    unknown = [name for name in backbones if name not in BACKBONE_TITLES]
    if unknown:
        raise InputError(
            f"There is no backbone {', '.join(unknown)}: take some of {', '.join(BACKBONE_TITLES)}."
        )
    if backbones:
        found = [r for r in found if r.deterministic or r.config.backbone in backbones]
    if not found:
        raise InputError(f"{table} has no rows for {', '.join(backbones)}.")
    return found


def _table1(base: TrainConfig) -> list[Row]:
    def row(label: str, group: str, method: str, **changes: Any) -> Row:
        auc_values, ap_values = paper.TABLE1[label, group]
        published = [dict(zip(paper.COLUMNS, v, strict=True)) for v in (auc_values, ap_values)]
        return Row(label, group, base.replace(**changes), method, *published)

    single: dict[str, Any] = {"n_learners": 1}
    return [
        row("AE", "", "ensemble", backbone="ae", **single),
        row("MemAE", "", "ensemble", backbone="memae", **single),
        row("AEU", "", "ensemble", backbone="aeu", **single),
        row("DDAD", "", "output", backbone="aeu", repulsion_weight=0.0),
        row("Ours", "AE", "dual", backbone="ae"),
        row("Ours", "AEU", "dual", backbone="aeu"),
    ]


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
    found = []
    for backbone, title in BACKBONE_TITLES.items():
        for label, repelled, method in TABLE2_ROWS:
            weight = base.repulsion_weight if repelled else 0.0
            config = base.replace(backbone=backbone, repulsion_weight=weight)
            values = paper.TABLE2.get((label, title), ())
            published = dict(zip(paper.COLUMNS, values, strict=False))
            found.append(Row(label, title, config, method, published, {}))
    return found


#: What stands under table 2's rows; also the group of these rows.
CONTROL_GROUP = "control"


def _controls(base: TrainConfig) -> list[Row]:
    def row(label: str, method: str, control: str, directed: bool = True, **changes: Any) -> Row:
        config = base.replace(**changes)
        return Row(label, CONTROL_GROUP, config, method, {}, {}, control, directed)

    found = [row(c.title, name, "images", c.directed) for name, c in IMAGE_CONTROLS.items()]
    for backbone, title in BACKBONE_TITLES.items():
        found.append(
            row(f"{title}, gradient", "gradient", "gradient", backbone=backbone, n_learners=1)
        )
    for backbone, title in BACKBONE_TITLES.items():
        for name, method in (("Ens", "ensemble"), ("Unc", "output"), ("Unc+DSU", "dual")):
            free = {"backbone": backbone, "repulsion_weight": 0.0}
            found.append(row(f"untrained {title}, {name}", method, "untrained", **free))
    return found


def _table3(base: TrainConfig) -> list[Row]:
    found = []
    for method, title in (("output", "Unc"), ("dual", "DSU")):
        for similarity in SIMILARITIES:
            value = paper.TABLE3.get(similarity) if method == "output" else None
            published = {} if value is None else {"RSNA": value}
            config = base.replace(backbone="ae", similarity=similarity)
            found.append(Row(similarity, title, config, method, published, {}))
    return found


def _lambda(base: TrainConfig) -> list[Row]:
    return [
        Row(
            f"λ = {weight:g}",
            title,
            base.replace(backbone="ae", repulsion_weight=weight),
            m,
            {},
            {},
        )
        for m, title in (("output", "Unc"), ("dual", "DSU"))
        for weight in WEIGHTS
    ]


def _layer(base: TrainConfig) -> list[Row]:
    return [
        Row(
            layer,
            f"{title}, {similarity}",
            base.replace(backbone="ae", layer=layer, similarity=similarity),
            method,
            {},
            {},
        )
        for method, title in (("output", "Unc"), ("dual", "DSU"))
        for similarity in ("cka", "debiased-cka")
        for layer in layer_names(base.image_size)
    ]


def _learners(base: TrainConfig) -> list[Row]:
    return [
        Row(
            f"N = {n}",
            title + ("+RAR" if weight else ""),
            base.replace(backbone="ae", n_learners=n, repulsion_weight=weight),
            method,
            {},
            {},
        )
        for method, title in (("output", "Unc"), ("dual", "DSU"))
        for weight in (0.0, base.repulsion_weight)
        for n in LEARNERS
    ]


_ROWS = {
    "table1": _table1,
    "table2": _table2,
    "controls": _controls,
    "table3": _table3,
    "lambda": _lambda,
    "layer": _layer,
    "learners": _learners,
}
#: What each notebook of the batch draws.
TABLES = {
    "table1": ("table1",),
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
        asked: the seeds that were asked for.
        clusters: of near duplicates, an integer for each test image; None = images count as
            independent.
    """

    row: Row
    data: DataKey
    records: Mapping[int, Record]
    asked: tuple[int, ...]
    clusters: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """int8 [n], 0 or 1."""
        return next(iter(self.records.values())).labels

    def scores(self, method: str | None = None, seeds: Sequence[int] | None = None) -> np.ndarray:
        """float64 [seeds, images] by the row's method, or another."""
        seeds = sorted(self.records) if seeds is None else seeds
        method = method or self.row.method
        return np.stack([self._record(s).scores[method] for s in seeds]).astype(np.float64)

    def _record(self, seed: int) -> Record:
        return next(iter(self.records.values())) if self.row.deterministic else self.records[seed]

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
        table: its rows.
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
            named = {
                s: row.record_name(key, s) for s in (seeds[:1] if row.deterministic else seeds)
            }
            found = {s: records[name] for s, name in named.items() if name in records}
            cells.append(Cell(row, key, found, tuple(seeds), clusters.get(key.name)))
    return cells


def long_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """One line a cell: our mean, spread and interval, n, the paper's value and the difference.

    Returns:
        Columns row, group, dataset, epochs, n_seeds, n_train, n_normal, n_abnormal, AUC, AUC_std,
        AUC_low, AUC_high, interval ("images and seeds", or "images only" under five seeds),
        independence (whether clusters of near duplicates are respected), note (of controls:
        "deterministic", "no known direction"), AP, AP_std, prevalence, paper_AUC, AUC_difference,
        paper_AP, AP_difference, code_AUC (what the released code itself gave, once), and the AUC of
        each seed as text; percent; empty where there is nothing. attrs["about"]: as `about`.
    """
    lines = []
    for cell in cells:
        title = paper_title(cell.data.name)
        tested = cell.data.n_normal + cell.data.n_abnormal
        line: dict[str, Any] = {
            "row": cell.row.label,
            "group": cell.row.group,
            "dataset": cell.data.name,
            "epochs": cell.row.config.epochs,
            "n_seeds": len(cell.records),
            "n_train": cell.data.n_train,
            "n_normal": cell.data.n_normal,
            "n_abnormal": cell.data.n_abnormal,
            "prevalence": 100 * cell.data.n_abnormal / tested,
            "paper_AUC": cell.row.published.get(title, np.nan),
            "paper_AP": cell.row.published_ap.get(title, np.nan),
            "note": _note(cell.row),
            "code_AUC": paper.RELEASED_CODE.get((title, cell.row.label, cell.row.group), (np.nan,))[
                0
            ],
        }
        if cell.records:
            values, precisions = cell.auc(), cell.ap()
            estimate = mean_auc(cell.labels, cell.scores(), clusters=cell.clusters)
            line |= {
                "AUC": np.mean(values),
                "AUC_std": _std(values),
                "AUC_low": 100 * estimate.low,
                "AUC_high": 100 * estimate.high,
                "interval": estimate.sources,
                "independence": estimate.independence,
                "AP": np.mean(precisions),
                "AP_std": _std(precisions),
                "AUC_by_seed": " ".join(
                    f"{'any' if cell.row.deterministic else s}:{v:.2f}"
                    for s, v in zip(sorted(cell.records), values, strict=True)
                ),
            }
        lines.append(line)
    columns = (
        "row group dataset epochs n_seeds n_train n_normal n_abnormal AUC AUC_std AUC_low AUC_high "
        "interval independence note AP AP_std prevalence paper_AUC AUC_difference paper_AP "
        "AP_difference code_AUC AUC_by_seed"
    )
    frame = pd.DataFrame(lines).reindex(columns=columns.split())
    frame.attrs["about"] = about(cells)
    for metric in ("AUC", "AP"):
        frame[f"{metric}_difference"] = frame[metric] - frame[f"paper_{metric}"]
    return frame


def _note(row: Row) -> str:
    notes = ["deterministic"] * row.deterministic + ["no known direction"] * (not row.directed)
    return ", ".join(notes)


def layout(frame: pd.DataFrame, metrics: Sequence[str] = ("AUC",)) -> pd.DataFrame:
    """A `long_table` as the paper lays its tables out: a line a row, a column a data set.

    A cell reads `87.3 ± 0.2 (n = 3); paper 88.9, -1.6`: mean and standard deviation over n seeds,
    the published value and our difference from it. The best of a column is in **bold**, the second
    best in *italics*. Several data sets have an average at the end: of the sets that are there,
    beside the paper's average of the same sets; only for rows run on all of them. Controls say in
    the brackets after n whether they are deterministic, and how far their AUC is from 50 where no
    direction of theirs was known beforehand.

    Args:
        frame: from `long_table`.
        metrics: "AUC", "AP" or both.

    Returns:
        Texts, indexed by (group, row), columns by data set title and metric.
    """
    columns: dict[str, pd.Series] = {}
    frame = frame.assign(line=list(zip(frame["group"], frame["row"], strict=True)))
    names = list(dict.fromkeys(frame["dataset"]))
    for name in names:
        own = frame[frame["dataset"] == name].set_index("line", drop=False)
        for metric in metrics:
            columns[f"{_title(name)}, {metric}"] = _texts(own, metric)
    if len(names) > 1:
        for metric in metrics:
            columns[f"average of {len(names)} sets, {metric}"] = _texts(
                _averages(frame, len(names)), metric
            )
    wide = pd.DataFrame(columns)
    wide.index = pd.MultiIndex.from_tuples(wide.index, names=["", "row"])
    return wide


def titled(key: DataKey) -> str:
    """A data set's name; where the paper has no such images, that and how many there are.

    `brain-mri`, or `kermany-cxr (not in the paper, 1341 to train, 234 + 390 to test)`.
    """
    known = SOURCES.get(key.name)
    if known is not None and known.counts in (None, (key.n_train, key.n_normal, key.n_abnormal)):
        return key.name
    what = "not the paper's split" if known else "not in the paper"
    return f"{key.name} ({what}, {key.n_train} to train, {key.n_normal} + {key.n_abnormal} to test)"


def _title(name: str) -> str:
    title = paper_title(name)
    return title if title in paper.DATASETS else marked(name)


def _texts(own: pd.DataFrame, metric: str) -> pd.Series:
    """One column of a layout."""
    ranked = own[metric].dropna().round(1).sort_values(ascending=False).unique()
    marks = dict(zip(ranked, ("**", "*"), strict=False)) if len(own) > 1 else {}

    def text(line: pd.Series) -> str:
        value = line[metric]
        published, gap = line[f"paper_{metric}"], line[f"{metric}_difference"]
        paper_says = "" if np.isnan(published) else f"; paper {published:.1f}"
        code = line["code_AUC"] if metric == "AUC" and "code_AUC" in line else np.nan
        code_says = "" if np.isnan(code) else f"; released code {code:.1f}"
        if np.isnan(value):
            return f"not run{paper_says}{code_says}"
        spread = "" if np.isnan(line[f"{metric}_std"]) else f" ± {line[f'{metric}_std']:.1f}"
        mark = marks.get(round(value, 1), "")
        notes = str(line.get("note", "") or "").split(", ") if metric == "AUC" else []
        says = {"no known direction": f"|AUC - 50| = {abs(value - 50):.1f}"}
        more = "".join(f", {says.get(note, note)}" for note in notes if note and note != "nan")
        ours = f"{mark}{value:.1f}{mark}{spread} (n = {line['n_seeds']:.0f}{more})"
        return ours + (f"{paper_says}, {gap:+.1f}" if paper_says else "") + code_says

    return own.apply(text, axis=1)


def _averages(frame: pd.DataFrame, sets: int) -> pd.DataFrame:
    """Means over data sets of our means and of the paper's values; NaN where one is missing."""

    def mean(values: pd.Series) -> float:
        return float(values.mean()) if values.notna().all() and len(values) == sets else np.nan

    lines = {}
    for line, own in frame.groupby("line", sort=False):
        averages = {"n_seeds": own["n_seeds"].min()}
        for metric in ("AUC", "AP"):
            averages[metric] = mean(own[metric])
            averages[f"{metric}_std"] = np.nan
            averages[f"paper_{metric}"] = mean(own[f"paper_{metric}"])
            averages[f"{metric}_difference"] = averages[metric] - averages[f"paper_{metric}"]
        lines[line] = averages
    averaged = pd.DataFrame.from_dict(lines, orient="index")
    averaged.index = pd.Index(list(lines), tupleize_cols=False)
    return averaged


def _seed_values(text: str) -> dict[str, float]:
    """A cell of the column "AUC_by_seed": AUC in percent by seed ("any" where none is needed)."""
    pairs = (pair.split(":") for pair in text.split())
    return {seed: float(value) for seed, value in pairs}


def seed_gains(frame: pd.DataFrame, over: str) -> pd.Series:
    """What each row's AUC is above that of another row of its group, seed by seed.

    Args:
        frame: from `long_table`, of one data set; rows that were not run are left out.
        over: the other row.

    Returns:
        AUC points, indexed by group, row and seed, for the seeds that both rows have.
    """
    run = frame[frame["n_seeds"] > 0].set_index(["group", "row"])["AUC_by_seed"].map(_seed_values)
    gains = {
        (group, row, seed): value - run[group, over][seed]
        for (group, row), values in run.items()
        if row != over
        for seed, value in values.items()
        if seed in run.get((group, over), {})
    }
    return pd.Series(gains, dtype=float).rename_axis(["group", "row", "seed"])


def differences(frame: pd.DataFrame) -> list[str]:
    """Where our AUC and the paper's are further apart than our interval, a sentence each.

    Args:
        frame: from `long_table`.

    Returns:
        At least one sentence: where none is apart, or none can be, that one says so.
    """
    compared = frame.dropna(subset=["AUC_difference"])
    if compared.empty:
        return ["Nothing here has a published value to be compared with."]
    sentences = []
    for line in compared.to_dict("records"):
        if not line["AUC_low"] <= line["paper_AUC"] <= line["AUC_high"]:
            what = ", ".join(text for text in (line["group"], line["row"]) if text)
            sentences.append(
                f"{_title(line['dataset'])}, {what}: {line['AUC']:.1f} ({line['AUC_low']:.1f} to "
                f"{line['AUC_high']:.1f}, {line['interval']}, n = {line['n_seeds']}) where "
                f"the paper has {line['paper_AUC']:.1f}: {line['AUC_difference']:+.1f}."
            )
    return sentences or ["No published value lies outside our interval."]


def about(cells: Sequence[Cell]) -> list[str]:
    """What a table is of, a sentence a data set: images, prevalence, seeds, whose numbers."""
    sentences = []
    for key in dict.fromkeys(cell.data for cell in cells):
        tested = key.n_normal + key.n_abnormal
        own = [cell for cell in cells if cell.data == key]
        counts = [len(cell.records) for cell in own if not cell.row.deterministic]
        run = sum(bool(cell.records) for cell in own)
        seeds = f", on {_range(counts)} seed{'s' * (max(counts) != 1)}" if counts else ""
        apart = departures(key, own[0].row.config)
        sentences.append(
            f"{key.name}: trained on {key.n_train} normal images; tested on {key.n_normal} normal "
            f"and {key.n_abnormal} abnormal ones ({100 * key.n_abnormal / tested:.1f} % abnormal, "
            f"the chance level of AP); {run} of {len(own)} rows run{seeds}; intervals: "
            f"{own[0].independence}."
            + (f" Not the paper's numbers: {', '.join(apart)}." if apart else "")
        )
    return sentences + _elsewhere(cells) + _contradictions(cells)


def _elsewhere(cells: Sequence[Cell]) -> list[str]:
    """That the paper has this table, but not on those of its data sets that are here."""
    titles = {paper_title(cell.data.name) for cell in cells} & set(paper.DATASETS)
    published = dict.fromkeys(
        name for cell in cells for name in cell.row.published if name in paper.DATASETS
    )
    if not published or not titles or titles & published.keys():
        return []
    return [f"The paper has this table on {', '.join(published)}, not on {', '.join(titles)}."]


def _contradictions(cells: Sequence[Cell]) -> list[str]:
    """What the paper prints of these cells and contradicts itself."""
    titles = {paper_title(cell.data.name) for cell in cells if cell.row.published}
    rows = {(cell.row.label, cell.row.group) for cell in cells if cell.row.published}
    return [
        f"The paper's table {table}, {', '.join(t for t in (group, row) if t)}, {column}: {what}."
        for (table, row, group, column), what in paper.CONTRADICTIONS.items()
        if column in titles and {(row, group), (row, "Unc")} & rows
    ]


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


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def show_verdicts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Verdicts as a reader wants them: rounded texts, the columns that matter, no empty ones.

    Args:
        verdicts: as `d2ue.experiments.claims` gives them.
    """
    column = "factor" if "factor" in verdicts else "difference"
    if column not in verdicts or verdicts.empty:
        return verdicts
    form = "{:.3f}" if column == "factor" else "{:+.1f}"

    def interval(line: pd.Series) -> str:
        if np.isnan(line[column]):
            return ""
        low, high = form.format(line["low"]), form.format(line["high"])
        return f"{form.format(line[column])} ({low} to {high})"

    def by_seed(values: str) -> str:
        return ", ".join(form.format(float(value)) for value in values.split())

    shown = pd.DataFrame(
        {
            "data set": verdicts["dataset"],
            "claim": verdicts["claim"],
            ("factor" if column == "factor" else "difference in AUC")
            + " (95 % interval)": verdicts.apply(interval, axis=1),
            "by seed": verdicts["per_seed"].astype(object).fillna("").map(by_seed),
            "p (Holm)": verdicts["p_holm"].map(lambda p: "" if np.isnan(p) else f"{p:.2g}"),
            "verdict": verdicts["verdict"],
        }
    )
    return shown.drop(columns="data set") if shown["data set"].nunique() == 1 else shown


def markdown(frame: pd.DataFrame) -> str:
    """A frame of texts and numbers as a Markdown table, its index as the first columns.

    An index without a name that only counts the rows is left out.
    """
    counts = frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)
    flat = frame.reset_index(drop=counts)
    flat = flat.loc[:, [column for column in flat.columns if not _is_empty(flat[column])]]

    def show(value: Any) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
        return str(value).replace("|", "\\|")

    lines = [[str(column) for column in flat.columns], ["---"] * len(flat.columns)]
    lines += [[show(value) for value in row] for row in flat.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _is_empty(column: pd.Series) -> bool:
    return bool((column.astype(str) == "").all())


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def ticks() -> pd.DataFrame:
    """Table 3's two columns of ticks, found by trying every similarity on features.

    Returns:
        Indexed by similarity; columns "scaling" and "rotation", True where the value does not move.
    """
    return pd.DataFrame(
        {
            "scaling": {name: is_scale_invariant(s) for name, s in SIMILARITIES.items()},
            "rotation": {name: is_orthogonal_invariant(s) for name, s in SIMILARITIES.items()},
        }
    ).rename_axis("similarity")
