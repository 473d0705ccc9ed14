"""Copies that compute the same function, and the rotation that does not."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from d2ue.lessons.equivalent import (
    TRANSFORMATIONS,
    channels,
    keeps_function,
    neuron_rescaled,
    output_difference,
    permuted,
    random_copy,
    rotated,
    scaled,
)

BACKBONES = ("ae", "memae", "aeu")
LAYERS = ("en1", "en2", "z", "de2", "de1")  # of the smallest network, 16 x 16
LINEAR = ("z", "de2")  # no ReLU follows
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_layer = pytest.mark.parametrize("layer", LAYERS)


@pytest.fixture(scope="module")
def learners(trained):
    """A trained learner in float64; BatchNorm's weights and statistics are not at their start.

    MemAE's memory is made to matter: as trained for so short a time its mixture hardly varies.
    """

    def get(backbone, replicas=1):
        network = copy.deepcopy(trained(backbone).first(replicas).network).double()
        if network.memory is not None:
            network.memory.items *= 8
        return network

    return get


@pytest.fixture(scope="module")
def x(draw_images):
    return torch.from_numpy(draw_images(12, seed=5)).double() / 127.5 - 1


def feature(network, x, layer, neurons):
    """[R, B, d], split into (neurons, places)."""
    value = network(x.expand(network.replicas, *x.shape), layer).feature
    return value.unflatten(-1, (neurons, -1))


@every_backbone
@every_layer
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_the_function_survives_where_the_table_says_so(
    learners, x, backbone, layer, transformation
):
    network = learners(backbone, replicas=2)  # both are changed alike
    changed = random_copy(network, layer, transformation, seed=3)
    difference = output_difference(network, changed, x)
    survives = transformation != "rotated" or layer in LINEAR
    assert keeps_function(network, layer, transformation) is survives
    if survives:
        assert difference < 1e-10
    else:
        assert difference > 1e-3
    n = channels(network, layer)
    assert (feature(network, x, layer, n) - feature(changed, x, layer, n)).abs().max() > 1e-2


@every_backbone
@every_layer
def test_the_feature_changes_as_it_should(learners, x, backbone, layer):
    network = learners(backbone)
    n = channels(network, layer)
    before = feature(network, x, layer, n)
    factors = torch.linspace(0.5, 3, n, dtype=torch.float64)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    assert before.abs().amax((0, 1, 3)).min() > 0, "no dead neuron, whose change would not be seen"
    for after, expected in (
        (scaled(network, layer, 2.5), 2.5 * before),
        (neuron_rescaled(network, layer, factors), before * factors[:, None]),
        (permuted(network, layer, order), before[..., order, :]),
    ):
        torch.testing.assert_close(feature(after, x, layer, n), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", LINEAR)
def test_a_linear_feature_is_rotated(learners, x, layer):
    network = learners("ae")
    n = channels(network, layer)
    u = torch.from_numpy(ortho_group.rvs(n, random_state=0))
    before, after = (feature(f, x, layer, n) for f in (network, rotated(network, layer, u)))
    expected = torch.einsum("rbip,ij->rbjp", before, u)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", ["en1", "en2", "de1"])
def test_before_a_relu_what_is_rotated_is_what_the_relu_sees(learners, x, layer):
    """With the ReLUs taken out the rotated copy is the learner's equal: only the ReLU breaks it."""
    network = learners("ae")
    u = ortho_group.rvs(channels(network, layer), random_state=0)
    changed = rotated(network, layer, u)
    assert output_difference(network, changed, x) > 1e-3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.relu", lambda value: value)
        assert output_difference(network, changed, x) < 1e-10


@every_backbone
@every_layer
@pytest.mark.parametrize("transformation", ["scaled", "permuted", "neuron-rescaled"])
def test_copies_are_equal_in_training_mode_too(learners, x, backbone, layer, transformation):
    """There BatchNorm takes the batch's statistics, and moves its running ones."""
    network = learners(backbone).train()
    changed = random_copy(network, layer, transformation, seed=1)
    assert changed.training
    for _ in range(3):
        assert output_difference(network, changed, x) < 1e-10
    assert output_difference(network.eval(), changed.eval(), x) < 1e-10


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_the_original_is_left_alone(learners, equal_tensors, transformation):
    network = learners("memae")
    before = copy.deepcopy(network)
    for layer in LAYERS:
        random_copy(network, layer, transformation)
    equal_tensors(before, network)


def test_scaling_back_and_ordering_back_give_the_learner_again(learners, equal_tensors):
    network = learners("aeu")
    order = torch.randperm(channels(network, "en2"), generator=torch.Generator().manual_seed(0))
    there = permuted(network, "en2", order)
    equal_tensors(network, permuted(there, "en2", order.argsort()))
    equal_tensors(network, scaled(scaled(network, "de1", 4.0), "de1", 0.25))  # exact powers of 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n: scaled(n, "en9", 2.0), ("en9", "en1")),
        (lambda n: scaled(n, "z", -1.0), ("positive",)),
        (lambda n: neuron_rescaled(n, "z", [1.0, float("inf")] * 8), ("finite",)),
        (lambda n: neuron_rescaled(n, "z", [1.0, 2.0]), ("16",)),
        (lambda n: permuted(n, "z", [0] * 16), ("0 to 15",)),
        (lambda n: rotated(n, "z", 2 * np.eye(16)), ("orthogonal", "16 x 16")),
        (lambda n: random_copy(n, "z", "sheared"), ("sheared", "rotated")),
    ],
)
def test_what_cannot_be_done_is_refused(learners, refused, call, words):
    with refused(*words):
        call(learners("ae"))
