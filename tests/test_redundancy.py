"""The measurements of the lesson on redundancy, and that its pictures hold what was measured."""

import copy

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from d2ue import image_scores
from d2ue.lessons import redundancy
from d2ue.lessons import redundancy_pictures as pictures
from d2ue.lessons.equivalent import TRANSFORMATIONS, neuron_rescaled
from d2ue.similarity import SIMILARITIES, euclidean, linear_cka, manhattan


@pytest.fixture(autouse=True)
def drawn_and_closed():
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


@pytest.fixture(scope="module")
def x(draw_images):
    return torch.from_numpy(draw_images(24, seed=9)).double() / 127.5 - 1


@pytest.fixture(scope="module")
def pair(trained):
    return copy.deepcopy(trained().first(2).network).double()


@pytest.fixture(scope="module")
def learner(pair):
    return pair.replica(0)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def feature(network, x, layer="z"):
    return network(x.expand(network.replicas, *x.shape), layer).feature[0].detach()


def test_survival_finds_what_is_expected(learner, x):
    table = redundancy.survival({"AE": learner}, x[:4])
    assert len(table) == len(learner.layers) * len(TRANSFORMATIONS)
    assert ((table["difference"] < 1e-10) == table["expected"]).all()
    assert set(table.loc[~table["expected"], "layer"]) == {"en1", "en2", "de1"}
    axis = pictures.survival(table).axes[0]
    drawn = np.asarray(axis.collections[0].get_array()).reshape(len(learner.layers), -1)
    value = table.query("layer == 'en1' and transformation == 'rotated'")["difference"].item()
    assert drawn[0, 3] == pytest.approx(np.log10(value))


def test_similarity_to_copies_is_one_for_the_feature_itself(learner, x):
    table = redundancy.similarity_to_copies(learner, x, draws=3)
    assert len(table) == len(SIMILARITIES) * (1 + 3 * len(TRANSFORMATIONS))
    values = table.groupby(["transformation", "similarity"])["value"]
    for name in SIMILARITIES:
        assert values.mean()["identical", name] == pytest.approx(float(name != "none"))
    for name in ("scaled", "permuted", "rotated"):
        assert values.min()[name, "cka"] == pytest.approx(1)
    assert values.std()["rotated", "cosine"] > 0  # every draw is another copy
    cells = [text.get_text() for text in pictures.fooled(table).axes[0].texts]
    assert len(cells) == 5 * 6 and cells[0] == "1.00"


def test_a_louder_neuron_is_what_the_rescaled_copy_has(learner, x):
    for layer, neurons in (("z", 16), ("en2", 32)):
        values = redundancy.rescaled_neurons(learner, x, layer, [1.0, 7.0])
        assert values.shape == (neurons, 2)
        assert values[:, 0] == pytest.approx(np.ones(neurons))
        louder = torch.ones(neurons)
        louder[3] = 7
        p, q = (feature(f, x, layer) for f in (learner, neuron_rescaled(learner, layer, louder)))
        assert values[3, 1] == pytest.approx(linear_cka(p, q).item(), rel=1e-9)


def test_bias_is_measured_for_every_size():
    table = redundancy.bias((32, 64), (4, 256), draws=30)
    means = table.groupby(["batch", "width"])[["cka", "debiased-cka", "expected"]].mean()
    assert len(means) == 4 and len(table) == 120
    assert (means["cka"] - means["expected"]).abs().max() < 0.03
    assert means["debiased-cka"].abs().max() < 0.05
    left, right = pictures.bias(table).axes
    assert left.get_ylim() == right.get_ylim()


def test_bias_by_layer_tells_same_images_from_unrelated_ones(pair, x):
    table = redundancy.bias_by_layer(pair, x, batch=8, draws=4)
    assert len(table) == len(pair.layers) * 2 * 4
    z = table[(table["layer"] == "z") & (table["draw"] == 0)].set_index("images")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    p, q = pair(x.expand(2, *x.shape), "z").feature
    for images, index in (("same", order[:8]), ("unrelated", order[8:16])):
        assert z.loc[images, "cka"] == pytest.approx(linear_cka(p[order[:8]], q[index]).item())
    assert set(table["width"]) == {16, 512, 1024}
    pictures.bias_by_layer(table)


def test_readings_by_hand():
    """p = (3, 4), (0, 0), (0, 0) and q = 0: the distances that each reading takes."""
    p, q = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]), torch.zeros(3, 2)
    expected = {
        "image by image": ((np.exp(-5) + 2) / 3, (np.exp(-7) + 2) / 3),
        "neuron by neuron": ((np.exp(-3) + np.exp(-4)) / 2,) * 2,
        "whole batch": (np.exp(-5), np.exp(-7)),
        "mean difference": (np.exp(-5 / 6**0.5), np.exp(-7 / 6)),
    }
    assert expected.keys() == redundancy.READINGS.keys()
    for reading, values in expected.items():
        shape = redundancy.READINGS[reading]
        for similarity, power, value in zip((euclidean, manhattan), (2, 1), values, strict=True):
            found = similarity(shape(p, power), shape(q, power)).item()
            assert found == pytest.approx(value, rel=1e-5), (reading, power)


def test_start_gradients_are_those_of_finite_differences(learner, x, tiny):
    """The norm of CKA's gradient, from the change of its value along that gradient."""
    config = tiny(batch_size=12)
    table = redundancy.start_gradients(learner, x, config, draws=1).set_index("similarity")
    assert table.loc["none", "gradient"] == 0 and table.loc["none", "ratio"] == 0
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:12]
    network = redundancy.initial_network(redundancy.LearnerTask(config, 2)).double().train()
    p = feature(learner, x[order])

    def value():
        return linear_cka(p, network(x[order][None], "z").feature[0])

    weights = [w for w in network.parameters()]
    gradient = torch.autograd.grad(value(), weights, allow_unused=True)
    norm = sum(g.square().sum() for g in gradient if g is not None).sqrt()
    before, step = value().item(), 1e-6
    with torch.no_grad():
        for w, g in zip(weights, gradient, strict=True):
            if g is not None:
                w += step * g / norm
    assert (value().item() - before) / step == pytest.approx(table.loc["cka", "gradient"], rel=1e-3)
    assert table.loc["cka", "value"] == pytest.approx(before)

    # Which readings there are, and that each similarity is read with its own power.
    read = {name: set(of) for name, of in table["reading"].groupby(level=0)}
    whole, scale_free = set(redundancy.READINGS), {"cosine", "pearson"}
    assert read["euclidean"] == read["manhattan"] == whole
    assert all(read[name] == whole - {"mean difference"} for name in scale_free)
    assert all(
        read[name] == {"as defined"}
        for name in read.keys() - scale_free - {"euclidean", "manhattan"}
    )
    fresh = redundancy.initial_network(redundancy.LearnerTask(config, 2)).double().train()
    apart = (p - fresh(x[order][None], "z").feature[0].detach()).abs()
    mean = table[table["reading"] == "mean difference"]["value"]
    assert mean["manhattan"] == pytest.approx(np.exp(-apart.mean().item()))
    assert mean["euclidean"] == pytest.approx(np.exp(-apart.square().mean().sqrt().item()))


def test_a_distance_summed_over_the_batch_underflows(learner, x, tiny):
    """method.md: it then is `none`. In float32, as in training."""
    senior = neuron_rescaled(learner, "z", [20.0] * 16).float()
    table = redundancy.start_gradients(senior, x.float(), tiny(batch_size=24), draws=1)
    ratio = table.set_index(["similarity", "reading"])["ratio"]
    assert ratio["manhattan", "whole batch"] == 0
    assert ratio["manhattan", "mean difference"] > 0 and ratio["cka", "as defined"] > 0
    pictures.start_gradients({"z": table})


def test_the_picture_of_copies_holds_their_features_and_differences(learner, x):
    made = redundancy.copies(learner)
    figure, differences = pictures.copies(made, x[:3])
    bars = [patch.get_height() for patch in figure.axes[1].patches]
    np.testing.assert_allclose(bars, feature(learner, x[:1])[0])
    assert list(made) == ["learner", *TRANSFORMATIONS, "rotated before ReLU"]
    assert list(differences) == list(made)[1:]
    assert all((d < 1e-10) == (name in TRANSFORMATIONS) for name, d in differences.items())
    for axis, difference in zip(figure.axes[-5:], differences.values(), strict=True):
        assert f"{difference:.0e}" in axis.get_xlabel()


def test_a_redundant_pair_has_no_uncertainty(learner, pair, trained, draw_images):
    config, images = trained().config, draw_images(8)
    same = redundancy.pair_of(learner, redundancy.copies(learner)["rotated"], config)
    apart = redundancy.pair_of(learner, pair.replica(1), config)
    for method in ("output", "dual"):
        ratio = image_scores(same, images, method) / image_scores(apart, images, method)
        assert ratio.max() < 1e-4
    assert learner.output.weight.dtype == torch.float64  # left as it was


def test_what_fools_whom(learner, x):
    table = redundancy.similarity_to_copies(learner, x, draws=2)
    found = redundancy.fooled_by(table)
    assert found["cka"] == found["debiased-cka"] == ["neuron-rescaled"]
    assert found["euclidean"] == found["manhattan"] == list(TRANSFORMATIONS)
    assert found["cosine"] == found["pearson"] == list(TRANSFORMATIONS)[1:]


def test_the_picture_of_neurons_holds_what_was_given():
    curves = np.array([[1, 0.5], [1, 0.7], [1, 0.8]])
    (axis,) = pictures.rescaled_neurons({"z": curves}, [1, 10]).axes
    assert list(axis.lines[3].get_ydata()) == [1, 0.7]
