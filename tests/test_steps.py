"""Number formats of a training step, and its capture as a CUDA graph."""

import numpy as np
import pytest
import torch

from d2ue.config import TrainConfig
from d2ue.ensemble import forward
from d2ue.steps import MOST_REPLICAS, captured, fitting_replicas, precision, replica_bytes
from d2ue.training import (
    LearnerTask,
    initial_network,
    learner_name,
    reconstruction_loss,
    train_ensemble,
    train_ensembles,
    train_learners,
)

CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")


def weights(network) -> torch.Tensor:
    """All parameters and statistics, one after another."""
    return torch.cat([v.flatten().double().cpu() for v in network.state_dict().values()])


def test_tf32_is_refused_where_there_is_none(refused, draw_set):
    with refused("tf32 is for CUDA"), precision("tf32", CPU):
        pass
    with refused("tf32 is for CUDA"):
        train_ensemble(
            TrainConfig(precision="tf32", epochs=1, batch_size=8, image_size=16),
            draw_set(8, 16),
            device="cpu",
            progress=False,
        )


def test_unknown_formats_are_refused(refused):
    with refused("precision"):
        TrainConfig(precision="float16")


def test_bf16_rounds_products_and_float32_does_not():
    x = torch.tensor([[1 + 2.0**-12]])
    with precision("bf16", CPU):
        rounded = x @ x
    with precision("float32", CPU):
        exact = x @ x
    assert rounded.dtype == torch.bfloat16 and rounded.item() == 1
    assert exact.item() == 1 + 2.0**-11  # the last bit of the square is beyond float32
    assert not torch.is_autocast_enabled("cpu")


def test_scores_are_float32_whatever_the_caller_chose():
    network = LearnerTask(TrainConfig(image_size=16), 1)
    learner = initial_network(network).eval()
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = forward(learner, x).mean
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(forward(learner, x).mean, plain)


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_bf16_trains_as_float32_does_but_for_rounding(backbone, draw_images):
    images = draw_images(16, 16)
    base = TrainConfig(backbone=backbone, epochs=3, batch_size=8, image_size=16)
    losses = {}
    for name in ("float32", "bf16"):
        task = LearnerTask(base.replace(precision=name), 1)
        network, history = train_learners([task], images)
        losses[name] = np.array([epoch["loss"][0] for epoch in history])
        assert network.output.weight.dtype == torch.float32
    difference = np.abs(losses["bf16"] - losses["float32"]).max()
    assert difference < 0.02 * losses["float32"][0]  # bf16 has 8 bits
    assert not np.array_equal(losses["bf16"], losses["float32"])


def test_other_formats_have_other_names_and_float32_keeps_its_own():
    names = {learner_name(TrainConfig(precision=p), 1, "x") for p in ("float32", "tf32", "bf16")}
    assert len(names) == 3
    assert learner_name(TrainConfig(), 1, "x") == learner_name(
        TrainConfig(precision="float32"), 1, "x"
    )


def test_formats_do_not_stack():
    one, other = LearnerTask(TrainConfig(), 1), LearnerTask(TrainConfig(precision="bf16"), 1)
    assert not one.stackable_with(other)


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_what_a_replica_takes_is_enough_and_not_many_times_too_much(backbone, draw_images):
    """Against every allocation of one real step, gradients included, beside Adam's two moments."""
    config = TrainConfig(backbone=backbone, batch_size=32)
    network = initial_network(LearnerTask(config, 1)).train()
    weights = sum(p.nbytes for p in network.parameters())
    x = torch.as_tensor(draw_images(32, 64)).unsqueeze(0) / 127.5 - 1
    with torch.profiler.profile(profile_memory=True) as profile:
        reconstruction_loss(backbone, network(x), x).sum().backward()
    events = profile.profiler.kineto_results.events()
    held = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    taken = held.max() + 3 * weights
    assert taken < replica_bytes(config) < 2 * taken


def test_replicas_fill_half_the_memory():
    config = TrainConfig()
    one = replica_bytes(config)
    assert fitting_replicas(20 * one, config) == 10
    assert fitting_replicas(20 * one, config, senior_bytes=one) == 5
    assert fitting_replicas(one, config) == 1  # fewer cannot be tried
    assert fitting_replicas(10_000 * one, config) == MOST_REPLICAS


@on_gpu
def test_groups_that_do_not_fit_are_halved_on_a_gpu(draw_set):
    """Memory for some five replicas, and sixteen asked for."""
    configs = [TrainConfig(n_learners=1, epochs=1, batch_size=16, seed=s) for s in range(16)]
    data = draw_set(16, 64)
    plain = train_ensembles(configs, data, device="cuda", replicas=1, progress=False)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((5 * 2 * replica_bytes(configs[0])) / total)
    try:
        halved = train_ensembles(configs, data, device="cuda", replicas=16, progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for one, other in zip(plain, halved, strict=True):
        assert (weights(one.network) - weights(other.network)).abs().max() < 1e-4


@on_gpu
@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_captured_steps_are_the_eager_ones(backbone, draw_images):
    images = draw_images(40, 64)
    tasks = []
    for seed in (1, 2, 3):
        config = TrainConfig(backbone=backbone, epochs=10, batch_size=16, seed=seed)
        seniors = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(seed))
        tasks.append(LearnerTask(config, 2, seniors))
    captured_, _ = train_learners(tasks, images, device="cuda")
    eager, _ = train_learners(tasks, images, device="cuda", capture=False)
    assert (weights(captured_) - weights(eager)).abs().max() < 1e-4  # after 20 steps


@on_gpu
def test_replicas_on_a_gpu_are_single_runs(draw_images):
    images = draw_images(40, 64)
    tasks = [LearnerTask(TrainConfig(epochs=10, batch_size=16, seed=s), 1) for s in range(4)]
    together, _ = train_learners(tasks, images, device="cuda")
    for i, task in enumerate(tasks):
        alone, _ = train_learners([task], images, device="cuda")
        assert (weights(together.replica(i)) - weights(alone)).abs().max() < 1e-4


@on_gpu
def test_what_cannot_be_captured_runs_as_it_is_and_starts_where_it_was():
    total = torch.zeros(1, device="cuda")

    def step() -> None:
        total.add_(1)
        total.item()  # a look at the host, which no graph can hold

    with pytest.warns(RuntimeWarning, match="could not be captured"):
        launch = captured(step, lambda: {"total": total})
    assert total.item() == 0
    launch()
    assert total.item() == 1


@on_gpu
def test_capturing_leaves_no_trace():
    total, made = torch.zeros(1, device="cuda"), {}

    def step() -> None:
        total.add_(1)
        made.setdefault("moment", torch.zeros(1, device="cuda")).add_(2)

    launch = captured(step, lambda: {"total": total, **made})
    assert total.item() == 0 and made["moment"].item() == 0
    launch()
    launch()
    assert total.item() == 2 and made["moment"].item() == 4
