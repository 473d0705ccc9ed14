"""The built-in phantoms: reproducible, masks that tell the truth, and no cheap way to the label."""

import functools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from d2ue.datasets.phantom import phantom
from d2ue.datasets.types import Dataset, ImageSet
from d2ue.errors import InputError

KINDS = ("head", "chest")
SMALL = {"n_train": 6, "n_test_normal": 4, "n_test_abnormal": 12}

draw = functools.cache(phantom)  # drawing is the slow part: tests share what they only read


def small(kind: str = "head", **more: float) -> Dataset:
    return draw(kind, **(SMALL | more))


def grey(images: ImageSet) -> np.ndarray:
    """Float (n, H, W), 0 to 1."""
    return images.images[:, 0] / 255.0


def sharpness(x: np.ndarray) -> np.ndarray:
    """Mean absolute Laplacian of each image."""
    neighbours = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return np.abs(neighbours - 4 * x[:, 1:-1, 1:-1]).mean(axis=(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_fit_together(kind):
    data = small(kind)
    assert data.name == {"head": "phantom", "chest": "phantom-chest"}[kind]
    assert data.train.images.shape == (6, 1, 64, 64) and data.test.images.shape == (16, 1, 64, 64)
    assert data.train.images.dtype == np.uint8
    assert not data.train.labels.any() and not data.train.masks.any()
    assert data.test.labels.tolist() == [0] * 4 + [1] * 12
    assert data.train.names[5] == "train-normal-0005"
    assert data.test.names[3:5] == ("test-normal-0003", "test-abnormal-0000")
    every = np.concatenate([data.train.images, data.test.images])
    assert (every.max(axis=(1, 2, 3)) > 60).all()  # neither empty
    assert (every == 255).mean() < 0.1  # nor burnt out


@pytest.mark.parametrize("kind", KINDS)
def test_same_arguments_same_bytes_and_other_seed_other_images(kind):
    first, again = small(kind), phantom(kind, **SMALL)
    assert first.train.fingerprint == again.train.fingerprint
    assert first.test.fingerprint == again.test.fingerprint
    assert np.array_equal(first.test.masks, again.test.masks)
    other = small(kind, seed=1)
    for i in range(SMALL["n_train"]):
        assert not np.array_equal(first.train.images[i], other.train.images[i])


def test_an_image_does_not_depend_on_how_many_there_are():
    few, many = small(), phantom(n_train=9, n_test_normal=7, n_test_abnormal=13)
    assert np.array_equal(few.train.images, many.train.images[:6])
    assert np.array_equal(few.test.images[:4], many.test.images[:4])
    assert np.array_equal(few.test.images[4:], many.test.images[7:19])
    assert np.array_equal(few.test.masks[4:], many.test.masks[7:19])


def test_no_image_twice_in_train_and_test():
    data = draw("head", seed=0, n_train=100)
    every = np.concatenate([data.train.images, data.test.images])
    assert len({image.tobytes() for image in every}) == len(every) == 700


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_is_the_only_difference_to_the_healthy_twin(kind):
    ill, twin = small(kind).test, small(kind, lesion_contrast=0).test
    assert np.array_equal(ill.masks, twin.masks)
    assert np.array_equal(ill.images[:4], twin.images[:4])  # normal images know of no lesions
    for i in range(4, len(ill)):
        mask = ill.masks[i, 0]
        changed = ill.images[i, 0].astype(int) - twin.images[i, 0]
        assert 10 < mask.sum() < mask.size / 4
        assert not changed[~mask].any()
        assert np.abs(changed[mask]).max() > 20  # grey levels: it can be seen
        assert not any(side.any() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_are_of_both_signs(kind):
    ill, twin = small(kind).test, small(kind, lesion_contrast=0).test
    signs = {
        np.sign((ill.images[i].astype(int) - twin.images[i])[ill.masks[i]].mean())
        for i in range(4, len(ill))
    }
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_more_contrast_changes_more_and_more_size_covers_more(kind):
    twin = small(kind, lesion_contrast=0).test
    changes = [
        np.abs(small(kind, lesion_contrast=c).test.images.astype(int) - twin.images).mean(
            axis=(1, 2, 3)
        )[4:]
        for c in (0.25, 0.5, 1.0, 1.5)
    ]
    assert (np.diff(changes, axis=0) > 0).all()
    areas = [small(kind, lesion_size=s).test.masks[4:].mean(axis=(1, 2, 3)) for s in (0.5, 1, 2)]
    assert (np.diff(areas, axis=0) >= 0).all() and np.mean(areas[2]) > 2 * np.mean(areas[0])


@pytest.mark.parametrize("kind", KINDS)
def test_same_picture_at_another_size(kind):
    usual, fine = grey(small(kind).test), grey(small(kind, image_size=128).test)
    shrunk = fine.reshape(16, 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.abs(shrunk - usual).mean() < 0.02  # the noise differs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_size", (16, 37))
def test_small_and_odd_sizes_keep_every_lesion(kind, image_size):
    test = small(kind, image_size=image_size, lesion_size=0.25).test
    assert test.images.shape[1:] == (1, image_size, image_size)
    assert test.masks[4:].any(axis=(1, 2, 3)).all() and not test.masks[:4].any()


@pytest.mark.parametrize(("kind", "seed"), [("head", 0), ("head", 1), ("chest", 0)])
def test_simple_controls_do_not_give_the_label_away(kind, seed):
    """The whole default test set; its first 100 training images give their mean well enough."""
    data = draw(kind, seed=seed, n_train=100)
    train, test = grey(data.train), grey(data.test)
    controls = {
        "mean grey": test.mean(axis=(1, 2)),
        "sharpness": sharpness(test),
        "distance to the mean image": np.linalg.norm(test - train.mean(axis=0), axis=(1, 2)),
    }
    for name, score in controls.items():
        assert 0.35 < roc_auc_score(data.test.labels, score) < 0.65, name


def test_nothing_asked_for():
    data = phantom(n_train=0, n_test_normal=0, n_test_abnormal=0)
    assert len(data.train) == 0 and data.test is None


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("kind", "knee"),
        ("n_train", -1),
        ("n_test_normal", 2.5),
        ("n_test_abnormal", True),
        ("image_size", 15),
        ("seed", -1),
        ("lesion_contrast", -0.1),
        ("lesion_contrast", float("nan")),
        ("lesion_size", 0.0),
        ("lesion_size", "large"),
    ],
)
def test_bad_arguments_are_named_in_one_sentence(argument, value):
    with pytest.raises(InputError, match=argument) as error:
        phantom(**{argument: value})
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")
