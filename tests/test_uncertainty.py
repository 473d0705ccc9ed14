"""Eq. (5), Eq. (6) and the ensemble score: by hand, against literal loops, and as promised."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ue.config import METHODS, ScoreConfig
from d2ue.ensemble import Ensemble
from d2ue.uncertainty import (
    deviation,
    dual_map,
    ensemble_map,
    image_score,
    image_scores,
    input_gradients,
    input_map,
    output_map,
    reconstruction_error,
    score_batch,
    score_maps,
)

each_backbone = pytest.mark.parametrize("backbone", ("ae", "memae", "aeu"))
FLOAT64 = torch.float64
# (backbone, L): every gradient that Eq. (6) can be asked for
GRADIENTS = [
    ("ae", "l1"), ("ae", "mse"), ("memae", "l1"), ("memae", "mse"),
    ("aeu", "weighted-mse"), ("aeu", "nll"),
]  # fmt: skip
DEFAULT_ERROR = {"ae": "l1", "memae": "l1", "aeu": "weighted-mse"}


def pixel(*values: float) -> torch.Tensor:
    """One value a learner: [N, 1, 1, 1, 1]."""
    return torch.tensor(values, dtype=FLOAT64).reshape(-1, 1, 1, 1, 1)


@pytest.fixture
def in_float64(trained):
    """A trained ensemble with its weights in float64."""

    def convert(backbone: str) -> Ensemble:
        ensemble = trained(backbone).first(3)
        ensemble.network.double()
        return ensemble

    return convert


@pytest.fixture
def plain_learners(plain_learner, in_float64):
    """The same learners, one by one, in PyTorch's own layers, evaluation mode."""

    def convert(backbone: str) -> list:
        network = in_float64(backbone).network
        with torch.no_grad():
            learners = [plain_learner(backbone, 16).double().take(network, i) for i in range(3)]
        return [learner.eval() for learner in learners]

    return convert


def scaled(images: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(images).double() / 127.5 - 1


def literal_error(outputs: torch.Tensor, x: torch.Tensor, error: str) -> torch.Tensor:
    """L of one image [1, 1, H, W] from one learner's outputs."""
    mean = outputs[:, :1]
    if error == "l1":
        return (mean - x).abs().mean()
    if error == "mse":
        return ((mean - x) ** 2).mean()
    s = outputs[:, 1:]
    weighted = torch.exp(-s) * (mean - x) ** 2
    return weighted.mean() if error == "weighted-mse" else (weighted + s).mean()


def literal_parts(learners, x: torch.Tensor, error: str):
    """f, s and grad_X L, [N, B, 1, H, W], image by image and learner by learner."""
    means, variances, gradients = [], [], []
    for learner, image in itertools.product(learners, x):
        own = image[None].clone().requires_grad_(True)
        outputs = learner(own)
        literal_error(outputs, own, error).backward()
        means.append(outputs[0, :1].detach())
        variances.append(outputs[0, 1:].detach())
        gradients.append(own.grad[0])

    def per_learner(values):
        return torch.stack(values).unflatten(0, (len(learners), len(x)))

    s = per_learner(variances) if variances[0].numel() else None
    return per_learner(means), s, per_learner(gradients)


def literal_map(method: str, x, f, s, gradients) -> torch.Tensor:
    """The score map as the formulas are written; each is checked by hand below."""
    variance = torch.ones(()) if s is None else torch.exp(s).mean(0)
    return {
        "ensemble": lambda: (x - f.mean(0)) ** 2 / variance,
        "output": lambda: f.std(0) / variance.sqrt(),
        "dual": lambda: (gradients * (f - x).abs() / variance.sqrt()).std(0),
        "input": lambda: gradients.std(0),
    }[method]()


# --- by hand: one pixel, two learners ---


def test_deviation_is_bessel_corrected():
    """(1, 3): mean 2, squares 1 + 1, divided by 2 - 1; (1, 2, 6): 4 + 1 + 9 divided by 3 - 1."""
    assert deviation(pixel(1, 3)).item() == pytest.approx(math.sqrt(2))
    assert deviation(pixel(1, 2, 6)).item() == pytest.approx(math.sqrt(7))


def test_ensemble_map_by_hand():
    """X = 1, f = 3, 5: (1 - 4)² = 9; with exp(s) = 1, 2: 9 / 1.5."""
    x, f = pixel(1)[0], pixel(3, 5)
    assert ensemble_map(x, f).item() == 9
    assert ensemble_map(x, f, pixel(0, math.log(2))).item() == pytest.approx(6)


def test_output_map_by_hand():
    """f = 3, 5: std sqrt(2); with exp(s) = 1, 2: sqrt(2 / 1.5)."""
    f = pixel(3, 5)
    assert output_map(f).item() == pytest.approx(math.sqrt(2))
    assert output_map(f, pixel(0, math.log(2))).item() == pytest.approx(math.sqrt(2 / 1.5))


def test_dual_map_by_hand():
    """X = 1, f = 3, -2, gradients -1, 2: products -1 · 2 = -2 and 2 · 3 = 6, std 8 / sqrt(2).

    With exp(s) = 1, 3, mean 2: products divided by sqrt(2). Input only: std(-1, 2) = 3 / sqrt(2).
    """
    x, f, gradients = pixel(1)[0], pixel(3, -2), pixel(-1, 2)
    assert dual_map(x, f, gradients).item() == pytest.approx(8 / math.sqrt(2))
    assert dual_map(x, f, gradients, pixel(0, math.log(3))).item() == pytest.approx(8 / 2)
    assert input_map(gradients).item() == pytest.approx(3 / math.sqrt(2))


def test_errors_by_hand():
    """X = (1, 2), f = (3, 1), s = (0, ln 2): residuals 2, -1."""
    x = torch.tensor([1.0, 2.0], dtype=FLOAT64).reshape(1, 1, 1, 2)
    f = torch.tensor([3.0, 1.0], dtype=FLOAT64).reshape(1, 1, 1, 1, 2)
    s = torch.tensor([0.0, math.log(2)], dtype=FLOAT64).reshape(1, 1, 1, 1, 2)
    expected = {
        "l1": (2 + 1) / 2,
        "mse": (4 + 1) / 2,
        "weighted-mse": (4 + 1 / 2) / 2,
        "nll": (4 + 1 / 2 + math.log(2)) / 2,
    }
    for error, value in expected.items():
        assert reconstruction_error(x, f, s, error).item() == pytest.approx(value), error


def test_image_score_is_the_mean_over_pixels():
    maps = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 2.0]]).reshape(2, 1, 2, 2)
    assert image_score(maps).tolist() == [3.0, 0.5]


@given(st.floats(-10, 10), st.floats(0.1, 10), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_disagreement_ignores_a_common_shift_and_follows_scale(shift, scale, seed):
    f = torch.randn(4, 2, 1, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)
    torch.testing.assert_close(output_map(f + shift), output_map(f), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(output_map(scale * f), scale * output_map(f))
    torch.testing.assert_close(output_map(f[[2, 0, 3, 1]]), output_map(f))


# --- gradients against literal ones ---


@pytest.mark.parametrize(("backbone", "error"), GRADIENTS)
def test_gradients_are_those_of_one_image_and_one_learner(
    in_float64, plain_learners, draw_images, backbone, error
):
    x = scaled(draw_images(4, seed=1))
    gradients, f, s = input_gradients(in_float64(backbone).network, x, error)
    literal_f, literal_s, literal_gradients = literal_parts(plain_learners(backbone), x, error)
    torch.testing.assert_close(f, literal_f, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients, literal_gradients, rtol=1e-8, atol=1e-12)
    assert (s is None) == (literal_s is None)
    if s is not None:
        torch.testing.assert_close(s, literal_s, rtol=0, atol=1e-10)


# --- whole maps against literal ones ---


@each_backbone
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_literal_ones(in_float64, plain_learners, draw_images, backbone, method):
    images = draw_images(2, seed=1)
    x = scaled(images)
    parts = literal_parts(plain_learners(backbone), x, DEFAULT_ERROR[backbone])
    expected = literal_map(method, x, *parts)
    maps = score_batch(in_float64(backbone), x, ScoreConfig(method))
    torch.testing.assert_close(maps, expected, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(score_maps(in_float64(backbone), images, method), maps, rtol=1e-5)


@each_backbone
def test_normalised_error_is_min_max_per_image_and_learner(
    in_float64, plain_learners, draw_images, backbone
):
    x = scaled(draw_images(3, seed=1))
    f, s, gradients = literal_parts(plain_learners(backbone), x, DEFAULT_ERROR[backbone])
    error = (f - x).abs()
    low, high = (extreme(error, (2, 3, 4), keepdim=True) for extreme in (torch.amin, torch.amax))
    variance = torch.ones(()) if s is None else torch.exp(s).mean(0)
    products = gradients * (error - low) / (high - low) / variance.sqrt()
    maps = score_batch(in_float64(backbone), x, ScoreConfig("dual", normalise_error=True))
    torch.testing.assert_close(maps, products.std(0), rtol=1e-8, atol=1e-14)


def test_normalised_error_of_a_perfect_reconstruction_is_no_division_by_zero(in_float64):
    ensemble = in_float64("ae")
    with torch.no_grad():
        ensemble.network.output.weight.zero_()
    grey = torch.zeros(1, 1, 16, 16, dtype=FLOAT64)  # f = X = 0 everywhere
    maps = score_batch(ensemble, grey, ScoreConfig("dual", normalise_error=True))
    assert torch.equal(maps, torch.zeros_like(maps))


# --- promises ---


@pytest.mark.parametrize("method", METHODS)
@each_backbone
def test_no_map_depends_on_the_batch_it_came_in(in_float64, draw_images, backbone, method):
    """Per-image gradients and evaluation mode, after training: statistics are not 0 and 1."""
    ensemble, images = in_float64(backbone), draw_images(24, seed=1)
    assert ensemble.network.encoder[0].norm.running_mean.abs().max() > 0.01
    maps = score_maps(ensemble, images, method, batch_size=24)
    for size in (1, 7):
        alone = score_maps(ensemble, images, method, batch_size=size)
        np.testing.assert_allclose(alone, maps, rtol=1e-5, atol=1e-14)
    x = scaled(images)
    company = score_batch(ensemble, torch.cat([100 * x[:5], x]), ScoreConfig(method))[5:]
    np.testing.assert_allclose(company, maps, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@each_backbone
def test_maps_are_float32_never_negative_and_of_the_images_shape(
    trained, draw_images, backbone, method
):
    images = draw_images(5, seed=1)
    maps = score_maps(trained(backbone), images, method)
    scores = image_scores(trained(backbone), images, method)
    assert maps.shape == (5, 1, 16, 16) and maps.dtype == np.float32
    assert (maps >= 0).all() and np.isfinite(maps).all() and maps.std() > 0
    assert scores.shape == (5,) and scores.dtype == np.float64
    np.testing.assert_allclose(scores, maps.mean((1, 2, 3), dtype=np.float64), rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@each_backbone
def test_scoring_changes_nothing(trained, draw_images, backbone, method):
    ensemble = trained(backbone)
    before = {key: value.clone() for key, value in ensemble.network.state_dict().items()}
    first = score_maps(ensemble, draw_images(5, seed=1), method)
    after = ensemble.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module.training for module in ensemble.network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in ensemble.network.parameters())
    assert np.array_equal(first, score_maps(ensemble, draw_images(5, seed=1), method))


def test_scoring_inside_no_grad(trained, draw_images):
    """A caller's habit must not cost the gradients of Eq. (6)."""
    usual = score_maps(trained(), draw_images(2), "dual")
    with torch.no_grad():
        assert np.array_equal(usual, score_maps(trained(), draw_images(2), "dual"))


def test_no_images_and_tensors(trained, draw_images):
    assert score_maps(trained(), draw_images(0), "dual").shape == (0, 1, 16, 16)
    assert image_scores(trained(), draw_images(0), "output").shape == (0,)
    images = draw_images(3)
    scores = image_scores(trained(), torch.as_tensor(images), "dual")
    assert np.array_equal(scores, image_scores(trained(), images, "dual"))


# --- refusals ---


def test_one_learner_has_a_reconstruction_and_no_disagreement(trained, draw_images, refused):
    one, images = trained("aeu").first(1), draw_images(3)
    assert (image_scores(one, images, "ensemble") > 0).all()
    for method in ("output", "dual", "input"):
        with refused("two learners", "ensemble"):
            image_scores(one, images, method)


def test_errors_that_need_a_variance(refused):
    for error in ("nll", "weighted-mse", "l3"):
        with refused(error):
            reconstruction_error(pixel(1)[0], pixel(1, 2), None, error)


def test_images_that_do_not_fit(trained, draw_images, refused):
    with refused(16, 32):
        image_scores(trained(), draw_images(3, size=32))
    with refused(16):
        image_scores(trained(), draw_images(3)[:, 0])
    with refused("uint8", "float"):
        score_maps(trained(), draw_images(3) / 255.0)
    with refused("mehod", "dual"):
        score_maps(trained(), draw_images(3), "mehod")
