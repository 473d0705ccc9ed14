"""Commands for one's own images: `d2ue fit`, `score`, `audit`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from d2ue.baselines import METHODS as BASELINES
from d2ue.baselines import find_method
from d2ue.cli.options import DEFAULTS, Axis, Data, Device, Precision, Slices, Window
from d2ue.cli.outputs import check_apart, check_file, check_maps
from d2ue.config import METHODS, TrainConfig
from d2ue.datasets import BUILT_IN, Dataset, ImageSet, ScanConfig, load, load_images
from d2ue.datasets.arrays import Reading
from d2ue.datasets.results_folder import check_result_folder, claim
from d2ue.ensemble import resolve_device
from d2ue.errors import InputError
from d2ue.similarity import SIMILARITIES
from d2ue.store.files import write_text
from d2ue.store.runs import check_run_folder, fit_run


def fit(
    folder: Data,
    out: Annotated[Path, typer.Option(help="run folder to write; new or empty")],
    method: Annotated[
        str,
        typer.Option(
            help=f"d2ue, or another method of Table 1: {', '.join(BASELINES)}, with its "
            "small preset"
        ),
    ] = "d2ue",
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
    seed: Annotated[
        int, typer.Option(help="seed of the initial weights and of the order of images")
    ] = DEFAULTS.seed,
    precision: Precision = DEFAULTS.precision,
    slices: Slices = None,
    axis: Axis = None,
    window: Window = None,
    device: Device = "auto",
    store: Annotated[
        Path | None,
        typer.Option(help="folder in which runs share learners; default: none is shared"),
    ] = None,
    contamination: Annotated[
        float | None,
        typer.Option(
            help="share of normal images that may be called abnormal, for example 0.05: sets a "
            "threshold from normal images that are held out; default: no threshold"
        ),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(help="share of the normal images to hold out for the threshold; default 0.1"),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER2",
            help="hold out these normal images instead, for example of other patients",
        ),
    ] = None,
) -> None:
    """Train an ensemble on the normal images of FOLDER (defaults: the paper's).

    With --contamination some normal images are not trained on; their scores tell what is high, and
    'd2ue score' then says of every image whether it is abnormal.
    """
    from d2ue.detector import saved
    from d2ue.detector.threshold import Threshold, check_contamination, measure
    from d2ue.detector.trained import fit_baseline

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
    preset = None if method == "d2ue" else _preset(method, config, store)
    if contamination is not None:
        check_contamination(contamination)
    elif validation_fraction is not None or validation is not None:
        raise InputError(
            "Held-out images set a threshold: give --contamination too, for example 0.05."
        )
    fraction = 0.1 if validation_fraction is None else validation_fraction
    scan = _scan(slices, axis, window)
    check_run_folder(out)
    resolve_device(device)  # before minutes of decoding
    size, least = image_size, batch_size
    if preset is not None:
        size, least = preset.image_size, getattr(preset, "batch_size", 1)
    dataset: Dataset = load(folder, size, scan=scan)
    train, held_out = dataset.train, None
    if contamination is not None:
        train, held_out = _hold_out(dataset.train, validation, fraction, seed, least, scan)
    if preset is None:
        ensemble, was_there = fit_run(
            config, train, out, data_name=dataset.name, device=device, store=store, scan=scan
        )
        losses = ", ".join(f"{epochs[-1]['loss']:.4g}" for epochs in ensemble.history)
        what = f"{len(ensemble)} learners ({config.backbone})"
        tail = f"; last losses {losses}"
    else:
        trained, was_there = fit_baseline(
            method, preset, train, out, seed=seed, device=device, scan=scan
        )
        what, tail = trained.method.title, ""
    if was_there:
        typer.echo(f"{out} holds this ensemble already; nothing was trained.")
    else:
        typer.echo(f"{out}: {what} trained on {len(train)} normal images{tail}.")
    if held_out is not None and contamination is not None:
        if preset is None:
            threshold = measure(ensemble, held_out, contamination, progress=True)
            score_method = "dual" if "dual" in threshold.scores else "ensemble"
        else:
            threshold = Threshold(trained.scores(held_out.images), contamination)
            score_method = trained.method.scores[0]
        saved.attach(out, saved.Record(score_method, threshold, Reading(), fraction, scan))
        typer.echo(threshold.shortfall or threshold.describe())


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
        str | None,
        typer.Option(
            help=", ".join(METHODS) + ", or of another method one of its own; default: the "
            "detector's, else dual or the method's own"
        ),
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
    map_format: Annotated[
        str, typer.Option(help="file format of the float maps: npy or tiff")
    ] = "npy",
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="page of the most abnormal images and their maps"),
    ] = None,
    top: Annotated[int, typer.Option(help="how many images that page shows")] = 24,
    image_size: Annotated[
        int | None, typer.Option(help="must be the run's; images are resized to it anyway")
    ] = None,
    slices: Slices = None,
    axis: Axis = None,
    window: Window = None,
    device: Device = "auto",
) -> None:
    """Score the images of FOLDER (its test split, where it has one): higher = more abnormal."""
    from d2ue.detector import report as reporting
    from d2ue.detector import saved
    from d2ue.detector.threshold import Threshold
    from d2ue.detector.trained import Trained, scan_of
    from d2ue.uncertainty import image_scores, score_maps

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
    model, record = saved.load_any(run, device)
    of_run = scan_of(model, run) if record is None else record.scan
    size = model.image_size if isinstance(model, Trained) else model.config.image_size
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
    names = model.method.scores if isinstance(model, Trained) else METHODS
    own = names[0] if isinstance(model, Trained) else "dual"
    method = method or (own if record is None else record.method)
    if method not in names:
        raise InputError(f"{run} knows the methods {', '.join(names)}, not {method!r}.")
    # Scans are read as those that were trained on, unless told otherwise.
    images = _scored_images(folder, size, _scan(slices, axis, window, of_run))
    if isinstance(model, Trained):
        if model.method.is_control and (maps is not None or report is not None):
            raise InputError(f"{model.method.title} has no maps: leave --maps and --report out.")
        scores, map_of = model.scores(images.images)[method], model.maps
        about_model = f"{model.method.title}, {model.preset.epochs} epochs"
    else:
        scores = image_scores(model, images.images, method, progress=True)
        map_of = partial(score_maps, model, config=method)
        c = model.config
        about_model = f"{len(model)} learners ({c.backbone}), {c.epochs} epochs"
    scored = reporting.Scored(images, scores, method, threshold)

    if maps is not None:
        claim(maps)
    write_text(out, scored.csv())
    typer.echo(f"{out}: {' '.join(scored.summary)}")
    if maps is not None:
        highest = reporting.write_maps(maps, images, map_of, map_format, progress=True)
        typer.echo(f"{maps}: {len(images)} maps, the brightest colour is {highest:.3g} or more.")
    if report is not None:
        about = {"images from": folder, "detector": f"{run}: {about_model}"}
        reporting.write_report(report, scored, map_of, about=about, top=top)
        typer.echo(f"{report}: the {min(top, len(images))} most abnormal images and their maps.")


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
    seed: Annotated[int, typer.Option(help="seed of the draws of --clean random")] = 0,
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


def _preset(method: str, config: TrainConfig, store: Path | None) -> Any:
    """Another method's small settings; of the options for training only two act on it."""
    preset = find_method(method).presets["small"]
    as_they_are = DEFAULTS.replace(seed=config.seed, epochs=config.epochs)
    if config != as_they_are or store is not None:
        raise InputError(
            f"{method} has its own settings: of the options for training it takes --epochs and "
            "--seed alone."
        )
    return preset if config.epochs == DEFAULTS.epochs else replace(preset, epochs=config.epochs)


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
    seed: int,
    least: int,
    scan: ScanConfig | None,
) -> tuple[ImageSet, ImageSet]:
    """Normal images to train on, and those that set the threshold."""
    from d2ue.datasets.arrays import refuse_shared
    from d2ue.detector.threshold import hold_out

    if validation is not None:
        held_out = load(validation, normal.images.shape[-1], scan=scan).train
        refuse_shared(normal.images, held_out.images)
        return normal, held_out
    which = hold_out(len(normal), fraction, seed, least)
    return normal.select(np.setdiff1d(np.arange(len(normal)), which)), normal.select(which)
