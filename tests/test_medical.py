"""DICOM and NIfTI: windows, depth, orientation and slices by hand; every refusal in a sentence."""

import builtins
import io
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from d2ue import D2UE
from d2ue.cli.app import main
from d2ue.datasets import ScanConfig, load, load_folder, load_images
from d2ue.datasets.medical import scan_kind
from d2ue.errors import InputError
from d2ue.store.runs import run_scan

pydicom = pytest.importorskip("pydicom", reason="pydicom is missing: the extra [medical]")
nibabel = pytest.importorskip("nibabel", reason="nibabel is missing: the extra [medical]")


def dicom(path, stored, *, photometric="MONOCHROME2", bits=16, syntax=None, sop=None, **elements):
    """A file with `stored` as its pixels: [rows, columns], [frames, ...] or [..., 3] in colour."""
    stored = np.asarray(stored)
    colour = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax or pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = sop or pydicom.uid.CTImageStorage
    data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.PhotometricInterpretation = photometric
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = stored.shape[-3:-1] if colour else stored.shape[-2:]
    if stored.ndim == 3 + colour:
        data.NumberOfFrames = len(stored)
    data.BitsAllocated = 8 * stored.dtype.itemsize
    data.BitsStored = bits if stored.dtype.itemsize > 1 else min(bits, 8)
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in elements.items():
        setattr(data, name, value)
    data.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def sequence(**elements):
    """A sequence of one item."""
    item = pydicom.Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def words(*values):
    """A table's content, 16 bits an entry."""
    return np.array(values, "<u2").tobytes()


def nifti(path, values, affine=None, slope=None, inter=None):
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.header.set_slope_inter(slope, inter)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def pixels(path, size, **scan):
    """The only image of a file at a size that resizes nothing."""
    (image,) = load_images([path], size, progress=False, scan=ScanConfig(**scan)).images[:, 0]
    return image


# --- the window of DICOM ---


def test_rescale_then_the_files_window_by_hand(tmp_path):
    """Slope 2, intercept -1000, window 40 +- 50 by PS3.3 C.11.2.1.2: 255 ((x - 39.5)/99 + 0.5)."""
    stored = np.array([[495, 500], [520, 545]], np.uint16)  # -10, 0, 40, 90 after the rescale
    path = dicom(
        tmp_path / "a.dcm", stored, RescaleSlope=2, RescaleIntercept=-1000,
        WindowCenter=40, WindowWidth=100,
    )  # fmt: skip
    # (0 - 39.5)/99 + 0.5 = 0.10101 -> 25.76; (40 - 39.5)/99 + 0.5 = 0.50505 -> 128.79
    assert pixels(path, 2).tolist() == [[0, 26], [129, 255]]


def test_ones_own_window_by_hand(tmp_path):
    """CENTRE,WIDTH in the units of the file, and before the file's own: 255 (x - 0)/80."""
    stored = np.array([[1000, 1020], [1040, 1080]], np.int16)  # 0, 20, 40, 80 Hounsfield units
    path = dicom(
        tmp_path / "a.dcm", stored, RescaleSlope=1, RescaleIntercept=-1000,
        WindowCenter=400, WindowWidth=2000,
    )  # fmt: skip
    assert pixels(path, 2, window="40,80").tolist() == [[0, 64], [128, 255]]  # 63.75, 127.5


def test_the_first_of_several_windows(tmp_path):
    stored = np.array([[0, 100], [200, 300]], np.uint16)
    one = dicom(tmp_path / "a.dcm", stored, WindowCenter=100, WindowWidth=200)
    two = dicom(tmp_path / "b.dcm", stored, WindowCenter=[100, 7], WindowWidth=[200, 1])
    assert (pixels(one, 2) == pixels(two, 2)).all()


def test_other_functions_of_the_window(tmp_path):
    stored = np.array([[0, 50], [75, 100]], np.uint16)
    exact = dicom(
        tmp_path / "a.dcm", stored, WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"
    )
    assert pixels(exact, 2).tolist() == [[0, 128], [191, 255]]  # 255 x / 100
    sigmoid = dicom(
        tmp_path / "b.dcm", stored, WindowCenter=50, WindowWidth=100, VOILUTFunction="SIGMOID"
    )
    # 255 / (1 + exp(-4 (x - 50)/100)): 30.4, 127.5, 186.4, 224.6
    assert pixels(sigmoid, 2).tolist() == [[30, 128], [186, 225]]


def test_inversion_by_hand(tmp_path):
    """MONOCHROME1: the smallest value is white."""
    stored = np.array([[0, 50], [75, 100]], np.uint16)
    more = {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    path = dicom(tmp_path / "a.dcm", stored, photometric="MONOCHROME1", **more)
    assert pixels(path, 2).tolist() == [[255, 127], [64, 0]]
    assert pixels(path, 2, window="50,100").tolist() == [[255, 127], [64, 0]]
    assert pixels(path, 2, window="0%,100%").tolist() == [[255, 127], [64, 0]]
    eight = dicom(tmp_path / "b.dcm", stored.astype(np.uint8), photometric="MONOCHROME1")
    assert pixels(eight, 2).tolist() == [[255, 205], [180, 155]]


def test_two_levels_that_8_bits_would_merge_stay_distinct(tmp_path):
    """30000 and 30001 of 65536 are one level of 256; in a narrow window, black and white."""
    stored = np.array([[30000, 30001], [30001, 30000]], np.uint16)
    assert len(np.unique(stored >> 8)) == 1
    for more in ({"WindowCenter": 30001, "WindowWidth": 2}, {}):
        path = dicom(tmp_path / "a.dcm", stored, **more)
        assert pixels(path, 2).tolist() == [[0, 255], [255, 0]]
        assert pixels(path, 2, window="30000.5,1").tolist() == [[0, 255], [255, 0]]
    volume = nifti(tmp_path / "a.nii", np.tile(stored[..., None], 3))
    assert sorted(np.unique(pixels(volume, 2, window="30000.5,1"))) == [0, 255]


def test_256_levels_of_a_window_in_16_bits(tmp_path):
    """Every value of a window as wide as 8 bits has its own grey."""
    stored = (40000 + np.arange(256)).astype(np.uint16).reshape(16, 16)
    path = dicom(tmp_path / "a.dcm", stored)
    assert (pixels(path, 16, window="40127.5,255").ravel() == np.arange(256)).all()


def test_a_table_in_place_of_a_window(tmp_path):
    """VOI LUT: 4 entries of 8 bits from value 10 on; what is outside takes the first or last."""
    table = sequence(LUTDescriptor=[4, 10, 8], LUTData=words(0, 100, 50, 255))
    stored = np.array([[0, 10], [11, 500]], np.uint16)
    path = dicom(tmp_path / "a.dcm", stored, VOILUTSequence=table)
    assert pixels(path, 2).tolist() == [[0, 0], [100, 255]]
    assert pixels(path, 2, window="250,500").tolist() == [[0, 5], [6, 255]]  # one's own goes first


def test_a_modality_table(tmp_path):
    table = sequence(LUTDescriptor=[3, 0, 16], LUTData=words(0, 1000, 500), ModalityLUTType="US")
    path = dicom(
        tmp_path / "a.dcm", np.array([[0, 1], [2, 9]], np.uint16), ModalityLUTSequence=table
    )
    assert pixels(path, 2, window="500,1000").tolist() == [[0, 255], [128, 128]]


def test_without_a_window_8_bits_stay_and_more_are_scaled_by_percentiles(tmp_path):
    eight = np.array([[3, 7], [90, 200]], np.uint8)
    assert (pixels(dicom(tmp_path / "a.dcm", eight), 2) == eight).all()
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    got = pixels(dicom(tmp_path / "b.dcm", ramp), 32)
    low, high = 1023 * 0.005, 1023 * 0.995
    wanted = np.rint(255 * np.clip((ramp - low) / (high - low), 0, 1))
    np.testing.assert_array_equal(got, wanted)


def test_a_dicom_of_8_bits_is_the_png_of_the_same_pixels(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 40), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    dicom(tmp_path / "b.dcm", image)
    found = load_images(tmp_path, 16, progress=False)
    assert found.names == ("a.png", "b.dcm") and (found.images[0] == found.images[1]).all()


def test_colour_is_turned_grey_by_its_luma(tmp_path):
    colour = np.full((4, 4, 3), (200, 100, 50), np.uint8)  # luma 124.2, as in test_folder
    assert (pixels(dicom(tmp_path / "a.dcm", colour, photometric="RGB"), 4) == 124).all()
    ycc = np.asarray(Image.fromarray(colour).convert("YCbCr"))
    path = dicom(tmp_path / "b.dcm", ycc, photometric="YBR_FULL")
    assert abs(pixels(path, 4).astype(int) - 124).max() <= 1


def test_compressed_without_loss(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4096, (16, 16)).astype(np.uint16)
    plain = dicom(tmp_path / "a.dcm", stored)
    data = pydicom.dcmread(plain)
    data.compress(pydicom.uid.RLELossless)
    data.save_as(tmp_path / "b.dcm")
    assert (pixels(plain, 16) == pixels(tmp_path / "b.dcm", 16)).all()


# --- frames ---


def test_frames_are_chosen_and_named(tmp_path):
    stored = np.arange(5, dtype=np.uint8)[:, None, None] * 10 + np.zeros((5, 4, 4), np.uint8)
    dicom(tmp_path / "a.dcm", stored)
    every = load_images(tmp_path, 4, progress=False, scan=ScanConfig(slices="all"))
    assert every.names == tuple(f"a.dcm#frame={i}" for i in range(5))
    assert every.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    assert load_images(tmp_path, 4, progress=False).names == ("a.dcm#frame=2",)
    one = load_images([tmp_path / "a.dcm#frame=3"], 4, progress=False)
    assert one.images[0, 0, 0, 0] == 30 and one.names == (str(tmp_path / "a.dcm#frame=3"),)


def test_an_enhanced_file_has_windows_by_frame(tmp_path):
    """Rescale shared by all frames, a window for each: 0 to 100 and 0 to 200 after the slope."""
    shared = sequence(
        PixelValueTransformationSequence=sequence(RescaleSlope=10, RescaleIntercept=0)
    )
    per_frame = pydicom.Sequence(
        sequence(
            FrameVOILUTSequence=sequence(
                WindowCenter=width / 2, WindowWidth=width, VOILUTFunction="LINEAR_EXACT"
            )
        )[0]
        for width in (100, 200)
    )
    dicom(
        tmp_path / "a.dcm",
        np.full((2, 4, 4), 5, np.uint16),  # 50 after the rescale: 255/2 and 255/4
        SharedFunctionalGroupsSequence=shared,
        PerFrameFunctionalGroupsSequence=per_frame,
    )
    found = load_images(tmp_path, 4, progress=False, scan=ScanConfig(slices="all"))
    assert found.images[:, 0, 0, 0].tolist() == [128, 64]


def test_percentiles_are_of_all_frames(tmp_path):
    stored = np.stack([np.full((4, 4), v, np.uint16) for v in (0, 500, 1000)])
    dicom(tmp_path / "a.dcm", stored)
    found = load_images(tmp_path, 4, progress=False, scan=ScanConfig("all", window="0%,100%"))
    assert found.images[:, 0, 0, 0].tolist() == [0, 128, 255]


# --- NIfTI ---


@pytest.fixture
def volume():
    """Value = 100 x + 10 y + z in a volume of 4 x 3 x 2 that leads to right, anterior, superior."""
    x, y, z = np.mgrid[:4, :3, :2]
    return (100 * x + 10 * y + z).astype(np.int16)


FULL = {"window": "500,1000"}  # grey = 255 value / 1000


def greys(values):
    return np.rint(255 * np.asarray(values) / 1000).astype(np.uint8)


def plane_of(path, axis, slices, shape, **scan):
    """A plane at its own size: enlarged from 2, 3 or 4 pixels, looked at in their middles."""
    big = pixels(path, 120, axis=axis, slices=slices, **(FULL | scan))
    rows, columns = shape
    return big[60 // rows :: 120 // rows, 60 // columns :: 120 // columns]


WANTED = {
    # Axial: rows from anterior to posterior, columns from the patient's right to the left.
    ("axial", "1", (3, 4)): [[100 * x + 10 * y + 1 for x in (3, 2, 1, 0)] for y in (2, 1, 0)],
    # Coronal: rows from superior to inferior, columns from right to left.
    ("coronal", "2", (2, 4)): [[100 * x + 20 + z for x in (3, 2, 1, 0)] for z in (1, 0)],
    # Sagittal: rows from superior to inferior, columns from anterior to posterior.
    ("sagittal", "3", (2, 3)): [[300 + 10 * y + z for y in (2, 1, 0)] for z in (1, 0)],
}


@pytest.mark.parametrize("plane", WANTED, ids=lambda plane: plane[0])
def test_an_asymmetric_volume_by_hand(tmp_path, volume, plane):
    axis, index, shape = plane
    path = nifti(tmp_path / "a.nii.gz", volume)
    np.testing.assert_array_equal(plane_of(path, axis, index, shape), greys(WANTED[plane]))


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SRA", "PIL", "ASL"])
@pytest.mark.parametrize("plane", WANTED, ids=lambda plane: plane[0])
def test_however_the_file_stores_it_the_slice_is_the_same(tmp_path, volume, plane, axes):
    """The volume written along other axes, as its affine says."""
    axis, index, shape = plane
    straight = nibabel.Nifti1Image(volume, np.diag([0.7, 0.8, 3.0, 1.0]))
    turned = straight.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(straight.affine), nibabel.orientations.axcodes2ornt(tuple(axes))
        )
    )
    assert nibabel.aff2axcodes(turned.affine) == tuple(axes)
    nibabel.save(turned, tmp_path / "a.nii.gz")
    got = plane_of(tmp_path / "a.nii.gz", axis, index, shape)
    np.testing.assert_array_equal(got, greys(WANTED[plane]))


def test_slope_and_intercept(tmp_path):
    """Stored 0, 1, 2 are 10, 12.5, 15: the window is in those units."""
    stored = np.zeros((2, 2, 3), np.int16) + np.arange(3, dtype=np.int16)
    path = nifti(tmp_path / "a.nii", stored, slope=2.5, inter=10)
    written = nibabel.load(path).dataobj
    assert (written.slope, written.inter) == (2.5, 10)
    assert (written.get_unscaled() == stored).all()
    got = [int(pixels(path, 2, slices=str(k), window="12.5,5")[0, 0]) for k in range(3)]
    assert got == [0, 128, 255]


def test_percentiles_are_of_the_volume(tmp_path):
    values = np.zeros((10, 10, 10), np.float32)
    values[..., 5] = np.arange(100).reshape(10, 10)
    values[0, 0, 0] = 1e6  # one voxel of a thousand, beyond 99.5 %
    path = nifti(tmp_path / "a.nii.gz", values)
    high = np.percentile(values.ravel(), 99.5)
    got = pixels(path, 10, slices="5")
    wanted = np.rint(255 * np.clip(values[..., 5] / high, 0, 1)).T[::-1, ::-1]
    np.testing.assert_array_equal(got, wanted)
    empty = nifti(tmp_path / "b.nii.gz", np.full((4, 4, 4), 7, np.uint8))
    assert (pixels(empty, 4) == 0).all()
    rare = np.zeros((10, 10, 10), np.uint8)
    rare[5, 5, 5] = 1  # both percentiles are 0: the extremes are taken
    assert pixels(nifti(tmp_path / "c.nii.gz", rare), 10, slices="5").max() == 255


@pytest.mark.parametrize(
    ("slices", "wanted"),
    [
        ("middle", [5]), ("all", list(range(10))), ("0", [0]), ("9", [9]), ("2:5", [2, 3, 4]),
        ("7:", [7, 8, 9]), (":2", [0, 1]), ("1:9:3", [1, 4, 7]), ("8:99", [8, 9]), ("0.5", [4]),
        ("1.0", [9]), ("0.", [0]), ("0.2:0.5", [2, 3, 4]), ("0.8:", [8, 9]), (".3:6", [3, 4, 5]),
        ("0.29:0.57:2", [2, 4]), (":", list(range(10))),
    ],
)  # fmt: skip
def test_slices_are_chosen(tmp_path, slices, wanted):
    nifti(tmp_path / "s/a.nii.gz", np.zeros((2, 3, 10), np.uint8))
    found = load_folder(tmp_path, 4, progress=False, scan=ScanConfig(slices))
    assert list(found.train.names) == [f"s/a.nii.gz#z={k}" for k in wanted]


def test_slices_belong_to_their_names(tmp_path):
    """Several volumes, all slices, in threads: each image is the one that its name says."""
    for i in range(3):
        values = np.zeros((4, 4, 40), np.int16) + np.arange(40, dtype=np.int16) + 100 * i
        nifti(tmp_path / f"{i}.nii.gz", values)
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(tmp_path / "1.png")
    found = load_folder(tmp_path, 4, progress=False, scan=ScanConfig("all", window="500,1000"))
    assert len(found.train) == 121
    for name, image in zip(found.train.names, found.train.images[:, 0, 0, 0], strict=True):
        if name != "1.png":
            volume, index = name.replace(".nii.gz#z=", " ").split()
            assert image == greys(100 * int(volume) + int(index)), name
    again = load_images(
        [tmp_path / name for name in found.train.names], 4, progress=False,
        scan=ScanConfig(window="500,1000"),
    )  # fmt: skip
    assert (again.images == found.train.images).all()


def test_slices_in_data_json(tmp_path):
    """A volume stands for its slices, a named slice for itself; one in two lists is refused."""
    for name in ("a", "b", "c"):
        nifti(tmp_path / f"images/{name}.nii", np.zeros((2, 2, 4), np.uint8))
    text = '{"train": {"0": ["a.nii"]}, "test": {"0": ["b.nii#z=0"], "1": ["b.nii#z=3", "c.nii"]}}'
    (tmp_path / "data.json").write_text(text)
    found = load_folder(tmp_path, 4, progress=False, scan=ScanConfig("1:3"))
    assert found.train.names == ("a.nii#z=1", "a.nii#z=2")
    assert found.test.names == ("b.nii#z=0", "b.nii#z=3", "c.nii#z=1", "c.nii#z=2")
    assert found.test.labels.tolist() == [0, 1, 1, 1]
    (tmp_path / "data.json").write_text(text.replace("b.nii#z=0", "a.nii#z=2"))
    with pytest.raises(InputError, match=r"a.nii#z=2.*to train on.*and to test on"):
        load_folder(tmp_path, 4, progress=False, scan=ScanConfig("1:3"))
    (tmp_path / "data.json").write_text(text.replace('["a.nii"]', '["a.nii", "a.nii#z=1"]'))
    with pytest.raises(InputError, match=r"a.nii#z=1.*more than once"):
        load_folder(tmp_path, 4, progress=False, scan=ScanConfig("1:3"))


# --- files and folders ---


def test_files_of_scanners_have_no_extension(tmp_path):
    image = np.full((4, 4), 9, np.uint8)
    for name in ("IM000001", "1.2.840.113619", "a.DCM", "b.ima"):
        dicom(tmp_path / name, image)
    (tmp_path / "README").write_text("not a scan")
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    nifti(tmp_path / "scan.nii/scan.nii", np.zeros((2, 2, 2), np.uint8))  # as archives have it
    found = load_folder(tmp_path, 4, progress=False).train
    assert set(found.names) == {
        "IM000001", "1.2.840.113619", "a.DCM", "b.ima", "scan.nii/scan.nii#z=1",
    }  # fmt: skip
    assert (found.images[:4] == 9).all()
    assert scan_kind(tmp_path / "README") is None


def dicomdir(path):
    return dicom(path, np.zeros((2, 2), np.uint8), sop=pydicom.uid.MediaStorageDirectoryStorage)


def without_pixels(path):
    dicom(path, np.zeros((2, 2), np.uint8))
    data = pydicom.dcmread(path)
    del data.PixelData
    data.SOPClassUID = pydicom.uid.BasicTextSRStorage
    data.save_as(path)


def compressed(path):
    """Pixels that no decoder here reads: the syntax is known, its decoder cannot be had."""
    dicom(path, np.zeros((2, 2), np.uint8))
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    data["PixelData"].is_undefined_length = True
    data.save_as(path)


def floats(path, value):
    """Float pixels with one that is no number."""
    dicom(path, np.zeros((2, 2), np.uint8))
    data = pydicom.dcmread(path)
    del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
    data.BitsAllocated = 32
    data.FloatPixelData = np.array([[1, 2], [3, value]], np.float32).tobytes()
    data.save_as(path)


def flat(path):
    """A volume whose affine leads to one plane."""
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    image.header.set_sform(np.diag([1, 1, 0, 1]), code=1)
    nibabel.save(image, path)


SMALL = np.zeros((2, 2), np.uint16)
CASES = {
    "no DICM": ("a.dcm", lambda p: p.write_bytes(b"something else" * 99), ["lacks the mark DICM"]),
    "empty": ("a.dcm", lambda p: p.write_bytes(b""), ["empty"]),
    "DICOMDIR": ("a.dcm", dicomdir, ["DICOMDIR", "index"]),
    "report": ("a.dcm", without_pixels, ["without pixels", "Basic Text SR"]),
    "compressed": ("a.dcm", compressed, ["compressed", "High-Throughput", "save it uncompressed"]),
    "truncated": (
        "a.dcm", lambda p: p.write_bytes(dicom(p, np.zeros((64, 64), "u2")).read_bytes()[:-999]),
        ["cut short"],
    ),
    "palette": ("a.dcm", lambda p: dicom(p, SMALL, photometric="PALETTE COLOR"), ["damaged"]),
    "deep colour": (
        "a.dcm", lambda p: dicom(p, np.zeros((2, 2, 3), np.uint16), photometric="RGB"), ["16 bits"],
    ),
    "NaN": ("a.dcm", lambda p: floats(p, np.nan), ["not finite"]),
    "no width": ("a.dcm", lambda p: dicom(p, SMALL, WindowCenter=1, WindowWidth=0), ["window"]),
    "huge": ("a.dcm", lambda p: dicom(p, SMALL, NumberOfFrames=2**30), ["too large"]),
    "4-D": (
        "a.nii.gz", lambda p: nifti(p, np.zeros((2, 2, 2, 3), np.uint8)),
        ["more than one", "2 x 2 x 2 x 3"],
    ),
    "2-D": ("a.nii.gz", lambda p: nifti(p, np.zeros((2, 2), np.uint8)), ["2 dimensions"]),
    "complex": ("a.nii", lambda p: nifti(p, np.zeros((2, 2, 2), np.complex64)), ["complex"]),
    "infinite": ("a.nii", lambda p: nifti(p, np.full((2, 2, 2), np.inf)), ["not finite"]),
    "no orientation": ("a.nii", flat, ["oriented"]),
    "no gzip": ("a.nii.gz", lambda p: p.write_bytes(b"x" * 999), ["damaged or no NIfTI"]),
    "text": ("a.nii", lambda p: p.write_bytes(b"x" * 999), ["damaged or no NIfTI"]),
    "short": (
        "a.nii", lambda p: p.write_bytes(nifti(p, np.zeros((9, 9, 9))).read_bytes()[:-99]),
        ["damaged"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused(tmp_path, refused, case):
    name, make, words = CASES[case]
    make(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing else is said
        with refused(tmp_path / name, *words):
            load_folder(tmp_path, 4, progress=False)


def test_slices_that_are_not_there(tmp_path, refused):
    nifti(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8))
    dicom(tmp_path / "b.dcm", np.zeros((3, 2, 2), np.uint8))
    with refused("a.nii.gz", "4 slices", "'4'"):
        load_images([tmp_path / "a.nii.gz"], 4, scan=ScanConfig("4"))
    with refused("a.nii.gz", "3 slices", "9:"):
        load_images([tmp_path / "a.nii.gz"], 4, scan=ScanConfig("9:", axis="coronal"))
    with refused("b.dcm", "3 slices"):
        load_images([tmp_path / "b.dcm"], 4, scan=ScanConfig("3"))
    with refused("a.nii.gz", "2 slices along x", "not 7"):
        load_images([tmp_path / "a.nii.gz#x=7"], 4)
    with refused("b.dcm", "3 frames", "not 7"):
        load_images([tmp_path / "b.dcm#frame=7"], 4)
    with refused("c.nii.gz", "does not exist"):
        load_images([tmp_path / "c.nii.gz#z=7"], 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slices", "some"), ("slices", ""), ("slices", "-1"), ("slices", "1:2:3:4"),
        ("slices", "1:2:0"), ("slices", "1.5"), ("slices", "0.5:2.0"), ("slices", 3),
        ("slices", "1:2:" + "9" * 5000), ("slices", "٣"), ("slices", None),
        ("axis", "up"), ("axis", 2), ("axis", ""),
        ("window", "40"), ("window", "40,0"), ("window", "40,-1"), ("window", "1%,80"),
        ("window", "99%,1%"), ("window", "0%,101%"), ("window", "nan,1"), ("window", "1e999,1"),
        ("window", "1,1e999"), ("window", "brain"), ("window", None), ("window", 40.0),
    ],
)  # fmt: skip
def test_options_that_mean_nothing(refused, name, value):
    with refused(name):
        ScanConfig(**{name: value})


@pytest.mark.parametrize(("package", "name"), [("pydicom", "a.dcm"), ("nibabel", "a.nii.gz")])
def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch, refused, package, name):
    (tmp_path / name).write_bytes(b"anything")
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    original = builtins.__import__

    def missing(wanted, *args, **kwargs):
        if wanted.split(".")[0] == package:
            raise ImportError(wanted)
        return original(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setitem(sys.modules, package, None)  # what import_module takes for absent
    for call in (load_folder, load_images):
        with refused(tmp_path / name, package, "[medical]"):
            call(tmp_path, 4)


def test_the_package_is_not_imported_before_it_is_needed():
    import subprocess

    program = "import sys, d2ue; print({'pydicom', 'nibabel'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_a_built_in_set_has_no_slices(refused):
    with refused("phantom"):
        load("phantom", 16, scan=ScanConfig("all"))


# --- the command line ---


def test_from_a_folder_of_volumes_to_scores(tmp_path, capsys):
    """Trained on chosen slices in a window, and scored in it without naming it again."""
    rng = np.random.default_rng(0)
    for i in range(4):
        nifti(tmp_path / f"normal/{i}.nii.gz", rng.normal(40, 20, (16, 16, 9)).astype(np.float32))
    tiny = ["--image-size", "16", "--epochs", "1", "--batch-size", "8", "--learners", "2"]
    scan = ["--slices", "3:6", "--axis", "coronal", "--window", "40,80"]
    out = tmp_path / "run"

    def call(*words):
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        return stopped.value.code, capsys.readouterr()

    code, said = call("fit", tmp_path / "normal", "--out", out, *tiny, *scan)
    assert code == 0 and "12 normal images" in said.out, said
    assert run_scan(out) == ScanConfig("3:6", "coronal", "40,80")
    tables = []
    for more in ([], scan, ["--window", "40,20", *scan[:4]]):
        code, said = call("score", out, tmp_path / "normal", "--out", tmp_path / "s.csv", *more)
        assert code == 0, said
        tables.append((tmp_path / "s.csv").read_text())
    assert tables[0] == tables[1] != tables[2]
    assert tables[0].splitlines()[1].startswith("0.nii.gz#y=3,,")
    for words in (["--slices", "no"], ["--axis", "up"], ["--window", "40"]):
        code, said = call("fit", tmp_path / "normal", "--out", tmp_path / "new", *tiny, *words)
        assert code == 2 and said.err.count("\n") == 1 and words[0][2:] in said.err
        assert not (tmp_path / "new").exists()


# --- where samples lie in their words, and what is no part of the picture ---

RAMP = np.tile(np.arange(64, dtype=np.uint16) * 64, (64, 1))  # 0 ... 4032, of 12 bits
WHOLE = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_bits_in_their_word(tmp_path, kind):
    """12 bits of 16: at the bottom, at the top, and with an overlay in the bits above."""
    ramp = RAMP.astype(kind) - (2048 if kind is np.int16 else 0)
    more = dict(WHOLE, WindowCenter=0) if kind is np.int16 else WHOLE
    plain = pixels(dicom(tmp_path / "a.dcm", ramp, bits=12, **more), 64)
    assert plain[0, [0, 32, 63]].tolist() == [0, 128, 251]  # 255 x / 4096
    high = dicom(tmp_path / "b.dcm", ramp << 4, bits=12, HighBit=15, **more)
    assert (pixels(high, 64) == plain).all()
    drawn = ramp & kind(0xFFF)
    drawn[20:40] |= kind(0x1000)
    overlaid = dicom(tmp_path / "c.dcm", drawn, bits=12, **more)
    assert (pixels(overlaid, 64) == plain).all()


def compressed(path, stored, **elements):
    """The same as JPEG 2000, lossless."""
    dicom(path, stored, **elements)
    data = pydicom.dcmread(path)
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    data.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.save_as(path, enforce_file_format=True)
    return path


def test_bits_of_compressed_samples(tmp_path, refused):
    plain = pixels(dicom(tmp_path / "a.dcm", RAMP, bits=12, **WHOLE), 64)
    drawn = RAMP.copy()
    drawn[20:40] |= 0x1000
    assert (pixels(compressed(tmp_path / "b.dcm", drawn, bits=12, **WHOLE), 64) == plain).all()
    high = compressed(tmp_path / "c.dcm", RAMP << 4, bits=12, HighBit=15, **WHOLE)
    with refused("c.dcm", "bit 15"):
        pixels(high, 64)


def lut(count, first, bits, data, signed=False):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [count, first, bits])
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return pydicom.Sequence([item])


TABLES = {
    "12 bits said and held": (12, list(range(4096))),
    "16 bits said, 12 held": (16, list(range(4096))),
    "16 bits said, 8 held": (16, [v // 16 for v in range(4096)]),
    "bytes in words": (8, bytes(v // 16 for v in range(4096))),
    "words of 8 bits": (8, words(*(v // 16 for v in range(4096)))),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_any_width_are_white_at_their_largest_entry(tmp_path, table):
    bits, data = TABLES[table]
    path = dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=lut(4096, 0, bits, data))
    found = pixels(path, 64)[0, [0, 16, 32, 63]]
    assert np.abs(found.astype(int) - [0, 64, 128, 251]).max() <= 1
    # The same table before a window: what is looked up is what the window is about.
    path = dicom(
        tmp_path / "b.dcm", RAMP, ModalityLUTSequence=lut(4096, 0, bits, data),
        VOILUTFunction="LINEAR_EXACT", WindowCenter=1000, WindowWidth=100,
    )  # fmt: skip
    top = max(data) if not isinstance(data, bytes) or (bits == 8 and len(data) == 4096) else 255
    expected = 255 if top > 1000 else 0
    assert pixels(path, 64)[0, 63] == expected


def test_tables_in_signed_units_and_too_short_ones(tmp_path, refused):
    stored = np.array([[0, 1], [2, 3]], np.int16) - 2
    table = lut(3, -1, 8, [0, 100, 200], signed=True)
    path = dicom(tmp_path / "a.dcm", stored, VOILUTSequence=table)
    assert pixels(path, 2).tolist() == [[0, 0], [128, 255]]  # -2 and -1 take the first entry
    with refused("b.dcm", "lookup table"):
        pixels(dicom(tmp_path / "b.dcm", stored, VOILUTSequence=lut(9, 0, 16, [1, 2])), 2)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_no_part_of_the_percentiles(tmp_path, photometric):
    inner = np.tile(np.arange(8, dtype=np.int16) * 100, (8, 1))
    stored = inner.copy()
    stored[:, :4] = -2000
    path = dicom(
        tmp_path / "a.dcm", stored, photometric=photometric, RescaleSlope=1, RescaleIntercept=0
    )
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "US", 2**16 - 2000)  # the other type, as some files have it
    data.save_as(path)
    found = pixels(path, 8, window="0%,100%")
    expected = np.rint(255 * (inner[0, 4:].astype(float) - 400) / 300)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert (found[:, :4] == 0).all() and (found[:, 4:] == expected).all()
    data.add_new("PixelPaddingRangeLimit", "SS", 400)
    data.save_as(path)
    assert (pixels(path, 8, window="0%,100%")[:, 4] == 0).all()


def test_shutters_hide_what_is_outside(tmp_path):
    stored = np.full((8, 8), 200, np.uint8)
    edges = {
        "ShutterLeftVerticalEdge": 2, "ShutterRightVerticalEdge": 7,
        "ShutterUpperHorizontalEdge": 1, "ShutterLowerHorizontalEdge": 8,
    }  # fmt: skip
    square = dicom(tmp_path / "a.dcm", stored, ShutterShape="RECTANGULAR", **edges)
    expected = np.zeros((8, 8))
    expected[1:7, 2:6] = 200  # between the edges, counted from 1
    assert (pixels(square, 8) == expected).all()
    disc = dicom(
        tmp_path / "b.dcm", stored, ShutterShape="CIRCULAR",
        CenterOfCircularShutter=[4, 4], RadiusOfCircularShutter=1,
    )  # fmt: skip
    assert np.count_nonzero(pixels(disc, 8)) == 5
    corners = dicom(
        tmp_path / "c.dcm", stored, ShutterShape="POLYGONAL",
        VerticesOfThePolygonalShutter=[1, 1, 1, 4, 4, 4, 4, 1],
    )  # fmt: skip
    assert np.count_nonzero(pixels(corners, 8)) == 16 and pixels(corners, 8)[0, 0]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_float_pixels_are_read_by_percentiles(tmp_path, kind):
    stored = (RAMP / 4032).astype(kind)
    stored[0, 0] = np.nan
    path = dicom(tmp_path / "a.dcm", RAMP)
    data = pydicom.dcmread(path)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(data, name)
    data.BitsAllocated = 8 * stored.itemsize
    prefix = "Float" if kind is np.float32 else "DoubleFloat"
    setattr(data, f"{prefix}PixelData", stored.tobytes())
    setattr(data, f"{prefix}PixelPaddingValue", np.nan)
    data.save_as(path)
    for window in ("auto", "0%,100%"):
        found = pixels(path, 64, window=window)
        assert found[0, 0] == 0 and len(np.unique(found[1])) >= 62 and found.max() == 255


def test_percentiles_of_many_frames_are_those_of_all_values(tmp_path):
    """Counted frame by frame; the frames have units of their own."""
    rng = np.random.default_rng(0)
    for kind in (np.uint16, np.int16, np.uint32):
        stored = rng.integers(0, 4000, (5, 16, 16)).astype(kind)
        path = dicom(tmp_path / "a.dcm", stored, bits=stored.itemsize * 8)
        data = pydicom.dcmread(path)
        units = [(1, 0), (1, 0), (2, -1000), (0.5, 3), (1, 7)]
        data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(
            [
                sequence(
                    PixelValueTransformationSequence=sequence(RescaleSlope=a, RescaleIntercept=b)
                )[0]
                for a, b in units
            ]
        )
        data.save_as(path)
        values = np.stack(
            [a * f.astype(float) + b for f, (a, b) in zip(stored, units, strict=True)]
        )
        low, high = np.percentile(values, (0.5, 99.5))
        expected = np.rint(255 * np.clip((values - low) / (high - low), 0, 1))
        found = load_images([path], 16, progress=False, scan=ScanConfig("all")).images[:, 0]
        assert np.abs(found - expected).max() <= 1  # float32 of 32-bit values rounds


def test_a_palette_is_colours(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.array([[0, 1], [1, 0]], np.uint8))
    data = pydicom.dcmread(path)
    data.PhotometricInterpretation = "PALETTE COLOR"
    for name, values in (("Red", (0, 255)), ("Green", (0, 128)), ("Blue", (255, 0))):
        data.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [2, 0, 16])
        setattr(data, f"{name}PaletteColorLookupTableData", words(*(257 * v for v in values)))
    data.save_as(path)
    first, second = round(0.114 * 255), round(0.299 * 255 + 0.587 * 128)
    assert pixels(path, 2).tolist() == [[first, second], [second, first]]


@pytest.mark.parametrize("how", ["frame missing", "stream cut", "file cut"])
def test_damage_inside_is_refused(tmp_path, refused, how):
    if how == "file cut":
        path = dicom(tmp_path / "a.dcm", np.stack([RAMP] * 3), bits=12)
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path = compressed(tmp_path / "a.dcm", RAMP, bits=12)
        data = pydicom.dcmread(path)
        (stream,) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)
        data.PixelData = pydicom.encaps.encapsulate([stream[: len(stream) // 2 // 2 * 2]])
        if how == "frame missing":
            data.NumberOfFrames = 2
            data.PixelData = pydicom.encaps.encapsulate([stream])
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
    with refused("a.dcm"):
        load_images([path], 64, progress=False, scan=ScanConfig("all"))


def test_a_runs_window_and_slices_are_kept_everywhere(tmp_path, monkeypatch):
    """fit, score, load, save, recalibrate: one and the same picture of a file."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, n in (("normal", 12), ("new", 3)):
        for i in range(n):
            values = rng.normal(35, 5, (16, 16, 4))
            values[:3], values[-3:] = -1000, 1200
            nifti(tmp_path / folder / f"{i}.nii", values.astype(np.int16))
    scan = {"window": "40,80", "slices": "all", "axis": "coronal"}
    detector = D2UE(
        n_learners=2, epochs=1, batch_size=8, image_size=16, contamination=0.2, **scan
    ).fit(tmp_path / "normal")
    scores = detector.anomaly_score(tmp_path / "new")
    assert len(scores) == 3 * 16
    detector.save(tmp_path / "saved")
    manifest = next((tmp_path / "saved").glob("ensemble-*/ensemble.json"))
    for file in (manifest, tmp_path / "saved" / "detector.json"):
        assert '"window": "40,80"' in file.read_text()
    loaded = D2UE.load(tmp_path / "saved").recalibrate(0.3, "output").recalibrate(0.2, "dual")
    assert loaded.get_params()["window"] == "40,80"
    assert np.array_equal(loaded.anomaly_score(tmp_path / "new"), scores)
    with pytest.raises(SystemExit):
        main(["score", str(tmp_path / "saved"), str(tmp_path / "new"), "--out", "s.csv"])
    written = np.loadtxt("s.csv", delimiter=",", skiprows=1, usecols=2, comments=None)
    np.testing.assert_allclose(written, scores, rtol=1e-6)
    # One option is changed: the others stay those of the run.
    with pytest.raises(SystemExit):
        main(["score", str(tmp_path / "saved"), str(tmp_path / "new"), "--out", "t.csv",
              "--slices", "0:2"])  # fmt: skip
    few = np.loadtxt("t.csv", delimiter=",", skiprows=1, usecols=2, comments=None)
    np.testing.assert_allclose(few, scores.reshape(3, 16)[:, :2].ravel(), rtol=1e-6)
