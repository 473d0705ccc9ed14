"""How far plain.py and the fast code are apart: nothing but rounding, in float64."""

from __future__ import annotations

import numpy as np
import torch

from d2ue import plain
from d2ue.backbones import Autoencoder, features_of, to_unit_range
from d2ue.config import ScoreConfig, TrainConfig
from d2ue.ensemble import join
from d2ue.training import LearnerTask, initial_network, shuffle, train_learners
from d2ue.uncertainty import image_score, score_batch


def differences(config: TrainConfig, pixels: np.ndarray) -> dict[str, float]:
    """Train the same ensemble by both, from the same weights and in the same order of images.

    Args:
        config: the settings; all that plain.py has no choice of is the paper's.
        pixels: uint8 [n, 1, 64, 64], normal images.

    Returns:
        The largest difference of "weights" (BatchNorm's statistics included) and of the images'
        scores by each method of `plain.MAPS`.
    """
    images = to_unit_range(torch.from_numpy(pixels), torch.float64)
    fast: list[Autoencoder] = []
    slow: list[plain.Autoencoder] = []
    apart = 0.0
    for number in range(1, config.n_learners + 1):
        seniors = torch.cat([features_of(f, iter([images]), "z") for f in fast]) if fast else None
        task = LearnerTask(config, number, seniors)
        orders = [shuffle(len(images), task.stream, epoch) for epoch in range(config.epochs)]
        start = as_plain(initial_network(task).double())
        slow.append(plain.train_learner(start, slow, images, orders, config.batch_size))
        fast.append(train_learners([task], pixels, dtype=torch.float64)[0])
        wanted = as_plain(fast[-1]).state_dict()
        for name, value in slow[-1].state_dict().items():
            if "num_batches" not in name:
                apart = max(apart, float((value - wanted[name]).abs().max()))
    largest = {"weights": apart}
    ensemble = join(config, fast, "", [[] for _ in fast])
    for method in plain.MAPS:
        scores = image_score(score_batch(ensemble, images, ScoreConfig(method)))
        theirs = plain.anomaly_scores(slow, images, method)
        largest[method] = float((scores - theirs).abs().max())
    return largest


def as_plain(network: Autoencoder) -> plain.Autoencoder:
    """A fast learner's weights and statistics in a plain one, in float64."""
    model = plain.Autoencoder(network.backbone).double()
    source = network.state_dict()
    target = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    if "memory.items" in source:  # registered at another place
        target.pop("memory.items").copy_(source.pop("memory.items")[0])
    # The rest is in both layer by layer, and of a layer weight, bias, mean, variance.
    for place, value in zip(target.values(), source.values(), strict=True):
        place.copy_(value[0])
    return model
