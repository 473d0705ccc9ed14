"""What scoring leaves behind: tables, maps and a page, each checked by reading it back."""

import base64
import csv
import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from d2ue import ImageSet
from d2ue.detector.report import Scored, colour_top, overlay, report, write_maps, write_report
from d2ue.detector.threshold import Threshold


def image_set(n, labels=None, names=None):
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 16, 16), dtype=np.uint8)
    labels = None if labels is None else np.array(labels, np.int8)
    return ImageSet(images, tuple(names or (f"{i}.png" for i in range(n))), labels)


def maps_of(images):
    """Stand-in maps that are told apart: an image over 255."""
    return images.astype(np.float32) / 255


def scored(n=8, labels=None, threshold=True, names=None):
    scores = (np.arange(n) * 3 % n + 0.25) / n  # a permutation
    limit = Threshold({"dual": np.linspace(0, 0.6, 9)}, 0.1) if threshold else None
    return Scored(image_set(n, labels, names), scores, "dual", limit)


def test_the_table_holds_every_digit_and_the_verdict():
    one = scored(labels=[0] * 4 + [1] * 4)
    rows = list(csv.DictReader(io.StringIO(one.csv())))
    assert [row["name"] for row in rows] == list(one.images.names)
    assert [float(row["score"]) for row in rows] == one.scores.tolist()
    assert [row["label"] for row in rows] == list("00001111")
    # 9 held out at 10 %: the threshold is the highest, 0.6
    assert [row["abnormal"] for row in rows] == ["yes" if s > 0.6 else "no" for s in one.scores]
    assert {row["abnormal"] for row in rows} == {"yes", "no"}
    at = Scored(image_set(3), np.array([0.5, 0.6, 0.7]), "dual", one.threshold)
    assert at.abnormal.tolist() == [False, False, True]  # the threshold itself is not above it
    small = Scored(image_set(1), np.array([2e-17 / 3]), "dual")
    assert small.abnormal is None
    assert small.csv() == f"name,label,score\n0.png,,{2e-17 / 3!r}\n"


@pytest.mark.parametrize("seed", range(2))
def test_the_interval_is_what_a_bootstrap_says(seed):
    """Percentile bootstrap over images, here by counting pairs; n differs from seed to seed."""
    rng = np.random.default_rng(seed)
    n0, n1 = rng.integers(80, 200, 2)
    normal, abnormal = rng.normal(size=n0), rng.normal(0.8, 1.5, n1)
    labels = np.repeat(np.array([0, 1], np.int8), [n0, n1])
    scores = np.concatenate([normal, abnormal])
    above = (abnormal[:, None] > normal).astype(float)
    drawn = [above[rng.integers(0, n1, n1)][:, rng.integers(0, n0, n0)].mean() for _ in range(2000)]
    (sentence,) = [s for s in Scored(image_set(n0 + n1, labels), scores, "dual").summary[1:]]
    found = re.match(r"AUC (.*) \(95 % interval over images, DeLong, (.*) to (.*)\), AP", sentence)
    value, low, high = (float(text) / 100 for text in found.groups())
    assert value == pytest.approx(above.mean(), abs=5e-4)
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.008)


def test_ranking_and_sentences():
    one = scored(labels=[0, 1] * 4)
    assert (np.diff(one.scores[one.ranking]) < 0).all()
    text = " ".join(one.summary)
    assert f"{int((one.scores > 0.6).sum())} of 8 are above the threshold 0.6" in text
    assert "10.0 % of new normal images" in text and "AUC" in text
    hits = int((one.scores[1::2] > 0.6).sum())
    assert f"{hits} of 4 ({25 * hits:.1f} %) of the abnormal" in text
    assert "AUC" not in " ".join(scored(labels=[0] * 8).summary + scored().summary)
    assert "no interval" in " ".join(scored(labels=[0] * 7 + [1]).summary)
    few = Scored(image_set(2), np.array([0.1, 0.2]), "dual", Threshold({"dual": np.ones(3)}, 0.05))
    assert "Only 3 normal images" in " ".join(few.summary)


def test_parts_that_do_not_fit(refused):
    with refused("8 images", "(7,)"):
        Scored(image_set(8), np.ones(7), "dual")
    with refused("not finite", "train anew"):
        Scored(image_set(2), np.array([1, np.inf]), "dual")
    with refused("'output'"):
        Scored(image_set(2), np.ones(2), "output", Threshold({"dual": np.ones(3)}, 0.1))


def test_overlay_by_hand():
    image = np.array([[100, 100, 200]], np.uint8)
    mixed = overlay(image, np.array([[0.0, 2.0, 8.0]]), 4.0)
    assert mixed[0, 0].tolist() == [100, 100, 100]  # no score: the image as it is
    # The brightest colour of magma is (0.987053, 0.991438, 0.749504); it covers three quarters.
    bright = [0.25 * 200 + 0.75 * 255 * c for c in (0.987053, 0.991438, 0.749504)]
    np.testing.assert_allclose(mixed[0, 2], bright, atol=0.51)
    # Half of the way: (0.716387, 0.214982, 0.47529) covers three eighths.
    half = [0.625 * 100 + 0.375 * 255 * c for c in (0.716387, 0.214982, 0.47529)]
    np.testing.assert_allclose(mixed[0, 1], half, atol=0.51)
    assert colour_top(np.arange(1001.0)) == 995.0
    assert colour_top(np.zeros(5)) == 1.0


@pytest.mark.parametrize("kind", ["npy", "tiff"])
def test_maps_are_numbers_and_pictures(tmp_path, kind):
    names = ["a.png", "a.jpg", "deep/er/b.png", "ü é.png"] + [f"{i}.png" for i in range(62)]
    images = image_set(len(names), names=names)
    images.images[1:9] //= 4  # maps whose own highest values are low
    top = write_maps(tmp_path / "maps", images, maps_of, kind)
    files = [p for p in (tmp_path / "maps").rglob("[!.]*") if p.is_file()]
    assert len(files) == 2 * len(names)
    assert top == pytest.approx(colour_top(images.images / 255))
    for i, name in enumerate(names):
        path = tmp_path / "maps" / f"{name}.{kind}"
        read = np.load(path, allow_pickle=False) if kind == "npy" else Image.open(path)
        values = np.asarray(read)
        assert values.dtype == np.float32
        assert np.array_equal(values, maps_of(images.images[i, 0]))
        picture = Image.open(tmp_path / "maps" / f"{name}.overlay.png")
        assert picture.size == (256, 256) and picture.mode == "RGB"
        # One colour scale for all: a corner keeps its value when it is enlarged.
        corner = overlay(images.images[i, 0, :1, :1], maps_of(images.images[i, 0, :1, :1]), top)
        assert np.abs(np.asarray(picture)[0, 0].astype(int) - corner[0, 0]).max() <= 1
    once = {p: p.read_bytes() for p in files}
    (tmp_path / "maps" / "mine.txt").write_text("stays")
    write_maps(tmp_path / "maps", images, maps_of, kind)
    assert {p: p.read_bytes() for p in files} == once
    assert (tmp_path / "maps" / "mine.txt").read_text() == "stays"


def test_maps_stay_in_their_folder_and_apart(tmp_path, refused):
    outside = ["../x.png", "/y.png", "..\\..\\z.png", "C:\\w.png"]
    write_maps(tmp_path / "maps", image_set(4, names=outside), maps_of)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maps"]
    found = sorted(p.name for p in (tmp_path / "maps").glob("*.npy"))
    assert found == ["w.png.npy", "x.png.npy", "y.png.npy", "z.png.npy"]
    with refused("same file"):
        write_maps(tmp_path / "two", image_set(2, names=["../a.png", "/b/a.png"]), maps_of)
    with refused("npy or tiff"):
        write_maps(tmp_path / "two", image_set(1), maps_of, "bmp")
    assert not (tmp_path / "two").exists()


def test_a_map_is_whole_or_not_there(tmp_path, monkeypatch, refused):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with refused("free some space"):
            write_maps(tmp_path / "maps", image_set(2), maps_of)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [".d2ue"]


def pictures_of(page):
    """Every picture of a page: what it is said to show, and its pixels."""
    found = re.findall(r'<img[^>]* src="data:image/png;base64,([^"]+)" alt="([^"]*)"', page)
    assert len(found) == page.count("<img")
    return [(alt, Image.open(io.BytesIO(base64.b64decode(data)))) for data, alt in found]


def test_the_page_shows_the_most_abnormal_first():
    one = scored(20, labels=[1] * 20)
    page = report(one, maps_of, title="Ward 7", about={"scanner": "B"}, top=5)
    shown = [(alt, np.asarray(p)) for alt, p in pictures_of(page) if alt in one.images.names]
    assert [alt for alt, _ in shown[:5]] == [one.images.names[i] for i in one.ranking[:5]]
    for alt, pixels in shown:
        assert np.array_equal(pixels, one.images.images[one.images.names.index(alt), 0])
    rest = [one.images.names.index(alt) for alt, _ in shown[5:]]
    assert 1 <= len(rest) <= 6 and not set(rest) & set(one.ranking[:5])
    assert rest[-1] == one.ranking[-1]
    captions = re.findall("<figcaption>([^<]*)", page)
    first = one.ranking[0]
    wanted = f"1. {one.images.names[first]}: {one.scores[first]:.4g}; called abnormal; "
    wanted += "above 9 of 9 held-out normals; truth: abnormal"
    assert wanted in captions
    assert captions[-1].startswith("20. ")
    assert "<title>Ward 7</title>" in page and "scanner" in page and "Not a medical device" in page
    assert not re.search(r"<script|<link|src=\"(?!data:)|https?://", page)


@pytest.mark.parametrize(("n", "top"), [(1, 24), (2, 1), (5, 5), (30, 24)])
def test_pages_of_any_length(n, top):
    page = report(scored(n, threshold=n > 2), maps_of, top=top)
    shown = [alt for alt, _ in pictures_of(page) if re.fullmatch(r"\d+\.png", alt)]
    assert len(shown) == len(set(shown)) and len(shown) >= min(n, top)
    assert f"The {min(n, top)} most abnormal" in page
    assert ("For comparison" in page) == (n > top)


def test_names_cannot_become_part_of_the_page():
    evil = "<script>alert(1)</script>.png"
    page = report(scored(2, names=[evil, "b.png"]), maps_of, title=evil, about={evil: evil})
    assert "<script" not in page and page.count("&lt;script&gt;") >= 6


def test_pages_that_cannot_be(tmp_path, refused):
    for top in (0, True):
        with refused("at least 1"):
            report(scored(), maps_of, top=top)
    with refused("no images"):
        report(Scored(image_set(0), np.ones(0), "dual"), maps_of)
    with refused("cannot be written"):
        write_report(tmp_path / "no" / "r.html", scored(), maps_of)
    assert write_report(tmp_path / "r.html", scored(), maps_of).read_text().startswith("<!DOCTYPE")
