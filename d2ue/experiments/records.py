"""Records of trained ensembles and of controls: test images scored by every method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from d2ue.baselines import Job
from d2ue.config import GRADIENT_ERRORS, TrainConfig
from d2ue.datasets.types import ABNORMAL, NORMAL, Dataset, ImageSet
from d2ue.ensemble import Ensemble
from d2ue.experiments import rivals
from d2ue.experiments.controls import gradient_score, image_controls, untrained_ensemble
from d2ue.similarity import debiased_cka
from d2ue.store.files import versions
from d2ue.store.results import RECONSTRUCTION, DataKey, Record
from d2ue.uncertainty import (
    dual_map,
    ensemble_map,
    image_score,
    input_gradients,
    input_map,
    output_map,
)


def score_record(ensemble: Ensemble, test: ImageSet, data: DataKey) -> Record:
    """Score test images by every method, in one forward and backward pass a batch.

    A single learner has no disagreement to score by.

    Raises:
        InputError: if the images do not fit the ensemble.
    """
    assert test.labels is not None
    parts: list[dict[str, torch.Tensor]] = []
    error = GRADIENT_ERRORS[ensemble.config.backbone][0]
    for x in ensemble.batches(test.images, 64):
        gradients, f, s = input_gradients(ensemble.network, x, error)
        maps = {"ensemble": ensemble_map(x, f, s)}
        if len(ensemble) > 1:
            maps["output"] = output_map(f, s)
            maps["dual"] = dual_map(x, f, gradients, s)
            maps["input"] = input_map(gradients)
        maps[RECONSTRUCTION] = (x - f).square().mean(0)
        parts.append({key: image_score(value.cpu().double()) for key, value in maps.items()})
    scores = {key: torch.cat([part[key] for part in parts]).float().numpy() for key in parts[0]}
    similarity = learner_similarity(ensemble, test)
    return Record(
        ensemble.config, data, test.labels, scores, similarity, _made_with(str(ensemble.device))
    )


def _made_with(device: str) -> dict[str, str]:
    return {**versions(device), "device": device, "threads": str(torch.get_num_threads())}


def score_control(
    control: str,
    config: TrainConfig,
    dataset: Dataset,
    data: DataKey,
    learner: Ensemble | None = None,
    device: str = "cpu",
    report: Callable[[int], None] = lambda epochs: None,
    keep: Path | None = None,
) -> Record:
    """A control's record, or another method's, which is trained for it.

    Args:
        control: one of `d2ue.store.results.CONTROLS`, or as `rivals.control_name` gives it.
        config: of the untrained or the single learner; not looked at for "images".
        dataset: training and test images.
        data: their key.
        learner: of "gradient": an ensemble whose first learner it is.
        device: where an untrained ensemble is scored, or another method trained.
        report: called with the epochs that another method was just trained.
        keep: file for the state of another method's training, taken up where it is there.
    """
    test = dataset.labelled
    assert test.labels is not None
    if control == "untrained":
        made = score_record(untrained_ensemble(config).to(device), test, data)
        return dataclasses.replace(made, control=control)
    if control == "gradient":
        assert learner is not None
        scores = {"gradient": gradient_score(learner, test.images).astype(np.float32)}
    elif rivals.of_control(control):
        scores = rivals.train_and_score(
            control, config, dataset, Job(config.seed, device, keep, report)
        )
        return Record(config, data, test.labels, scores, {}, _made_with(device), control)
    else:
        scores = image_controls(test, dataset.train)
    device_used = "cpu" if learner is None else str(learner.device)
    return Record(config, data, test.labels, scores, {}, _made_with(device_used), control)


def learner_similarity(ensemble: Ensemble, test: ImageSet) -> dict[str, float]:
    """Debiased CKA between learners' features, mean over pairs, by class of the images.

    Returns:
        "normal" and "abnormal", each in [-1, 1]; a class with fewer than 4 images is left out, and
        all is for a single learner.
    """
    if len(ensemble) < 2 or test.labels is None:
        return {}
    features = ensemble.features(test.images).double()
    i, j = np.triu_indices(len(ensemble), 1)
    values = {}
    for name, label in (("normal", NORMAL), ("abnormal", ABNORMAL)):
        of_class = features[:, torch.from_numpy(test.labels == label)]
        if of_class.shape[1] >= 4:
            values[name] = float(debiased_cka(of_class[i], of_class[j]).mean())
    return values
