"""Many ensembles as one batch: what is missing is trained, each learner once, then scored.

Plain values (`Settings`) lead to a plan (`plan`), which is carried out (`run`) and read into the
cells of tables (`obtain`), which are kept (`save_tables`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2ue.config import TrainConfig
from d2ue.datasets import BUILT_IN
from d2ue.datasets.registry import load_named, marked
from d2ue.datasets.types import Dataset
from d2ue.errors import InputError
from d2ue.experiments import rivals
from d2ue.experiments.layouts import layout, markdown, show_verdicts, titled
from d2ue.experiments.plan import describe as describe
from d2ue.experiments.plan import plan
from d2ue.experiments.plan import seconds_for as seconds_for
from d2ue.experiments.printed import AS_PRINTED, caption
from d2ue.experiments.quick import save_results
from d2ue.experiments.rows import Cell, Row, collect, rows
from d2ue.experiments.run import Report, last_report, run
from d2ue.statistics.clusters import read_clusters
from d2ue.store.exchange import read_records
from d2ue.store.files import write_text
from d2ue.store.learners import Store
from d2ue.store.results import DataKey, Record, data_keys


@dataclass(frozen=True)
class Settings:
    """What a batch is about, in the plain values that notebooks and the command line give.

    Attributes:
        datasets: names, separated by commas; see `d2ue datasets`.
        data: folder of the data sets, or of the one; "" for the built-in phantoms, or to draw what
            `results` holds without any images.
        results: a store's folder, or folders and exports to read, separated by commas.
        seeds: "5" for the seeds 1 to 5, or single seeds, "1,2,7".
        backbones: those of "ae,memae,aeu" to keep; "" = the table's.
        base: settings that the tables' rows do not set themselves.
        n_train, n_test: so many images, drawn once with seed 0; 0 = all.
        baselines: other methods of table 1 to train, "rdad,multi-st", or "all" (see
            `rivals.chosen`); those that
            `results` holds are shown in any case.
        clusters: files of near duplicates (`statistics.clusters`), one a data set in their order,
            separated by commas; "" where none are known. Intervals and tests then respect them.

    Raises:
        InputError: here, or by a property or method, if a value cannot be used.
    """

    datasets: str
    data: str = ""
    results: str = ""
    seeds: str = "5"
    backbones: str = ""
    base: TrainConfig = field(default_factory=TrainConfig)
    n_train: int = 0
    n_test: int = 0
    clusters: str = ""
    baselines: str = ""

    def __post_init__(self) -> None:
        for option, n in (("n_train", self.n_train), ("n_test", self.n_test)):
            if n < 0:
                raise InputError(f"{option} is a number of images, 0 for all; not {n}.")

    @property
    def names(self) -> list[str]:
        """The data sets' names."""
        names = _listed(self.datasets)
        if not names:
            raise InputError("No data set is named: 'd2ue datasets' lists those that have a name.")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"The data set {name} is named twice: name it once.")
        return names

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds."""
        try:
            values = [int(text) for text in _listed(self.seeds)]
        except ValueError:
            values = []
        if len(values) == 1 and "," not in self.seeds:
            values = list(range(1, values[0] + 1))
        if not values or len(set(values)) < len(values) or min(values) < 0:
            raise InputError(
                f"Seeds are given as their number, 5, or one by one, 1,2,7; not {self.seeds!r}."
            )
        return tuple(values)

    def load(self, *, progress: bool = True) -> list[Dataset]:
        """The images; none are needed, and none are loaded, to draw what is there."""
        if not self.data and not all(name in BUILT_IN for name in self.names):
            return []
        loaded: list[Dataset] = []
        for name in self.names:
            dataset = load_named(name, self.data, self.base.image_size, progress=progress)
            parts = ("n_train", dataset.train), ("n_test", dataset.labelled)
            for option, images in parts:
                if getattr(self, option) > len(images):
                    raise InputError(
                        f"{option} is {getattr(self, option)}, but {name} has {len(images)} such "
                        "images: give at most as many, or 0 for all."
                    )
            train, test = (images.sample(getattr(self, option)) for option, images in parts)
            for other in loaded:
                if other.train.fingerprint == train.fingerprint:
                    raise InputError(
                        f"{other.name} and {name} are the same images: give --data the folder "
                        "in which both have a folder of their own."
                    )
            loaded.append(Dataset(dataset.name, train, test))
        return loaded

    def as_parameters(self, notebook: str) -> dict[str, Any]:
        """The same as parameters of a table's notebook."""
        names = ["datasets", "data", "results", "seeds", "n_train", "n_test", "clusters"]
        names += {"table1": ["baselines"], "table2": ["backbones"]}.get(notebook, [])
        base = {name: getattr(self.base, name) for name in ("epochs", "batch_size", "precision")}
        return {name: getattr(self, name) for name in names} | base

    @property
    def drawn(self) -> str:
        """How many images were drawn, where not all were taken: ` (100 to train, 60 to test)`."""
        counts = [(self.n_train, "to train"), (self.n_test, "to test")]
        given = ", ".join(f"{n} {what}" for n, what in counts if n)
        return f" ({given})" if given else ""

    def head(self, data: Sequence[DataKey] = ()) -> str:
        """For the head of a picture: `brain-mri, 250 epochs, seeds 1, 2, 3`.

        Args:
            data: the sets' keys, as `Report.data` has them: those that are not the paper's say how
                many images they have.
        """
        names = ", ".join(map(titled, data) if data else map(marked, self.names))
        epochs, seeds = self.base.epochs, self.seed_list
        formats = "" if self.base.precision == "float32" else f", {self.base.precision}"
        return (
            f"{names}{'' if data else self.drawn}, {epochs} epoch{'s' * (epochs != 1)}, "
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{formats}"
        )

    def __str__(self) -> str:
        return self.head()

    def rows(self, table: str) -> list[Row]:
        """The rows of a table; of other methods those that are to be trained."""
        if table == "baselines":
            wanted = rivals.chosen(_listed(self.baselines))
            return [row for row in rows(table, self.base) if row.control in wanted]
        kept = _listed(self.backbones)
        if self.backbones and not kept:
            raise InputError(f"Backbones are given as ae,memae,aeu, not {self.backbones!r}.")
        return rows(table, self.base, kept if table in ("table2", "controls") else [])

    def read_clusters(
        self, keys: Sequence[DataKey], labels: Mapping[DataKey, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Clusters of near duplicates among the test images, by data set; those that are known.

        Args:
            keys: of the data sets, in their order.
            labels: of the test images; refused are clusters of images with other labels.
        """
        if not self.clusters.strip():
            return {}
        files = [text.strip() for text in self.clusters.split(",")]
        if len(files) != len(keys):
            raise InputError(
                f"There are {len(keys)} data sets and {len(files)} files of clusters: give one for "
                "each, in the same order; nothing between two commas where none are known."
            )
        clusters = {}
        for file, key in zip(files, keys, strict=True):
            if file:
                table = read_clusters(file)
                if key in labels and not np.array_equal(table.labels, labels[key]):
                    raise InputError(
                        f"{file} has clusters of {len(table.labels)} test images that are not "
                        f"those of {key.name} ({len(labels[key])}, in the order of their labels)."
                    )
                clusters[key.name] = table.test
        return clusters


def obtain(
    tables: Sequence[str],
    settings: Settings,
    *,
    jobs: int = 0,
    device: str = "auto",
    progress: bool = True,
    executor: Executor | None = None,
) -> tuple[dict[str, list[Cell]], Report]:
    """The cells of some tables: what can be read is read, what is missing is trained.

    Without images (`settings.data` empty and no phantoms asked for, or results that are an export)
    nothing is trained, and cells that no result stands for are empty.

    Args:
        tables: their names.
        settings: what about.
        jobs: as for `run`; -1 = train nothing, and report what failed when it was last tried.
        device: as for `run`.
        progress: as for `run`.
        executor: as for `run`.

    Raises:
        InputError: if data or results cannot be used.
    """
    places = _listed(settings.results)
    is_export = bool(places) and Path(places[0]).is_file()
    if is_export and settings.data:
        raise InputError(
            f"{places[0]} is an export, which nothing can be trained into: give the folder of a "
            "store, or leave the images out to draw what the export holds."
        )
    datasets = [] if is_export else settings.load(progress=progress)
    if datasets:
        if not places:
            raise InputError("Results have to be kept somewhere: give the folder of a store.")
        store = Store(places[0])
        wanted = [row for table in tables for row in settings.rows(table)]
        planned = plan(wanted, datasets, settings.seed_list, store)
        if jobs < 0:
            report = last_report(planned, store)
        else:
            report = run(
                planned, store, jobs=jobs, device=device, progress=progress, executor=executor
            )
        shown = {
            row.record_name(key, seed)
            for row in rows("baselines", settings.base) * ("baselines" in tables)
            for key in planned.keys
            for seed in settings.seed_list
        }
        records = read_records(*places, names=planned.wanted | shown)
    else:
        records = read_records(*places)
        report = Report(data=_known(list(records.values()), settings))
    labels = {record.data: record.labels for record in records.values()}
    clusters = settings.read_clusters(report.data, labels)
    cells = {}
    for table in tables:
        of_table = settings.rows(table) if table != "baselines" else rows(table, settings.base)
        found = collect(of_table, records, report.data, settings.seed_list, clusters)
        if table == "baselines":
            asked = rivals.chosen(_listed(settings.baselines))
            found = [cell for cell in found if cell.records or cell.row.control in asked]
        cells[table] = found
    return cells, report


def _known(records: Sequence[Record], settings: Settings) -> list[DataKey]:
    """The data sets by what is known of them.

    What no result stands for is refused: a page of "not run" would look like a result.
    """
    of_these = [record for record in records if record.data.name in settings.names]
    known = data_keys(of_these, settings.n_train, settings.n_test)
    absent = [name for name in settings.names if name not in known]
    if absent:
        there = sorted({record.data.name for record in records})
        raise InputError(
            f"There are no results for {', '.join(absent)} in {settings.results}{settings.drawn}, "
            f"only for {', '.join(there) or 'nothing at all'}: give the folder with the images to "
            "have them computed."
        )

    def said(config: TrainConfig) -> str:
        epochs = f"{config.epochs} epoch{'s' * (config.epochs != 1)}"
        return f"{epochs}, batches of {config.batch_size} and {config.precision}"

    trained = [r.config for r in of_these if r.control in ("", "gradient")]
    there = sorted({said(config) for config in trained})
    if there and said(settings.base) not in there:
        raise InputError(
            f"{settings.results} has no results of {said(settings.base)}, only of "
            f"{'; of '.join(there)}: give these settings."
        )
    return [known[name] for name in settings.names]


def score_controls(settings: Settings, store: Store) -> Report:
    """Score what of a table's controls can be scored with the learners that a store holds.

    Nothing is trained: a single learner's gradient whose learner is not there is among the report's
    `skipped`. `run` of a plan with the rows of "controls" trains it.

    Raises:
        InputError: if data cannot be used.
    """
    seeds = settings.seed_list  # refused before images are read
    datasets = settings.load()
    if not datasets:
        raise InputError("Controls look at images: give the folder that they lie in.")
    planned = plan(settings.rows("controls"), datasets, seeds, store, train=False)
    return run(planned, store, jobs=1, device="cpu", progress=False)


def save_tables(
    out: str,
    notebook: str,
    settings: Settings,
    report: Report,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Any],
) -> None:
    """Write what a table's notebook found: CSV, Markdown and PNG, and what it was made with.

    Args:
        out: the folder; made if need be.
        notebook: the notebook's name.
        settings: what the batch was about.
        report: what became of it; failures are recorded.
        tables: by file name without ending; long tables are laid out as the paper has them in the
            Markdown file, verdicts as a reader wants them.
        figures: matplotlib figures by file name without ending.

    Raises:
        InputError: if the folder cannot be written to.
    """
    record = {"notebook": notebook, **dataclasses.asdict(settings)}
    record |= {"failed": report.failed, "skipped": report.skipped}
    # Results travel; where they lay on this machine does not.
    for place in ("data", "results", "clusters"):
        record[place] = ",".join(Path(text).name for text in _listed(record[place]))
    made = f"Made by {notebook}; every setting is in parameters.json."
    about = settings.head(report.data)
    folder = save_results(out, record, tables, figures, f"{about}. {made}")
    failed = [f"Failed: {title}: {sentence}" for title, sentence in report.failed.items()]
    for name, table in tables.items():
        known = [*table["independence"].dropna().unique()] if "independence" in table else []
        head = (
            f"{name} of {about}, batches of {settings.base.batch_size}. {made} Intervals and "
            f"tests: {'; '.join(map(str, known)) or 'none'}."
        )
        sentences = [*table.attrs.get("about", []), *failed]
        if name in AS_PRINTED and table["dataset"].nunique() == 1:
            sentences += [caption(table), markdown(AS_PRINTED[name](table)), "In full:"]
        is_long = "AUC_by_seed" in table
        text = markdown(layout(table, ("AUC", "AP")) if is_long else show_verdicts(table))
        write_text(folder / f"{name}.md", "\n\n".join([head, *sentences, text]))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
