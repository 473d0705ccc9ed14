r"""What Fig. 3 is about, measured: which similarity sees through copies that compute the same.

Everything comes back as a long table (one row a measurement), so that a notebook can show n and
spread. `lessons.equivalent` makes the copies; the pictures are in `lessons.redundancy_pictures`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, features_of, stack, to_unit_range
from d2ue.config import TrainConfig
from d2ue.datasets import phantom
from d2ue.ensemble import Ensemble, train_ensembles
from d2ue.errors import InputError
from d2ue.lessons.equivalent import (
    TRANSFORMATIONS,
    channels,
    keeps_function,
    output_difference,
    random_copy,
)
from d2ue.losses import reconstruction_loss
from d2ue.similarity import SIMILARITIES, debiased_cka, linear_cka
from d2ue.training import LearnerTask, initial_network


class Specimens(NamedTuple):
    """What the lesson measures on."""

    images: np.ndarray  # uint8 [n, 1, H, W], normal phantoms
    x: Tensor  # the same as networks take them, in [-1, 1]
    pair: Ensemble  # two AE trained apart
    learner: Autoencoder  # the first of them, in float64, where rounding is no difference
    networks: dict[str, Autoencoder]  # it, a MemAE and an AEU, in float64


def specimens(image_size: int, n_train: int, epochs: int, batch_size: int) -> Specimens:
    """Draw chest phantoms and train two AE, a MemAE and an AEU on them, without repulsion."""
    counts = {"n_train": n_train, "n_test_normal": 0, "n_test_abnormal": 0}
    train = phantom("chest", **counts, image_size=image_size, progress=False).train
    base = TrainConfig(
        backbone="ae",
        image_size=image_size,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=0.002,  # the quickstart's: for few steps
        repulsion_weight=0.0,
    )
    configs = [
        base.replace(n_learners=2),
        *(base.replace(backbone=b, n_learners=1) for b in ("memae", "aeu")),
    ]
    pair, memae, aeu = train_ensembles(configs, train, device="cpu", progress=False)
    learner = pair.network.replica(0).requires_grad_(False).double()
    networks = {"AE": learner, "MemAE": memae.network.double(), "AEU": aeu.network.double()}
    x = to_unit_range(torch.from_numpy(train.images))
    return Specimens(train.images, x, pair, learner, networks)


def copies(network: Autoencoder) -> dict[str, Autoencoder]:
    """The learner, a copy of it by each transformation of z, and one rotated before a ReLU."""
    made = {"learner": network} | {t: random_copy(network, "z", t) for t in TRANSFORMATIONS}
    return made | {"rotated before ReLU": random_copy(network, "en1", "rotated")}


def pair_of(one: Autoencoder, other: Autoencoder, config: TrainConfig) -> Ensemble:
    """Two learners as an ensemble in float32, to be scored; the networks are left as they are."""
    return Ensemble(config, stack([one, other]).float())


def survival(networks: Mapping[str, Autoencoder], x: Tensor) -> pd.DataFrame:
    """How far each transformation of each layer moves the output.

    Args:
        networks: by name, in evaluation mode.
        x: images [B, 1, H, W] in [-1, 1], of the networks' type (float64 shows rounding best).

    Returns:
        Columns network, layer, transformation, difference (largest over outputs and pixels) and
        expected (whether the function should survive).
    """
    rows = [
        {
            "network": name,
            "layer": layer,
            "transformation": kind,
            "difference": output_difference(network, random_copy(network, layer, kind), x),
            "expected": keeps_function(network, layer, kind),
        }
        for name, network in networks.items()
        for layer in network.layers
        for kind in TRANSFORMATIONS
    ]
    return pd.DataFrame(rows)


def similarity_to_copies(
    network: Autoencoder, x: Tensor, layer: str = "z", draws: int = 10
) -> pd.DataFrame:
    """Every similarity of Table 3 between a learner's feature and that of copies of the learner.

    A similarity that sees through the copy gives what it gives for the feature itself, 1; a lower
    value rewards a difference that is none. Only copies that compute the same are made.

    Args:
        network: one learner (R = 1) in evaluation mode.
        x: a batch of images [B, 1, H, W], B >= 4.
        layer: whose feature.
        draws: copies by each transformation, drawn with seeds 0, 1, ...

    Returns:
        Columns transformation ("identical" too), draw, similarity and value.
    """
    p = features(network, x, layer)[0]
    kinds = [kind for kind in TRANSFORMATIONS if keeps_function(network, layer, kind)]
    compared = [("identical", 0, p)] + [
        (kind, draw, features(random_copy(network, layer, kind, draw), x, layer)[0])
        for kind in kinds
        for draw in range(draws)
    ]
    rows = [
        (kind, draw, name, float(similarity(p, q)))
        for kind, draw, q in compared
        for name, similarity in SIMILARITIES.items()
    ]
    return pd.DataFrame(rows, columns=["transformation", "draw", "similarity", "value"])


def fooled_by(table: pd.DataFrame) -> dict[str, list[str]]:
    """By similarity, the transformations some copy of which `similarity_to_copies` puts < 0.999."""
    worst = table.groupby(["similarity", "transformation"], sort=False)["value"].min()
    return {
        name: [kind for kind, value in worst[name].items() if value < 0.999]
        for name in SIMILARITIES
        if name != "none"
    }


def rescaled_neurons(
    network: Autoencoder, x: Tensor, layer: str, factors: Sequence[float]
) -> np.ndarray:
    """Linear CKA of one learner's feature with itself after one neuron was made louder.

    Returns:
        [neurons, len(factors)]; factors are > 0, and 1 gives 1.
    """
    p, neurons = features(network, x, layer)[0], channels(network, layer)
    parts = p.unflatten(-1, (neurons, -1))  # the values of a neuron lie side by side
    values = np.empty((neurons, len(factors)))
    for j, k in np.ndindex(*values.shape):
        q = parts.clone()
        q[:, j] *= factors[k]
        values[j, k] = linear_cka(p, q.flatten(1))
    return values


def expected_bias(batch: int, d: int) -> float:
    r"""What biased linear CKA gives for independent Gaussian features [B, d]: d / (B + d).

    The ratio of expectations: with m = B - 1, E‖PᵀQ‖² = m d², E‖PᵀP‖² = m d (m + d + 1). The
    expectation of the ratio is close to it from some 16 images on, and above it for fewer.
    """
    return d / (batch + d)


def bias(batches: Sequence[int], widths: Sequence[int], draws: int = 20) -> pd.DataFrame:
    """Biased and debiased CKA of independent standard Gaussian features.

    Returns:
        Columns batch, width, draw, cka, debiased-cka and expected (`expected_bias`).
    """
    generator = torch.Generator().manual_seed(0)
    tables = []
    for batch, width in itertools.product(batches, widths):
        p, q = torch.randn(2, draws, batch, width, generator=generator)
        fixed = {"batch": batch, "width": width, "expected": expected_bias(batch, width)}
        values = {"cka": linear_cka(p, q).tolist(), "debiased-cka": debiased_cka(p, q).tolist()}
        tables.append(pd.DataFrame({**fixed, "draw": range(draws), **values}))
    return pd.concat(tables, ignore_index=True)


def bias_by_layer(
    network: Autoencoder, x: Tensor, batch: int = 64, draws: int = 20
) -> pd.DataFrame:
    """Both kinds of CKA between two learners, on the same images and on unrelated ones.

    On unrelated images the two features are independent by construction: what CKA gives there is
    its bias for features as they are, whose values are far from independent of each other.

    Args:
        network: two learners (R = 2) in evaluation mode.
        x: images to draw from, [n, 1, H, W], n >= 2 * batch.
        batch: B.
        draws: batches.

    Returns:
        Columns layer, width, images ("same" or "unrelated"), draw, cka, debiased-cka, expected.

    Raises:
        InputError: if there are too few images.
    """
    if len(x) < 2 * batch:
        raise InputError(f"At least {2 * batch} images are compared, not {len(x)}.")
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(x), generator=generator) for _ in range(draws)]
    rows = []
    for layer in network.layers:
        p, q = features(network, x, layer)
        fixed = {"layer": layer, "width": p.shape[-1]}
        for draw, order in enumerate(orders):
            ours, others = order[:batch], order[batch : 2 * batch]
            for images, index in (("same", ours), ("unrelated", others)):
                pair = p[ours], q[index]
                row = {"images": images, "draw": draw, "cka": float(linear_cka(*pair))}
                row["debiased-cka"] = float(debiased_cka(*pair))
                rows.append(fixed | row | {"expected": expected_bias(batch, p.shape[-1])})
    return pd.DataFrame(rows)


#: Ways to read "the distance of two features" [B, d] that neither paper nor code rules out. Each
#: turns a feature into what the functions of `d2ue.similarity` take, so that their sum over the
#: last axis and mean over the one before are what the name says; power is 1 for Manhattan, 2 else.
READINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "image by image": lambda x, power: x,  # ours: over the d values, then the mean over the batch
    "neuron by neuron": lambda x, power: x.mT,  # over the batch, then the mean over the d values
    "whole batch": lambda x, power: x.reshape(1, -1),  # both features as one long vector each
    # The same per entry: exp(-mean |p - q|), and of Euclidean the root of the mean square.
    "mean difference": lambda x, power: x.reshape(1, -1) / x.numel() ** (1 / power),
}


def start_gradients(
    senior: Autoencoder, x: Tensor, config: TrainConfig, layer: str = "z", draws: int = 5
) -> pd.DataFrame:
    """How hard each similarity pushes the second learner at its first step, next to L_orig.

    Both gradients are of the learner's weights that the similarity reaches (those up to `layer`),
    Euclidean norms, at lambda = 1, in training mode, on one batch.

    Args:
        senior: the trained first learner (R = 1), in evaluation mode.
        x: images to draw batches from, [n, 1, H, W].
        config: the settings; batch size and backbone matter.
        layer: whose feature is repelled.
        draws: initial networks (seeds 0, 1, ...), each with a batch of its own.

    Returns:
        Columns similarity, reading, draw, value, gradient (of L_sim) and ratio (to that of L_orig).
    """
    rows = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        batch = x[torch.randperm(len(x), generator=generator)[: config.batch_size]]
        network = initial_network(LearnerTask(config.replace(seed=draw), 2)).to(x.dtype).train()
        output = network(batch[None], layer)
        l_orig = reconstruction_loss(config.backbone, output, batch[None], config.entropy_weight)
        p, q = features(senior, batch, layer)[0], output.feature[0]
        weights = list(network.parameters())
        reached = torch.autograd.grad(q.sum(), weights, retain_graph=True, allow_unused=True)
        weights = [w for w, g in zip(weights, reached, strict=True) if g is not None]
        usual = _norm(l_orig.sum(), weights)
        for name, reading, value in _values(p, q):
            pushed = _norm(value, weights)
            rows.append((name, reading, draw, value.item(), pushed, pushed / usual))
    columns = ["similarity", "reading", "draw", "value", "gradient", "ratio"]
    return pd.DataFrame(rows, columns=columns)


def _values(p: Tensor, q: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Every similarity under every reading that applies to it: (similarity, reading, value)."""
    for name, similarity in SIMILARITIES.items():
        distance, angle = name in ("euclidean", "manhattan"), name in ("cosine", "pearson")
        if not distance and not angle:
            yield name, "as defined", similarity(p, q)
            continue
        power = 1 if name == "manhattan" else 2
        for reading, shape in READINGS.items():
            if distance or reading != "mean difference":  # a division that angles do not see
                yield name, reading, similarity(shape(p, power), shape(q, power))


def _norm(value: Tensor, weights: list[Tensor]) -> float:
    if not value.requires_grad:  # "none"
        return 0.0
    parts = torch.autograd.grad(value, weights, retain_graph=True)
    return float(torch.stack([g.double().square().sum() for g in parts]).sum().sqrt())


def features(network: Autoencoder, x: Tensor, layer: str) -> Tensor:
    """Every replica's feature, [R, B, d], in the network's own precision."""
    return features_of(network, iter([x]), layer)
