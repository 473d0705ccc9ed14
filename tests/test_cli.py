"""The commands as a person types them, each in a process of its own where exit codes matter."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2ue import D2UE, phantom
from d2ue.cli.app import main
from d2ue.store.exchange import read_records
from tests.processes import children_of, wait_for

TINY = ("--image-size", "16", "--epochs", "1", "--batch-size", "8", "--learners", "2")


def run(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def assert_refused(capsys, *arguments, about):
    """Exit code 2 and one sentence that names what it is about."""
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("d2ue: ") and err.count("\n") == 1 and "Traceback" not in err
    assert about in err
    return err


def write_images(folder, images, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image[0]).save(folder / name)


@pytest.fixture(scope="module")
def bench_folder(tmp_path_factory):
    """A benchmark folder of small phantoms: 16 to train on, 5 + 4 to test on."""
    folder = tmp_path_factory.mktemp("benchmark")
    drawn = phantom(n_train=16, n_test_normal=5, n_test_abnormal=4, image_size=16)
    train = [f"train{i}.png" for i in range(16)]
    test = [f"test{i}.png" for i in range(9)]
    write_images(folder / "images", drawn.train.images, train)
    write_images(folder / "images", drawn.test.images, test)
    split = {"train": {"0": train}, "test": {"0": test[:5], "1": test[5:]}}
    (folder / "data.json").write_text(json.dumps(split))
    return folder


@pytest.fixture(scope="module")
def trained(bench_folder, tmp_path_factory):
    """A run folder trained on it."""
    run_folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(bench_folder), "--out", str(run_folder), *TINY])
    assert stopped.value.code == 0
    return run_folder


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_fit_leaves_a_whole_run_with_the_effective_settings(trained):
    names = sorted(p.name for p in trained.iterdir())
    assert names == [
        "ensemble.json",
        "history.csv",
        "learner_1.safetensors",
        "learner_2.safetensors",
    ]
    manifest = json.loads((trained / "ensemble.json").read_text())
    assert manifest["config"]["learning_rate"] == 1e-3
    assert manifest["data"]["train_images"] == 16


@pytest.mark.parametrize("method", ["ensemble", "output", "dual", "input"])
def test_score_writes_every_test_image_with_its_label(
    capsys, trained, bench_folder, tmp_path, method
):
    target = tmp_path / "scores.csv"
    code, out, _ = run(capsys, "score", trained, bench_folder, "--method", method, "--out", target)
    assert code == 0 and "AUC" in out and "AP" in out and "n = 9" in out
    rows = list(csv.DictReader(target.open()))
    assert list(rows[0]) == ["name", "label", "score"]
    assert [r["name"] for r in rows] == [f"test{i}.png" for i in range(9)]
    assert [r["label"] for r in rows] == list("000001111")
    assert all(float(r["score"]) >= 0 for r in rows)


def test_score_of_a_plain_folder_leaves_labels_empty_and_prints_no_auc(
    capsys, trained, bench_folder, tmp_path
):
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(bench_folder / "images" / "test0.png", plain)
    code, out, _ = run(capsys, "score", trained, plain, "--out", tmp_path / "s.csv")
    assert code == 0 and "AUC" not in out
    (row,) = csv.DictReader((tmp_path / "s.csv").open())
    assert row["name"] == "test0.png" and row["label"] == ""


def test_scores_of_an_image_do_not_depend_on_what_else_is_scored(
    capsys, trained, bench_folder, tmp_path
):
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(bench_folder / "images" / "test3.png", plain)
    run(capsys, "score", trained, plain, "--out", tmp_path / "alone.csv")
    run(capsys, "score", trained, bench_folder, "--out", tmp_path / "all.csv")
    (alone,) = csv.DictReader((tmp_path / "alone.csv").open())
    among = {r["name"]: r["score"] for r in csv.DictReader((tmp_path / "all.csv").open())}
    np.testing.assert_allclose(float(alone["score"]), float(among["test3.png"]), rtol=1e-5)


def test_a_plain_folder_of_normals_can_be_trained_on(capsys, bench_folder, tmp_path):
    plain = tmp_path / "normals"
    shutil.copytree(
        bench_folder / "images", plain, ignore=lambda _, names: [n for n in names if "test" in n]
    )
    code, out, _ = run(capsys, "fit", plain, "--out", tmp_path / "run", *TINY)
    assert code == 0 and "16 normal images" in out


def test_the_same_fit_again_trains_nothing_and_other_settings_are_refused(
    capsys, trained, bench_folder
):
    before = snapshot(trained)
    code, out, _ = run(capsys, "fit", bench_folder, "--out", trained, *TINY)
    assert code == 0 and "nothing was trained" in out
    other = assert_refused(
        capsys, "fit", bench_folder, "--out", trained, *TINY, "--seed", 1, about="other settings"
    )
    assert str(trained) in other
    assert snapshot(trained) == before


def test_runs_that_share_a_store_share_their_first_learner(capsys, bench_folder, tmp_path):
    store = tmp_path / "store"
    for weight in (0, 1):
        arguments = ("--out", tmp_path / f"run{weight}", *TINY, "--repulsion-weight", weight)
        assert run(capsys, "fit", bench_folder, *arguments, "--store", store)[0] == 0
    first, second = ((tmp_path / f"run{w}" / "learner_1.safetensors") for w in (0, 1))
    assert first.read_bytes() == second.read_bytes()
    assert len(list((store / "learners").iterdir())) == 3


@pytest.mark.parametrize(
    ("option", "value", "about"),
    [
        ("--backbone", "vae", "ae, memae, aeu"),
        ("--similarity", "cka2", "debiased-cka"),
        ("--layer", "en9", "z"),
        ("--learners", "0", "n_learners must be at least 1"),
        ("--epochs", "0", "epochs"),
        ("--epochs", "many", "--epochs"),
        ("--repulsion-weight", "-1", "repulsion_weight"),
        ("--repulsion-weight", "nan", "repulsion_weight"),
        ("--image-size", "63", "image_size"),
        ("--seed", "-1", "seed"),
        ("--device", "abacus", "abacus"),
        ("--colour", "red", "--colour"),
    ],
)
def test_unknown_option_values_are_refused_and_nothing_is_written(
    capsys, bench_folder, tmp_path, option, value, about
):
    out = tmp_path / "run"
    assert_refused(capsys, "fit", bench_folder, "--out", out, option, value, about=about)
    assert not out.exists()


def broken_benchmarks(folder):
    """Ways to break a benchmark folder, each with what the sentence must name."""
    split = json.loads((folder / "data.json").read_text())
    yield "missing", lambda: shutil.rmtree(folder), "does not exist"
    yield "no data.json", lambda: (folder / "data.json").unlink(), "data.json"
    yield "absent file", lambda: (folder / "images" / "train3.png").unlink(), "train3.png"
    yield "broken image", lambda: (folder / "images" / "train3.png").write_bytes(b"?"), "train3.png"
    few = {**split, "train": {"0": split["train"]["0"][:7]}}
    yield "few", lambda: (folder / "data.json").write_text(json.dumps(few)), "batch of 8"
    leak = {**split, "train": {"0": [*split["train"]["0"], "test0.png"]}}
    yield "leak", lambda: (folder / "data.json").write_text(json.dumps(leak)), "test0.png"


@pytest.mark.parametrize("case", range(6))
def test_unusable_folders_are_refused_and_nothing_is_written(capsys, bench_folder, tmp_path, case):
    folder = tmp_path / "data"
    shutil.copytree(bench_folder, folder)
    _, break_it, about = list(broken_benchmarks(folder))[case]
    break_it()
    out = tmp_path / "run"
    assert_refused(capsys, "fit", folder, "--out", out, *TINY, about=about)
    assert not out.exists()


def test_a_folder_with_something_else_in_it_is_not_trained_into(capsys, bench_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert_refused(capsys, "fit", bench_folder, "--out", tmp_path, *TINY, about="not empty")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("learner_2.safetensors", lambda p: p.write_bytes(p.read_bytes()[:1000])),
        ("learner_1.safetensors", lambda p: p.unlink()),
        ("ensemble.json", lambda p: p.write_text(p.read_text()[:200])),
        ("ensemble.json", lambda p: p.write_text('{"who": "somebody else"}')),
        ("history.csv", lambda p: p.write_text("")),
    ],
)
def test_a_damaged_or_foreign_run_is_refused_and_old_scores_stay(
    capsys, trained, bench_folder, tmp_path, name, damage
):
    run_folder = tmp_path / "run"
    shutil.copytree(trained, run_folder)
    damage(run_folder / name)
    scores = tmp_path / "scores.csv"
    scores.write_text("name,label,score\nold")
    assert_refused(
        capsys, "score", run_folder, bench_folder, "--out", scores, about=str(run_folder)
    )
    assert scores.read_text() == "name,label,score\nold"


def test_scoring_refuses_what_is_no_run(capsys, bench_folder, tmp_path):
    out = tmp_path / "s.csv"
    assert_refused(
        capsys, "score", tmp_path / "no", bench_folder, "--out", out, about="no run folder"
    )
    assert_refused(
        capsys, "score", bench_folder, bench_folder, "--out", out, about="not a run folder"
    )
    assert not out.exists()


def test_scoring_at_another_size_is_refused(capsys, trained, bench_folder, tmp_path):
    out = tmp_path / "s.csv"
    arguments = ("score", trained, bench_folder, "--out", out, "--image-size", 32)
    assert_refused(capsys, *arguments, about="16 x 16")
    assert not out.exists()


# --- a threshold, maps, a page ---


@pytest.fixture(scope="module")
def with_threshold(bench_folder, tmp_path_factory):
    """A run for which images were held out."""
    run_folder = tmp_path_factory.mktemp("detectors") / "run"
    arguments = ["--contamination", "0.2", "--validation-fraction", "0.25"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(bench_folder), "--out", str(run_folder), *TINY, *arguments])
    assert stopped.value.code == 0
    return run_folder


def test_a_threshold_says_which_images_are_abnormal(capsys, with_threshold, bench_folder, tmp_path):
    run_manifest = json.loads((with_threshold / "ensemble.json").read_text())
    assert run_manifest["data"]["train_images"] == 12  # a quarter of 16 is held out
    out = tmp_path / "scores.csv"
    code, said, _ = run(capsys, "score", with_threshold, bench_folder, "--out", out)
    assert code == 0 and "above the threshold" in said and "Called abnormal" in said
    rows = list(csv.DictReader(out.open()))
    detector = D2UE.load(with_threshold, device="cpu")
    assert detector.validation_.k == 4
    wanted = ["yes" if float(r["score"]) > detector.threshold_ else "no" for r in rows]
    assert [r["abnormal"] for r in rows] == wanted
    paths = [bench_folder / "images" / r["name"] for r in rows]
    assert np.array_equal(detector.anomaly_score(paths), [float(r["score"]) for r in rows])
    # Another share, from the same held-out images.
    arguments = ("--contamination", "0.5", "--out", out)
    assert run(capsys, "score", with_threshold, bench_folder, *arguments)[0] == 0
    value = detector.recalibrate(contamination=0.5).threshold_
    rows = list(csv.DictReader(out.open()))
    assert [r["abnormal"] == "yes" for r in rows] == [float(r["score"]) > value for r in rows]


def test_the_same_fit_with_another_threshold_trains_nothing(capsys, with_threshold, bench_folder):
    arguments = ("fit", bench_folder, "--out", with_threshold, *TINY)
    held_out = ("--validation-fraction", "0.25", "--contamination")
    code, out, _ = run(capsys, *arguments, *held_out, "0.5")
    assert code == 0 and "nothing was trained" in out
    assert D2UE.load(with_threshold).contamination == 0.5
    assert run(capsys, *arguments, *held_out, "0.2")[0] == 0
    assert_refused(capsys, *arguments, about="other images")  # without holding out: more images


def test_images_of_a_folder_of_their_own_set_the_threshold(capsys, bench_folder, tmp_path):
    drawn = phantom(n_train=5, n_test_normal=0, n_test_abnormal=0, image_size=16, seed=5)
    write_images(tmp_path / "held", drawn.train.images, [f"{i}.png" for i in range(5)])
    arguments = ("fit", bench_folder, "--out", tmp_path / "run", *TINY, "--contamination", "0.2")
    code, out, _ = run(capsys, *arguments, "--validation", tmp_path / "held")
    assert code == 0 and "16 normal images" in out and "from 5 held-out" in out
    shutil.copy(bench_folder / "images" / "train3.png", tmp_path / "held")
    arguments = ("fit", bench_folder, "--out", tmp_path / "two", *TINY, "--contamination", "0.2")
    assert_refused(capsys, *arguments, "--validation", tmp_path / "held", about="also among those")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("kind", ["npy", "tiff"])
def test_maps_and_a_page(capsys, with_threshold, bench_folder, tmp_path, kind):
    maps, page = tmp_path / "maps", tmp_path / "page.html"
    arguments = ("score", with_threshold, bench_folder, "--out", tmp_path / "s.csv")
    arguments += ("--maps", maps, "--map-format", kind, "--report", page, "--top", 3)
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "3 most abnormal" in out and "9 maps" in out
    rows = {r["name"]: float(r["score"]) for r in csv.DictReader((tmp_path / "s.csv").open())}
    assert {p.name for p in maps.iterdir()} == {".d2ue"} | {f"{name}.{kind}" for name in rows} | {
        f"{name}.overlay.png" for name in rows
    }
    for name, score in rows.items():
        path = maps / f"{name}.{kind}"
        values = np.load(path) if kind == "npy" else np.asarray(Image.open(path))
        assert values.dtype == np.float32 and values.shape == (16, 16)
        np.testing.assert_allclose(values.astype(float).mean(), score, rtol=1e-5)
    text = page.read_text()
    places = [text.index(f". {n}: ") for n in sorted(rows, key=rows.get, reverse=True)[:3]]
    assert places == sorted(places)


def test_a_detector_saved_in_python_scores_a_folder(capsys, bench_folder, tmp_path):
    paths = sorted((bench_folder / "images").glob("train*.png"))
    small = {"image_size": 16, "epochs": 1, "batch_size": 8, "n_learners": 2}
    detector = D2UE(**small, method="output", contamination=0.5).fit(paths)
    detector.save(tmp_path / "d")
    out = tmp_path / "s.csv"
    code, said, _ = run(capsys, "score", tmp_path / "d", bench_folder, "--out", out)
    assert code == 0 and "(output)" in said
    rows = list(csv.DictReader(out.open()))
    tested = [bench_folder / "images" / r["name"] for r in rows]
    assert [r["abnormal"] == "yes" for r in rows] == (detector.predict(tested) == -1).tolist()
    images = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    D2UE(**small, contamination=0.5).fit(images).save(tmp_path / "floats")
    arguments = ("score", tmp_path / "floats", bench_folder, "--out", tmp_path / "f.csv")
    assert_refused(capsys, *arguments, about="pixel_range")


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (("--contamination", "0"), "contamination"),
        (("--contamination", "0.1", "--validation-fraction", "1"), "validation_fraction"),
        (("--contamination", "0.1", "--validation-fraction", "0"), "validation_fraction"),
        (("--contamination", "0.1", "--validation-fraction", "0.9"), "batch of 8"),
        (("--contamination", "0.1", "--validation", "nowhere"), "nowhere"),
        (("--validation-fraction", "0.1"), "--contamination"),
        (("--validation", "nowhere"), "--contamination"),
    ],
)
def test_thresholds_that_cannot_be_set(capsys, bench_folder, tmp_path, options, about):
    out = tmp_path / "run"
    assert_refused(capsys, "fit", bench_folder, "--out", out, *TINY, *options, about=about)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (("--contamination", "0.1"), "no held-out scores"),
        (("--map-format", "bmp"), "npy or tiff"),
        (("--method", "vote"), "method"),
        (("--top", "0"), "--top"),
        (("--report", "{tmp}"), "--report"),
        (("--report", "{tmp}/no/r.html"), "no folder"),
        (("--maps", "{tmp}/file"), "is a file"),
        (("--maps", "{images}/maps"), "taken for images"),
        (("--maps", "{images}"), "taken for images"),
        (("--maps", "{tmp}/full"), "holds 'mine.txt'"),
        (("--report", "{tmp}/page.html"), "not a page"),
        (("--report", "{tmp}/s.csv"), "one place"),
        (("--report", "{tmp}/full/../s.csv"), "one place"),
        (("--out", "{tmp}/mine.csv"), "not a table"),
        (("--out", "{tmp}/link.csv"), "not a table"),
        (("--out", "{images}/images/test0.png"), "not a table"),
        (("--out", "{images}/data.json"), "not a table"),
        (("--out", "{run}/history.csv"), "not a table"),
        (("--out", "{tmp}/new.png"), "taken for an image"),
        (("--out", "{tmp}/new.nii.gz"), "taken for an image"),
    ],
)
def test_results_that_cannot_be_written(capsys, trained, bench_folder, tmp_path, options, about):
    for name in ("file", "mine.csv", "page.html", "full/mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "link.csv").symlink_to(bench_folder / "images" / "test0.png")
    before = snapshot(tmp_path), snapshot(bench_folder)
    options = [o.format(tmp=tmp_path, images=bench_folder, run=trained) for o in options]
    arguments = ("score", trained, bench_folder, "--out", tmp_path / "s.csv", *options)
    assert_refused(capsys, *arguments, about=about)
    assert (snapshot(tmp_path), snapshot(bench_folder)) == before


def test_a_single_image_is_not_written_over(capsys, trained, bench_folder, tmp_path):
    """Neither by its table nor by maps beside it; maps elsewhere are never taken for images."""
    folder = tmp_path / "scans"
    shutil.copytree(bench_folder / "images", folder)
    image = folder / "test0.png"
    before = snapshot(folder)
    assert_refused(capsys, "score", trained, image, "--out", image, about="not a table")
    table = tmp_path / "s.csv"
    beside = ("--out", table, "--maps", folder)
    assert_refused(capsys, "score", trained, image, *beside, about="taken for images")
    assert snapshot(folder) == before
    assert run(capsys, "score", trained, image, "--out", table, "--maps", folder / "maps")[0] == 0
    assert run(capsys, "score", trained, folder, "--out", table)[0] == 0
    names = [row["name"] for row in csv.DictReader(table.open())]
    assert sorted(names) == sorted(p.name for p in folder.glob("*.png"))
    assert_refused(
        capsys, "score", trained, folder / "maps", "--out", table, about="holds results"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "about"),
    [
        (("audit", "{images}", "--out", "{images}"), "no results"),
        (("audit", "{images}", "--out", "{tmp}/r", "--seed", "-1"), "--seed"),
        (("audit", "{images}", "--out", "{tmp}/r", "--clean", "half"), "--clean"),
        (("reproduce", "quickstart", "--out", "{images}/images"), "no results"),
        (("reproduce", "table1", "--seeds", "0"), "Seeds"),
        (("reproduce", "table1", "--epochs", "0"), "epochs"),
        (("reproduce", "table1", "--batch-size", "1"), "batch_size"),
        (("reproduce", "table1", "--n-train", "-1"), "n_train"),
        (("reproduce", "table1", "--n-test", "-1"), "n_test"),
        (("reproduce", "table1", "--jobs", "0"), "--jobs"),
        (("reproduce", "table1", "--precision", "int8"), "precision"),
        (("reproduce", "table1", "--device", "abacus"), "abacus"),
        (("reproduce", "table1", "--backbones", "vit"), "backbones"),
        (("controls", "phantom", "--seeds", "none"), "Seeds"),
        (("export", "{images}", "--out", "{images}/data.json"), "not an export"),
    ],
    ids=" ".join,
)
def test_values_outside_their_range_end_before_the_work(
    capsys, bench_folder, tmp_path, monkeypatch, command, about
):
    monkeypatch.chdir(tmp_path)
    before = snapshot(bench_folder)
    assert_refused(
        capsys, *(c.format(images=bench_folder, tmp=tmp_path) for c in command), about=about
    )
    assert snapshot(bench_folder) == before and not list(tmp_path.iterdir())


def test_without_arguments_the_help_is_printed(capsys):
    assert run(capsys)[1] == run(capsys, "--help")[1] and "Commands:\n" in run(capsys)[1]
    assert re.fullmatch(r"d2ue \d+\.\d+\.\d+\n", run(capsys, "--version")[1])


def test_ctrl_c_while_libraries_are_loaded_ends_in_a_sentence(tmp_path):
    """The signal comes when torch begins to be loaded, as a module of that name sees it."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run(
        [sys.executable, "-m", "d2ue", "fit", "phantom", "--out", "r"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 130
    assert ended.stderr == "d2ue: interrupted before anything was begun.\n"


def test_scores_go_nowhere_else_than_asked(capsys, trained, bench_folder, tmp_path):
    assert_refused(capsys, "score", trained, bench_folder, "--out", tmp_path, about="is a folder")
    lost = tmp_path / "no" / "s.csv"
    assert_refused(capsys, "score", trained, bench_folder, "--out", lost, about="no folder")


def test_python_m_d2ue_is_the_same_program():
    finished = subprocess.run(
        [sys.executable, "-m", "d2ue", "fit", "nowhere", "--out", "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("d2ue: ") and "Traceback" not in finished.stderr


def test_ctrl_c_ends_without_a_traceback_and_the_same_command_goes_on(bench_folder, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "d2ue", "fit", str(bench_folder), "--out", str(out)]
    command += ["--image-size", "16", "--batch-size", "8", "--learners", "2"]
    said = tmp_path / "stderr"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [*command, "--epochs", "100000"],
            stderr=stderr,
            start_new_session=True,
            # Tests that run in the background of a shell inherit Ctrl-C switched off.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        # The bar has moved: it is in the middle of training, no longer importing.
        wait_for(lambda: re.search(r" [1-9]\d*/200000 ", said.read_text()))
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)
    finally:
        process.kill()
    err = said.read_text()
    assert process.returncode == 130
    assert "Traceback" not in err and "goes on" in err
    assert not (out / "ensemble.json").exists()
    # The folder is known as an unfinished run, and finished by other settings as well as by these.
    finished = subprocess.run([*command, "--epochs", "1"], capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (out / "ensemble.json").exists() and not (out / ".unfinished").exists()


# --- tables ---

SMALL = ("--epochs", "1", "--batch-size", "8", "--seeds", "1", "--dataset", "drawn")


def test_options_that_would_go_unheeded_are_refused(capsys):
    assert_refused(
        capsys, "reproduce", "quickstart", "--seeds", 3, about="--seeds is for the tables"
    )


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (("--jobs", "many"), "--jobs"),
        (("--seeds", "0"), "1,2,7"),
        (("--backbones", "resnet"), "resnet"),
        (("--epochs", "0"), "epochs"),
        (("--device", "quantum"), "quantum"),
        (("--precision", "half"), "half"),
        (("--precision", "tf32", "--device", "cpu"), "tf32 is for CUDA"),
        (("--dataset", "rsna"), "--data"),
        (("--backbones", "ae,meame"), "no backbone meame"),
        (("-p", "nonsense=1"), "no parameter 'nonsense'"),
        (("-p", "seeds=3"), "-p seeds would be set after the training"),
        (("--store", "a,b"), "comma"),
        (("--out", __file__), "is a file"),
        (("--out", "/proc/tables"), "cannot be written"),
        (("--store", "/proc/store"), "cannot be written"),
        (("--scores", "a.zip"), "--store is for what is trained"),
        (("--data", "."), "What are the images in . called?"),
        (("--data", "", "--dataset", "mine"), "--data is empty"),
        (("--data", ".", "--dataset", "phantom"), "is built in and needs no --data"),
        (("--dataset", ""), "No data set is named"),
        (("--dataset", "phantom", "--dataset", "phantom"), "named twice"),
        (("--n-test", "-2"), "not -2"),
    ],
)
def test_tables_refuse_what_cannot_be_run(capsys, tmp_path, options, about):
    arguments = (
        "reproduce",
        "table2",
        "--store",
        tmp_path / "s",
        "--out",
        tmp_path / "o",
        *options,
    )
    assert_refused(capsys, *arguments, about=about)
    assert not list(tmp_path.iterdir())


def test_without_papermill_nothing_is_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)  # as if it were not installed
    arguments = ("reproduce", "table1", "--store", tmp_path / "s", "--out", tmp_path / "o")
    assert_refused(capsys, *arguments, about="needs papermill")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(capsys, bench_folder, tmp_path):
    arguments = ("reproduce", "table1", *SMALL, "--data", bench_folder, "--store", tmp_path / "s")
    code, out, _ = run(capsys, *arguments, "--out", tmp_path / "o", "--dry-run")
    assert code == 0 and "drawn: learner 3 of aeu, seed 1, cka at z, lambda 1" in out
    assert "6 ensembles in all, 0 of them cached; 9 learners to train" in out
    assert not list(tmp_path.iterdir())


def test_a_table_from_images_to_page_and_again_from_its_export(capsys, bench_folder, tmp_path):
    store, out = tmp_path / "store", tmp_path / "out"
    arguments = ("reproduce", "table1", *SMALL, "--data", bench_folder, "--store", store)
    code, said, err = run(capsys, *arguments, "--out", out, "--jobs", "2")
    assert code == 0, err
    assert "6 ensembles, 0 of them cached; 15 learners and ensembles' scores are new" in said
    assert "not the paper's numbers" in said
    left = {path.name for path in out.iterdir()}
    assert left >= {"11_table1.ipynb", "table1.csv", "table1.md", "table1.png", "parameters.json"}
    with open(out / "table1.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["n_seeds"] for line in lines] == ["1"] * 6
    assert all(0 <= float(line["AUC"]) <= 100 for line in lines)
    assert "(n = 1)" in (out / "table1.md").read_text()

    clusters = tmp_path / "clusters.csv"
    clusters.write_text(clusters_of("0011233445"[:9]))
    again = (*arguments, "--jobs", "1", "--out", tmp_path / "again", "--clusters", clusters)
    code, said, _ = run(capsys, *again)
    assert code == 0 and "6 of them cached; 0 learners and" in said
    with open(tmp_path / "again" / "table1.csv") as file:
        respected = list(csv.DictReader(file))
    for line, plain in zip(respected, lines, strict=True):
        assert line["independence"] == "clusters respected (5 clusters of 9 images)"
        assert plain["independence"] == "images as independent"
        assert line["AUC"] == plain["AUC"]
    assert any(a["AUC_low"] != b["AUC_low"] for a, b in zip(respected, lines, strict=True))

    assert run(capsys, "export", store, "--out", tmp_path / "scores.zip")[0] == 0
    assert run(capsys, "import", tmp_path / "scores.zip", "--store", tmp_path / "new")[0] == 0
    drawn = ("reproduce", "table1", *SMALL, "--scores", tmp_path / "scores.zip")
    code, said, err = run(capsys, *drawn, "--out", tmp_path / "drawn")
    assert code == 0, err
    for name in ("table1.csv", "table1.md", "table1_verdicts.csv"):
        assert (tmp_path / "drawn" / name).read_bytes() == (out / name).read_bytes()
    more = ("--out", tmp_path / "none", "--clusters", tmp_path / "no.csv")
    assert_refused(capsys, *drawn, *more, about="'d2ue audit FOLDER --out DIR' writes one")
    absent = [*drawn[:-1], tmp_path / "no.zip", "--out", tmp_path / "none"]
    assert_refused(capsys, *absent, about="give a file that 'd2ue export' wrote")
    other = [*drawn, "--out", tmp_path / "none"]
    other[other.index("--epochs") + 1] = 2
    assert_refused(capsys, *other, about="only of 1 epoch, batches of 8 and float32")
    other = [*drawn, "--dataset", "nosuch", "--out", tmp_path / "none"]
    assert_refused(capsys, *other, about="no results for nosuch")
    assert not (tmp_path / "none").exists()
    assert_refused(capsys, *drawn, "--dry-run", about="--dry-run is for what is trained")
    assert_refused(
        capsys, "export", store, "--out", tmp_path / "x.zip", "--dataset", "drawn",
        "--dataset", "nosuch", about="no results of nosuch",
    )  # fmt: skip

    # Gradients alone are scored of learners of the epochs that are asked for, the paper's else.
    asked = ("controls", "drawn", "--data", bench_folder, "--seeds", "1", "--store", store)
    code, said, _ = run(capsys, *asked)
    assert code == 0 and said.count("missing: ") == 3
    code, said, _ = run(capsys, *asked, "--epochs", "1", "--batch-size", "8")
    assert code == 0 and said.count("missing: ") == 0

    # A learner is damaged, the scores are lost: what does not need it is done, and drawn.
    shutil.rmtree(store / "scores")
    (damaged,) = [
        path.parent
        for path in store.glob("learners/*/learner.json")
        if '"backbone": "memae"' in path.read_text()
    ]
    (damaged / "weights.safetensors").write_bytes(b"")
    code, said, err = run(capsys, *arguments, "--jobs", "1", "--out", tmp_path / "less")
    assert code == 2 and "failed: drawn: scores of 1 learner of memae, seed 1: " in err
    assert "1 of the trainings and scorings failed, 0 that need them were not run" in err
    with open(tmp_path / "less" / "table1.csv") as file:
        assert [line["n_seeds"] for line in csv.DictReader(file)] == ["1", "0", *"1111"]
    failed = json.loads((tmp_path / "less" / "parameters.json").read_text())["parameters"]["failed"]
    assert list(failed) == ["drawn: scores of 1 learner of memae, seed 1"]
    assert (
        "Failed: drawn: scores of 1 learner of memae" in (tmp_path / "less/table1.md").read_text()
    )


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc to find processes in")
@pytest.mark.parametrize("when", ["starting", "training"])
def test_a_batch_is_interrupted_without_a_traceback(bench_folder, tmp_path, when):
    """While its first processes start, or train; the pipe closes when the last has ended."""
    command = [sys.executable, "-m", "d2ue", "reproduce", "table1", *SMALL, "--data", bench_folder]
    command += ["--store", tmp_path / "store", "--out", tmp_path / "out", "--jobs", "2"]
    command[command.index("--epochs") + 1] = "100000"
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = b""
    while not re.search(r"batch: .* [1-9]\d*/", said.decode(errors="ignore")):
        more = os.read(process.stderr.fileno(), 4096)
        assert more, said
        said += more
        if when == "starting" and b"batch: " in said:
            # The one that forks those that work is in the middle of its imports.
            wait_for(lambda: any("libtorch" in maps_of(p) for p in children_of(process.pid)))
            break
    os.killpg(process.pid, signal.SIGINT)
    said += process.stderr.read()
    last = said.decode().replace("\r", "\n").strip().splitlines()[-1]
    assert process.wait(60) == 130
    assert last == "d2ue: interrupted; the same command goes on from the last state kept.", said
    assert b"Traceback" not in said and b"Warning" not in said and not (tmp_path / "out").exists()


def maps_of(pid):
    """What a process has loaded."""
    return Path(f"/proc/{pid}/maps").read_text()


def clusters_of(names):
    """A table of clusters for the folder of these tests; a digit is the cluster of a test image."""
    lines = ["name,split,label,cluster", *(f"train{i}.png,train,0,{10 + i}" for i in range(16))]
    lines += [f"test{i}.png,test,{int(i > 4)},{name}" for i, name in enumerate(names)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (None, "cannot be read"),
        ("name,label\n", "no table of clusters"),
        (clusters_of("00112334"), "not those of drawn (9"),  # a test image less
        (clusters_of("001123344").replace("test4.png,test,0", "test4.png,test,1"), "not those of"),
    ],
)
def test_clusters_of_other_images_are_refused_before_anything_is_trained(
    capsys, bench_folder, tmp_path, text, about
):
    clusters = tmp_path / "clusters.csv"
    if text is not None:
        clusters.write_text(text)
    arguments = ("reproduce", "table1", *SMALL, "--data", bench_folder, "--store", tmp_path / "s")
    more = ("--out", tmp_path / "o", "--clusters", clusters)
    assert_refused(capsys, *arguments, *more, about=about)
    assert_refused(capsys, *arguments, *more[:-1], f"{clusters},{clusters}", about="2 files")
    assert {path.name for path in tmp_path.iterdir()} <= {"clusters.csv"}


def test_controls_are_scored_with_what_is_there(capsys, tmp_path):
    """Images alone and untrained ensembles need no learner; those that do are named."""
    drawn = phantom(n_train=20, n_test_normal=4, n_test_abnormal=3, image_size=64)
    names = [f"{i}.png" for i in range(20 + 7)]
    every = np.concatenate([drawn.train.images, drawn.test.images])
    write_images(tmp_path / "drawn" / "images", every, names)
    split = {"train": {"0": names[:20]}, "test": {"0": names[20:24], "1": names[24:]}}
    (tmp_path / "drawn" / "data.json").write_text(json.dumps(split))
    store = tmp_path / "store"
    asked = ("controls", "drawn", "--data", tmp_path / "drawn", "--seeds", "1", "--store", store)
    code, out, err = run(capsys, *asked)
    assert code == 0 and err == ""
    found = read_records(store)
    controls = [record.control for record in found.values()]
    missing = [line for line in out.splitlines() if line.startswith("missing: ")]
    assert controls.count("images") == 1 and controls.count("untrained") == 3
    assert f"{store}: {len(found)} controls scored, 0 were there." in out
    assert len(missing) == 3 and all("gradient, " in line and "seed 1" in line for line in missing)
    assert not (store / "learners").exists()
    code, out, _ = run(capsys, *asked)
    assert code == 0 and f"0 controls scored, {len(found)} were there." in out
    assert_refused(capsys, "controls", "rsna", "--store", store, about="folder that they lie in")
    assert_refused(
        capsys, "controls", "drawn", "--data", tmp_path / "no", "--store", store, about="no"
    )


def test_exports_that_cannot_be_made_are_refused(capsys, tmp_path):
    assert_refused(capsys, "export", tmp_path / "s", "--out", tmp_path / "a.zip", about="no folder")
    (tmp_path / "s").mkdir()
    arguments = ("export", tmp_path / "s", "--out", tmp_path / "a.zip")
    assert_refused(capsys, *arguments, about="nothing to export")
    assert_refused(
        capsys, *arguments, "--dataset", "rsna", about="no results of rsna, only of noth"
    )
    assert_refused(capsys, "import", tmp_path / "a.zip", about="a.zip")
