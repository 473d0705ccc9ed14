"""Commands for the paper's tables: data sets, batches, their store, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from d2ue.baselines import METHODS, teachers
from d2ue.cli.notebooks import NOTEBOOKS, TABLE_NOTEBOOKS
from d2ue.cli.options import DEFAULTS, Device, Precision
from d2ue.cli.outputs import check_file
from d2ue.config import TrainConfig
from d2ue.datasets import BUILT_IN, download, overview
from d2ue.datasets.registry import ZENODO
from d2ue.datasets.results_folder import check_result_folder
from d2ue.ensemble import resolve_device
from d2ue.errors import D2UEError, InputError
from d2ue.fast.steps import check_precision
from d2ue.store.files import check_writable, reading, write_text
from d2ue.store.learners import Store


def reproduce(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="table1, table2, table3 or ablations; all = these four; or any other page: "
            + ", ".join(n for n in NOTEBOOKS if n not in TABLE_NOTEBOOKS)
        ),
    ],
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="name of a data set, once for each; default: phantom"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="where the data sets lie; default: the phantoms"),
    ] = None,
    seeds: Annotated[str, typer.Option(help="how many, 5, or which, 1,2,7")] = "5",
    backbones: Annotated[str, typer.Option(help="table2 only: of ae,memae,aeu")] = "",
    baselines: Annotated[
        str,
        typer.Option(
            help=f"table1: other methods to train too, of {', '.join(METHODS)}, or all; the small "
            "preset, or METHOD:published"
        ),
    ] = "",
    teacher_weights: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="torchvision's weights for published baselines, where they cannot be fetched; "
            "kept for later commands",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="passes over the images")] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(help="images a step")] = DEFAULTS.batch_size,
    precision: Precision = DEFAULTS.precision,
    n_train: Annotated[int, typer.Option(help="training images; 0 = all")] = 0,
    n_test: Annotated[int, typer.Option(help="test images; 0 = all")] = 0,
    jobs: Annotated[
        str, typer.Option(help="processes side by side on a CPU, or workers of --cluster; or auto")
    ] = "auto",
    device: Device = "auto",
    scheduler: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="hand the work to a Dask scheduler, tcp://host:8786"),
    ] = "",
    cluster: Annotated[
        str,
        typer.Option(metavar="KIND", help="ask for workers: slurm, pbs, lsf, sge, or local"),
    ] = "",
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="option of the queue, as dask-jobqueue names it: queue=long or walltime=08:00:00",
        ),
    ] = None,
    store: Annotated[
        Path, typer.Option(help="folder where learners and scores are kept, and found again")
    ] = Path("results/store"),
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="draw from an export; no images, nothing is trained"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="results; default: results/NAME")] = None,
    clusters: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="tables of near duplicates that intervals and tests respect, one a data set, "
            "separated by commas",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would run and how long it takes")
    ] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="another value of a notebook's parameter",
        ),
    ] = None,
) -> None:
    """Run notebooks of the project with papermill and keep what they find.

    Tables: what their cells need and the store does not hold is trained first, each learner once;
    the defaults are the paper's settings. A command that was stopped goes on where it was.

    Where a batch runs:

    \b
    this machine   --jobs auto (a process a core) or --jobs 1
    GPUs           --device cuda: a process each, learners side by side;
                   CUDA_VISIBLE_DEVICES=0,1 before the command chooses some
    SLURM          --cluster slurm --jobs 20 --cluster-option queue=long
                   --cluster-option walltime=08:00:00; also pbs, lsf, sge.
                   Accounts and the rest: ~/.config/dask/jobqueue.yaml
    Kubernetes     helm install dask-operator, kubectl apply a DaskCluster
                   whose image has d2ue and whose workers mount the --store,
                   then in a pod: --scheduler tcp://NAME-scheduler:8786
    any machines   'dask scheduler' on one, 'dask worker ADDRESS --nthreads
                   1' on each, then --scheduler tcp://HOST:8786
    All workers must see the --store under the same path. 'd2ue status
    STORE' says from anywhere what is finished, running and failed.
    """  # noqa: D301 (the mark of a block that is not to be wrapped)
    from d2ue.cli.notebooks import (
        check_papermill,
        find_notebook,
        notebook_parameters,
        parse_assignments,
    )
    from d2ue.experiments import batch
    from d2ue.experiments.engines import engine
    from d2ue.experiments.rows import TABLES, departures

    given = parse_assignments(parameter or [])
    if name not in TABLES:
        source = find_notebook(name)
        _only_for_tables(context, name)
        if data is not None:
            # The notebook runs in its own folder, so a relative path would lead elsewhere.
            given["data"] = data if data in BUILT_IN else str(Path(data).resolve())
        if "progress" in notebook_parameters(source):
            given = {"progress": "true", **given}
        _run_page(source, out or Path("results") / name, given)
        return
    if scores is not None:
        _only_to_train(context)
    for place in (store, scores):
        if place is not None and "," in str(place.resolve()):
            raise InputError(f"{place} has a comma in its path, which parts places: move it.")
    if data is not None:
        _check_names(data, dataset)
    if scores is not None and not scores.exists():
        raise InputError(f"There is no {scores}: give a file that 'd2ue export' wrote.")
    settings = batch.Settings(
        datasets=",".join(["phantom"] if dataset is None else dataset),
        data="" if data is None else str(Path(data).resolve()),
        results=str((store if scores is None else scores).resolve()),
        seeds=seeds,
        backbones=backbones,
        baselines=baselines,
        base=TrainConfig(epochs=epochs, batch_size=batch_size, precision=precision),
        n_train=n_train,
        n_test=n_test,
        clusters=",".join(
            str(Path(file.strip()).resolve()) if file.strip() else ""
            for file in clusters.split(",")
        ),
    )
    if baselines and name not in ("table1", "all"):
        raise InputError(f"--baselines is for table1; {name} has none.")
    for file in teacher_weights or ():
        teachers.adopt(file)
    if backbones and name not in ("table2", "all"):
        raise InputError(f"--backbones is for table2; {name} has its own.")
    processes = _jobs(jobs)
    if scores is None and not (scheduler or cluster):  # workers have devices of their own
        check_precision(precision, resolve_device(device))
    wanted = [row for table in TABLES[name] for row in settings.rows(table)]
    chosen = settings.seed_list
    notebooks = TABLE_NOTEBOOKS if name == "all" else (name,)
    folder = out or Path("results") / name
    folders = {each: folder / each if name == "all" else folder for each in notebooks}
    sources = {each: find_notebook(each) for each in notebooks}
    _check_pages(sources, folders, given)
    if not dry_run:
        check_papermill()
    report = batch.Report()
    if scores is not None:
        # What the pages would stop at is said before a kernel is started.
        batch.obtain(TABLES[name], settings, jobs=-1, progress=False)
    else:
        check_writable(store)
        datasets = settings.load()
        if not datasets:
            raise InputError(
                f"Where do the images of {settings.datasets} lie? Give their folder with --data; "
                "'d2ue datasets' says how to get them."
            )
        kept = Store(store)
        plan = batch.plan(wanted, datasets, chosen, kept)
        labels = [dataset.labelled.labels for dataset in datasets]
        settings.read_clusters(plan.keys, dict(zip(plan.keys, labels, strict=True)))
        if dry_run:
            for line in batch.describe(plan, batch.seconds_for(plan, processes, device)):
                typer.echo(line)
            return
        asked = {"scheduler": scheduler, "cluster": cluster, "options": cluster_option or []}
        with engine(store, workers=processes, **asked) as executor:
            # A cluster's workers take tasks from a queue, which may be longer than they are many.
            side_by_side = 0 if executor else processes
            report = batch.run(plan, kept, jobs=side_by_side, device=device, executor=executor)
        typer.echo(
            f"{store}: {len(plan.wanted)} ensembles, {report.cached} of them cached; "
            f"{len(report.done)} learners and ensembles' scores are new."
        )
        for key in plan.keys:
            if apart := departures(key, settings.base):
                typer.echo(f"{key.name}: not the paper's numbers ({', '.join(apart)}).")
    for title, sentence in report.failed.items():
        typer.echo(f"failed: {title}: {sentence}", err=True)
    stopped = 0
    for each, source in sources.items():
        # All that can be trained is trained, so the page only reads: what failed is not tried anew.
        values = {**settings.as_parameters(each), "device": device, "jobs": -1, **given}
        try:
            _run_page(source, folders[each], values)
        except D2UEError as error:
            stopped += 1
            typer.echo(f"failed: {each}: {error}", err=True)
    failed = []
    if report.failed:
        failed = [
            f"{len(report.failed)} of the trainings and scorings failed",
            f"{len(report.skipped)} that need them were not run",
        ]
    if stopped:
        failed.append(f"{stopped} of {len(sources)} pages stopped")
    if failed:
        again = "" if scores is not None else "; the same command tries them again"
        raise D2UEError(f"{', '.join(failed)} as said above, all else was done{again}.")


def _check_pages(
    sources: Mapping[str, Path], folders: Mapping[str, Path], given: Mapping[str, str]
) -> None:
    """Refuse before hours of training what the pages of tables would refuse after them."""
    from d2ue.cli.notebooks import check_parameters

    for each, source in sources.items():
        check_parameters(source, given)
        with reading(folders[each]):
            is_taken = any(p.is_file() for p in (folders[each], *folders[each].parents))
        if is_taken:
            raise InputError(f"{folders[each]} is a file, or lies under one: give --out a folder.")
        check_result_folder(folders[each])
        check_writable(folders[each])
    for key in given.keys() - {"progress"}:
        raise InputError(
            f"-p {key} would be set after the training that it is about: the tables have options, "
            "see 'd2ue reproduce --help'."
        )


def _check_names(data: str, names: list[str] | None) -> None:
    """Refuse to take the phantoms where somebody gives images."""
    if not data.strip():
        raise InputError("--data is empty: give the folder in which the images lie.")
    if names is None:
        raise InputError(
            f"What are the images in {data} called? Give --dataset a name that 'd2ue datasets' "
            "lists, or a label of your own."
        )
    if all(name in BUILT_IN for name in names):
        raise InputError(f"{', '.join(names)} is built in and needs no --data: leave it out.")


def _run_page(source: Path, folder: Path, values: Mapping[str, Any]) -> None:
    from d2ue.cli.notebooks import run_notebook

    target = run_notebook(source, folder, values)
    typer.echo(f"{target}: open it with 'jupyter lab'; its pictures and tables lie beside it.")


def _only_for_tables(context: typer.Context, name: str) -> None:
    """Refuse options that would go unheeded."""
    for option in _typed(context) - {"name", "data", "out", "parameter"}:
        raise InputError(
            f"{_spelled(option)} is for the tables; {name} takes its settings as -p NAME=VALUE."
        )


def _only_to_train(context: typer.Context) -> None:
    """Refuse options of training where results are only drawn."""
    training = {"data", "n_train", "n_test", "jobs", "store", "dry_run"}
    for option in sorted(_typed(context) & training):
        raise InputError(
            f"{_spelled(option)} is for what is trained, and --scores only draws what is there: "
            "leave one of them out."
        )


def _typed(context: typer.Context) -> set[str]:
    """The parameters that were given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, s in sources.items() if s is not None and s.name == "COMMANDLINE"}


def _spelled(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _jobs(text: str) -> int:
    """Processes side by side; 0 = as many as there are cores."""
    if text == "auto":
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise InputError(f"--jobs is auto or a number of processes, 1 to 1024, not {text!r}.")
    return int(text)


def status(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="folder that --store named")],
) -> None:
    """Say what a store holds, what is in work (where, since when, epoch), and what failed."""
    from d2ue.experiments.status import status_lines

    for line in status_lines(store):
        typer.echo(line)


def controls(
    name: Annotated[str, typer.Argument(help="data set, as for reproduce --dataset")],
    data: Annotated[str | None, typer.Option(metavar="FOLDER", help="where its images lie")] = None,
    seeds: Annotated[str, typer.Option(help="how many, 5, or which, 1,2,7")] = "5",
    epochs: Annotated[
        int, typer.Option(help="passes over the images of the learners that are looked for")
    ] = DEFAULTS.epochs,
    batch_size: Annotated[
        int, typer.Option(help="images a step of those learners")
    ] = DEFAULTS.batch_size,
    precision: Precision = DEFAULTS.precision,
    store: Annotated[
        Path, typer.Option(help="folder where learners are looked for and scores are kept")
    ] = Path("results/store"),
) -> None:
    """Score the controls of a data set with what a store holds; nothing is trained.

    Scores of the images alone and of untrained ensembles need no learner. A single learner's
    gradient is scored where its learner is in the store; the others are named.
    """
    from d2ue.experiments import batch

    base = TrainConfig(epochs=epochs, batch_size=batch_size, precision=precision)
    settings = batch.Settings(name, "" if data is None else data, seeds=seeds, base=base)
    report = batch.score_controls(settings, Store(store))
    typer.echo(f"{store}: {len(report.done)} controls scored, {report.cached} were there.")
    for task in report.skipped:
        typer.echo(f"missing: {task}: its learner is not in {store}.")
    for task, sentence in report.failed.items():
        typer.echo(f"failed: {task}: {sentence}", err=True)
    if report.failed:
        raise D2UEError(f"{len(report.failed)} controls could not be scored.")


def claims(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="what 'd2ue reproduce all' left")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="also write them as a page")
    ] = None,
) -> None:
    """List the paper's claims with their verdicts, from the tables of one or more data sets."""
    from d2ue.experiments import summary

    found = summary.read_claims(folders)
    if out is not None:
        check_file(out, "--out", "claims")
        write_text(out, summary.claims_markdown(found))
    typer.echo(summary.claims_text(found))
    typer.echo(", ".join(f"{n} {said}" for said, n in summary.counts(found).items()) + ".")


def list_datasets() -> None:
    """List the data sets that have a name: what they are, their terms, how to get them."""
    typer.echo(overview())


def download_dataset(
    name: Annotated[str, typer.Argument(help="which; 'd2ue datasets' lists them")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="it comes to lie in FOLDER/NAME")] = (
        Path("data")
    ),
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="a mirror that serves the Zenodo record")
    ] = ZENODO,
) -> None:
    """Fetch one of the paper's data sets from Zenodo (for academic use), checked and extracted."""
    typer.echo(f"{download(name, to, base_url=base_url)}: {name} is there, whole.")


def export(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="folder where results are kept")],
    out: Annotated[Path, typer.Option(help="zip file to write")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="only of this data set; can be repeated")
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="the learners too, 17 MB each; else scores only")
    ] = False,
) -> None:
    """Pack results into one file, to take to another machine or to keep with a paper."""
    from d2ue.store import exchange

    with reading(store):
        is_there = store.is_dir()
    if not is_there:
        raise InputError(f"There is no folder {store}: 'd2ue reproduce' makes one.")
    check_file(out, "--out", "export")
    records = exchange.read_records(store)
    names = [n for n, r in records.items() if not dataset or r.data.name in dataset]
    there = {record.data.name for record in records.values()}
    absent = set(dataset or ()) - there
    if absent:
        raise InputError(
            f"{store} holds no results of {', '.join(sorted(absent))}, only of "
            f"{', '.join(sorted(there)) or 'nothing at all'}."
        )
    count = exchange.export(Store(store), out, names, weights=weights)
    typer.echo(f"{out}: the scores of {count} ensembles{' and their learners' * weights}.")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="written by 'd2ue export'")],
    store: Annotated[Path, typer.Option(help="folder to take the results into")] = Path(
        "results/store"
    ),
) -> None:
    """Take results of another machine into a store; what is there already stays."""
    from d2ue.store import exchange

    count = exchange.import_into(Store(store), file)
    typer.echo(f"{store}: the scores of {count} ensembles are there.")
