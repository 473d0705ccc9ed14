"""How alike the features of several learners are, at the end of a training and while it runs.

Two learners can be redundant in different coordinates: rotate or scale a feature and its values
change, while what it says of the images does not. So there are two kinds of number here. CKA and
`procrustes` do not see rotation and scale; `distance`, and every embedding of raw features
(t-SNE, UMAP), do.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, as_tensor, features_of, to_unit_range
from d2ue.config import TrainConfig
from d2ue.datasets import ABNORMAL, NORMAL, ImageSet
from d2ue.ensemble import Ensemble, train_ensembles
from d2ue.errors import InputError
from d2ue.learners import Learner, learner_name
from d2ue.similarity import debiased_cka, linear_cka
from d2ue.training import TrainState


def distance(p: Tensor, q: Tensor) -> float:
    """How far apart two learners put an image, beside how far apart they put two images.

    sqrt( mean_b ‖p_b - q_b‖² / mean over b, b' and both learners of ‖p_b - p_b'‖² ): 0 for equal
    features, about 1 and more where the learners' clouds do not overlap. It changes when either
    feature is rotated, shifted or scaled, as embeddings of features do. NaN where both features
    [n, d] are constant.
    """
    p, q = p.double(), q.double()
    # The mean squared distance of two images, drawn independently, is twice the variance.
    spread = p.var(0, correction=0).sum() + q.var(0, correction=0).sum()
    return float(((p - q).square().sum(1).mean() / spread).sqrt())


def procrustes(p: Tensor, q: Tensor) -> float:
    """What is left of the difference after the best shift, rotation, reflection and scale.

    The sum of squares that remains of two features [n, d] brought to unit size: 0 (the same up to
    those) to 1 (nothing in common); 1 where a feature is constant.
    """
    from scipy import spatial  # here: importing it takes longer than most uses of this file

    if any(bool((x == x[0]).all()) for x in (p, q)):
        return 1.0
    return float(spatial.procrustes(p.double().numpy(), q.double().numpy())[2])


#: The columns of `feature_table`.
MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor | float]] = {
    "CKA": linear_cka,
    "debiased CKA": debiased_cka,
    "distance": distance,
    "Procrustes": procrustes,
}


def by_class(features: Tensor, labels: np.ndarray) -> dict[str, Tensor]:
    """Features [N, n, d] of the normal and of the abnormal images, as float64."""
    classes = (("normal", NORMAL), ("abnormal", ABNORMAL))
    return {name: features[:, torch.from_numpy(labels == k)].double() for name, k in classes}


def class_matrices(
    features: Mapping[str, Tensor], labels: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    """Every learner's CKA with every other, biased and debiased, on either class of images.

    Args:
        features: by name, [N, n, d], as `Ensemble.features` gives them.
        labels: [n], 0 or 1.

    Returns:
        By (name, title), float64 [N, N]; 0 for a feature that is constant, with itself too.
    """
    return {
        (name, f"{images}: {title}"): MEASURES[title](x.unsqueeze(1), x.unsqueeze(0)).numpy()
        for name, every in features.items()
        for images, x in by_class(every, labels).items()
        for title in ("CKA", "debiased CKA")
    }


def feature_table(features: Mapping[str, Tensor], labels: np.ndarray) -> pd.DataFrame:
    """Means of `MEASURES` over pairs of learners, a row a set of learners and a class of images.

    Args:
        features: by name, [N, n, d], N >= 2.
        labels: [n], 0 or 1.
    """
    rows = {
        (name, images): {
            title: np.mean([float(measure(p, q)) for p, q in itertools.combinations(x, 2)])
            for title, measure in MEASURES.items()
        }
        for name, every in features.items()
        for images, x in by_class(every, labels).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["features", "images"])


def rotated_copies(feature: Tensor, n: int, seed: int = 0) -> Tensor:
    """One learner's feature [b, d] n times, each time in other coordinates: redundancy in full.

    The first copy is the feature itself, the others are multiplied by random orthogonal matrices:
    [n, b, d]; every CKA between two of them is 1.
    """
    generator = torch.Generator().manual_seed(seed)
    d = feature.shape[-1]
    turns = [torch.linalg.qr(torch.randn(d, d, generator=generator))[0] for _ in range(n - 1)]
    return torch.stack([feature, *(feature @ turn.to(feature.dtype) for turn in turns)])


def embed(features: Tensor, method: str = "tsne", seed: int = 0, perplexity: float = 30) -> Any:
    """All learners' features [N, n, d] in one picture: [N, n, 2], without unit or direction.

    Features go in as they are, the learners' in one heap, as the paper's Fig. 1b does. The
    picture depends on coordinates: see `rotated_copies`.

    Args:
        features: [N, n, d].
        method: "tsne" (scikit-learn) or "umap" (umap-learn, a package of the notebooks).
        seed: of the embedding.
        perplexity: of t-SNE; for UMAP the number of neighbours.

    Raises:
        InputError: if the method is unknown, umap-learn is not installed, or there are too few
            points for the perplexity.
    """
    points = features.flatten(0, 1).numpy()
    if not 1 < perplexity < len(points):
        raise InputError(
            f"A perplexity of {perplexity:g} does not fit {len(points)} points: it lies above 1 "
            "and below their number."
        )
    if method == "tsne":
        from sklearn.manifold import TSNE

        flat = TSNE(perplexity=perplexity, random_state=seed, init="random").fit_transform(points)
        return flat.reshape(*features.shape[:2], 2)
    if method != "umap":
        raise InputError(f"Embeddings are made by tsne or umap, not by {method!r}.")
    try:
        from threadpoolctl import threadpool_limits  # scikit-learn brings it
        from umap import UMAP
    except ImportError as error:
        raise InputError(
            "UMAP needs the package umap-learn: install d2ue[notebooks], or take t-SNE."
        ) from error
    # One job: with a seed UMAP runs on one thread anyway, and warns where it is not told so.
    mapper = UMAP(n_neighbors=int(perplexity), random_state=seed, n_jobs=1)
    # UMAP sets the number of OpenMP threads, torch's too, and leaves it at one a core; where
    # cores are shared, all that follows then waits (t-SNE took 28 times the CPU time).
    with threadpool_limits(1):
        return mapper.fit_transform(points).reshape(*features.shape[:2], 2)


def separation(points: np.ndarray | Tensor) -> float:
    """How far apart N >= 2 learners' clouds of points [N, n, k] lie: their mean silhouette.

    -1 to 1; 0 = the clouds lie over one another, 1 = tight clouds far apart.
    """
    from sklearn.metrics import silhouette_score

    points = np.asarray(points)
    learner = np.repeat(np.arange(len(points)), points.shape[1])
    return float(silhouette_score(points.reshape(len(learner), -1), learner))


def separation_table(
    features: Mapping[str, Tensor], panels: Mapping[tuple[str, str], np.ndarray]
) -> pd.DataFrame:
    """`separation` in feature space and in every picture of it; a row a name, a column a picture.

    Args:
        features: by name, [N, n, d].
        panels: by (name, title of the picture), [N, n, 2].
    """
    apart = {name: {"feature space": separation(every)} for name, every in features.items()}
    for (name, title), points in panels.items():
        apart[name][title] = separation(points)
    return pd.DataFrame.from_dict(apart, orient="index")


class _Recorder:
    """A `LearnerStore` that keeps each learner's features of some images after every epoch."""

    def __init__(self, config: TrainConfig, images: Mapping[str, np.ndarray], layer: str) -> None:
        self.config, self.images, self.layer = config, images, layer
        #: By learner, epoch and images.
        self.features: dict[str, dict[int, dict[str, Tensor]]] = {}

    def get(self, name: str) -> Learner | None:
        """Nothing is kept from another time."""

    def put(self, name: str, settings: dict[str, object], learner: Learner, **where: str) -> None:
        self._keep([name], len(learner.history), learner.network)

    def claim(self, names: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def load_state(self, names: Sequence[str]) -> TrainState | None:
        """Nothing is resumed."""

    def save_state(self, names: Sequence[str], state: TrainState) -> None:
        c = self.config
        shape = (c.backbone, len(names), c.image_size, c.memory_slots, c.shrinkage)
        network = Autoencoder(*shape, torch.Generator()).eval()
        weights = {k: v for k, v in state.tensors.items() if k.startswith("network.")}
        network.load_state_dict({k.removeprefix("network."): v for k, v in weights.items()})
        self._keep(names, state.epoch, network)

    def forget_state(self, names: Sequence[str]) -> None:
        pass

    def _keep(self, names: Sequence[str], epoch: int, network: Autoencoder) -> None:
        for key, images in self.images.items():
            batches = map(to_unit_range, as_tensor(images).split(256))
            features = features_of(network, batches, self.layer)
            for name, feature in zip(names, features, strict=True):
                self.features.setdefault(name, {}).setdefault(epoch, {})[key] = feature


def watch_training(
    configs: Sequence[TrainConfig],
    train: ImageSet,
    images: Mapping[str, np.ndarray],
    *,
    layer: str = "z",
    device: str = "auto",
) -> tuple[list[Ensemble], pd.DataFrame]:
    """Train ensembles and see, after every epoch, how alike each learner is to its seniors.

    Seniors are finished when a learner's first epoch begins, so they do not move; the learner is
    in evaluation mode for the look, and images it is not trained on can be taken.

    Args:
        configs: as for `train_ensembles`, which the ensembles come from.
        train: normal images to train on.
        images: uint8 [n, 1, H, W] by name ("normal", "abnormal"), n >= 4.
        layer: whose features are compared.
        device: as for `train_ensembles`.

    Returns:
        The ensembles, and a table with a row a pair and epoch: ensemble (position in `configs`),
        seed, repulsion_weight (0 where nothing is repelled), senior, learner (numbers from 1),
        epoch (from 1), images, cka, debiased.
    """
    recorder = _Recorder(configs[0], images, layer)
    ensembles = train_ensembles(configs, train, device=device, progress=False, store=recorder)
    rows = []
    for position, c in enumerate(configs):
        weight = c.repulsion_weight if c.repels else 0.0
        fixed = {"ensemble": position, "seed": c.seed, "repulsion_weight": weight}
        seen = [
            recorder.features[learner_name(c, number, train.fingerprint)]
            for number in range(1, c.n_learners + 1)
        ]
        for n, learner in enumerate(seen, 1):
            for epoch, features in sorted(learner.items()):
                for m, senior in enumerate(seen[: n - 1], 1):
                    for key, q in features.items():
                        p, q = senior[c.epochs][key].double(), q.double()
                        row = {"senior": m, "learner": n, "epoch": epoch, "images": key}
                        values = {"cka": float(linear_cka(p, q))}
                        values["debiased"] = float(debiased_cka(p, q))
                        rows.append(fixed | row | values)
    return ensembles, pd.DataFrame(rows)
