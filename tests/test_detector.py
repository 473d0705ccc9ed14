"""The estimator: it is the ensemble underneath, and scikit-learn's tools can use it for real."""

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.utils.estimator_checks import check_estimator

from d2ue import D2UE, ImageSet, TrainConfig, image_scores, score_maps, train_ensemble
from d2ue.detector.threshold import hold_out, threshold

SIZE = 16
SETTINGS = {"image_size": SIZE, "epochs": 1, "batch_size": 8, "n_learners": 2, "device": "cpu"}

#: What scikit-learn expects of a detector and this one does otherwise, with the reason.
EXPECTED_FAILURES = {
    "check_outliers_train": "contamination is a share of held-out normal images, not of those "
    "trained on, so that the number of training images called abnormal is not fixed by it",
    "check_outliers_fit_predict": "the same",
    "check_methods_subset_invariance": "networks round differently in batches of other sizes; an "
    "image whose score is the threshold itself, as one held-out image's is, falls on either side",
}


def detector(**changes):
    return D2UE(**{**SETTINGS, **changes})


def flat(images):
    return images.reshape(len(images), -1)


@pytest.fixture(autouse=True)
def few_held_out_are_no_news():
    """Tests hold out a handful of images; the warning that this is few has a test of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Only .* normal images are held out")
        yield


@pytest.fixture(scope="module")
def images(draw_images):
    return draw_images(30)


@pytest.fixture(scope="module")
def new(draw_images):
    return draw_images(12, seed=1)


@pytest.fixture(scope="module")
def fitted(images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector(validation_fraction=0.3, contamination=0.2).fit(images)


def test_every_form_of_one_array_gives_one_detector(images, new):
    padded = np.zeros((2, 30, SIZE, 2 * SIZE), np.uint8)
    padded[0, ..., ::2], padded[1, :12, ..., ::2] = images[:, 0], new[:, 0]
    forms = {
        "tensor": torch.from_numpy,
        "list of tensors": lambda x: list(torch.from_numpy(x)),
        "every other column": lambda x: padded[int(len(x) == 12), : len(x), ..., ::2],
        "turned twice": lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
        "Fortran": np.asfortranarray,
        "masked nowhere": np.ma.masked_array,
        "table": lambda x: pd.DataFrame(flat(x)).add_prefix("pixel "),
        "sparse": lambda x: torch.from_numpy(x).to_sparse(),
    }
    expected = detector().fit(images).anomaly_score(new)
    for name, form in forms.items():
        fitted = detector().fit(form(images))
        np.testing.assert_allclose(
            fitted.anomaly_score(form(new)), expected, rtol=1e-6, err_msg=name
        )
        if name == "table":
            assert fitted.feature_names_in_[0] == "pixel 0"
            with pytest.raises(ValueError, match="feature names"):
                fitted.predict(form(new).add_prefix("other "))


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_tensors_of_other_widths_with_gradients(images, kind):
    """Quarters of 64 levels are exact in each, so each is the same pictures."""
    levels = torch.from_numpy(np.squeeze(images) // 4).to(kind) / 64
    expected = detector().fit(levels.double().numpy())
    found = detector().fit(levels.requires_grad_())
    assert np.array_equal(found.anomaly_score(levels), expected.anomaly_score(levels))


def test_what_is_no_picture_is_refused_in_a_sentence(images, refused):
    images = np.squeeze(images)
    hidden = np.ma.masked_array(images, images > 200)
    with refused("masked"):
        detector().fit(hidden)
    for values, about in (
        (torch.zeros(20, SIZE, SIZE, dtype=torch.complex64), "complex"),
        (torch.zeros(20, SIZE, SIZE, device="meta"), "meta"),
    ):
        with refused(about):
            detector().fit(values)


def test_modes_of_torch_change_nothing(images, new, tmp_path):
    expected = detector().fit(images)
    expected.save(tmp_path / "d")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = detector().fit(images)
            inside = found.anomaly_score(new)
            loaded = D2UE.load(tmp_path / "d")
        for scores in (inside, found.anomaly_score(new), loaded.anomaly_score(new)):
            assert np.array_equal(scores, expected.anomaly_score(new))
        with mode():
            assert np.array_equal(loaded.anomaly_map(new), expected.anomaly_map(new))


def test_check_estimator():
    assert len(EXPECTED_FAILURES) <= 5
    results = check_estimator(
        detector(), expected_failed_checks=EXPECTED_FAILURES, on_fail=None, on_skip=None
    )
    failed = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}
    assert len(results) > 40


def test_it_is_train_ensemble_and_image_scores(fitted, images, new, equal_tensors):
    index = hold_out(30, 0.3, 0)
    assert len(index) == 9 and np.array_equal(fitted.validation_index_, index)
    config = TrainConfig(backbone="aeu", image_size=SIZE, epochs=1, batch_size=8, n_learners=2)
    kept = np.delete(images, index, 0)
    ensemble = train_ensemble(config, ImageSet(kept, tuple("abcdefghijklmnopqrstu")), device="cpu")
    equal_tensors(ensemble, fitted.ensemble_)
    scores = image_scores(ensemble, new, "dual")
    assert np.array_equal(fitted.anomaly_score(new), scores)
    assert np.array_equal(fitted.anomaly_map(new), score_maps(ensemble, new, "dual"))
    value = threshold(image_scores(ensemble, images[index], "dual"), 0.2)
    assert fitted.threshold_ == value
    assert np.array_equal(fitted.predict(new), np.where(scores > value, -1, 1))


def test_names_and_signs(fitted, new):
    scores = fitted.anomaly_score(new)
    assert scores.dtype == np.float64 and scores.shape == (12,) and (scores >= 0).all()
    assert np.array_equal(fitted.score_samples(new), -scores)
    assert np.array_equal(fitted.decision_function(new), fitted.threshold_ - scores)
    assert fitted.offset_ == -fitted.threshold_
    maps = fitted.anomaly_map(new)
    assert maps.dtype == np.float32 and maps.shape == (12, 1, SIZE, SIZE) and (maps >= 0).all()
    np.testing.assert_allclose(maps.astype(np.float64).mean((1, 2, 3)), scores, rtol=1e-12)
    assert set(fitted.predict(new)) <= {-1, 1}


def test_other_seeds_and_settings_reach_the_ensemble(images, fitted):
    other = detector(random_state=1).fit(images)
    assert other.ensemble_.config.seed == 1
    assert not np.array_equal(other.validation_index_, detector().fit(images).validation_index_)
    chosen = {
        "backbone": "memae", "similarity": "cosine", "repulsion_weight": 0.5, "layer": "en1",
        "learning_rate": 0.01, "n_learners": 3, "epochs": 2,
    }  # fmt: skip
    config = detector(**chosen).fit(images).ensemble_.config
    assert {name: getattr(config, name) for name in chosen} == chosen
    drawn = [detector(random_state=np.random.RandomState(7)).fit(images) for _ in range(2)]
    assert drawn[0].ensemble_.config.seed == drawn[1].ensemble_.config.seed
    numpy_values = detector(epochs=np.int64(1), repulsion_weight=np.float64(1), random_state=0)
    assert numpy_values.fit(images).ensemble_.config == detector().fit(images).ensemble_.config


def test_one_learner_is_scored_by_its_error(images, new, refused):
    with refused("two learners"):
        detector(n_learners=1).fit(images)
    alone = detector(n_learners=1, method="ensemble").fit(images)
    assert np.array_equal(alone.anomaly_score(new), image_scores(alone.ensemble_, new, "ensemble"))
    with refused("two learners"):
        alone.recalibrate(method="dual")


def test_held_out_images_of_ones_own(images, new, refused):
    own = detector(contamination=0.2).fit(images, validation=new)
    assert own.validation_.k == 12 and len(own.validation_index_) == 0
    assert np.array_equal(own.validation_.scores["dual"], own.anomaly_score(new))
    whole = ImageSet(images, tuple(map(str, range(30))))
    assert own.ensemble_.fingerprint == whole.fingerprint
    with refused("also among those to train on"):
        detector().fit(images, validation=images[:3])


def test_recalibrating_trains_nothing(images, new, fitted, refused):
    copied = pickle.loads(pickle.dumps(fitted))
    network = copied.ensemble_.network
    assert copied.recalibrate(contamination=0.5, method="output") is copied
    assert copied.ensemble_.network is network
    assert copied.get_params()["contamination"] == 0.5 and copied.method_ == "output"
    fresh = detector(validation_fraction=0.3, contamination=0.5, method="output").fit(images)
    assert copied.threshold_ == fresh.threshold_
    assert np.array_equal(copied.anomaly_score(new), fresh.anomaly_score(new))
    with refused("contamination"):
        copied.recalibrate(contamination=0.9)
    assert copied.contamination == 0.5


def test_a_store_trains_nothing_twice(images, tmp_path):
    with pytest.warns(UserWarning, match="Only 3 normal images are held out.*at least 19"):
        first = detector(store=tmp_path).fit(images)
    second = detector(store=tmp_path, contamination=0.3, method="output").fit(images)
    assert (tmp_path / "journal.txt").read_text().count("trained") == 2
    assert second.ensemble_.fingerprint == first.ensemble_.fingerprint


def test_every_form_of_the_same_images_scores_the_same(fitted, new, tmp_path, draw_images):
    wanted = fitted.anomaly_score(new)
    for i, image in enumerate(new):
        Image.fromarray(image[0]).save(tmp_path / f"{i:02}.png")
    paths = sorted(tmp_path.iterdir())
    forms = (new[:, 0], list(new[:, 0]), tmp_path, paths, [str(p) for p in paths], np.array(paths))
    for form in (*forms, np.repeat(new[:, 0, :, :, None], 3, -1), torch.from_numpy(new)):
        assert np.array_equal(fitted.anomaly_score(form), wanted)
    one = fitted.anomaly_score(str(paths[0]))
    np.testing.assert_allclose(one, wanted[:1], rtol=1e-5)
    large = np.kron(new, np.ones((1, 1, 2, 2), np.uint8))  # halved by Pillow's filter, not exactly
    assert np.corrcoef(fitted.anomaly_score(large), wanted)[0, 1] > 0.5


def test_a_folder_is_fitted_as_an_array_is(images, new, tmp_path):
    for i, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / f"{i:02}.png")
    of_array = detector().fit(images).anomaly_score(new)
    assert np.array_equal(detector().fit(tmp_path).anomaly_score(new), of_array)
    assert np.array_equal(detector().fit(sorted(tmp_path.iterdir())).anomaly_score(new), of_array)


@pytest.mark.parametrize("kind", ["bytes", "floats", "stated"])
def test_rows_that_fill_no_square_do_not_depend_on_each_other(images, new, kind):
    """250 values leave 6 pixels of the 16 x 16, black as at `fit` whatever else is scored."""
    form = {
        "bytes": lambda x: x // 2 + 100,
        "floats": lambda x: x / 9 - 4,
        "stated": lambda x: x // 2 + 100,
    }[kind]
    rows, others = form(flat(images)[:, :250]), form(flat(new)[:, :250])
    others[0] = others.max()
    given = {"pixel_range": (-1, 300)} if kind == "stated" else {}
    fitted = detector(validation_fraction=0.3, **given).fit(rows)
    together = fitted.anomaly_score(others)
    alone = np.concatenate([fitted.anomaly_score(row[None]) for row in others])
    np.testing.assert_allclose(alone, together, rtol=1e-4)
    # A picture with black put in by hand is the same, and so is a table of its shape.
    black = {"bytes": 0, "stated": -1}.get(kind, rows.min())
    filled = np.pad(others.astype(float), ((0, 0), (0, 6)), constant_values=black)
    stack = filled.reshape(-1, SIZE, SIZE)
    stack = stack.astype(np.uint8) if kind == "bytes" else stack
    np.testing.assert_allclose(fitted.anomaly_score(stack), together, rtol=1e-4)
    shaped = detector(image_shape=(SIZE, SIZE), validation_fraction=0.3).fit(flat(images))
    square = detector(validation_fraction=0.3).fit(images)
    assert np.array_equal(shaped.anomaly_score(flat(new)), square.anomaly_score(new))


def test_values_keep_the_scale_of_fit(images, new):
    scaled = images / 1000 - 3  # any scale
    range_of_fit = (float(scaled.min()), float(scaled.max()))
    learnt = detector().fit(scaled)
    assert (learnt.reading_.low, learnt.reading_.high) == range_of_fit
    # A darker image is a darker image, however it compares with others of its array.
    dark = (images[:1] // 3) / 1000 - 3
    alone = learnt.anomaly_score(dark)
    among = learnt.anomaly_score(np.concatenate([dark, scaled]))
    np.testing.assert_allclose(alone, among[:1], rtol=1e-5)
    assert not np.isclose(alone, learnt.anomaly_score(scaled[:1]), rtol=1e-3)
    stated = detector(pixel_range=(0.0, 1.0)).fit(images / 255)
    assert np.array_equal(
        stated.anomaly_score(new / 255), detector().fit(images).anomaly_score(new)
    )


def test_wrong_images_are_refused(fitted, images, new, refused, tmp_path):
    broken = new / 255
    broken[3, 0, 2, 2] = np.nan
    with refused("Image 3", "NaN"):
        detector().fit(broken)
    with refused("8-bit images"):
        fitted.predict(new / 255)
    with refused("values from 0 to 1"):
        detector().fit(images / 255).predict(new)
    with refused("image[None]"):
        fitted.predict(new[0, 0])
    with refused("one shape"):
        fitted.predict([new[0, 0], new[1, 0, :8]])
    with refused("(n, h, w)"):
        fitted.predict(np.zeros((2, 2, 8, 8), np.uint8))
    with refused("does not exist"):
        fitted.predict(tmp_path / "nowhere")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with refused("a.png"):
        fitted.predict([tmp_path / "a.png"])
    with refused("batch of 8"):
        detector().fit(images[:8])
    with pytest.warns(UserWarning, match="on the same scale"):
        detector(pixel_range=(0, 1)).fit(images / 255).predict(new.astype(float))


@pytest.mark.parametrize(
    ("setting", "value", "about"),
    [
        ("epochs", 0, "epochs"),
        ("random_state", -1, "seed"),
        ("device", "abacus", "abacus"),
        ("contamination", 0.6, "contamination"),
        ("method", "vote", "method"),
        ("image_shape", (0, 1), "image_shape"),
        ("pixel_range", (1, 0), "black"),
        ("validation_fraction", 1.0, "validation_fraction"),
    ],
)
def test_wrong_settings_are_refused_when_fitted(images, refused, setting, value, about):
    wrong = detector(**{setting: value})
    assert wrong.get_params()[setting] == value
    with refused(about):
        wrong.fit(images)
    assert not hasattr(wrong, "ensemble_")


def test_nothing_is_scored_before_it_is_fitted(new):
    for method in ("predict", "anomaly_map", "score_samples", "recalibrate"):
        with pytest.raises(NotFittedError):
            getattr(detector(), method)(*([] if method == "recalibrate" else [new]))
    with pytest.raises(NotFittedError):
        detector().save("nowhere")


def test_weights_that_give_no_scores_are_told(fitted, new, refused):
    """Finite, so that they can be loaded, and of no use."""
    broken = pickle.loads(pickle.dumps(fitted))
    with torch.no_grad():
        broken.ensemble_.network.output.weight.fill_(1e38)
    for method in (broken.predict, broken.score_samples, broken.anomaly_map):
        with refused("not finite", "train anew"):
            method(new)


def test_in_a_grid_search_in_two_processes(images, new):
    """Trained on normal images, judged on labelled ones: +1 normal, -1 abnormal."""
    every = np.concatenate([images, new, 255 - new])
    y = np.repeat([1, 1, -1], [30, 12, 12])
    folds = PredefinedSplit(np.repeat([-1, 0], [30, 24]))
    search = GridSearchCV(
        detector(),
        {"method": ["ensemble", "dual"]},
        scoring="roc_auc",
        cv=folds,
        refit=False,
        n_jobs=2,
    ).fit(every, y)
    found = pd.DataFrame(search.cv_results_)
    assert len(found) == 2 and found["mean_test_score"].between(0, 1).all()
    for line in found.to_dict("records"):
        alone = detector(**line["params"]).fit(images)
        ranks = pd.Series(alone.decision_function(every[30:])).rank()
        u = ranks[:12].sum() - 12 * 13 / 2
        assert line["mean_test_score"] == pytest.approx(u / 144)


def test_joblib_and_pickle_keep_every_bit(fitted, new, tmp_path):
    joblib.dump(fitted, tmp_path / "detector.joblib")
    for again in (joblib.load(tmp_path / "detector.joblib"), pickle.loads(pickle.dumps(fitted))):
        assert np.array_equal(again.anomaly_map(new), fitted.anomaly_map(new))
        assert again.threshold_ == fitted.threshold_ and again.get_params() == fitted.get_params()
