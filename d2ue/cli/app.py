"""The commands `d2ue fit`, `score`, `reproduce`, `audit`, `controls`, `datasets` and so on.

Each command is a few calls of the module. Whatever is wrong with what was given ends in one
sentence on standard error and exit code 2; Ctrl-C in exit code 130.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from d2ue import __version__
from d2ue.cli.notebooks import NOTEBOOKS, TABLE_NOTEBOOKS
from d2ue.cli.outputs import check_apart, check_file, check_maps
from d2ue.config import METHODS, ScoreConfig, TrainConfig
from d2ue.datasets import (
    BUILT_IN,
    Dataset,
    ImageSet,
    ScanConfig,
    download,
    load,
    load_images,
    overview,
)
from d2ue.datasets.arrays import Reading
from d2ue.datasets.registry import ZENODO
from d2ue.datasets.results_folder import check_result_folder, claim
from d2ue.ensemble import resolve_device
from d2ue.errors import INTERRUPTED, D2UEError, InputError
from d2ue.fast.steps import check_precision
from d2ue.similarity import SIMILARITIES
from d2ue.store.files import check_writable, reading, write_text
from d2ue.store.learners import Store
from d2ue.store.runs import check_run_folder, fit_run, run_scan

DEFAULTS = TrainConfig()

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,  # plain help, the same on every terminal
    pretty_exceptions_enable=False,
)

Data = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER",
        help="images/ with data.json, a plain folder of images, or a built-in set: "
        + ", ".join(BUILT_IN),
    ),
]


Precision = Annotated[
    str,
    typer.Option(
        help="number format of products while training: float32, tf32 (CUDA only) or bf16 "
        "(coarser: see figures/README.md; slow on processors without instructions for it)"
    ),
]
Slices = Annotated[
    str | None,
    typer.Option(help="of scans: middle, all, 75, 40:110, or of the depth 0.25:0.75; middle"),
]
Axis = Annotated[
    str | None, typer.Option(help="of NIfTI: axial, coronal or sagittal slices; axial")
]
Window = Annotated[
    str | None,
    typer.Option(help="of scans: CENTRE,WIDTH, percentiles 1%,99%, or auto (the file's own); auto"),
]


@app.callback()
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version and end")] = False,
) -> None:
    """Anomaly detection by the disagreement of diverse autoencoders (D2UE, MICCAI 2024)."""
    if show:
        typer.echo(f"d2ue {__version__}")
        raise typer.Exit


@app.command()
def fit(
    folder: Data,
    out: Annotated[Path, typer.Option(help="run folder to write; new or empty")],
    backbone: Annotated[str, typer.Option(help="ae, memae or aeu")] = DEFAULTS.backbone,
    learners: Annotated[int, typer.Option(help="learners in the ensemble")] = DEFAULTS.n_learners,
    similarity: Annotated[str, typer.Option(help=", ".join(SIMILARITIES))] = DEFAULTS.similarity,
    repulsion_weight: Annotated[
        float, typer.Option(help="lambda in Eq. (4); 0 = no repulsion")
    ] = DEFAULTS.repulsion_weight,
    layer: Annotated[
        str, typer.Option(help="whose feature is repelled: en1 ... en4, z, de4 ... de1")
    ] = DEFAULTS.layer,
    epochs: Annotated[int, typer.Option(help="passes over the images")] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(help="images a step")] = DEFAULTS.batch_size,
    image_size: Annotated[
        int,
        typer.Option(
            help="pixels a side: 16, 32, 64, 128, 256 or 512; larger ones have more layers, so "
            "that the latent grid stays 4 x 4"
        ),
    ] = DEFAULTS.image_size,
    seed: Annotated[int, typer.Option(help="of weights and shuffles")] = DEFAULTS.seed,
    precision: Precision = DEFAULTS.precision,
    slices: Slices = None,
    axis: Axis = None,
    window: Window = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    store: Annotated[
        Path | None,
        typer.Option(help="folder in which runs share learners; default: none is shared"),
    ] = None,
    contamination: Annotated[
        float | None,
        typer.Option(
            help="share of normal images that may be called abnormal, 0.05 say: sets a threshold "
            "from normal images that are held out; default: no threshold"
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(help="share of the normal images to hold out for the threshold; default 0.1"),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER2", help="hold out these normal images instead, of other patients say"
        ),
    ] = None,
) -> None:
    """Train an ensemble on the normal images of FOLDER (defaults: the paper's).

    With --contamination some normal images are not trained on; their scores tell what is high, and
    'd2ue score' then says of every image whether it is abnormal.
    """
    from d2ue.detector import saved
    from d2ue.detector.threshold import check_contamination, measure

    config = TrainConfig(
        backbone=backbone,
        n_learners=learners,
        similarity=similarity,
        repulsion_weight=repulsion_weight,
        layer=layer,
        epochs=epochs,
        batch_size=batch_size,
        image_size=image_size,
        seed=seed,
        precision=precision,
    )
    if contamination is not None:
        check_contamination(contamination)
    elif validation_fraction is not None or validation is not None:
        raise InputError("Held-out images set a threshold: give --contamination too, 0.05 say.")
    fraction = 0.1 if validation_fraction is None else validation_fraction
    scan = _scan(slices, axis, window)
    check_run_folder(out)
    resolve_device(device)  # before minutes of decoding
    dataset: Dataset = load(folder, image_size, scan=scan)
    train, held_out = dataset.train, None
    if contamination is not None:
        train, held_out = _hold_out(dataset.train, validation, fraction, config, scan)
    ensemble, was_there = fit_run(
        config, train, out, data_name=dataset.name, device=device, store=store, scan=scan
    )
    if was_there:
        typer.echo(f"{out} holds this ensemble already; nothing was trained.")
    else:
        losses = ", ".join(f"{epochs[-1]['loss']:.4g}" for epochs in ensemble.history)
        typer.echo(
            f"{out}: {len(ensemble)} learners ({config.backbone}) trained on {len(train)} "
            f"normal images; last losses {losses}."
        )
    if held_out is not None and contamination is not None:
        threshold = measure(ensemble, held_out, contamination, progress=True)
        method = "dual" if "dual" in threshold.scores else "ensemble"
        saved.attach(out, saved.Record(method, threshold, Reading(), fraction, scan))
        typer.echo(threshold.shortfall or threshold.describe())


@app.command()
def score(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="folder written by 'd2ue fit' or D2UE.save")
    ],
    folder: Data,
    out: Annotated[
        Path,
        typer.Option(help="CSV file to write: name,label,score and, with a threshold, abnormal"),
    ],
    method: Annotated[
        str | None, typer.Option(help=", ".join(METHODS) + "; default: the detector's, else dual")
    ] = None,
    contamination: Annotated[
        float | None, typer.Option(help="another threshold from the images held out at fit")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="folder for heat maps: NAME.npy (float32) and NAME.overlay.png"
        ),
    ] = None,
    map_format: Annotated[str, typer.Option(help="of the float maps: npy or tiff")] = "npy",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="page of the most abnormal images and their maps"),
    ] = None,
    top: Annotated[int, typer.Option(help="images on that page")] = 24,
    image_size: Annotated[
        int | None, typer.Option(help="must be the run's; images are resized to it anyway")
    ] = None,
    slices: Slices = None,
    axis: Axis = None,
    window: Window = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
) -> None:
    """Score the images of FOLDER (its test split, where it has one): higher = more abnormal."""
    from d2ue.detector import report as reporting
    from d2ue.detector import saved
    from d2ue.detector.threshold import Threshold
    from d2ue.uncertainty import image_scores, score_maps

    ScoreConfig(method or "dual")
    _scan(slices, axis, window)  # refused before a run is read
    reporting.check_map_format(map_format)
    if top < 1:
        raise InputError(f"--top must be at least 1, not {top}.")
    check_file(out, "--out", "table")
    if report is not None:
        check_file(report, "--report", "page")
    check_apart({"--out": out, "--report": report, "--maps": maps})
    if maps is not None:
        check_maps(maps, "" if folder in BUILT_IN else folder)
    ensemble, record = saved.load_any(run, device)
    of_run = run_scan(run) if record is None else record.scan
    size = ensemble.config.image_size
    if image_size not in (None, size):
        raise InputError(
            f"{run} was trained on images of {size} x {size} and cannot score them at "
            f"{image_size} x {image_size}: leave --image-size out."
        )
    threshold = None
    if record is not None:
        record.reading.check_kind(True, "image files")
        threshold = record.threshold
        if contamination is not None:
            threshold = Threshold(threshold.scores, contamination)
    elif contamination is not None:
        raise InputError(f"{run} has no held-out scores: fit it with --contamination.")
    settings = ScoreConfig(method or ("dual" if record is None else record.method))
    # Scans are read as those that were trained on, unless told otherwise.
    images = _scored_images(folder, size, _scan(slices, axis, window, of_run))
    scores = image_scores(ensemble, images.images, settings, progress=True)
    scored = reporting.Scored(images, scores, settings.method, threshold)

    def map_of(pixels: np.ndarray) -> np.ndarray:
        return score_maps(ensemble, pixels, settings)

    if maps is not None:
        claim(maps)
    write_text(out, scored.csv())
    typer.echo(f"{out}: {' '.join(scored.summary)}")
    if maps is not None:
        highest = reporting.write_maps(maps, images, map_of, map_format, progress=True)
        typer.echo(f"{maps}: {len(images)} maps, the brightest colour is {highest:.3g} or more.")
    if report is not None:
        c = ensemble.config
        about = {
            "images from": folder,
            "detector": f"{run}: {len(ensemble)} learners ({c.backbone}), {c.epochs} epochs",
        }
        reporting.write_report(report, scored, map_of, about=about, top=top)
        typer.echo(f"{report}: the {min(top, len(images))} most abnormal images and their maps.")


@app.command()
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
    epochs: Annotated[int, typer.Option(help="passes over the images")] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(help="images a step")] = DEFAULTS.batch_size,
    precision: Precision = DEFAULTS.precision,
    n_train: Annotated[int, typer.Option(help="training images; 0 = all")] = 0,
    n_test: Annotated[int, typer.Option(help="test images; 0 = all")] = 0,
    jobs: Annotated[
        str, typer.Option(help="processes side by side on a CPU, or workers of --cluster; or auto")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
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
            help="of the queue, as dask-jobqueue names it, such as queue=long or walltime=08:00:00",
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
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="of the notebook"),
    ] = None,
) -> None:
    """Run notebooks of the project with papermill and keep what they find.

    Tables: what their cells need and the store does not hold is trained first, each learner once;
    the defaults are the paper's settings. A command that was stopped goes on where it was.
    """
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
        base=TrainConfig(epochs=epochs, batch_size=batch_size, precision=precision),
        n_train=n_train,
        n_test=n_test,
        clusters=",".join(
            str(Path(file.strip()).resolve()) if file.strip() else ""
            for file in clusters.split(",")
        ),
    )
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


@app.command()
def status(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="folder that --store named")],
) -> None:
    """Say what a store holds, what is in work (where, since when, epoch), and what failed."""
    from d2ue.experiments.status import status_lines

    for line in status_lines(store):
        typer.echo(line)


@app.command()
def controls(
    name: Annotated[str, typer.Argument(help="data set, as for reproduce --dataset")],
    data: Annotated[str | None, typer.Option(metavar="FOLDER", help="where its images lie")] = None,
    seeds: Annotated[str, typer.Option(help="how many, 5, or which, 1,2,7")] = "5",
    epochs: Annotated[int, typer.Option(help="of the learners looked for")] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(help="likewise")] = DEFAULTS.batch_size,
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


@app.command()
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


@app.command("audit")
def audit_folder(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="images/ with data.json, a split beside it, or a plain folder"
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder for the report")],
    id_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="one group: the patient's part of a file name"),
    ] = None,
    clean: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="also write a split without copies beside data.json: train = copies of training "
            "images leave the test set; random = clusters go to a side drawn at random",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the draws of --clean random")] = 0,
) -> None:
    """Look for duplicates, leaks and telling file properties before any image is scored."""
    from d2ue.audit import audit
    from d2ue.audit.report import text_report, write_report
    from d2ue.audit.splits import cleaned_split, write_split

    if clean not in (None, "train", "random"):
        raise InputError(f"--clean is train or random, not {clean!r}.")
    if seed < 0:
        raise InputError(f"--seed is a whole number from 0, not {seed}.")
    check_result_folder(out)
    found = audit(folder, id_pattern=id_pattern)
    write_report(found, out)
    typer.echo(text_report(found))
    typer.echo(f"{out}: report.html shows the pairs; report.json and clusters.csv hold the rest.")
    if clean is not None:
        target = write_split(found, clean, seed)
        about = cleaned_split(found, clean, seed)["about"]
        typer.echo(
            f"{target}: {about['left out']} images left out, {about['moved']} moved; give its path "
            "where a folder is asked for."
        )


@app.command("datasets")
def list_datasets() -> None:
    """List the data sets that have a name: what they are, their terms, how to get them."""
    typer.echo(overview())


@app.command("download")
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


@app.command()
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
    from d2ue.store import results

    with reading(store):
        is_there = store.is_dir()
    if not is_there:
        raise InputError(f"There is no folder {store}: 'd2ue reproduce' makes one.")
    check_file(out, "--out", "export")
    records = results.read_records(store)
    names = [n for n, r in records.items() if not dataset or r.data.name in dataset]
    there = {record.data.name for record in records.values()}
    absent = set(dataset or ()) - there
    if absent:
        raise InputError(
            f"{store} holds no results of {', '.join(sorted(absent))}, only of "
            f"{', '.join(sorted(there)) or 'nothing at all'}."
        )
    count = results.export(Store(store), out, names, weights=weights)
    typer.echo(f"{out}: the scores of {count} ensembles{' and their learners' * weights}.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="written by 'd2ue export'")],
    store: Annotated[Path, typer.Option(help="folder to take the results into")] = Path(
        "results/store"
    ),
) -> None:
    """Take results of another machine into a store; what is there already stays."""
    from d2ue.store import results

    count = results.import_into(Store(store), file)
    typer.echo(f"{store}: the scores of {count} ensembles are there.")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command, turn errors into a sentence and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(given or ["--help"], standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except D2UEError as error:
        _stop(_sentence(str(error)), 2)
    except Exception as error:  # typer's own, whichever click they come from
        if not hasattr(error, "format_message"):
            raise
        _stop(_sentence(error.format_message()), 2)
    if code == INTERRUPTED:  # which is also what typer makes of Ctrl-C
        logging.disable()  # asyncio would report the cell that a page was in
        _stop("interrupted; the same command goes on from the last state kept.", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


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


def _scan(
    slices: str | None, axis: str | None, window: str | None, base: ScanConfig | None = None
) -> ScanConfig | None:
    """The options for scans, over those of a run; None where nothing is given."""
    given = {"slices": slices, "axis": axis, "window": window}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(base or ScanConfig(), **given) if given else base


def _scored_images(folder: str, image_size: int, scan: ScanConfig | None) -> ImageSet:
    if folder not in BUILT_IN:
        return load_images(folder, image_size, scan=scan)
    return load(folder, image_size, scan=scan).labelled


def _hold_out(
    normal: ImageSet,
    validation: str | None,
    fraction: float,
    config: TrainConfig,
    scan: ScanConfig | None,
) -> tuple[ImageSet, ImageSet]:
    """Normal images to train on, and those that set the threshold."""
    from d2ue.datasets.arrays import refuse_shared
    from d2ue.detector.threshold import hold_out

    if validation is not None:
        held_out = load(validation, config.image_size, scan=scan).train
        refuse_shared(normal.images, held_out.images)
        return normal, held_out
    which = hold_out(len(normal), fraction, config.seed, config.batch_size)
    return normal.select(np.setdiff1d(np.arange(len(normal)), which)), normal.select(which)


def _sentence(message: str) -> str:
    text = " ".join(message.split())
    if len(text) > 1000:  # somebody pasted a file where a name belongs
        text = f"{text[:500]}...{text[-500:]}"
    return text if text.endswith((".", "?")) else f"{text}."


def _stop(sentence: str, code: int) -> None:
    typer.echo(f"d2ue: {sentence}", err=True)
    sys.exit(code)
