"""The other methods of Table 1 as rows, tasks and records: `d2ue.baselines` for the batch.

A rival is trained and scored by one task. Its records are named like controls, with
"baseline:METHOD:PRESET" for the control; of its settings the seed and the share of epochs act.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from d2ue.baselines import METHODS, Job, Method, find_method, teachers
from d2ue.config import TrainConfig
from d2ue.datasets.types import Dataset
from d2ue.errors import InputError
from d2ue.store.results import RIVAL

#: The epochs of `TrainConfig` that stand for all of a method's own; fewer take as large a share.
WHOLE = TrainConfig().epochs


def control_name(method: str, preset: str) -> str:
    """What stands for the control in a record of a method."""
    return f"{RIVAL}{method}:{preset}"


def of_control(control: str) -> tuple[Method, str] | None:
    """The method and preset that a control's name stands for; None for other controls."""
    if not control.startswith(RIVAL):
        return None
    name, _, preset = control.removeprefix(RIVAL).partition(":")
    return find_method(name), preset


def settings(control: str, config: TrainConfig) -> Any:
    """A method's preset, with the share of its epochs that `config` has of `WHOLE`."""
    found = of_control(control)
    assert found is not None
    preset = found[0].presets[found[1]]
    return dataclasses.replace(preset, epochs=max(1, round(preset.epochs * config.epochs / WHOLE)))


def chosen(names: Sequence[str]) -> set[str]:
    """The control's names of the methods that are asked for.

    Args:
        names: methods, whose preset is "small" unless one is named, "ganomaly:published"; "all"
            stands for every method's small preset.

    Raises:
        InputError: if one is unknown.
    """
    wanted = set()
    for given in names:
        name, _, preset = given.partition(":")
        preset = preset or "small"
        for each in METHODS if name == "all" else (name,):
            if preset not in find_method(each).presets:
                presets = ", ".join(find_method(each).presets)
                raise InputError(f"{each} has no preset {preset!r}: take one of {presets}.")
            wanted.add(control_name(each, preset))
    return wanted


def prepare(controls: Iterable[str]) -> None:
    """Have the teachers of these methods ready, before anything is trained.

    Raises:
        InputError: if one's weights are not there and cannot be had.
    """
    for control in sorted(set(controls)):
        if found := of_control(control):
            teacher = getattr(found[0].presets[found[1]], "teacher", None)
            if teacher is not None:
                teachers.fetch(teacher)


def train_and_score(
    control: str,
    config: TrainConfig,
    dataset: Dataset,
    job: Job,
) -> dict[str, np.ndarray]:
    """Scores of the labelled images by a method trained on the normal ones, by name.

    Raises:
        InputError: if the images are not of the preset's size, or as the method says.
    """
    found, preset = of_control(control), settings(control, config)
    assert found is not None
    if config.image_size != preset.image_size:
        raise InputError(
            f"{found[0].title} ({found[1]}) takes images of {preset.image_size} x "
            f"{preset.image_size}, not {config.image_size} x {config.image_size}."
        )
    train, test = (torch.from_numpy(x.images) for x in (dataset.train, dataset.labelled))
    module = found[0].module
    model = module.train(train, preset, job)
    return {name: values.numpy() for name, values in module.score(model, test)[0].items()}
