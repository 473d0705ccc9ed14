"""The audit finds what was planted and nothing else, and a cleaned split holds no leak."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from d2ue import load, load_folder, load_images, phantom
from d2ue.audit import SYMMETRIES, audit, transform
from d2ue.audit.duplicates import Pairs, clusters_of, find_pairs, spanning
from d2ue.audit.planted import PLANTED, plant, recall_and_precision
from d2ue.audit.report import html_page, summary, text_report, write_report
from d2ue.audit.splits import cleaned_split, write_split
from d2ue.cli.app import main
from d2ue.datasets.registry import load_named
from d2ue.statistics.clusters import read_clusters


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder of 100 phantoms and 50 copies, what is true of it, and its audit."""
    folder = tmp_path_factory.mktemp("planted") / "heads"
    truth = plant(folder, n=100, each=10, seed=4, progress=False)
    return folder, truth, audit(folder, progress=False)


def write(folder, pictures, train, normal, abnormal):
    """A benchmark of these pictures, by name, with these lists of names."""
    (folder / "images").mkdir(parents=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / "images" / name)
    split = {"train": {"0": train}, "test": {"0": normal, "1": abnormal}}
    (folder / "data.json").write_text(json.dumps(split))
    return folder


def draw(n_train, n_normal, n_abnormal):
    """Heads by name: 0.png ... of training, t0.png ... of test, normal ones first."""
    heads = phantom(
        n_train=n_train, n_test_normal=n_normal, n_test_abnormal=n_abnormal, progress=False
    )
    pictures = {f"{i}.png": p[0] for i, p in enumerate(heads.train.images)}
    return pictures | {f"t{i}.png": p[0] for i, p in enumerate(heads.test.images)}


@pytest.mark.parametrize("kind", ["head", "chest"])
def test_every_kind_of_planted_copy_is_found_and_nothing_else(kind, tmp_path, planted):
    if kind == "head":
        _, truth, found = planted
    else:
        truth = plant(tmp_path / "p", kind="chest", n=60, each=6, seed=5, progress=False)
        found = audit(tmp_path / "p", progress=False)
    table = recall_and_precision(found, truth).set_index("kind")
    assert (table["planted"] > 0).all() and list(table.index) == [*PLANTED, "all"]
    assert (table["recall"] == 1).all()
    assert table.loc["all", "precision"] == 1
    kinds = dict(zip(truth["copy"], truth["kind"], strict=True))
    names = found.files["name"]
    for pair in found.pairs.itertuples():
        copy = names[pair.second] if names[pair.second] in kinds else names[pair.first]
        if kinds[copy] == "exact":
            assert pair.kind == "same file"
        assert (pair.symmetry > 0) <= (kinds[copy] == "turned")


def test_the_eight_symmetries_are_all_there_and_told_apart():
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8).repeat(8, 0).repeat(8, 1)
    seen = set()
    for symmetry in range(len(SYMMETRIES)):
        turned = transform(picture, symmetry)
        seen.add(turned.tobytes())
        pairs, nearest = find_pairs(np.stack([turned, picture]))
        assert pairs.near.tolist() == [True] and pairs.symmetry.tolist() == [symmetry]
        assert nearest == pytest.approx([1, 1], abs=1e-5)
    assert len(seen) == 8


def test_altered_contrast_is_found_by_fine_detail_and_another_head_is_not():
    heads = phantom(n_train=40, n_test_normal=0, n_test_abnormal=0, progress=False).train.images
    heads = heads[:, 0]
    bright = np.clip(heads[:1] * 1.0 / 255, 0, 1) ** 0.75 * 255
    pairs, _ = find_pairs(np.concatenate([heads, bright.astype(np.uint8)]))
    near = pairs.near
    assert list(zip(pairs.first[near], pairs.second[near], strict=True)) == [(0, 40)]
    assert len(near) > 1  # other heads come close in the coarse, and fine detail tells them apart


def test_clusters_are_components_numbered_by_first_image():
    assert clusters_of(6, np.array([4, 1]), np.array([1, 5])).tolist() == [0, 1, 2, 3, 1, 1]
    assert clusters_of(0, np.array([], int), np.array([], int)).tolist() == []


def test_what_spanning_keeps_links_the_same_clusters_by_every_rule():
    rng = np.random.default_rng(0)
    n = 60
    first, second = np.nonzero(np.triu(rng.random((n, n)) < 0.3, 1))
    coarse = rng.uniform(0.9, 1.0, len(first)).astype(np.float32)
    fine = np.where(coarse < 0.99, rng.uniform(0, 1, len(first)), np.nan).astype(np.float32)
    every = Pairs(first, second, np.zeros(len(first), int), coarse, fine, len(first))
    kept = spanning(n, every)
    assert len(kept.first) <= 2 * (n - 1) < len(first) == kept.total
    for a in (0.9, 0.99, 0.995, 0.999):
        for b in (0.5, 0.9, 0.95, 0.99, 2):
            one, other = (
                clusters_of(n, p.first[near], p.second[near])
                for p in (every, kept)
                for near in [(p.coarse >= a) | (p.fine >= b)]
            )
            assert one.tolist() == other.tolist()


def test_many_that_look_alike_are_clustered_by_few_pairs():
    """60 noisy copies of 2 pictures: 2 clusters of 60, by a few pairs of 3540."""
    rng = np.random.default_rng(0)
    both = rng.uniform(0, 255, (2, 8, 8)).repeat(8, 1).repeat(8, 2)
    copies = np.clip(both[:, None] + rng.normal(0, 3, (2, 60, 64, 64)), 0, 255)
    pairs, nearest = find_pairs(copies.reshape(-1, 64, 64).astype(np.uint8))
    assert pairs.total == 2 * 60 * 59 / 2 and len(pairs.first) < 2 * 120
    found = clusters_of(120, pairs.first[pairs.near], pairs.second[pairs.near])
    assert found.tolist() == [0] * 60 + [1] * 60 and (nearest > 0.99).all()


def test_cleaning_by_train_drops_leaked_test_images_and_nothing_else(planted):
    folder, truth, found = planted
    split = cleaned_split(found, "train")
    published = json.loads((folder / "data.json").read_text())
    assert split["train"] == published["train"] and split["test"]["1"] == published["test"]["1"]
    leaked = set(truth["copy"][truth["original"].isin(published["train"]["0"])])
    assert leaked
    assert split["test"]["0"] == [x for x in published["test"]["0"] if x not in leaked]


def test_cleaning_at_random_moves_whole_clusters_and_depends_on_the_seed_alone(planted):
    folder, truth, found = planted
    splits = [cleaned_split(found, "random", seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    published = json.loads((folder / "data.json").read_text())
    everything = [*published["train"]["0"], *published["test"]["0"], *published["test"]["1"]]
    for split in splits:
        train, test = set(split["train"]["0"]), {*split["test"]["0"], *split["test"]["1"]}
        assert train | test == set(everything) and not train & test
        for original, copy in zip(truth["original"], truth["copy"], strict=True):
            assert (original in train) == (copy in train)
    assert any("copy" in name for name in splits[0]["train"]["0"])
    assert any("train" in name for name in splits[0]["test"]["0"])


def test_a_cluster_of_both_labels_leaves_the_test_set(tmp_path):
    pictures = draw(4, 3, 3)
    pictures |= {"twin.png": pictures["t5.png"], "trained.png": pictures["t4.png"]}
    train = ["0.png", "1.png", "2.png", "3.png", "trained.png"]
    normal, abnormal = ["t0.png", "t1.png", "t2.png", "twin.png"], ["t3.png", "t4.png", "t5.png"]
    found = audit(write(tmp_path / "p", pictures, train, normal, abnormal), progress=False)
    both = set(found.files["name"][found.contradictory])
    assert both == {"trained.png", "t4.png", "twin.png", "t5.png"}
    assert summary(found)["near duplicates"]["images in clusters of both labels"] == 4
    kept = cleaned_split(found, "train")
    assert kept["train"]["0"] == train
    assert kept["test"] == {"0": ["t0.png", "t1.png", "t2.png"], "1": ["t3.png"]}
    assert "trained.png" not in cleaned_split(found, "random")["train"]["0"]


def test_a_cleaned_split_is_a_data_set_of_its_own_name(planted, refused, tmp_path):
    folder, _, found = planted
    before = (folder / "data.json").read_bytes()
    path = write_split(found)
    assert path == folder / "data.cleaned.json" and write_split(found) == path  # identical: stays
    assert (folder / "data.json").read_bytes() == before
    whole, clean = load(folder, 16), load(path, 16)
    assert (whole.name, clean.name) == ("heads", "heads-cleaned")
    assert clean.train.fingerprint == whole.train.fingerprint
    assert len(clean.test) == len(whole.test) - int(found.leaked.sum())
    assert load_images(path, 16).names == clean.test.names
    assert load_folder(folder / "data.json", 16).name == "heads"
    assert load_named("heads-cleaned", path, 16).test.names == clean.test.names
    with refused("brain-mri-cleaned", "published"):
        load_named("brain-mri", path, 16)
    path.write_text("{}")
    with refused("data.cleaned.json", "another split"):
        write_split(found)
    assert path.read_text() == "{}"
    path.unlink()
    with refused("data.json"):
        write_split(found, path=folder / "data.json")
    (tmp_path / "a.json").write_text("{}")
    with refused("images/"):
        load_folder(tmp_path / "a.json")


def test_odd_files_are_listed_and_the_rest_is_audited(tmp_path):
    pictures = draw(3, 2, 2)
    pictures |= {"black.png": np.zeros((5, 7), np.uint8), "black2.png": np.zeros((5, 7), np.uint8)}
    folder = write(
        tmp_path / "odd",
        pictures,
        ["0.png", "1.png", "2.png", "text.png", "black.png", "gone.png"],
        ["t0.png", "t1.png", "black2.png", "0.png"],
        ["t2.png", "t3.png", "empty.png"],
    )
    (folder / "images" / "text.png").write_text("no picture")
    (folder / "images" / "empty.png").write_bytes(b"")
    found = audit(folder, progress=False)
    report = summary(found)
    assert [name for name, _ in report["unreadable"]] == ["text.png", "gone.png", "empty.png"]
    assert str(tmp_path) not in json.dumps(report) + text_report(found) + html_page(found)
    # The same name on both sides is a finding; two black pictures are one, by their bytes.
    assert set(found.files["name"][found.leaked]) == {"black2.png", "0.png"}
    assert set(found.pairs["kind"]) == {"same file"}
    assert cleaned_split(found)["train"]["0"] == ["0.png", "1.png", "2.png", "black.png"]


@pytest.mark.parametrize("n", [1, 2])
def test_plain_and_tiny_folders(n, tmp_path, refused):
    for i in range(n):
        Image.fromarray(np.full((3, 3), 9 * i, np.uint8)).save(tmp_path / f"{i}.png")
    found = audit(tmp_path, progress=False)
    write_report(found, tmp_path / "report")
    assert len(found.pairs) == 0 and set(found.files["split"]) == {"all"}
    with refused("plain folder"):
        cleaned_split(found)


def test_a_property_that_gives_the_label_away_has_an_auc_of_one(tmp_path):
    pictures = {
        name: np.pad(picture, 1) if name in ("t4.png", "t5.png", "t6.png", "t7.png") else picture
        for name, picture in draw(4, 4, 4).items()
    }
    names = list(pictures)
    folder = write(tmp_path / "p", pictures, names[:4], names[4:8], names[8:])
    found = audit(folder, id_pattern=r"(\d)", progress=False)
    table = found.properties.set_index(["comparison", "property"])
    assert table.loc[("abnormal against normal test images", "width"), "auc"] == 1
    assert "width" not in table.loc["test normals against training images"].index
    ids = summary(found)["identifiers"]
    assert ids == {
        "ids": 8, "images": 12, "images without an id": 0, "ids in train and test": 4,
        "their test images": 4, "ids of both labels": 0,
    }  # fmt: skip


def test_patterns_that_are_none_are_refused(planted, refused):
    folder, _, _ = planted
    for pattern, word in (("(", "regular expression"), ("(a)(b)", "groups")):
        with refused(word):
            audit(folder, id_pattern=pattern, progress=False)


def test_the_command_writes_a_whole_report_that_tables_can_read(planted, tmp_path, capsys):
    folder, _, found = planted
    options = ["--clean", "random", "--seed", "3"]
    with pytest.raises(SystemExit, match="0"):
        main(["audit", str(folder), "--out", str(tmp_path / "r"), *options])
    assert "data.cleaned-random-3.json" in capsys.readouterr().out
    (folder / "data.cleaned-random-3.json").unlink()
    assert {p.name for p in (tmp_path / "r").iterdir()} == {
        ".d2ue", "report.txt", "report.json", "report.html", "clusters.csv", "pairs.csv",
        "pairs.png", "distances.png",
    }  # fmt: skip
    clusters = read_clusters(tmp_path / "r" / "clusters.csv")
    assert (~clusters.kept).sum() == found.leaked.sum() > 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert len(re.findall("<img ", page)) == 2 * min(48, len(found.pairs))
    with pytest.raises(SystemExit, match="2"):
        main(["audit", str(folder), "--out", str(tmp_path / "r2"), "--clean", "all"])
    assert not (tmp_path / "r2").exists()
