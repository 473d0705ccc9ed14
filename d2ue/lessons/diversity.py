"""How different the learners of an ensemble are, and whether that goes with finding anomalies.

Two learners can be redundant in different coordinates: rotate or scale a feature and its values
change, while what it says of the images does not. So there are two kinds of number here. CKA and
`procrustes` do not see rotation and scale; `distance`, and every embedding of raw features
(t-SNE, UMAP), do.

Correlations of diversity with AUC come from points that share learners, seeds and test images.
`rank_correlation` takes the seeds as the independent units.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, as_tensor, features_of, to_unit_range
from d2ue.config import TrainConfig
from d2ue.datasets import ABNORMAL, BUILT_IN, NORMAL, Dataset, ImageSet, load, phantom
from d2ue.ensemble import Ensemble, train_ensembles
from d2ue.errors import InputError
from d2ue.evaluation import auc
from d2ue.experiments.records import score_record
from d2ue.learners import Learner, learner_name
from d2ue.similarity import Similarity, debiased_cka, linear_cka
from d2ue.store.results import RECONSTRUCTION, DataKey, Record
from d2ue.training import TrainState

if TYPE_CHECKING:
    from d2ue.experiments.rows import Cell

#: What repulsion may change, by column of `record_row`.
QUANTITIES = {
    "error_normal": "error on normal images",
    "error_abnormal": "error on abnormal images",
    "unc_ratio": "Unc: abnormal / normal",
    "unc_normal": "Unc on normal images",
    "unc_abnormal": "Unc on abnormal images",
    "dsu_ratio": "DSU: abnormal / normal",
}

# --- features of several learners ---


def similarity_matrix(features: Tensor, similarity: Similarity = linear_cka) -> np.ndarray:
    """Every learner's similarity to every other, over all the images given as one batch.

    Args:
        features: [N, n, d], as `Ensemble.features` gives them.
        similarity: one of d2ue.similarity.

    Returns:
        float64 [N, N], symmetric; its diagonal is 1 for CKA, or 0 for a feature that is constant.
    """
    x = features.double()
    return similarity(x.unsqueeze(1), x.unsqueeze(0)).numpy()


def class_matrices(
    features: Mapping[str, Tensor], labels: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    """`similarity_matrix` on normal and on abnormal images, by biased and by debiased CKA.

    Args:
        features: by name, [N, n, d].
        labels: [n], 0 or 1.

    Returns:
        By (name, title), [N, N].
    """
    return {
        (name, f"{kind}: {title}"): similarity_matrix(
            every[:, torch.from_numpy(labels == label)], similarity
        )
        for name, every in features.items()
        for label, kind in ((NORMAL, "normal"), (ABNORMAL, "abnormal"))
        for title, similarity in (("CKA", linear_cka), ("debiased CKA", debiased_cka))
    }


def mean_over_pairs(matrix: np.ndarray) -> float:
    """The mean of a symmetric matrix above its diagonal: over pairs of different learners.

    Raises:
        InputError: with fewer than two learners, where there is no pair.
    """
    if len(matrix) < 2:
        raise InputError("A mean over pairs of learners takes at least two learners.")
    return float(np.mean(matrix[np.triu_indices(len(matrix), 1)]))


def distance(p: Tensor, q: Tensor) -> float:
    """How far apart two learners put an image, beside how far apart they put two images.

    sqrt( mean_b ‖p_b - q_b‖² / mean over b, b' and both learners of ‖p_b - p_b'‖² ): 0 for equal
    features, about 1 and more where the learners' clouds do not overlap. It changes when either
    feature is rotated, shifted or scaled, as embeddings of features do.

    Args:
        p: [n, d] of one learner.
        q: [n, d] of another, the same images.

    Returns:
        0 or more; NaN where both features are constant.
    """
    p, q = p.double(), q.double()
    # The mean squared distance of two images, drawn independently, is twice the variance.
    spread = p.var(0, correction=0).sum() + q.var(0, correction=0).sum()
    return float(((p - q).square().sum(1).mean() / spread).sqrt())


def procrustes(p: Tensor, q: Tensor) -> float:
    """What is left of the difference after the best shift, rotation, reflection and scale.

    `scipy.spatial.procrustes`: the sum of squares that remains, of two features brought to unit
    size.

    Args:
        p: [n, d] of one learner.
        q: [n, d] of another, the same images.

    Returns:
        0 (the same up to those) to 1 (nothing in common); 1 where a feature is constant.
    """
    import scipy.spatial  # here: importing it takes longer than most uses of this file

    p, q = p.double(), q.double()
    if any(bool((x == x[0]).all()) for x in (p, q)):
        return 1.0
    return float(scipy.spatial.procrustes(p.numpy(), q.numpy())[2])


def rotated_copies(feature: Tensor, n: int, seed: int = 0) -> Tensor:
    """One learner's feature n times, each time in other coordinates: redundancy in full.

    The first copy is the feature itself, the others are multiplied by random orthogonal matrices.

    Args:
        feature: [b, d].
        n: copies, at least 1.
        seed: of the matrices.

    Returns:
        [n, b, d]; every CKA between two of them is 1.
    """
    generator = torch.Generator().manual_seed(seed)
    d = feature.shape[-1]
    turns = [torch.linalg.qr(torch.randn(d, d, generator=generator))[0] for _ in range(n - 1)]
    return torch.stack([feature, *(feature @ turn.to(feature.dtype) for turn in turns)])


def feature_table(features: Mapping[str, Tensor], labels: np.ndarray) -> pd.DataFrame:
    """The numbers beside an embedding, a row a set of learners and a class of images.

    Args:
        features: by name, [N, n, d].
        labels: [n], 0 or 1.

    Returns:
        Indexed by (features, images); means over pairs of learners of "CKA", "debiased CKA",
        "distance", "Procrustes".
    """
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for name, every in features.items():
        for label, images in ((NORMAL, "normal"), (ABNORMAL, "abnormal")):
            own = every[:, torch.from_numpy(labels == label)]
            i, j = np.triu_indices(len(own), 1)
            rows[name, images] = {
                "CKA": mean_over_pairs(similarity_matrix(own)),
                "debiased CKA": mean_over_pairs(similarity_matrix(own, debiased_cka)),
                "distance": float(
                    np.mean([distance(own[a], own[b]) for a, b in zip(i, j, strict=True)])
                ),
                "Procrustes": float(
                    np.mean([procrustes(own[a], own[b]) for a, b in zip(i, j, strict=True)])
                ),
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["features", "images"])
    return table


def embed(features: Tensor, method: str = "tsne", seed: int = 0, perplexity: float = 30) -> Any:
    """All learners' features in one picture: a point a learner and image.

    Features go in as they are, the learners' in one heap, as the paper's Fig. 1b does. The
    picture depends on coordinates: see `rotated_copies`.

    Args:
        features: [N, n, d].
        method: "tsne" (scikit-learn) or "umap" (umap-learn, a package of the notebooks).
        seed: of the embedding.
        perplexity: of t-SNE; for UMAP the number of neighbours.

    Returns:
        float [N, n, 2]; its axes have no unit and no direction.

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
    elif method == "umap":
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
            flat = mapper.fit_transform(points)
    else:
        raise InputError(f"Embeddings are made by tsne or umap, not by {method!r}.")
    return flat.reshape(*features.shape[:2], 2)


def separation(points: np.ndarray | Tensor) -> float:
    """How far apart the learners lie in a picture or in feature space: their mean silhouette.

    Args:
        points: [N, n, k], a cloud of n points for each of N >= 2 learners.

    Returns:
        -1 to 1; 0 = the clouds lie over one another, 1 = tight clouds far apart.
    """
    from sklearn.metrics import silhouette_score

    points = np.asarray(points)
    learner = np.repeat(np.arange(len(points)), points.shape[1])
    return float(silhouette_score(points.reshape(len(learner), -1), learner))


def separation_table(
    features: Mapping[str, Tensor], panels: Mapping[tuple[str, str], np.ndarray]
) -> pd.DataFrame:
    """`separation` of the learners in feature space and in every picture of it.

    Args:
        features: by name, [N, n, d].
        panels: by (name, title of the picture), [N, n, 2].

    Returns:
        Indexed by name, a column a picture, "feature space" first.
    """
    apart = {name: {"feature space": separation(every)} for name, every in features.items()}
    for (name, title), points in panels.items():
        apart[name][title] = separation(points)
    return pd.DataFrame.from_dict(apart, orient="index")


# --- while learners are trained ---


class _Recorder:
    """A `LearnerStore` that keeps each learner's features of some images after every epoch."""

    def __init__(self, config: TrainConfig, images: Mapping[str, np.ndarray], layer: str) -> None:
        self.config, self.images, self.layer = config, images, layer
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
        generator = torch.Generator().manual_seed(0)  # of weights that are overwritten next
        shape = (c.backbone, len(names), c.image_size, c.memory_slots, c.shrinkage)
        network = Autoencoder(*shape, generator).eval()
        weights = {
            k.removeprefix("network."): v for k, v in state.tensors.items() if "adam." not in k
        }
        network.load_state_dict(weights)
        self._keep(names, state.epoch, network)

    def forget_state(self, names: Sequence[str]) -> None:
        pass

    def _keep(self, names: Sequence[str], epoch: int, network: Autoencoder) -> None:
        for key, images in self.images.items():
            batches = (
                to_unit_range(as_tensor(images[i : i + 256])) for i in range(0, len(images), 256)
            )
            found = features_of(network, batches, self.layer)
            for name, feature in zip(names, found, strict=True):
                self.features.setdefault(name, {}).setdefault(epoch, {})[key] = feature


def watch_training(
    configs: Sequence[TrainConfig],
    train: ImageSet,
    images: Mapping[str, np.ndarray],
    *,
    layer: str = "z",
    device: str = "auto",
    progress: bool = False,
) -> tuple[list[Ensemble], pd.DataFrame]:
    """Train ensembles and see, after every epoch, how alike each learner is to its seniors.

    Seniors are finished when a learner's first epoch begins, so they do not move; the learner is
    in evaluation mode for the look, and images it is not trained on can be taken.

    Args:
        configs: the ensembles' settings; they may differ in seed, similarity, lambda, layer and
            number of learners.
        train: normal images to train on.
        images: uint8 [n, 1, H, W] by name ("normal", "abnormal"), n >= 4.
        layer: whose features are compared.
        device: as for `train_ensembles`.
        progress: whether to show a bar.

    Returns:
        The ensembles, as `train_ensembles` gives them; and a table with a row a pair and epoch:
        ensemble (position in `configs`), seed, repulsion_weight (0 where nothing is repelled),
        senior, learner (numbers from 1), epoch (from 1), images, cka, debiased.
    """
    recorder = _Recorder(configs[0], images, layer)
    ensembles = train_ensembles(configs, train, device=device, progress=progress, store=recorder)
    rows, fingerprint = [], train.fingerprint
    for position, c in enumerate(configs):
        names = [learner_name(c, k, fingerprint) for k in range(1, c.n_learners + 1)]
        for n, name in enumerate(names[1:], 2):
            for epoch, by_images in sorted(recorder.features[name].items()):
                for m, senior in enumerate(names[: n - 1], 1):
                    for key, q in by_images.items():
                        p = recorder.features[senior][c.epochs][key].double()
                        rows.append(
                            {
                                "ensemble": position,
                                "seed": c.seed,
                                "repulsion_weight": c.repulsion_weight if c.repels else 0.0,
                                "senior": m,
                                "learner": n,
                                "epoch": epoch,
                                "images": key,
                                "cka": float(linear_cka(p, q.double())),
                                "debiased": float(debiased_cka(p, q.double())),
                            }
                        )
    return ensembles, pd.DataFrame(rows)


def ends(history: pd.DataFrame) -> pd.DataFrame:
    """Debiased CKA with the seniors after each learner's last epoch, mean over pairs.

    Args:
        history: from `watch_training`.

    Returns:
        Indexed by (images, seed), a column a repulsion weight.
    """
    last = history[history["epoch"] == history["epoch"].max()]
    return last.groupby(["images", "seed", "repulsion_weight"])["debiased"].mean().unstack()


def small_dataset(data: str, image_size: int, n_train: int, n_test: int) -> Dataset:
    """A data set by name or folder, cut to so many images; no more phantoms are drawn than needed.

    Args:
        data: as for `d2ue.load`.
        image_size: pixels a side.
        n_train: normal images to train on; 0 = all.
        n_test: test images, of phantoms half of them abnormal; 0 = all.

    Raises:
        InputError: as `d2ue.load`, or if there are no labelled test images.
    """
    if data in BUILT_IN:
        half = (n_test or 600) // 2
        counts = {"n_train": n_train or 1000, "n_test_normal": half, "n_test_abnormal": half}
        return phantom(BUILT_IN[data], image_size=image_size, progress=False, **counts)
    whole = load(data, image_size, progress=False)
    return Dataset(whole.name, whole.train.sample(n_train), whole.labelled.sample(n_test))


# --- diversity beside performance ---


def disagreement_ratio(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean score of abnormal images over that of normal ones: 1 = no contrast, above 1 wanted.

    Args:
        scores: [n], 0 or more, higher = more abnormal.
        labels: [n], 0 or 1, both there.
    """
    scores = np.asarray(scores, np.float64)
    return float(scores[labels == ABNORMAL].mean() / scores[labels == NORMAL].mean())


def record_row(record: Record) -> dict[str, Any]:
    """What a record says of an ensemble's diversity and of its performance, as one row.

    Returns:
        dataset, backbone, seed, similarity ("none" where nothing is repelled), repulsion_weight
        (0 likewise), layer, learners, epochs (of each), cost (learner-epochs in all); cka_normal,
        cka_abnormal (debiased, of the layer, NaN for one learner); unc_normal, unc_abnormal (mean
        output uncertainty), unc_ratio and dsu_ratio (abnormal over normal); error_normal,
        error_abnormal (mean squared error of the learners' own reconstructions); AUC_ensemble,
        AUC_output, AUC_dual, AUC_input in percent (NaN where one learner has no such score).
    """
    c, labels = record.config, record.labels
    row: dict[str, Any] = {
        "dataset": record.data.name,
        "backbone": c.backbone,
        "seed": c.seed,
        "similarity": c.similarity if c.repels else "none",
        "repulsion_weight": c.repulsion_weight if c.repels else 0.0,
        "layer": c.layer,
        "learners": c.n_learners,
        "epochs": c.epochs,
        "cost": c.n_learners * c.epochs,
    }
    for label, name in ((NORMAL, "normal"), (ABNORMAL, "abnormal")):
        row[f"cka_{name}"] = record.similarity.get(name, math.nan)
        row[f"error_{name}"] = float(record.scores[RECONSTRUCTION][labels == label].mean())
        unc = record.scores.get("output")
        row[f"unc_{name}"] = math.nan if unc is None else float(unc[labels == label].mean())
    for column, method in (("unc_ratio", "output"), ("dsu_ratio", "dual")):
        scores = record.scores.get(method)
        row[column] = math.nan if scores is None else disagreement_ratio(scores, labels)
    for method in ("ensemble", "output", "dual", "input"):
        scores = record.scores.get(method)
        row[f"AUC_{method}"] = math.nan if scores is None else 100 * auc(labels, scores)
    return row


def record_table(records: Iterable[Record]) -> pd.DataFrame:
    """`record_row` of every record, in the order of settings and seeds."""
    table = pd.DataFrame([record_row(record) for record in records])
    keys = ["dataset", "backbone", "layer", "learners", "repulsion_weight", "similarity", "seed"]
    return table.sort_values(keys, ignore_index=True) if len(table) else table


def as_in_the_paper(table: pd.DataFrame) -> pd.Series:
    """Which rows of `record_table` are Table 2's: its learners, without repulsion or with its own.

    A seed of a backbone has one of each.
    """
    paper = TrainConfig()
    repelled = (
        table["similarity"].eq(paper.similarity)
        & table["repulsion_weight"].eq(paper.repulsion_weight)
        & table["layer"].eq(paper.layer)
    )
    return table["learners"].eq(paper.n_learners) & (table["similarity"].eq("none") | repelled)


def ensemble_table(ensembles: Iterable[Ensemble], dataset: Dataset) -> pd.DataFrame:
    """`record_row` of ensembles at hand, and their debiased CKA at z whatever layer is repelled.

    Returns:
        A row an ensemble, in order; also z_normal and z_abnormal.

    Raises:
        InputError: if the data set has no labelled images of both classes.
    """
    test, key = dataset.labelled, DataKey.of(dataset)
    rows = []
    for ensemble in ensembles:
        row = record_row(score_record(ensemble, test, key))
        features = ensemble.features(test.images, "z")
        for label, name in ((NORMAL, "normal"), (ABNORMAL, "abnormal")):
            own = features[:, torch.from_numpy(test.labels == label)]
            alone = len(ensemble) < 2
            matrix = similarity_matrix(own, debiased_cka)
            row[f"z_{name}"] = math.nan if alone else mean_over_pairs(matrix)
        rows.append(row)
    return pd.DataFrame(rows)


def grid_table(
    base: TrainConfig,
    dataset: Dataset,
    *,
    seeds: Sequence[int],
    weights: Sequence[float],
    layers: Sequence[str],
    learners: Sequence[int],
    device: str = "auto",
) -> pd.DataFrame:
    """Train a small grid around `base`, one setting moved at a time, and measure all of it.

    Weights and layers are moved with `base.n_learners` learners; the number of learners with
    lambda = 0 and with that of `base`. Smaller ensembles are the first learners of larger ones,
    so every learner is trained once. Seeds go one after another, to keep the memory low.

    Args:
        base: the settings in the middle.
        dataset: with labelled test images.
        seeds: of the trainings.
        weights: lambdas.
        layers: names of the network's layers.
        learners: numbers N, at least 2.
        device: as for `train_ensembles`.

    Returns:
        `ensemble_table` with "axis" ("weight", "layer", "learners") and "setting" (the value on
        it) in front; an ensemble that lies on two axes has a row on each.
    """
    parts = []
    for seed in seeds:
        b = base.replace(seed=seed)
        largest = max(learners)
        places = [("weight", w, b.replace(repulsion_weight=w)) for w in weights]
        places += [("layer", layer, b.replace(layer=layer)) for layer in layers]
        ends = [b.replace(n_learners=largest, repulsion_weight=w) for w in (0, b.repulsion_weight)]
        configs = [config for _, _, config in places] + ends
        trained = train_ensembles(configs, dataset.train, device=device, progress=False)
        ends = trained[len(places) :]
        ensembles = trained[: len(places)]
        places += [("learners", n, end.config) for end in ends for n in learners]
        # One at a time: their weights are copies.
        parts_of_ends = (end.first(n) for end in ends for n in learners)
        table = ensemble_table(itertools.chain(ensembles, parts_of_ends), dataset)
        del trained, ensembles, ends
        table.insert(0, "axis", [axis for axis, _, _ in places])
        table.insert(1, "setting", [setting for _, setting, _ in places])
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def distinct(table: pd.DataFrame) -> pd.DataFrame:
    """Each ensemble of a `grid_table` once, whatever number of axes it lies on."""
    # Nothing is repelled at lambda 0, so the layer says nothing there.
    layer = table["layer"].where(table["repulsion_weight"] > 0, "")
    keys = ["seed", "repulsion_weight", "layer", "learners"]
    return table[~table.assign(layer=layer).duplicated(keys)]


def coverage(cells: Mapping[str, Sequence[Cell]], method: str = "output") -> pd.DataFrame:
    """Which settings of each table were run, and which were not.

    Args:
        cells: by table, as `d2ue.experiments.obtain` gives them.
        method: rows of this score alone, so that a setting stands once.

    Returns:
        A row a table: "run" (settings with their number of seeds) and "not run".
    """
    rows = {}
    for name, own in cells.items():
        run, missing = [], []
        for cell in own:
            if cell.row.method == method:
                text = ", ".join(filter(None, (cell.row.group, cell.row.label)))
                n = len(cell.records)
                (run if n else missing).append(f"{text} (n = {n})" if n else text)
        rows[name] = {"run": "; ".join(run) or "-", "not run": "; ".join(missing) or "-"}
    return pd.DataFrame.from_dict(rows, orient="index")


def gains(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """What one learner more brings, paired by seed, beside what it costs.

    Args:
        table: rows that differ in seed, repulsion_weight and learners alone.
        columns: titles by column.

    Returns:
        A row a weight and step: "λ", "N" (2 to 3, ...), "cost" (the share of learner-epochs that
        it adds, percent), and for each title the mean gain and its range over seeds, as text.
    """
    rows = []
    for weight, own in table.groupby("repulsion_weight"):
        numbers = sorted(own["learners"].unique())
        for n, more in itertools.pairwise(numbers):
            cost = f"{100 * (more - n) / n:+.0f} %"
            row = {"λ": f"{weight:g}", "N": f"{n} to {more}", "cost": cost}
            for column, title in columns.items():
                wide = own.pivot(index="seed", columns="learners", values=column)
                gain = wide[more] - wide[n]
                row[title] = f"{gain.mean():+.1f} ({gain.min():+.1f} to {gain.max():+.1f})"
            rows.append(row)
    return pd.DataFrame(rows)


def effect_lines(changes: pd.DataFrame) -> list[str]:
    """`effects` as sentences."""
    return [
        f"{title}: {line['without']:.3f} without, {line['with']:.3f} with repulsion; factor "
        f"{line['factor']:.3f} ({line['lowest']:.3f} to {line['highest']:.3f}), higher in "
        f"{line['higher in']} seeds"
        for title, line in changes.iterrows()
    ]


def coverage_lines(cells: Mapping[str, Sequence[Cell]]) -> list[str]:
    """`coverage` as lines to read, three a table."""
    table = coverage(cells)
    return [
        f"{name}\n  run: {line['run']}\n  not run: {line['not run']}"
        for name, line in table.iterrows()
    ]


def effects(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """What repulsion changes, paired by seed.

    Args:
        table: an ensemble without and one with repulsion for every seed, as `ensemble_table` or
            `record_table` gives them.
        columns: titles by column; values above 0.

    Returns:
        Indexed by title: "without" and "with" (means over seeds), "factor" (mean of the seeds'
        with / without), "lowest" and "highest" factor of a seed, "higher in" (such as "2 of 3").

    Raises:
        InputError: unless every seed has exactly one of either.
    """
    repelled = table["repulsion_weight"] > 0
    before, after = (table[which].set_index("seed").sort_index() for which in (~repelled, repelled))
    if list(before.index) != list(after.index) or before.index.has_duplicates or not len(before):
        raise InputError("Each seed needs one ensemble without and one with repulsion.")
    rows = {}
    for column, title in columns.items():
        factor = after[column] / before[column]
        rows[title] = {
            "without": before[column].mean(),
            "with": after[column].mean(),
            "factor": factor.mean(),
            "lowest": factor.min(),
            "highest": factor.max(),
            "higher in": f"{(factor > 1).sum()} of {len(factor)}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


# --- correlation with an interval ---


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with two intervals.

    Attributes:
        rho: Spearman's, -1 to 1.
        low, high: interval with the clusters (seeds) as independent units; NaN under two clusters.
        naive_low, naive_high: interval as if every point were independent; for comparison only.
        n: points.
        clusters: seeds.
        level: nominal coverage.
    """

    rho: float
    low: float
    high: float
    naive_low: float
    naive_high: float
    n: int
    clusters: int
    level: float = 0.95

    def __str__(self) -> str:
        """Such as `-0.42 (-0.71 to +0.05), n = 12 points of 3 seeds`."""
        return (
            f"{self.rho:+.2f} ({self.low:+.2f} to {self.high:+.2f}), "
            f"n = {self.n} points of {self.clusters} seeds"
        )


def rank_correlation(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    cluster: str = "seed",
    within: str | None = None,
    level: float = 0.95,
) -> Correlation:
    """Spearman's correlation of two columns whose rows are not independent.

    Ensembles of one seed share their first learner and often more, so the interval is of a
    jackknife that leaves out one seed at a time: on the scale of Fisher's z = atanh(rho),
    se² = (G-1)/G sum_g (z_(g) - mean z)², and z ± t_(G-1) se. All seeds share the test images,
    so it says how rho would move with other seeds, and nothing of other images. The naive
    interval is z ± 1.96 sqrt((1 + rho²/2) / (n-3)) (Bonett, Wright 2000).

    Args:
        table: a row a point; rows with a NaN in x or y are left out.
        x: column.
        y: column.
        cluster: column whose values are the independent units.
        within: column of groups whose means are taken out of x and y first, so that differences
            between groups (of backbones, say) do not count; None = pooled.
        level: nominal coverage, between 0 and 1.

    Returns:
        The correlation with its intervals; rho is NaN where x or y does not vary.

    Raises:
        InputError: if a column is missing, `level` is out of range, or under three points are left.
    """
    columns = [x, y, cluster, *([within] if within else [])]
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"The table has no column {', '.join(missing)}.")
    if not 0 < level < 1:
        raise InputError(f"An interval's level lies between 0 and 1, not at {level}.")
    kept = table.dropna(subset=[x, y])
    n, seeds = len(kept), kept[cluster].to_numpy()
    if n < 3:
        raise InputError(f"A correlation of {x} and {y} takes three points or more, not {n}.")
    groups = kept[within].to_numpy() if within else np.zeros(n)
    a, b = kept[x].to_numpy(np.float64), kept[y].to_numpy(np.float64)

    def rho(which: np.ndarray) -> float:
        return _spearman(*(_centred(v[which], groups[which]) for v in (a, b)))

    value = rho(np.ones(n, bool))
    names = np.unique(seeds)
    low = high = math.nan
    if len(names) > 1 and not math.isnan(value):
        left = np.array([_fisher(rho(seeds != name)) for name in names])
        g = len(names)
        se = math.sqrt((g - 1) / g * np.square(left - left.mean()).sum())
        low, high = _back(_fisher(value), se * _t_quantile((1 + level) / 2, g - 1))
    naive = math.sqrt((1 + value**2 / 2) / (n - 3)) if n > 3 else math.nan
    naive_low, naive_high = _back(_fisher(value), naive * _t_quantile((1 + level) / 2, math.inf))
    return Correlation(value, low, high, naive_low, naive_high, n, len(names), level)


def correlations(
    table: pd.DataFrame,
    xs: Mapping[str, str],
    ys: Mapping[str, str],
    *,
    within: str | None = None,
) -> pd.DataFrame:
    """`rank_correlation` of every x with every y, as a table to read.

    Args:
        table: from `record_table` or `ensemble_table`.
        xs: titles by column.
        ys: titles by column.
        within: as for `rank_correlation`.

    Returns:
        Texts and numbers: diversity, AUC of, rho, interval by seeds, naive interval, points,
        seeds, and "clear of 0" (yes or no: whether the interval by seeds leaves out 0).
    """
    rows = []
    for x, x_title in xs.items():
        for y, y_title in ys.items():
            r = rank_correlation(table, x, y, within=within)
            rows.append(
                {
                    "diversity": x_title,
                    "AUC of": y_title,
                    "rho": f"{r.rho:+.2f}",
                    "interval, by seeds": f"{r.low:+.2f} to {r.high:+.2f}",
                    "as if independent": f"{r.naive_low:+.2f} to {r.naive_high:+.2f}",
                    "points": r.n,
                    "seeds": r.clusters,
                    "clear of 0": "yes" if r.low * r.high > 0 else "no",
                }
            )
    return pd.DataFrame(rows)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r of midranks; NaN where there are no two different values."""
    from scipy.stats import rankdata

    ranks = [rankdata(np.round(v, 12)) for v in (a, b)]  # sums of rounding are not differences
    if any(np.ptp(r) == 0 for r in ranks) or len(a) < 2:
        return math.nan
    return float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1))


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values less the mean of their group."""
    means = {group: values[groups == group].mean() for group in np.unique(groups)}
    return values - np.array([means[group] for group in groups])


def _fisher(rho: float) -> float:
    # Short of 1, where z is infinite; a left-out seed that leads there makes the interval wide.
    return math.atanh(max(-1 + 1e-6, min(1 - 1e-6, rho)))


def _back(z: float, half: float) -> tuple[float, float]:
    return math.tanh(z - half), math.tanh(z + half)


def _t_quantile(probability: float, df: float) -> float:
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(df) else stdtrit(df, probability))
