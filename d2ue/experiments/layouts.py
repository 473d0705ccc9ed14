"""Cells as tables for readers: numbers, the paper's layout, sentences, Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from d2ue.datasets.registry import SOURCES, marked, paper_title
from d2ue.experiments import paper
from d2ue.experiments.rows import Cell, departures
from d2ue.similarity import SIMILARITIES, is_orthogonal_invariant, is_scale_invariant
from d2ue.statistics.significance import mean_auc
from d2ue.store.results import DataKey


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
        row, data = cell.row, cell.data
        title = paper_title(data.name)
        line: dict[str, Any] = {
            "row": row.label,
            "group": row.group,
            "dataset": data.name,
            "epochs": row.config.epochs,
            "n_seeds": len(cell.records),
            "n_train": data.n_train,
            "n_normal": data.n_normal,
            "n_abnormal": data.n_abnormal,
            "prevalence": 100 * data.n_abnormal / (data.n_normal + data.n_abnormal),
            "paper_AUC": row.published.get(title, np.nan),
            "paper_AP": row.published_ap.get(title, np.nan),
            "code_AUC": paper.RELEASED_CODE.get((title, row.label, row.group), (np.nan,))[0],
            "note": ", ".join(
                ["deterministic"] * row.deterministic + ["no known direction"] * (not row.directed)
            ),
        }
        if cell.records:
            values, precisions = cell.auc(), cell.ap()
            estimate = mean_auc(cell.labels, cell.scores(), clusters=cell.clusters)
            seeds = ["any"] if row.deterministic else sorted(cell.records)
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
                    f"{seed}:{value:.2f}" for seed, value in zip(seeds, values, strict=True)
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


def layout(frame: pd.DataFrame, metrics: Sequence[str] = ("AUC",)) -> pd.DataFrame:
    """A `long_table` as the paper lays its tables out: a line a row, a column a data set.

    A cell reads `87.3 ± 0.2 (n = 3); paper 88.9, -1.6`: mean and standard deviation over n seeds,
    the published value and our difference from it. The best of a column is in **bold**, the second
    best in *italics*. Several data sets have an average at the end: of the sets that are there,
    beside the paper's average of the same sets; only for rows run on all of them. Controls say in
    the brackets after n whether they are deterministic, and how far their AUC is from 50 where no
    direction of theirs was known beforehand. Indexed by (group, row), columns by data set title
    and metric ("AUC", "AP").
    """
    columns: dict[str, pd.Series] = {}
    frame = frame.assign(line=list(zip(frame["group"], frame["row"], strict=True)))
    names = list(dict.fromkeys(frame["dataset"]))
    for name in names:
        of_set = frame[frame["dataset"] == name].set_index("line", drop=False)
        for metric in metrics:
            columns[f"{_title(name)}, {metric}"] = _texts(of_set, metric)
    if len(names) > 1:
        averages = _averages(frame, len(names))
        for metric in metrics:
            columns[f"average of {len(names)} sets, {metric}"] = _texts(averages, metric)
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


def _texts(lines: pd.DataFrame, metric: str) -> pd.Series:
    """One column of a layout."""
    ranked = lines[metric].dropna().round(1).sort_values(ascending=False).unique()
    marks = dict(zip(ranked, ("**", "*"), strict=False)) if len(lines) > 1 else {}

    def text(line: pd.Series) -> str:
        value, published = line[metric], line[f"paper_{metric}"]
        code = line.get("code_AUC", np.nan) if metric == "AUC" else np.nan
        code_says = "" if np.isnan(code) else f"; released code {code:.1f}"
        paper_says = "" if np.isnan(published) else f"; paper {published:.1f}"
        if np.isnan(value):
            return f"not run{paper_says}{code_says}"
        if paper_says:
            paper_says += f", {line[f'{metric}_difference']:+.1f}"
        spread = "" if np.isnan(line[f"{metric}_std"]) else f" ± {line[f'{metric}_std']:.1f}"
        note = line.get("note") if metric == "AUC" else ""
        note = f", {note}" if isinstance(note, str) and note else ""
        note = note.replace("no known direction", f"|AUC - 50| = {abs(value - 50):.1f}")
        mark = marks.get(round(value, 1), "")
        ours = f"{mark}{value:.1f}{mark}{spread} (n = {line['n_seeds']:.0f}{note})"
        return ours + paper_says + code_says

    return lines.apply(text, axis=1)


def _averages(frame: pd.DataFrame, sets: int) -> pd.DataFrame:
    """Means over data sets of our means and of the paper's values; NaN where one is missing."""
    columns = ["AUC", "AP", "paper_AUC", "paper_AP", "AUC_difference", "AP_difference"]
    lines = {}
    for line, of_row in frame.groupby("line", sort=False):
        complete = (of_row[columns].notna().all()) & (len(of_row) == sets)
        means = of_row[columns].mean().where(complete)
        for metric in ("AUC", "AP"):
            means[f"{metric}_difference"] = means[metric] - means[f"paper_{metric}"]
            means[f"{metric}_std"] = np.nan
        means["n_seeds"] = of_row["n_seeds"].min()
        lines[line] = means
    averaged = pd.DataFrame(list(lines.values()))
    averaged.index = pd.Index(list(lines), tupleize_cols=False)
    return averaged


def _seed_values(text: str) -> dict[str, float]:
    """A cell of the column "AUC_by_seed": AUC in percent by seed ("any" where none is needed)."""
    pairs = (pair.split(":") for pair in text.split())
    return {seed: float(value) for seed, value in pairs}


def seed_gains(frame: pd.DataFrame, over: str) -> pd.Series:
    """AUC points of each row of a `long_table` above another row of its group, seed by seed.

    Indexed by group, row and seed, for the seeds that both rows have; the table is of one data set.
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

    Where none is apart, or none can be, one sentence says so.
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
        of_set = [cell for cell in cells if cell.data == key]
        counts = [len(cell.records) for cell in of_set if not cell.row.deterministic]
        run = sum(bool(cell.records) for cell in of_set)
        seeds = f", on {_range(counts)} seed{'s' * (max(counts) != 1)}" if counts else ""
        apart = departures(key, of_set[0].row.config)
        sentences.append(
            f"{key.name}: trained on {key.n_train} normal images; tested on {key.n_normal} normal "
            f"and {key.n_abnormal} abnormal ones ({100 * key.n_abnormal / tested:.1f} % abnormal, "
            f"the chance level of AP); {run} of {len(of_set)} rows run{seeds}; intervals: "
            f"{of_set[0].independence}."
            + (f" Not the paper's numbers: {', '.join(apart)}." if apart else "")
        )
    printed = [cell for cell in cells if cell.row.published]
    has = dict.fromkeys(t for c in printed for t in c.row.published if t in paper.DATASETS)
    titles = {paper_title(cell.data.name) for cell in cells} & set(paper.DATASETS)
    if has and titles and not titles & has.keys():
        sentences.append(
            f"The paper has this table on {', '.join(has)}, not on {', '.join(titles)}."
        )
    lines = {(cell.row.label, cell.row.group) for cell in printed}
    sentences += [
        f"The paper's table {table}, {', '.join(t for t in (group, row) if t)}, {column}: {what}."
        for (table, row, group, column), what in paper.CONTRADICTIONS.items()
        if column in titles and {(row, group), (row, "Unc")} & lines
    ]
    return sentences


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def show_verdicts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Verdicts of `d2ue.experiments.claims`, rounded, in the columns that matter to a reader."""
    column = "factor" if "factor" in verdicts else "difference"
    if column not in verdicts or verdicts.empty:
        return verdicts
    form, what = ("{:.3f}", "factor") if column == "factor" else ("{:+.1f}", "difference in AUC")

    def interval(line: pd.Series) -> str:
        if np.isnan(line[column]):
            return ""
        value, low, high = (form.format(line[name]) for name in (column, "low", "high"))
        return f"{value} ({low} to {high})"

    def by_seed(values: str) -> str:
        return ", ".join(form.format(float(value)) for value in values.split())

    shown = pd.DataFrame(
        {
            "data set": verdicts["dataset"],
            "claim": verdicts["claim"],
            f"{what} (95 % interval)": verdicts.apply(interval, axis=1),
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
    flat = flat.loc[:, (flat.astype(str) != "").any()]

    def show(value: Any) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
        return str(value).replace("|", "\\|")

    lines = [[str(column) for column in flat.columns], ["---"] * len(flat.columns)]
    lines += [[show(value) for value in row] for row in flat.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


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
