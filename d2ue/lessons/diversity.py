"""Whether diverse learners find more anomalies: ensembles as rows, and what the rows say.

Correlations of diversity with AUC come from points that share learners, seeds and test images.
`rank_correlation` takes the seeds as the independent units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from d2ue.config import TrainConfig
from d2ue.datasets import ABNORMAL, BUILT_IN, NORMAL, Dataset, load, phantom
from d2ue.ensemble import Ensemble, train_ensembles
from d2ue.errors import InputError
from d2ue.evaluation import auc
from d2ue.experiments.records import learner_similarity, score_record
from d2ue.store.results import RECONSTRUCTION, DataKey, Record

if TYPE_CHECKING:
    from d2ue.experiments.rows import Cell

#: What repulsion may change, by column of `record_row`.
QUANTITIES = {
    "error_normal": "error on normal images",
    "error_abnormal": "error on abnormal images",
    "unc_ratio": "Unc: abnormal / normal",
    "unc_normal": "Unc on normal images",
    "unc_abnormal": "Unc on abnormal images",
    "dsu_ratio": "DSU: abnormal / normal",
}


def small_dataset(data: str, image_size: int, n_train: int, n_test: int) -> Dataset:
    """A data set by name or folder, cut to so many images; no more phantoms are drawn than needed.

    Args:
        data: as for `d2ue.load`.
        image_size: pixels a side.
        n_train: normal images to train on; 0 = all.
        n_test: test images, of phantoms half of them abnormal; 0 = all.

    Raises:
        InputError: as `d2ue.load`, or if there are no labelled test images.
    """
    if data in BUILT_IN:
        half = (n_test or 600) // 2
        counts = {"n_train": n_train or 1000, "n_test_normal": half, "n_test_abnormal": half}
        return phantom(BUILT_IN[data], image_size=image_size, progress=False, **counts)
    whole = load(data, image_size, progress=False)
    return Dataset(whole.name, whole.train.sample(n_train), whole.labelled.sample(n_test))


# --- ensembles as rows ---


def record_row(record: Record) -> dict[str, Any]:
    """What a record says of an ensemble's diversity and of its performance, as one row.

    Returns:
        dataset, backbone, seed, similarity ("none" where nothing is repelled), repulsion_weight
        (0 likewise), layer, learners, epochs (of each), cost (learner-epochs in all); cka_normal,
        cka_abnormal (debiased, of the layer, NaN for one learner); unc_normal, unc_abnormal (mean
        output uncertainty), unc_ratio and dsu_ratio (abnormal over normal); error_normal,
        error_abnormal (mean squared error of the learners' own reconstructions); AUC_ensemble,
        AUC_output, AUC_dual, AUC_input in percent (NaN where one learner has no such score).
    """
    c, labels = record.config, record.labels
    row: dict[str, Any] = {
        "dataset": record.data.name,
        "backbone": c.backbone,
        "seed": c.seed,
        "similarity": c.similarity if c.repels else "none",
        "repulsion_weight": c.repulsion_weight if c.repels else 0.0,
        "layer": c.layer,
        "learners": c.n_learners,
        "epochs": c.epochs,
        "cost": c.n_learners * c.epochs,
    }
    classes = {"normal": labels == NORMAL, "abnormal": labels == ABNORMAL}
    unknown = np.full(len(labels), np.nan, np.float32)
    unc = record.scores.get("output", unknown)
    for name, of_class in classes.items():
        row[f"cka_{name}"] = record.similarity.get(name, math.nan)
        row[f"error_{name}"] = float(record.scores[RECONSTRUCTION][of_class].mean())
        row[f"unc_{name}"] = float(unc[of_class].mean())
    for column, method in (("unc_ratio", "output"), ("dsu_ratio", "dual")):
        scores = record.scores.get(method, unknown).astype(np.float64)
        row[column] = float(scores[classes["abnormal"]].mean() / scores[classes["normal"]].mean())
    for method in ("ensemble", "output", "dual", "input"):
        known = method in record.scores
        row[f"AUC_{method}"] = 100 * auc(labels, record.scores[method]) if known else math.nan
    return row


def record_table(records: Iterable[Record]) -> pd.DataFrame:
    """`record_row` of every record, in the order of settings and seeds."""
    table = pd.DataFrame([record_row(record) for record in records])
    keys = ["dataset", "backbone", "layer", "learners", "repulsion_weight", "similarity", "seed"]
    return table.sort_values(keys, ignore_index=True) if len(table) else table


def as_in_the_paper(table: pd.DataFrame) -> pd.Series:
    """Which rows of `record_table` are Table 2's: its learners, without repulsion or with its own.

    A seed of a backbone has one of each.
    """
    paper = TrainConfig(backbone="ae")
    of_repulsion = ["similarity", "repulsion_weight", "layer"]
    wanted = [getattr(paper, name) for name in of_repulsion]
    repelled = (table[of_repulsion] == wanted).all(axis=1)
    return table["learners"].eq(paper.n_learners) & (table["similarity"].eq("none") | repelled)


def ensemble_table(ensembles: Iterable[Ensemble], dataset: Dataset) -> pd.DataFrame:
    """`record_row` of ensembles at hand, and their debiased CKA at z whatever layer is repelled.

    Returns:
        A row an ensemble, in order; also z_normal and z_abnormal.

    Raises:
        InputError: if the data set has no labelled images of both classes.
    """
    test, key = dataset.labelled, DataKey.of(dataset)
    rows = []
    for ensemble in ensembles:
        at_z = Ensemble(ensemble.config.replace(layer="z"), ensemble.network)
        z = learner_similarity(at_z, test)
        row = record_row(score_record(ensemble, test, key))
        rows.append(row | {f"z_{name}": z.get(name, math.nan) for name in ("normal", "abnormal")})
    return pd.DataFrame(rows)


def grid_table(
    base: TrainConfig,
    dataset: Dataset,
    *,
    seeds: Sequence[int],
    weights: Sequence[float],
    layers: Sequence[str],
    learners: Sequence[int],
    device: str = "auto",
) -> pd.DataFrame:
    """Train a small grid around `base`, one setting moved at a time, and measure all of it.

    Weights and layers are moved with `base.n_learners` learners; the number of learners with
    lambda = 0 and with that of `base`. Smaller ensembles are the first learners of larger ones,
    so every learner is trained once. Seeds go one after another, to keep the memory low.

    Args:
        base: the settings in the middle.
        dataset: with labelled test images.
        seeds: of the trainings.
        weights: lambdas.
        layers: names of the network's layers.
        learners: numbers N, at least 2.
        device: as for `train_ensembles`.

    Returns:
        `ensemble_table` with "axis" ("weight", "layer", "learners") and "setting" (the value on
        it) in front; an ensemble that lies on two axes has a row on each.
    """
    parts = []
    for seed in seeds:
        b = base.replace(seed=seed)
        places: list[tuple[str, Any]] = [("weight", weight) for weight in weights]
        places += [("layer", layer) for layer in layers]
        configs = [b.replace(repulsion_weight=weight) for weight in weights]
        configs += [b.replace(layer=layer) for layer in layers]
        largest = b.replace(n_learners=max(learners))
        configs += [largest.replace(repulsion_weight=w) for w in (0, b.repulsion_weight)]
        *trained, without, repelled = train_ensembles(
            configs, dataset.train, device=device, progress=False
        )
        # One at a time: their weights are copies.
        smaller = (whole.first(n) for whole in (without, repelled) for n in learners)
        places += [("learners", n) for n in learners] * 2
        table = ensemble_table(itertools.chain(trained, smaller), dataset)
        on_axes = pd.DataFrame(places, columns=["axis", "setting"], dtype=object)
        parts.append(pd.concat([on_axes, table], axis=1))
        del trained, without, repelled, smaller
    return pd.concat(parts, ignore_index=True)


def distinct(table: pd.DataFrame) -> pd.DataFrame:
    """Each ensemble of a `grid_table` once, whatever number of axes it lies on."""
    # Nothing is repelled at lambda 0, so the layer says nothing there.
    layer = table["layer"].where(table["repulsion_weight"] > 0, "")
    keys = ["seed", "repulsion_weight", "layer", "learners"]
    return table[~table.assign(layer=layer).duplicated(keys)]


# --- what the rows say ---


def coverage_lines(cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Which settings of each table were run (with their number of seeds), and which were not.

    Args:
        cells: by table, as `d2ue.experiments.obtain` gives them; those of Unc stand for all.
    """
    lines = []
    for name, some in cells.items():
        run, missing = [], []
        for cell in some:
            if cell.row.method == "output":
                text = ", ".join(filter(None, (cell.row.group, cell.row.label)))
                n = len(cell.records)
                (run if n else missing).append(f"{text} (n = {n})" if n else text)
        shown = ["; ".join(settings) or "-" for settings in (run, missing)]
        lines.append("{}\n  run: {}\n  not run: {}".format(name, *shown))
    return lines


def gains(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """What one more learner brings, paired by seed, beside the learner-epochs that it adds.

    Args:
        table: rows that differ in seed, repulsion_weight and learners alone.
        columns: titles by column.

    Returns:
        A row a weight and step, as text; for each title the mean gain and its range over seeds.
    """
    rows = []
    for weight, part in table.groupby("repulsion_weight"):
        wide = part.pivot(index="seed", columns="learners", values=list(columns))
        for n, more in itertools.pairwise(sorted(part["learners"].unique())):
            cost = f"{100 * (more - n) / n:+.0f} %"
            row = {"λ": f"{weight:g}", "N": f"{n} to {more}", "cost": cost}
            for column, title in columns.items():
                gain = wide[column, more] - wide[column, n]
                row[title] = f"{gain.mean():+.1f} ({gain.min():+.1f} to {gain.max():+.1f})"
            rows.append(row)
    return pd.DataFrame(rows)


def effects(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """What repulsion changes, paired by seed.

    Args:
        table: an ensemble without and one with repulsion for every seed.
        columns: titles by column; values above 0.

    Returns:
        Indexed by title: "without" and "with" (means over seeds), "factor" (mean of the seeds'
        with / without), "lowest" and "highest" factor of a seed, "higher in" (such as "2 of 3").

    Raises:
        InputError: unless every seed has exactly one of either.
    """
    repelled = table["repulsion_weight"] > 0
    before, after = (table[which].set_index("seed").sort_index() for which in (~repelled, repelled))
    if list(before.index) != list(after.index) or before.index.has_duplicates or not len(before):
        raise InputError("Each seed needs one ensemble without and one with repulsion.")
    before, after = (part[list(columns)].rename(columns=columns) for part in (before, after))
    factor = after / before
    values = {"without": before.mean(), "with": after.mean(), "factor": factor.mean()}
    higher = (factor > 1).sum().map(lambda n: f"{n} of {len(factor)}")
    values |= {"lowest": factor.min(), "highest": factor.max(), "higher in": higher}
    return pd.DataFrame(values)


def effect_lines(changes: pd.DataFrame) -> list[str]:
    """`effects` as sentences."""
    return [
        f"{title}: {line['without']:.3f} without, {line['with']:.3f} with repulsion; factor "
        f"{line['factor']:.3f} ({line['lowest']:.3f} to {line['highest']:.3f}), higher in "
        f"{line['higher in']} seeds"
        for title, line in changes.iterrows()
    ]


# --- correlation with an interval ---


class Correlation(NamedTuple):
    """A rank correlation with two intervals of 95 %."""

    rho: float  # Spearman's, -1 to 1
    low: float  # with the seeds as independent units; NaN under two seeds
    high: float
    naive_low: float  # as if every point were independent; for comparison only
    naive_high: float
    points: int  # rows that were compared
    seeds: int


def rank_correlation(
    table: pd.DataFrame, x: str, y: str, *, within: str | None = None
) -> Correlation:
    """Spearman's correlation of two columns whose rows are not independent.

    Ensembles of one seed share their first learner and often more, so the interval is of a
    jackknife that leaves out one seed at a time: on the scale of Fisher's z = atanh(rho),
    se² = (G-1)/G sum_g (z_(g) - mean z)², and z ± t_(G-1) se. All seeds share the test images,
    so it says how rho would move with other seeds, and nothing of other images. The naive
    interval is z ± 1.96 sqrt((1 + rho²/2) / (n-3)) (Bonett, Wright 2000).

    Args:
        table: a row a point, with a column "seed"; rows with a NaN in x or y are left out.
        x: column.
        y: column; rho is NaN where one of them does not vary.
        within: column of groups whose means are taken out of x and y first, so that differences
            between groups (such as backbones) do not count; None = pooled.

    Raises:
        InputError: if under three points are left.
    """
    from scipy import stats  # here: importing it takes longer than most uses of this file

    kept = table.dropna(subset=[x, y])
    n, g = len(kept), kept["seed"].nunique()
    if n < 3:
        raise InputError(f"A correlation of {x} and {y} takes three points or more, not {n}.")

    def rho(points: pd.DataFrame) -> float:
        values = points[[x, y]]
        if within:
            values = values - points.groupby(within)[[x, y]].transform("mean")
        values = values.round(12)  # sums of rounding are not differences
        varied = (values.nunique() > 1).all()
        return float(stats.spearmanr(values[x], values[y]).statistic) if varied else math.nan

    def fisher(value: float) -> float:
        # Short of 1, where z is infinite; a left-out seed that leads there makes the interval wide.
        return math.atanh(max(-1 + 1e-6, min(1 - 1e-6, value)))

    def interval(half: float) -> tuple[float, float]:
        return math.tanh(fisher(value) - half), math.tanh(fisher(value) + half)

    value = rho(kept)
    low = high = math.nan
    if g > 1 and not math.isnan(value):
        left = np.array([fisher(rho(kept[kept["seed"] != seed])) for seed in kept["seed"].unique()])
        se = math.sqrt((g - 1) / g * np.square(left - left.mean()).sum())
        low, high = interval(se * stats.t.ppf(0.975, g - 1))
    naive = math.sqrt((1 + value**2 / 2) / (n - 3)) if n > 3 else math.nan
    return Correlation(value, low, high, *interval(naive * stats.norm.ppf(0.975)), n, g)


def correlations(
    table: pd.DataFrame,
    xs: Mapping[str, str],
    ys: Mapping[str, str],
    *,
    within: str | None = None,
) -> pd.DataFrame:
    """`rank_correlation` of every x with every y, as a table to read.

    Args:
        table: from `record_table` or `ensemble_table`.
        xs: titles by column.
        ys: titles by column.
        within: as for `rank_correlation`.
    """
    rows = []
    for (x, x_title), (y, y_title) in itertools.product(xs.items(), ys.items()):
        r = rank_correlation(table, x, y, within=within)
        rows.append(
            {
                "diversity": x_title,
                "AUC of": y_title,
                "rho": f"{r.rho:+.2f}",
                "interval, by seeds": f"{r.low:+.2f} to {r.high:+.2f}",
                "as if independent": f"{r.naive_low:+.2f} to {r.naive_high:+.2f}",
                "points": r.points,
                "seeds": r.seeds,
                "clear of 0": "yes" if r.low * r.high > 0 else "no",
            }
        )
    return pd.DataFrame(rows)
