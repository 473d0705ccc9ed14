r"""Copies of a learner that look different inside and compute the same function (Fig. 3).

Each copy changes the feature of one layer, P -> P M, and undoes M in the layer that reads it:

| transformation | M | the function survives |
|---|---|---|
| scaled | a · identity, a > 0 | at every layer |
| permuted | a permutation of the neurons | at every layer |
| neuron-rescaled | diagonal, every entry > 0 | at every layer |
| rotated | orthogonal | only where no ReLU follows: z, and the first layer of the decoder |

ReLU(a x) = a ReLU(x) for a > 0 is why the first three pass through it, one neuron at a time. The
paper's Fig. 3 shows scaling and reordering; linear CKA is blind to both and to the rotation, and
**not** to single neurons rescaled.

At a layer that gives a map [C, h, w] a neuron is a channel: the convolution that reads it has one
weight a channel for all places, so that nothing finer can be undone.

Where BatchNorm stands between a convolution and its ReLU, a scale lives in BatchNorm's weight and
bias (scaling the convolution's weight is divided out again), and an order in its statistics too.
These copies are the learner's equals in training mode as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2ue.backbones import LATENT, Autoencoder, forward
from d2ue.errors import InputError

#: By name, in the order of the table above.
TRANSFORMATIONS = ("scaled", "permuted", "neuron-rescaled", "rotated")
_EPS = 1e-5  # BatchNorm's, as in d2ue.backbones


def channels(network: Autoencoder, layer: str) -> int:
    """Number of neurons of a layer: 16 for z, the number of channels elsewhere.

    Raises:
        InputError: if the layer is unknown.
    """
    return _site(network, layer).channels


def scaled(network: Autoencoder, layer: str, factor: float) -> Autoencoder:
    """`neuron_rescaled` by one factor for all neurons."""
    return neuron_rescaled(network, layer, torch.full((channels(network, layer),), float(factor)))


def permuted(network: Autoencoder, layer: str, order: Sequence[int] | Tensor) -> Autoencoder:
    """A copy whose neuron j at `layer` is neuron `order[j]` of the original.

    Raises:
        InputError: if the layer is unknown or `order` is not an order of its neurons.
    """
    result = copy.deepcopy(network)
    site = _site(result, layer)
    order = torch.as_tensor(order)
    if order.shape != (site.channels,) or order.sort().values.tolist() != [*range(site.channels)]:
        raise InputError(f"order must hold each of 0 to {site.channels - 1} once, for {layer}.")
    matrix = torch.eye(site.channels)[:, order]
    _mix([*site.makers, *site.affine, *site.statistics], matrix)
    site.undo(matrix, matrix)
    return result


def neuron_rescaled(
    network: Autoencoder, layer: str, factors: Sequence[float] | np.ndarray | Tensor
) -> Autoencoder:
    """A copy whose neuron j at `layer` is `factors[j]` times as large; the function is the same.

    Raises:
        InputError: if the layer is unknown, or there is not one positive, finite factor a neuron.
    """
    result = copy.deepcopy(network)
    site = _site(result, layer)
    factors = torch.as_tensor(factors, dtype=torch.float64)
    sound = factors.shape == (site.channels,) and bool(((factors > 0) & factors.isfinite()).all())
    if not sound:
        raise InputError(
            f"The layer {layer} takes one factor for each of its {site.channels} neurons, positive "
            "and finite: a ReLU does not let the sign through."
        )
    matrix, inverse = torch.diag(factors), torch.diag(1 / factors)
    # BatchNorm divides a scale of what comes in out again, so the scale goes into its own weights.
    _mix(site.affine or site.makers, matrix)
    site.undo(inverse, matrix)
    return result


def rotated(network: Autoencoder, layer: str, rotation: np.ndarray | Tensor) -> Autoencoder:
    """A copy whose feature at `layer` is rotated before its ReLU and rotated back after it.

    Where there is no ReLU (z, and the decoder's first layer) the function is the same. Elsewhere
    it is **not**: this copy is there to show it. There BatchNorm is folded into the convolution,
    so that it holds in evaluation mode only.

    Args:
        network: any number of replicas; all are changed alike, as in the other functions.
        layer: a name of `network.layers`.
        rotation: orthogonal U, [C, C] with C = `channels(network, layer)`; P becomes P U.

    Raises:
        InputError: if the layer is unknown or the matrix is not orthogonal.
    """
    result = copy.deepcopy(network)
    site = _site(result, layer)
    u = torch.as_tensor(rotation, dtype=torch.float64)
    identity = torch.eye(site.channels, dtype=u.dtype)
    if u.shape != identity.shape or not torch.allclose(u.T @ u, identity, atol=1e-6):
        raise InputError(
            f"The layer {layer} takes an orthogonal matrix of {site.channels} x {site.channels}."
        )
    if site.affine:  # BatchNorm's scale goes into the convolution; what is left subtracts and adds
        ((scale, _), _), ((mean, _), (variance, _)) = site.affine, site.statistics
        with torch.no_grad():
            factors = scale / (variance + _EPS).sqrt()
            weight, axis = site.makers[0]
            weight.movedim(axis, -1).mul_(factors.view(len(factors), *[1] * 3, -1))
            mean.mul_(factors)
            variance.fill_(1 - _EPS)
            scale.fill_(1)
    _mix([*site.makers, *site.affine[1:], *site.statistics[:1]], u)
    site.undo(u, u)
    return result


def keeps_function(network: Autoencoder, layer: str, transformation: str) -> bool:
    """Whether a transformation of a layer leaves the function as it is (the table above).

    Raises:
        InputError: if the layer is unknown.
    """
    no_relu_follows = not _site(network, layer).affine
    return transformation != "rotated" or no_relu_follows


def random_copy(
    network: Autoencoder, layer: str, transformation: str, seed: int = 0
) -> Autoencoder:
    """A copy by one of TRANSFORMATIONS drawn at random.

    Orders and rotations are uniform over all of them, factors log-uniform from 1/5 to 5.

    Raises:
        InputError: if layer or transformation is unknown.
    """
    if transformation not in TRANSFORMATIONS:
        known = ", ".join(TRANSFORMATIONS)
        raise InputError(f"transformation must be one of {known}, not {transformation}.")
    n, rng = channels(network, layer), np.random.default_rng(seed)
    if transformation == "scaled":
        return scaled(network, layer, 5 ** rng.uniform(-1, 1))
    if transformation == "permuted":
        return permuted(network, layer, rng.permutation(n))
    if transformation == "neuron-rescaled":
        return neuron_rescaled(network, layer, 5 ** rng.uniform(-1, 1, n))
    from scipy.stats import ortho_group  # a slow import, and only this needs it

    return rotated(network, layer, ortho_group.rvs(n, random_state=rng))


def output_difference(one: Autoencoder, other: Autoencoder, x: Tensor) -> float:
    """Largest difference of two networks' outputs for images x, AEU's log-variances included."""
    a, b = forward(one, x), forward(other, x)
    pairs = [(a.mean, b.mean), (a.log_variance, b.log_variance)]
    return max(float((p - q).abs().max()) for p, q in pairs if p is not None and q is not None)


#: A tensor, and its axis along which a layer's neurons lie.
_Part = tuple[Tensor, int]


class _Site(NamedTuple):
    """The weights around one layer's feature."""

    channels: int
    makers: list[_Part]  # weight and bias of the map that gives the feature
    affine: list[_Part]  # BatchNorm's weight and bias; empty where none (and so no ReLU) follows
    statistics: list[_Part]  # BatchNorm's running mean and variance
    reader: _Part  # the weight that reads the feature
    memory: list[_Part]  # MemAE's items, where they stand between

    def undo(self, inverse: Tensor, forth: Tensor) -> None:
        """Have the reader take P M for P: its weights along the inputs times M's inverse transpose.

        `inverse` is the transpose of M's inverse, `forth` is M. Where MemAE's memory reads z, its
        items take the inverse: addressing stays, and the mixture of changed items is changed the
        other way about, which the next layer undoes by M.
        """
        _mix(self.memory, inverse)
        _mix([self.reader], forth if self.memory else inverse)


def _site(network: Autoencoder, layer: str) -> _Site:
    if layer not in network.layers:
        raise InputError(f"layer must be one of {', '.join(network.layers)}, not {layer!r}.")
    inward, outward = list(network.encoder), list(network.decoder)
    to_z, from_z = network.to_latent, network.from_latent
    # Every map after the one before it; those that give a feature, and those that read it.
    convs = [[block.conv for block in blocks] for blocks in (inward, outward)]
    makers = [*convs[0], to_z.narrow, from_z.narrow, *convs[1]]
    readers = [*convs[0][1:], to_z.widen, from_z.widen, *convs[1], network.output]
    norms = [*(block.norm for block in inward), None, None, *(block.norm for block in outward)]
    i, is_latent = network.layers.index(layer), layer == "z"
    maker, norm, reader = makers[i], norms[i], readers[i]
    # The weights of a transposed convolution hold their inputs first.
    outputs = 2 if maker in convs[1] else 1
    inputs = 1 if reader in (*convs[1], network.output) else 2
    bias = getattr(maker, "bias", None)
    # The decoder's first layer fills the map of the encoder's last.
    n = LATENT if is_latent else (norm or inward[-1].norm).weight.shape[1]
    return _Site(
        n,
        [(maker.weight, outputs)] + ([] if bias is None else [(bias, 1)]),
        [] if norm is None else [(norm.weight, 1), (norm.bias, 1)],
        [] if norm is None else [(norm.running_mean, 1), (norm.running_var, 1)],
        (reader.weight, inputs),
        [(network.memory.items, 2)] if is_latent and network.memory is not None else [],
    )


def _mix(parts: Sequence[_Part], matrix: Tensor) -> None:
    """Multiply each by `matrix` from the right along its axis, in place.

    A flattened map lies along an axis as (channel, place); places are left alone.
    """
    for tensor, axis in parts:
        with torch.no_grad():
            split = tensor.unflatten(axis, (len(matrix), -1))
            mixed = (split.movedim(axis, -1) @ matrix.to(tensor)).movedim(-1, axis)
            tensor.copy_(mixed.reshape(tensor.shape))
