"""The trained ensemble: frozen, sliced, and asked for reconstructions and features."""

import pytest
import torch

from d2ue.backbones import to_unit_range
from d2ue.ensemble import Ensemble, resolve_device


def test_scaling_by_hand():
    """0 is -1, 255 is 1, 51 is 0.4 - 1."""
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_unit_range(pixels, torch.float64).tolist() == pytest.approx([-1, -0.6, 1])
    assert pixels.tolist() == [0, 51, 255]


@pytest.mark.parametrize("backbone", ("ae", "memae", "aeu"))
def test_reconstructions_and_features_are_the_plain_learners(
    trained, plain_learner, draw_images, backbone
):
    ensemble, images = trained(backbone), draw_images(5, seed=1)
    x = torch.as_tensor(images) / 127.5 - 1
    reconstructions = ensemble.reconstruct(images)
    assert reconstructions.shape == (3, 5, 1, 16, 16) and reconstructions.dtype == torch.float32
    for i in range(3):
        with torch.no_grad():
            stages = plain_learner(backbone, 16).take(ensemble.network, i).eval().run(x)
        torch.testing.assert_close(reconstructions[i], stages["output"][:, :1], rtol=0, atol=1e-4)
        for layer in ensemble.network.layers:
            feature = ensemble.features(images, layer)[i]
            torch.testing.assert_close(feature, stages[layer].flatten(1), rtol=1e-3, atol=1e-4)
    assert torch.equal(ensemble.features(images), ensemble.features(images, "z"))


def test_batches_do_not_show(trained, draw_images):
    images = draw_images(7, seed=1)
    one, other = (trained().reconstruct(images, batch_size=n) for n in (2, 7))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    one, other = (trained().features(images, "en1", batch_size=n) for n in (3, 7))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_the_first_learners(trained, equal_tensors):
    ensemble = trained()
    two = ensemble.first(2)
    assert len(two) == two.config.n_learners == len(two.history) == 2
    assert two.fingerprint == ensemble.fingerprint
    for i in range(2):
        equal_tensors(two.network.replica(i), ensemble.network.replica(i))
    equal_tensors(ensemble.first(3), ensemble)


def test_learners_and_layers_that_are_not_there(trained, draw_images, refused):
    for n in (0, 4):
        with refused(3, n):
            trained().first(n)
    with refused("en1", "'en9'"):
        trained().features(draw_images(2), "en9")


def test_weights_are_frozen_and_in_evaluation_mode(trained):
    ensemble = trained()
    assert not any(p.requires_grad for p in ensemble.network.parameters())
    network = ensemble.network.replica(0).train().requires_grad_(True)
    again = Ensemble(ensemble.config, network)
    assert not network.training and not network.output.weight.requires_grad and len(again) == 1


def test_no_images_and_wrong_images(trained, draw_images, refused):
    for call in (trained().reconstruct, trained().features):
        with refused(16, 32):
            call(draw_images(2, size=32))
        with refused("uint8", "float64"):
            call(draw_images(2) / 1.0)
    assert trained().reconstruct(draw_images(0)).shape == (3, 0, 1, 16, 16)
    assert trained().features(draw_images(0), "z").shape == (3, 0, 16)


def test_devices(refused):
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for device in ("tpu", "cuda:99", "cpu:x", "meta"):
        with refused(repr(device)):
            resolve_device(device)
