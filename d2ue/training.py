"""One training loop: learners side by side, each as if alone (losses: d2ue.losses).

The first learner of an ensemble is trained on reconstruction alone; every later one is also
pushed away from the features of its seniors. Seniors are frozen, in evaluation mode, and nothing
augments the images, so a senior's feature of a training image never changes: it is computed once
for every image and looked up by index. That is exact, and makes the cost of an ensemble linear in
its learners.

Randomness comes from (seed, learner number, epoch) alone, drawn on the CPU whatever the device:
initial weights and shuffles are the same for every lambda, metric and layer, and a training that
was stopped needs no random state to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from d2ue.backbones import Autoencoder, Reconstruction, as_tensor, stack, to_unit_range
from d2ue.config import TrainConfig
from d2ue.errors import InputError
from d2ue.fast import cpu
from d2ue.fast.steps import captured, half_products, precision
from d2ue.losses import reconstruction_loss, repulsion_loss, total_loss
from d2ue.similarity import SIMILARITIES, Similarity


@dataclass(frozen=True)
class LearnerTask:
    """One learner to train.

    Attributes:
        config: the ensemble's settings.
        number: 1 for the first learner, up to config.n_learners.
        seniors: features of learners 1 ... number-1 over the training set in its order,
            [number-1, n, d]; None where nothing is repelled.
    """

    config: TrainConfig
    number: int
    seniors: Tensor | None = None

    @property
    def stream(self) -> tuple[int, int]:
        """What all of this learner's randomness derives from."""
        return self.config.seed, self.number

    def stackable_with(self, other: LearnerTask) -> bool:
        """Whether both can be replicas of one network in one training loop."""
        return self._shape() == other._shape()

    def _shape(self) -> tuple[object, ...]:
        senior_shape = None if self.seniors is None else self.seniors.shape
        return shared_settings(self.config, self.seniors is not None), senior_shape


def shared_settings(config: TrainConfig, repelled: bool) -> TrainConfig:
    """What replicas have in common: all but seed, metric, lambda and number of learners."""
    per_replica = {"seed": 0, "similarity": "none", "repulsion_weight": 0.0, "n_learners": 1}
    return config.replace(**per_replica, layer=config.layer if repelled else "z")


@dataclass
class TrainState:
    """All that a training loop needs to go on after `epoch` epochs, replicas stacked.

    Attributes:
        epoch: epochs finished.
        tensors: weights and BatchNorm statistics ("network.*") and Adam's moments ("adam.*").
        history: one dict an epoch: lists over replicas of "loss" (L_orig) and "similarity" (L_sim).
        threads: torch's CPU threads, with which the training goes on to end in the same bits;
            0 = not known.
    """

    epoch: int
    tensors: dict[str, Tensor]
    history: list[dict[str, list[float]]] = field(default_factory=list)
    threads: int = 0


def initial_network(task: LearnerTask) -> Autoencoder:
    """The untrained learner: weights drawn on the CPU from its own stream, R = 1."""
    c = task.config
    generator = torch.Generator().manual_seed(_entropy(*task.stream, 0))
    return Autoencoder(c.backbone, 1, c.image_size, c.memory_slots, c.shrinkage, generator)


def shuffle(n: int, stream: tuple[int, int], epoch: int) -> Tensor:
    """The order of n images in one epoch, drawn from (seed, learner number, epoch); int64 (n,)."""
    generator = torch.Generator().manual_seed(_entropy(*stream, 1 + epoch))
    return torch.randperm(n, generator=generator)


def train_learners(
    tasks: Sequence[LearnerTask],
    images: np.ndarray | Tensor,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    state: TrainState | None = None,
    save: Callable[[TrainState], None] | None = None,
    on_epoch: Callable[[int, dict[str, list[float]]], None] | None = None,
    capture: bool = True,
) -> tuple[Autoencoder, list[dict[str, list[float]]]]:
    """Train learners side by side, each as if alone.

    Args:
        tasks: the learners; they may differ in seed, number, similarity and lambda.
        images: uint8 [n, 1, H, W].
        device: where to train.
        dtype: float32, or float64 for tests of exactness.
        state: of the same tasks, to go on from; None starts anew.
        save: called after every epoch but the last with the state; may decline to keep it.
        on_epoch: called after every epoch with its number (from 0) and its entry of the history.
        capture: on CUDA, whether to run each step as one CUDA graph; it computes the same.

    Returns:
        The trained networks as replicas of one (evaluation mode, in the tasks' order), and the
        history: per epoch the mean of "loss" (L_orig) and "similarity" (L_sim), a list over tasks.
        A replica whose loss stopped being finite leaves the others alone; when none is finite
        any more, training stops early.

    Raises:
        InputError: if tasks cannot be stacked, there are fewer images than one batch, or the
            device has not the settings' precision.
    """
    config = tasks[0].config
    if not all(tasks[0].stackable_with(task) for task in tasks):
        raise InputError("Learners that train together must share all but seed, metric and lambda.")
    n, batch_size = len(images), config.batch_size
    check_enough(n, batch_size)
    device = torch.device(device)
    if device.type == "cpu":
        cpu.keep_freed_memory()
    network = stack([initial_network(task) for task in tasks]).to(device, dtype).train()
    on_gpu = device.type == "cuda"
    betas = (config.beta1, config.beta2)
    adam = torch.optim.Adam(
        network.parameters(), lr=config.lr, betas=betas, fused=True, capturable=on_gpu
    )
    history: list[dict[str, list[float]]] = []
    if state is not None:
        _restore(state, network, adam)
        history = list(state.history)

    pixels = as_tensor(images).to(device)
    objective = _Objective(tasks, device, dtype)
    rows = torch.arange(len(tasks), device=device).unsqueeze(1)
    index = torch.zeros(len(tasks), batch_size, dtype=torch.int64, device=device)
    wide = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
    sums = torch.zeros(2, len(tasks), dtype=wide, device=device)

    def step() -> None:
        """One step on the images at `index`; nothing in it waits for the device."""
        with precision(config.precision, device):
            l_orig, l_sim = objective(network, to_unit_range(pixels[index], dtype), rows, index)
            adam.zero_grad(set_to_none=True)
            # Summed, not averaged: a replica's gradient must not depend on how many there are.
            total_loss(l_orig, l_sim, objective.weights).sum().backward()
            adam.step()
        sums.add_(torch.stack([l_orig.detach(), l_sim.detach()]))

    def changed() -> dict[str, Tensor]:
        return {**_state_tensors(network, adam), "sums": sums}

    launch = captured(step, changed, device) if on_gpu and capture else step
    steps = n // batch_size

    def orders(epoch: int) -> Tensor:
        return torch.stack([shuffle(n, task.stream, epoch) for task in tasks])

    following = orders(len(history))
    for epoch in range(len(history), config.epochs):
        order = following.to(device)
        sums.zero_()
        for i in range(steps):
            index.copy_(order[:, i * batch_size : (i + 1) * batch_size])
            launch()
        following = orders(epoch + 1)  # while a GPU is still at work
        loss, similarity = (sums / steps).tolist()  # the one look at the device in an epoch
        history.append({"loss": loss, "similarity": similarity})
        if on_epoch:
            on_epoch(epoch, history[-1])
        if not any(math.isfinite(value) for value in loss):
            break
        if save and epoch + 1 < config.epochs:
            tensors = _state_tensors(network, adam)
            save(TrainState(epoch + 1, tensors, list(history), torch.get_num_threads()))
    return network.eval(), history


class _Objective:
    """L_orig and L_sim of every replica; holds what is fixed over a training."""

    def __init__(
        self, tasks: Sequence[LearnerTask], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config = tasks[0].config
        weights = [t.config.repulsion_weight if t.seniors is not None else 0.0 for t in tasks]
        self.weights = torch.tensor(weights, device=device, dtype=dtype)
        self.seniors: Tensor | None = None
        self.metrics: list[tuple[Similarity, Tensor]] = []
        if tasks[0].seniors is not None:
            # One after another: seniors of wide layers take gigabytes.
            shape = len(tasks), *tasks[0].seniors.shape
            self.seniors = torch.empty(shape, device=device, dtype=dtype)
            for place, task in zip(self.seniors, tasks, strict=True):
                assert task.seniors is not None
                place.copy_(task.seniors)
            names = [t.config.similarity for t in tasks]
            for name in dict.fromkeys(names):
                which = [i for i, other in enumerate(names) if other == name]
                self.metrics.append((SIMILARITIES[name], torch.tensor(which, device=device)))

    def __call__(
        self, network: Autoencoder, x: Tensor, rows: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both losses, each [R], for images x [R, B, 1, H, W] standing at `index` [R, B]."""
        c = self.config
        with half_products(c.precision, x.device):
            output = network(x, c.layer if self.seniors is not None else None)
        parts = (None if part is None else part.to(x.dtype) for part in output)
        output = Reconstruction(*parts)  # type: ignore[arg-type]
        l_orig = reconstruction_loss(c.backbone, output, x, c.entropy_weight)
        if self.seniors is None or output.feature is None:
            return l_orig, torch.zeros_like(l_orig)
        p = self.seniors[rows, :, index].transpose(1, 2)  # [R, B, n-1, d] -> [R, n-1, B, d]
        if len(self.metrics) == 1:  # nothing is picked out, and so nothing copied
            return l_orig, repulsion_loss(p, output.feature, self.metrics[0][0])
        l_sim = torch.zeros_like(l_orig)
        for metric, which in self.metrics:
            value = repulsion_loss(p[which], output.feature[which], metric)
            l_sim = l_sim.index_copy(0, which, value)
        return l_orig, l_sim


def check_enough(n: int, batch_size: int) -> None:
    """Refuse fewer images than one batch."""
    if n < batch_size:
        raise InputError(
            f"There are {n} training images, fewer than one batch of {batch_size}: "
            "add images or lower the batch size."
        )


def _entropy(*key: int) -> int:
    """A 63-bit seed that depends on every part of `key`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _state_tensors(network: Autoencoder, adam: torch.optim.Adam) -> dict[str, Tensor]:
    """Weights, statistics and Adam's moments under names; no copies are made."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in adam.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = value
    return tensors


def _restore(state: TrainState, network: Autoencoder, adam: torch.optim.Adam) -> None:
    """Put a state's tensors where `_state_tensors` took them from."""
    prefix = "network."
    moments = ("step", "exp_avg", "exp_avg_sq")
    expected = {f"{prefix}{k}": (v.shape, v.dtype) for k, v in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        expected[f"adam.step.{name}"] = torch.Size(()), torch.float32
        for key in moments[1:]:
            expected[f"adam.{key}.{name}"] = parameter.shape, parameter.dtype
    if {key: (value.shape, value.dtype) for key, value in state.tensors.items()} != expected:
        raise InputError(
            "The state in which this training was left belongs to another network: remove the "
            "folder 'states' of the store to start the learner anew."
        )
    network.load_state_dict(
        {k[len(prefix) :]: v for k, v in state.tensors.items() if k.startswith(prefix)}
    )
    for name, parameter in network.named_parameters():
        for key in moments:
            value = state.tensors[f"adam.{key}.{name}"]
            # Fused Adam keeps its step count beside the weights.
            adam.state[parameter][key] = value.to(parameter.device).clone()
