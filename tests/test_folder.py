"""Folders of images: the pixels, the names, every refusal in one sentence."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from d2ue.datasets.decode import decode_image
from d2ue.datasets.folder import load_folder, load_images
from d2ue.errors import InputError

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")  # of damaged metadata
no_root = pytest.mark.skipif(AS_ROOT, reason="root may read and write everything")


def noise(seed=0, size=(20, 30), channels=None) -> np.ndarray:
    shape = size if channels is None else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels=None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path, **options)
    return path


def write_split(folder: Path, train, normal=(), abnormal=(), *, make=True) -> Path:
    data = {"train": {"0": list(train)}, "test": {"0": list(normal), "1": list(abnormal)}}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(data))
    for seed, name in enumerate([*train, *normal, *abnormal] if make else []):
        save(folder / "images" / name, noise(seed))
    return folder


def sentence(call, *args, **kwargs) -> str:
    """The text of the InputError that a call raises, checked to be one printable sentence."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    outside = re.sub(r"'[^']*'", "''", text)
    assert text.isprintable() and text.endswith("."), text
    assert ". " not in outside and len(text) < 1000, text
    return text


def says(text: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in text, f"{part!r} is not in: {text}"


# --------------------------------------------------------------------------- pixels


def test_grey_is_the_luma_of_itu_r_601(tmp_path):
    save(tmp_path / "x.png", np.full((8, 8, 3), (200, 100, 50), np.uint8))
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 59.8 + 58.7 + 5.7 = 124.2
    assert (decode_image(tmp_path / "x.png", 4) == 124).all()


def test_bilinear_halving_by_hand(tmp_path):
    """Antialiased: halving weighs four pixels 1/8, 3/8, 3/8, 1/8, not two (aliased) 1/2, 1/2."""
    save(tmp_path / "x.png", np.tile(np.array([0, 0, 0, 0, 80, 80, 80, 80], np.uint8), (8, 1)))
    got = decode_image(tmp_path / "x.png", 4)
    assert got[1].tolist() == [0, 10, 70, 80]  # 80 * 1/8, 80 * 7/8


def test_grey_first_then_resized(tmp_path):
    """The paper's order; resizing colours first rounds otherwise, a palette's indices wholly so."""
    pixels = noise(size=(50, 70), channels=3)
    image = Image.open(save(tmp_path / "x.png", pixels))
    ours = decode_image(tmp_path / "x.png", 16)
    other = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR).convert("L"))
    paper = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(ours, paper)
    assert (ours != other).any()


def test_aspect_ratio_is_not_kept(tmp_path):
    pixels = np.zeros((10, 40), np.uint8)
    pixels[:, 20:] = 255
    save(tmp_path / "x.png", pixels)
    got = decode_image(tmp_path / "x.png", 8)
    assert got.shape == (8, 8) and got[0, 0] == 0 and got[0, 7] == 255


def test_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    plain = save(tmp_path / "a.jpg", quality=95)
    turned = save(tmp_path / "b.jpg", quality=95, exif=exif)
    np.testing.assert_array_equal(decode_image(plain, 16), decode_image(turned, 16))


@pytest.mark.parametrize(
    ("mode", "extension"),
    [
        ("1", "png"),
        ("1", "tif"),
        ("1", "pbm"),
        ("1", "bmp"),
        ("L", "png"),
        ("L", "jpg"),
        ("L", "pgm"),
        ("L", "tga"),
        ("L", "JPEG"),
        ("LA", "png"),
        ("LA", "tif"),
        ("P", "png"),
        ("P", "gif"),
        ("P", "bmp"),
        ("P", "tif"),
        ("PA", "tif"),
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("RGB", "ppm"),
        ("RGB", "tif"),
        ("RGB", "bmp"),
        ("RGB", "sgi"),
        ("RGB", "pcx"),
        ("RGB", "qoi"),
        ("RGBA", "png"),
        ("RGBA", "tif"),
        ("RGBA", "ico"),
        ("RGBA", "dds"),
        ("RGBX", "tif"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("YCbCr", "jpg"),
        ("YCbCr", "tif"),
        ("LAB", "tif"),
    ],
)
def test_every_8_bit_mode_gives_a_sensible_grey(tmp_path, mode, extension):
    """A ramp of colours in each mode comes back within a few grey levels of its luma."""
    ramp = np.linspace(20, 235, 32).astype(np.uint8)
    colour = np.stack([np.tile(ramp, (32, 1))] * 3, -1)
    colour[..., 2] //= 2
    image = Image.fromarray(colour)
    if mode == "1":
        image = image.convert("L").point(lambda value: 255 * (value > 127))
    grey = np.asarray(image.convert("L"), float)
    converted = image.quantize(256) if mode in ("P", "PA") else image.convert(mode)
    if mode == "PA":
        converted = converted.convert("PA")
    try:
        converted.save(tmp_path / f"x.{extension}")
    except (OSError, ValueError, KeyError) as error:
        pytest.skip(f"this Pillow does not write {mode} as {extension}: {error}")
    got = decode_image(tmp_path / f"x.{extension}", 32)
    assert np.abs(got - grey).mean() < 4
    with Image.open(tmp_path / f"x.{extension}") as again:
        if again.mode != "LAB":  # which Pillow refuses to turn into grey directly
            small = again.convert("L").resize((32, 32), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(got, np.asarray(small))


@pytest.mark.parametrize(
    ("feature", "extension"),
    [("webp", "webp"), ("jpg_2000", "jp2"), ("jpg_2000", "j2k"), ("avif", "avif")],
)
@pytest.mark.parametrize("channels", [None, 3])
def test_8_bit_formats_that_pillow_may_lack(tmp_path, feature, extension, channels):
    if not features.check(feature):
        pytest.skip(f"this Pillow has no {feature}")
    pixels = np.full((16, 16) if channels is None else (16, 16, 3), 90, np.uint8)
    save(tmp_path / f"x.{extension}", pixels)
    assert np.abs(decode_image(tmp_path / f"x.{extension}", 8).astype(int) - 90).max() <= 3


def test_transparency_is_dropped_not_blended(tmp_path):
    pixels = np.full((8, 8, 4), (200, 100, 50, 0), np.uint8)
    save(tmp_path / "x.png", pixels)
    assert (decode_image(tmp_path / "x.png", 4) == 124).all()


def test_a_png_called_jpg_is_read(tmp_path):
    save(tmp_path / "x.png", np.full((8, 8), 7, np.uint8)).rename(tmp_path / "x.jpg")
    assert (decode_image(tmp_path / "x.jpg", 4) == 7).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_odd_sizes(tmp_path, size):
    save(tmp_path / "x.png", np.full(size, 9, np.uint8))
    assert (decode_image(tmp_path / "x.png", 64) == 9).all()


def test_five_six_five_bits_are_not_taken_for_sixteen(tmp_path):
    header = struct.pack("<2sIHHI", b"BM", 66 + 8, 0, 0, 66)
    info = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    (tmp_path / "x.bmp").write_bytes(header + info + masks + b"\xff" * 8)
    assert (decode_image(tmp_path / "x.bmp", 2) == 255).all()


# --------------------------------------------------------------------------- deeper than 8 bits


def png(width, height, depth, colour_type, raw) -> bytes:
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def tiff(bits: int, channels: int, *, big_endian=False, planar=1) -> bytes:
    """An uncompressed TIFF of 2 x 2 pixels."""
    order = ">" if big_endian else "<"
    data = bytes(2 * 2 * channels * bits // 8)
    entries = [
        (256, 3, 1, 2),
        (257, 3, 1, 2),
        (258, 3, channels, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 1 if channels == 1 else 2),
        (273, 4, 1, 8),
        (277, 3, 1, channels),
        (278, 3, 1, 2),
        (279, 4, 1, len(data)),
        (284, 3, 1, planar),
    ]
    start = 8 + len(data)
    extra = start + 2 + 12 * len(entries) + 4
    directory = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        if kind == 3 and count > 2:
            packed = struct.pack(order + "I", extra)
        elif kind == 3:
            packed = struct.pack(order + "HH", value, 0)
        else:
            packed = struct.pack(order + "I", value)
        directory += struct.pack(order + "HHI", tag, kind, count) + packed
    directory += bytes(4) + struct.pack(order + "H", bits) * channels
    magic = b"MM" if big_endian else b"II"
    return magic + struct.pack(order + "HI", 42, start) + data + directory


def deep_files() -> dict[str, bytes]:
    grey16 = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000

    def by_pillow(image, extension, **options):
        stream = io.BytesIO()
        image.save(stream, extension, **options)
        return stream.getvalue()

    sgi = struct.pack(">hBBHHHH", 474, 0, 2, 3, 2, 2, 3).ljust(512, b"\0") + bytes(24)
    files = {
        "grey16.png": png(2, 2, 16, 0, bytes(2 * (1 + 4))),
        "colour16.png": png(2, 2, 16, 2, bytes(2 * (1 + 12))),
        "grey_alpha16.png": png(2, 2, 16, 4, bytes(2 * (1 + 8))),
        "colour_alpha16.png": png(2, 2, 16, 6, bytes(2 * (1 + 16))),
        "grey16.tif": by_pillow(Image.fromarray(grey16), "TIFF"),
        "grey16_lzw.tif": by_pillow(Image.fromarray(grey16), "TIFF", compression="tiff_lzw"),
        "colour16_little.tif": tiff(16, 3),
        "colour16_big.tif": tiff(16, 3, big_endian=True),
        "colour16_planar.tif": tiff(16, 3, planar=2),
        "integers.tif": by_pillow(Image.fromarray(grey16.astype(np.int32)), "TIFF"),
        "floats.tif": by_pillow(Image.fromarray(grey16.astype(np.float32)), "TIFF"),
        "binary.pgm": b"P5 2 2 65535 " + bytes(8),
        "twelve.pgm": b"P5 2 2 4095 " + bytes(8),
        "text.pgm": b"P2 2 2 4095 0 1 2 3 ",
        "binary.ppm": b"P6 2 2 65535 " + bytes(24),
        "text.ppm": b"P3 1 1 300 0 1 2 ",
        "floats.pfm": b"Pf 2 2 -1.0\n" + bytes(16),
        "colour16.sgi": sgi,
    }
    if features.check("jpg_2000"):
        files["grey16.jp2"] = by_pillow(Image.fromarray(grey16), "JPEG2000")
        eight = by_pillow(Image.fromarray(noise(size=(16, 16), channels=3)), "JPEG2000")
        marker = eight.index(b"\xff\x4f\xff\x51") + 42
        deep = bytearray(eight)
        deep[marker : marker + 9 : 3] = b"\x0f\x0f\x0f"  # 15 + 1 bits a component
        files["colour16.jp2"] = bytes(deep)
    if features.check("avif"):
        eight = bytearray(by_pillow(Image.fromarray(noise(size=(16, 16), channels=3)), "AVIF"))
        eight[eight.index(b"av1C") + 6] |= 0x40  # high_bitdepth
        box = eight.index(b"pixi")
        eight[box + 9 : box + 9 + eight[box + 8]] = b"\x0a" * eight[box + 8]  # 10 bits each
        files["ten.avif"] = bytes(eight)
    return files


@pytest.mark.parametrize("name", deep_files())
def test_more_than_8_bits_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(deep_files()[name])
    with Image.open(tmp_path / name) as image:  # a picture that Pillow itself would open
        assert image.size[0] > 0
    says(sentence(decode_image, tmp_path / name, 8), name, "more than 8 bits", "with 8 bits")


def test_the_hand_made_tiff_is_read_at_8_bits(tmp_path):
    """So that the deep ones above are refused for their depth and nothing else."""
    for channels in (1, 3):
        (tmp_path / "x.tif").write_bytes(tiff(8, channels))
        assert (decode_image(tmp_path / "x.tif", 2) == 0).all()


# --------------------------------------------------------------------------- files that are refused


def many_frames(kind: str) -> bytes:
    stream, frames = io.BytesIO(), [Image.fromarray(noise(i)) for i in range(3)]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_several_pictures_in_one_file_are_refused(tmp_path, kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no webp")
    (tmp_path / f"x.{kind.lower()}").write_bytes(many_frames(kind))
    text = sentence(decode_image, tmp_path / f"x.{kind.lower()}", 8)
    says(text, f"x.{kind.lower()}", "more than one picture", "file of its own")


def test_a_camera_jpeg_with_a_second_picture_is_read(tmp_path):
    first, second = Image.fromarray(noise(0)), Image.fromarray(noise(1))
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[second])
    save(tmp_path / "y.jpg")
    np.testing.assert_array_equal(
        decode_image(tmp_path / "x.jpg", 8), decode_image(tmp_path / "y.jpg", 8)
    )


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "bmp", "gif", "webp", "jp2"])
def test_truncated(tmp_path, extension):
    try:
        whole = save(tmp_path / f"x.{extension}", noise(size=(90, 90))).read_bytes()
    except (OSError, KeyError):
        pytest.skip(f"this Pillow does not write {extension}")
    (tmp_path / f"x.{extension}").write_bytes(whole[: len(whole) // 2])
    says(sentence(decode_image, tmp_path / f"x.{extension}", 8), f"x.{extension}", "copy it again")


def test_empty_file(tmp_path):
    (tmp_path / "x.png").touch()
    says(sentence(load_folder, tmp_path), "x.png", "is empty (0 bytes)")


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "tga", "pcd"])
@pytest.mark.parametrize(
    "content", [b"not an image at all\n" * 50, b"\x89PNG\r\n\x1a\n", b"\0" * 4096]
)
def test_not_an_image(tmp_path, extension, content):
    (tmp_path / f"x.{extension}").write_bytes(content)
    says(sentence(load_folder, tmp_path), f"x.{extension}", "Pillow can")


def test_text_called_png_is_not_taken_for_a_format_without_signature(tmp_path):
    """Bytes that a TGA reader accepts are a picture only in a file that is called .tga."""
    save(tmp_path / "x.tga", np.full((4, 4), 5, np.uint8))
    assert (decode_image(tmp_path / "x.tga", 2) == 5).all()
    (tmp_path / "x.tga").rename(tmp_path / "x.png")
    says(sentence(decode_image, tmp_path / "x.png", 2), "not an image")


def test_postscript_is_never_run(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    says(sentence(decode_image, tmp_path / "x.png", 2), "not an image")


def test_decompression_bomb(tmp_path):
    (tmp_path / "x.png").write_bytes(png(60_000, 60_000, 8, 0, bytes(100)))
    says(sentence(load_folder, tmp_path), "x.png", "too large a picture", "smaller")


def test_a_folder_called_png(tmp_path):
    (tmp_path / "x.png").mkdir()
    says(sentence(load_folder, tmp_path), "x.png", "is a folder")


def test_dangling_link(tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "gone.png")
    says(sentence(load_folder, tmp_path), "x.png", "link to a file that is not there")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["x.png", "data.json"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    says(sentence(load_folder, tmp_path), name, "file")


@no_root
def test_permission_denied(tmp_path):
    save(tmp_path / "x.png").chmod(0)
    says(sentence(load_folder, tmp_path), "x.png", "permission denied")


@no_root
def test_folder_permission_denied(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    says(sentence(load_folder, tmp_path / "closed"), "closed", "cannot be read")


@pytest.mark.parametrize(
    "name", ["a\nb.png", "a\tb.png", "a\x1b[31m.png", os.fsdecode(b"a\xff.png")]
)
def test_names_that_would_break_a_table(tmp_path, name):
    try:
        save(tmp_path / "x.png").rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system does not take such a name")
    says(sentence(load_folder, tmp_path), "rename the file")
    says(sentence(load_images, [tmp_path / name]), "rename the file")


@pytest.mark.parametrize("size", [0, -1, 2.5, "64", None, True, 10**9])
def test_image_size(tmp_path, size):
    save(tmp_path / "x.png")
    says(sentence(load_folder, tmp_path, size), "image_size", "whole number")


def test_the_first_bad_file_in_order_is_the_one_named(tmp_path):
    names = [f"{i}.png" for i in range(200)]
    write_split(tmp_path, names)
    for i in (150, 77, 199):
        (tmp_path / "images" / f"{i}.png").write_bytes(b"broken")
    for _ in range(5):
        says(sentence(load_folder, tmp_path), "77.png")


# --------------------------------------------------------------------------- plain folders


def test_plain_folder(tmp_path):
    for name in ("b10.png", "b9.png", "a.JPG", "sub/c.tiff", "b09.png"):
        save(tmp_path / name)
    for name in (".hidden.png", "notes.txt", "scores.csv", "sub/.cache/x.png", "page.eps"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"ignored")
    dataset = load_folder(tmp_path, 16)
    assert dataset.name == tmp_path.name and dataset.test is None
    assert dataset.train.names == ("a.JPG", "b09.png", "b9.png", "b10.png", "sub/c.tiff")
    assert dataset.train.images.shape == (5, 1, 16, 16)
    assert dataset.train.labels.tolist() == [0] * 5
    scored = load_images(tmp_path, 16)
    assert scored.names == dataset.train.names and scored.labels is None
    np.testing.assert_array_equal(scored.images, dataset.train.images)


def test_uint8_is_kept_and_belongs_to_its_name(tmp_path):
    for value in (3, 200, 77):
        save(tmp_path / f"{value}.png", np.full((9, 9), value, np.uint8))
    train = load_folder(tmp_path, 4).train
    assert train.images.dtype == np.uint8
    assert {name: image.flat[0] for name, image in zip(train.names, train.images, strict=True)} == {
        "3.png": 3,
        "77.png": 77,
        "200.png": 200,
    }


def test_numbers_longer_than_python_likes_are_sorted(tmp_path):
    names = ["1" * 60 + ".png", "2.png", "0" * 70 + "3.png"]
    for name in names:
        save(tmp_path / name)
    assert load_folder(tmp_path, 4).train.names == (names[1], names[2], names[0])


def test_links_to_folders_are_followed_once(tmp_path):
    save(tmp_path / "elsewhere/x.png")
    save(tmp_path / "data/y.png")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/round").symlink_to(tmp_path / "data")
    (tmp_path / "data/knot").symlink_to(tmp_path / "data/knot")
    (tmp_path / "data/gone").symlink_to(tmp_path / "data/nowhere")
    assert load_folder(tmp_path / "data", 4).train.names == ("link/x.png", "y.png")
    (tmp_path / "data/knot.png").symlink_to(tmp_path / "data/knot.png")
    says(sentence(load_folder, tmp_path / "data", 4), "knot.png", "cannot be read")


@pytest.mark.parametrize("name", ["test", "Normal", "training", "anomalies"])
def test_sub_folders_of_a_split_are_not_trained_on_together(tmp_path, name):
    save(tmp_path / "x.png")
    save(tmp_path / "deep" / name / "y.png")
    says(sentence(load_folder, tmp_path), f"'{name}'", "may be normal", "only")
    assert len(load_images(tmp_path)) == 2  # to score all of them is no mistake


def test_a_published_layout_inside_is_not_trained_on_whole(tmp_path):
    write_split(tmp_path / "set", ["a.png"], ["b.png"], ["c.png"])
    says(sentence(load_folder, tmp_path), "data.json", "may be normal")
    says(
        sentence(load_folder, tmp_path / "set" / "images"), "normal and abnormal", tmp_path / "set"
    )
    assert len(load_images(tmp_path / "set" / "images")) == 3


def test_list_of_files_and_one_file(tmp_path, monkeypatch):
    save(tmp_path / "x.png"), save(tmp_path / "sub/x.png")
    monkeypatch.chdir(tmp_path)
    got = load_images(["sub/x.png", Path("x.png")], 8)
    assert got.names == ("sub/x.png", "x.png") and got.labels is None
    assert load_images("x.png", 8).names == ("x.png",)
    says(sentence(load_images, []), "empty")
    says(sentence(load_images, ["x.png", "x.png"]), "'x.png'", "more than once")
    says(sentence(load_images, ["y.png"]), "'y.png'", "does not exist")
    says(sentence(load_images, [3]), "a path is expected", "int")
    says(sentence(load_images, 3), "int")


@pytest.mark.parametrize("load", [load_folder, load_images])
def test_missing_folder_and_the_like(tmp_path, load):
    says(sentence(load, tmp_path / "nowhere"), "nowhere", "does not exist")
    says(sentence(load, ""), "give a path")
    says(sentence(load, "a\0b"), "give a path")
    says(sentence(load, "x" * 5000), "cannot be read")
    says(sentence(load, None), "NoneType")
    says(sentence(load, tmp_path), tmp_path.name, "holds no images", "images/ and data.json")
    (tmp_path / "images").mkdir()
    says(sentence(load, tmp_path), tmp_path.name, "no data.json")


def test_a_file_in_place_of_a_folder(tmp_path):
    says(sentence(load_folder, save(tmp_path / "x.png")), "x.png", "is a file")


# --------------------------------------------------------------------------- the published layout


def test_published_layout(tmp_path):
    write_split(tmp_path, ["b.png", "a.jpg", "sub/c.png"], ["n2.png", "n1.png"], ["x.png"])
    data = json.loads((tmp_path / "data.json").read_text())
    data["train"]["unlabeled"] = {"0": ["not there.png"], "1": [7]}
    (tmp_path / "data.json").write_text("\ufeff" + json.dumps(data), encoding="utf-8")
    dataset = load_folder(str(tmp_path), 8)
    assert dataset.train.names == ("b.png", "a.jpg", "sub/c.png")
    assert dataset.test.names == ("n2.png", "n1.png", "x.png")
    assert dataset.test.labels.tolist() == [0, 0, 1] and dataset.test.labels.dtype == np.int8
    assert dataset.train.labels.tolist() == [0, 0, 0]
    for part in (dataset.train, dataset.test):
        for name, image in zip(part.names, part.images, strict=True):
            np.testing.assert_array_equal(image[0], decode_image(tmp_path / "images" / name, 8))
    scored = load_images(tmp_path, 8)
    assert scored.names == dataset.test.names
    np.testing.assert_array_equal(scored.labels, dataset.test.labels)
    np.testing.assert_array_equal(scored.images, dataset.test.images)


def test_without_test_images(tmp_path):
    write_split(tmp_path, ["a.png"])
    assert load_folder(tmp_path, 8).test is None
    says(sentence(load_images, tmp_path), "data.json", "no test images")
    (tmp_path / "data.json").write_text('{"train": {"0": ["a.png"]}}')
    assert load_folder(tmp_path, 8).test is None


def test_without_training_images(tmp_path):
    write_split(tmp_path, [], ["a.png"], ["b.png"])
    says(sentence(load_folder, tmp_path), "data.json", "train/0", "add")
    assert load_images(tmp_path, 8).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["not valid JSON", "line 1, column 1"]),
        ("{", ["not valid JSON"]),
        ("[" * 200_000, ["lists of names"]),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, ["lists of names"]),
        ('{"train": {"0": [' + "9" * 5000 + "]}}", ["lists of names"]),
        ("[]", ["a list at the top"]),
        ("null", ["null at the top"]),
        ("NaN", ["a number at the top"]),
        ('"train"', ["a text at the top"]),
        ("{}", ["train/0", "add"]),
        ('{"train": {}}', ["train/0", "add"]),
        ('{"train": {"0": []}}', ["train/0", "add"]),
        ('{"train": ["a.png"]}', ["a list at train"]),
        ('{"train": {"0": {"a.png": 1}}}', ["an object at train/0"]),
        ('{"train": {"0": "a.png"}}', ["a text at train/0"]),
        ('{"train": {"0": [7]}}', ["a number among the names under train/0"]),
        ('{"train": {"0": [NaN]}}', ["a number among the names under train/0"]),
        ('{"train": {"0": [null]}}', ["null among the names under train/0"]),
        ('{"train": {"0": [true]}}', ["true or false among"]),
        ('{"train": {"0": [["a.png"]]}}', ["a list among the names under train/0"]),
        ('{"train": {"0": ["a.png"]}, "test": 3}', ["a number at test"]),
        ('{"train": {"0": ["a.png"]}, "test": {"1": 3}}', ["a number at test/1"]),
        ('{"train": {"0": ["a.png"]}, "test": {"2": []}}', ["'2' under test", "remove it"]),
        ('{"train": {"0": ["a.png"]}, "train": {"0": []}}', ["same key twice"]),
        ('{"train": {"0": ["a\\u0000.png"]}}', ["a\\x00.png", "rename"]),
        ('{"train": {"0": ["a\\ud800.png"]}}', ["a\\ud800.png", "rename"]),
        ('{"train": {"0": ["a\\nb.png"]}}', ["a\\nb.png", "rename"]),
    ],
)
def test_data_json_that_is_not_one(tmp_path, content, parts):
    write_split(tmp_path, ["a.png"])
    (tmp_path / "data.json").write_text(content)
    says(sentence(load_folder, tmp_path), "data.json", *parts)


def test_data_json_is_not_utf8(tmp_path):
    write_split(tmp_path, ["a.png"])
    (tmp_path / "data.json").write_bytes('{"train": {"0": ["ä.png"]}}'.encode("latin-1"))
    says(sentence(load_folder, tmp_path), "data.json", "UTF-8")


def test_data_json_is_huge_or_a_folder(tmp_path, monkeypatch):
    write_split(tmp_path, ["a.png"])
    monkeypatch.setattr("d2ue.datasets.listing._DATA_JSON_LIMIT", 10)
    says(sentence(load_folder, tmp_path), "data.json", "larger than")
    (tmp_path / "data.json").unlink()
    (tmp_path / "data.json").mkdir()
    says(sentence(load_folder, tmp_path), "data.json", "is not a file")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../out.png",
        "a/../../out.png",
        "..\\out.png",
        "a\\..\\..\\out.png",
        "\\out.png",
        "C:\\out.png",
        "c:/out.png",
        "..",
        "",
    ],
)
def test_names_that_leave_images(tmp_path, name):
    save(tmp_path / "out.png")
    write_split(tmp_path, [name], make=False)
    text = sentence(load_folder, tmp_path)
    says(text, repr(name), "train/0", "not a name inside images/")


def test_what_is_there_and_cannot_be_read_is_not_called_absent(tmp_path):
    write_split(tmp_path, ["a.png", "b.png"])
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "images" / "a.png").symlink_to("a.png")  # a link that leads to itself
    said = sentence(load_folder, tmp_path)
    assert "a.png" in said and "cannot be read" in said and "take them out" not in said


def test_absent_files_are_named_and_counted(tmp_path):
    write_split(tmp_path, [f"{i}.png" for i in range(9)], ["n.png"], ["x.png"])
    (tmp_path / "images/4.png").unlink()
    says(sentence(load_folder, tmp_path), "'4.png', absent")
    for name in ("7.png", "x.png"):
        (tmp_path / "images" / name).unlink()
    says(sentence(load_folder, tmp_path), "'4.png' and 2 more, absent", "images", "data.json")


@pytest.mark.parametrize(
    ("train", "normal", "abnormal", "parts"),
    [
        (["a", "b", "a"], [], [], ["'a'", "more than once under train/0"]),
        (["a", "./a"], [], [], ["'a'", "more than once under train/0"]),
        (["a"], ["n"], ["x", "y", "y"], ["'y'", "more than once under test/1"]),
        (["a", "n"], ["n"], ["x"], ["'n'", "to train on (train/0)", "to test on"]),
        (["a", "x"], ["n"], ["x"], ["'x'", "to train on (train/0)", "to test on"]),
        (["a"], ["n", "x"], ["x"], ["'x'", "as normal (test/0)", "as abnormal (test/1)"]),
        (["a"], ["n"], [], ["one class only", "test/1", "add abnormal ones"]),
        (["a"], [], ["x"], ["one class only", "test/0", "add normal ones"]),
    ],
)
@pytest.mark.parametrize("load", [load_folder, load_images])
def test_lists_that_contradict_each_other(tmp_path, load, train, normal, abnormal, parts):
    write_split(tmp_path, train, normal, abnormal, make=False)
    says(sentence(load, tmp_path), "data.json", *parts)


def test_a_name_of_a_megabyte_does_not_fill_the_screen(tmp_path):
    write_split(tmp_path, ["x" * 10**6], make=False)
    assert len(sentence(load_folder, tmp_path)) < 900


# --------------------------------------------------------------------------- progress, memory


def test_no_progress_on_quick_work(tmp_path, capsys):
    save(tmp_path / "x.png")
    load_folder(tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_progress_and_ctrl_c(tmp_path):
    """Slow decoding shows a bar after two seconds; Ctrl-C ends it at once."""
    write_split(tmp_path / "data", [f"{i}.png" for i in range(300)])
    program = textwrap.dedent(
        """
        import sys, time
        from d2ue.datasets import decode
        from d2ue.datasets.folder import load_folder
        original = decode.decode_image
        def slow(path, size):
            time.sleep(0.1)
            return original(path, size)
        decode.decode_image, decode._CHUNK = slow, 1
        decode.thread_count = lambda: 2
        try:
            load_folder(sys.argv[1])
        except KeyboardInterrupt:
            sys.exit(7)
        """
    )
    said = tmp_path / "stderr"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "data")],
            stderr=stderr,
            # Tests that run in the background of a shell inherit Ctrl-C switched off.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        while not (bar := re.search(r"decoding: .*?(\d+)/300 \[", said.read_text())):
            assert process.poll() is None, "decoding ended without ever showing a bar"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 7
    finally:
        process.kill()
    assert "Traceback" not in said.read_text() and int(bar[1]) < 300


def test_memory_is_the_pixels_and_little_else(tmp_path):
    """At most 5 KiB an image at 64 x 64 (4 KiB are the pixels), peak included."""
    resource = pytest.importorskip("resource")
    n = 6000
    names = [f"image_{i:06d}.png" for i in range(n)]
    write_split(tmp_path, names, make=False)
    content = save(tmp_path / "one.png", noise(size=(8, 8))).read_bytes()
    for name in names:
        (tmp_path / "images" / name).write_bytes(content)
    program = textwrap.dedent(
        """
        import resource, sys
        from d2ue.datasets.folder import load_folder
        load_folder(sys.argv[2], progress=False)  # imports and thread stacks
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        load_folder(sys.argv[1], progress=False)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    write_split(tmp_path / "small", [f"{i}.png" for i in range(100)])
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "small")],
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(result.stdout) * unit / n < 5 * 1024
    assert resource


# --------------------------------------------------------------------------- real images

REAL = Path(os.environ.get("D2UE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


@pytest.mark.parametrize(
    ("name", "counts"), [("brain_mri", (1000, 600, 600)), ("kermany_cxr", (1341, 234, 390))]
)
def test_real_sets(name, counts):
    if not (REAL / name / "data.json").is_file():
        pytest.skip(f"no {name} under {REAL} (set D2UE_DATA to the folder that holds it)")
    dataset = load_folder(REAL / name, 64)
    labels = dataset.test.labels.tolist()
    assert (len(dataset.train), labels.count(0), labels.count(1)) == counts
    assert dataset.name == name and dataset.train.images.shape[1:] == (1, 64, 64)
    first = Image.open(REAL / name / "images" / dataset.train.names[0])
    np.testing.assert_array_equal(
        dataset.train.images[0, 0],
        np.asarray(first.convert("L").resize((64, 64), Image.Resampling.BILINEAR)),
    )
    np.testing.assert_array_equal(load_images(REAL / name, 64).images, dataset.test.images)


def test_plain_bitmaps_are_read_as_binary_ones(tmp_path):
    (tmp_path / "a.pbm").write_text("P1\n4 1\n1 0 1 0\n")
    (tmp_path / "b.pbm").write_bytes(b"P4\n4 1\n\xa0")
    one, other = load_images(tmp_path, 4, progress=False).images[:, 0]
    assert one[0].tolist() == other[0].tolist() == [0, 255, 0, 255]
