"""Score maps and image scores: Eq. (5), Eq. (6) and the ensemble reconstruction score.

Everywhere: X images [B, 1, H, W] in [-1, 1]; N learners; f_i(X) reconstructions [N, B, 1, H, W];
s_i AEU's log-variances of the same shape. Maps are [B, 1, H, W], never negative, and **a higher
score means more abnormal**. Networks are in evaluation mode, so that no image's map depends on
the batch it came in: gradients are those of the sum over images of each image's mean error.

The per-backbone forms are those of the released code; the paper's text gives Eq. (5) and (6) only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, forward
from d2ue.config import ScoreConfig
from d2ue.ensemble import Ensemble
from d2ue.errors import InputError
from d2ue.fast.steps import precision
from d2ue.progress import bar as progress_bar


def deviation(values: Tensor) -> Tensor:
    """D(.) over the learners: the standard deviation over the first axis, Bessel-corrected.

    In two passes, because the learners' values are close together next to their size.

    Args:
        values: [N, ...], N >= 2.

    Returns:
        Shape [...], >= 0.

    Raises:
        InputError: if N < 2, where there is no disagreement to measure.
    """
    return _variance(values).sqrt()


def ensemble_map(x: Tensor, f: Tensor, s: Tensor | None = None) -> Tensor:
    """Ens: squared error of the mean reconstruction, (X - mean_i f_i(X))²; [B, 1, H, W].

    With AEU's log-variances s the map is divided by mean_i exp(s_i).
    """
    error = (x - f.mean(0)).square()
    return error if s is None else error / s.exp().mean(0)


def output_map(f: Tensor, s: Tensor | None = None) -> Tensor:
    """Unc, Eq. (5): Y = D(f_i(X)); [B, 1, H, W].

    With AEU's log-variances s: sqrt(var_i mu_i / mean_i exp(s_i)).

    Raises:
        InputError: with fewer than two learners.
    """
    variance = _variance(f)
    return (variance if s is None else variance / s.exp().mean(0)).sqrt()


def dual_map(x: Tensor, f: Tensor, gradients: Tensor, s: Tensor | None = None) -> Tensor:
    """DSU, Eq. (6): Y = D(grad_X L_i (*) |f_i(X) - X|); [B, 1, H, W].

    With AEU's log-variances s each learner's product is divided by sqrt(mean_i exp(s_i)) first.

    Args:
        x: images.
        f: reconstructions.
        gradients: grad_X L_i, signed, [N, B, 1, H, W], from `input_gradients`.
        s: AEU's log-variances.

    Raises:
        InputError: with fewer than two learners.
    """
    return _dual_map((f - x).abs(), gradients, s)


def input_map(gradients: Tensor) -> Tensor:
    """The ablation of Eq. (6) that keeps input space only: Y = D(grad_X L_i); [B, 1, H, W].

    Raises:
        InputError: with fewer than two learners.
    """
    return deviation(gradients)


def image_score(score_map: Tensor) -> Tensor:
    """An image's score: the mean of its map over pixels; [B, 1, H, W] -> [B]."""
    return score_map.mean((1, 2, 3))


def reconstruction_error(x: Tensor, f: Tensor, s: Tensor | None, error: str) -> Tensor:
    """L_i of Eq. (6), averaged over each image's pixels.

    Args:
        x: images, broadcastable to f.
        f: reconstructions [N, B, 1, H, W].
        s: AEU's log-variances, for the last two errors only.
        error: "l1" mean |f - x| (released code, AE and MemAE); "mse" mean (f - x)² (what they are
            trained with); "weighted-mse" mean exp(-s) (f - x)² (released code, AEU); "nll" the
            same + s (what AEU is trained with).

    Returns:
        [N, B].

    Raises:
        InputError: if the error is unknown, or needs log-variances that are not there.
    """
    residual = f - x
    if error == "l1":
        per_pixel = residual.abs()
    elif error == "mse":
        per_pixel = residual.square()
    elif error in ("weighted-mse", "nll") and s is not None:
        per_pixel = torch.exp(-s) * residual.square() + (s if error == "nll" else 0.0)
    else:
        raise InputError(f"gradient_error {error!r} is unknown, or needs the backbone aeu.")
    return per_pixel.mean((2, 3, 4))


def input_gradients(
    network: Autoencoder, x: Tensor, error: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """grad_X L_i of every learner in one forward and one backward pass.

    Args:
        network: N learners as replicas, in evaluation mode.
        x: images [B, 1, H, W].
        error: L, as in `reconstruction_error`.

    Returns:
        gradients [N, B, 1, H, W], reconstructions [N, B, 1, H, W], log-variances or None.
    """
    # One copy of the images for each learner keeps the learners' gradients apart.
    copies = x.expand(network.replicas, *x.shape).clone().requires_grad_(True)
    with torch.enable_grad(), precision("float32", x.device):
        output = network(copies)
        total = reconstruction_error(copies, output.mean, output.log_variance, error).sum()
        (gradients,) = torch.autograd.grad(total, copies)
    s = output.log_variance
    return gradients, output.mean.detach(), None if s is None else s.detach()


def dual_terms(network: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """What |f_i(X) - X| (*) grad_X L_i of Eq. (6) consists of where L is the mean L1 error.

    With e_i = f_i(X) - X, J_i the learner's Jacobian and H W pixels, exactly

        |e_i| (*) grad_X L_i  =  |e_i| (*) J_i^T sign(e_i) / (H W)  -  e_i / (H W)

    The deviation over learners of the second term is Eq. (5)'s map divided by H W.

    Args:
        network: N learners as replicas, in evaluation mode, of backbone ae or memae.
        x: images [B, 1, H, W].

    Returns:
        The Jacobian term and the output term, each [N, B, 1, H, W]; their sum is the product.
    """
    copies = x.expand(network.replicas, *x.shape).clone().requires_grad_(True)
    with torch.enable_grad(), precision("float32", x.device):
        f = network(copies).mean
        e = (f - copies).detach()
        (transposed,) = torch.autograd.grad(f, copies, grad_outputs=e.sign())
    pixels = x[0].numel()
    return e.abs() * transposed / pixels, -e / pixels


def score_batch(ensemble: Ensemble, x: Tensor, config: ScoreConfig) -> Tensor:
    """Score maps [B, 1, H, W] of images [B, 1, H, W] in [-1, 1], on the ensemble's device."""
    method = config.method
    if method in ("ensemble", "output"):
        output = forward(ensemble.network, x)
        if method == "ensemble":
            return ensemble_map(x, output.mean, output.log_variance)
        return output_map(output.mean, output.log_variance)
    error = config.gradient_error_for(ensemble.config.backbone)
    gradients, f, s = input_gradients(ensemble.network, x, error)
    if method == "input":
        return input_map(gradients)
    if config.normalise_error:
        return _dual_map(_min_max((f - x).abs()), gradients, s)
    return dual_map(x, f, gradients, s)


@torch.inference_mode(False)
def score_maps(
    ensemble: Ensemble,
    images: np.ndarray | Tensor,
    config: ScoreConfig | str = "dual",
    *,
    batch_size: int = 128,
    progress: bool = False,
) -> np.ndarray:
    """Score maps of many images.

    Args:
        ensemble: the trained learners.
        images: uint8 [n, 1, H, W].
        config: a ScoreConfig, or just its method: "ensemble", "output", "dual", "input".
        batch_size: images a pass; the maps do not depend on it.
        progress: whether to show a bar when it takes over two seconds.

    Returns:
        float32 [n, 1, H, W], >= 0, higher = more abnormal.

    Raises:
        InputError: if the images do not fit the ensemble, the settings are unknown, or a
            disagreement is asked of a single learner.
    """
    found = np.empty((len(images), 1, *images.shape[2:]), np.float32)
    for start, maps in _maps(ensemble, images, config, batch_size, progress):
        found[start : start + len(maps)] = maps
    return found


@torch.inference_mode(False)
def image_scores(
    ensemble: Ensemble,
    images: np.ndarray | Tensor,
    config: ScoreConfig | str = "dual",
    *,
    batch_size: int = 128,
    progress: bool = False,
) -> np.ndarray:
    """Scores of many images: `score_maps` averaged over pixels, without keeping the maps.

    Args and Raises as for `score_maps`.

    Returns:
        float64 [n], >= 0, higher = more abnormal.
    """
    found = np.empty(len(images))  # at once: small parts kept between large ones split the heap
    for start, maps in _maps(ensemble, images, config, batch_size, progress):
        found[start : start + len(maps)] = image_score(maps.double())
    return found


def _maps(
    ensemble: Ensemble,
    images: np.ndarray | Tensor,
    config: ScoreConfig | str,
    batch_size: int,
    progress: bool,
) -> Iterator[tuple[int, Tensor]]:
    """Score maps batch by batch, on the CPU, with the position of each batch's first image."""
    settings = ScoreConfig(config) if isinstance(config, str) else config
    total = max(1, -(-len(images) // max(1, batch_size)))  # `batches` refuses what is below 1
    bar = progress_bar(total=total, desc=f"{settings.method} score", disable=not progress, delay=2)
    with bar:
        for i, x in enumerate(ensemble.batches(images, batch_size)):
            yield i * batch_size, score_batch(ensemble, x, settings)[: len(images)].float().cpu()
            bar.update()


def _variance(values: Tensor) -> Tensor:
    if len(values) < 2:
        raise InputError(
            "Disagreement needs at least two learners: train more, or score with 'ensemble'."
        )
    return (values - values.mean(0)).square().sum(0) / (len(values) - 1)


def _dual_map(error: Tensor, gradients: Tensor, s: Tensor | None) -> Tensor:
    product = gradients * error
    return deviation(product if s is None else product / s.exp().mean(0).sqrt())


def _min_max(values: Tensor) -> Tensor:
    """Each learner's map of each image brought to [0, 1]; a constant map becomes 0."""
    low, high = values.amin((2, 3, 4), keepdim=True), values.amax((2, 3, 4), keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1.0)
