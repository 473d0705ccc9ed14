"""What a learner minimises: reconstruction (L_orig), repulsion (Eq. 1), and their sum (Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from d2ue.backbones import Reconstruction
from d2ue.similarity import Similarity


def reconstruction_loss(
    backbone: str, output: Reconstruction, images: Tensor, entropy_weight: float = 2e-4
) -> Tensor:
    """L_orig of Eq. (4), for each replica.

    AE: mean (x - f)². MemAE: the same + entropy_weight * mean entropy of the addressing
    (Gong et al. 2019, Eq. 9-10). AEU: mean exp(-s) (x - mu)² + mean s, twice the Gaussian
    negative log-likelihood without its constant (Mao et al. 2020).

    Args:
        backbone: "ae", "memae" or "aeu".
        output: what the network gave for `images`.
        images: [R, B, 1, H, W].
        entropy_weight: MemAE only.

    Returns:
        Shape [R].
    """
    squared_error = (images - output.mean).square()
    if output.log_variance is not None:
        s = output.log_variance
        return (torch.exp(-s) * squared_error).mean((1, 2, 3, 4)) + s.mean((1, 2, 3, 4))
    loss = squared_error.mean((1, 2, 3, 4))
    if output.addressing is not None:
        w = output.addressing
        loss = loss + entropy_weight * -(w * torch.log(w + 1e-12)).sum(-1).mean(1)
    return loss


def repulsion_loss(seniors: Tensor, q: Tensor, similarity: Similarity) -> Tensor:
    """L_sim, Eq. (1): the mean similarity of a learner's feature to each senior's.

    Args:
        seniors: features P_j of the n-1 seniors, [..., n-1, B, d]; n-1 may be 0.
        q: feature Q_n of the learner in training, [..., B, d].
        similarity: S, one of d2ue.similarity.

    Returns:
        Shape [...]; 0 for the first learner.
    """
    if seniors.shape[-3] == 0:
        return q.new_zeros(q.shape[:-2])
    return similarity(seniors, q.unsqueeze(-3)).mean(-1)


def total_loss(l_orig: Tensor, l_sim: Tensor, repulsion_weight: float | Tensor) -> Tensor:
    """Eq. (4): L_total = L_orig + lambda * L_sim."""
    return l_orig + repulsion_weight * l_sim
