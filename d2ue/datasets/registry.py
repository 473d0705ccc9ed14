"""Data sets by name: what each of the paper's five is, where it comes from, where it lies here."""

from __future__ import annotations

import os
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d2ue.datasets.decode import show
from d2ue.datasets.folder import DATA_JSON, existing_folder, find_listing, load_folder
from d2ue.datasets.phantom import phantom
from d2ue.datasets.types import ABNORMAL, NORMAL, Dataset
from d2ue.errors import InputError

#: Names that stand for a built-in set where a folder could stand, and its kind.
BUILT_IN = {"phantom": "head", "phantom-chest": "chest"}

ZENODO = "https://zenodo.org"
RECORD = "12677223"  # the Med-AD benchmarks: the splits of DDAD-ASR with their images

_SPLITS = (
    "Split: Cai et al., Dual-distribution discrepancy with self-supervised refinement for anomaly "
    "detection in medical images, Medical Image Analysis 2023 (DDAD-ASR)"
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


#: The columns of the paper's tables.
DATASETS = ("RSNA", "VinDr-CXR", "CXAD", "Brain MRI", "LAG")


@dataclass(frozen=True)
class Source:
    """One of the paper's data sets.

    Attributes:
        name: what the commands call it.
        title: its column in the paper's tables.
        counts: images of the published split: normal to train on, normal and abnormal to test on;
            None where they are not published.
        licence: what is known of the terms; "unclear" where it is not.
        citations: the original set first, then whose split it is.
        archive: file in the Zenodo record; None where the set is not public.
    """

    name: str
    title: str
    counts: tuple[int, int, int] | None
    licence: str
    citations: tuple[str, ...]
    archive: str | None

    @property
    def folders(self) -> tuple[str, ...]:
        """Names under which its folder is looked for: its own, and that of the archive."""
        return (self.name,) if self.archive is None else (self.name, self.archive.split(".")[0])

    @property
    def how_to_get(self) -> str:
        """What a person does to have it."""
        if self.archive is None:
            return "not to be had: an in-house set of an earlier paper."
        return (
            f"'d2ue download {self.name} --to data', or by hand: {self.archive} of "
            f"{ZENODO}/records/{RECORD}, extracted in data/."
        )


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="rsna",
            title="RSNA",
            counts=(3851, 1000, 1000),
            licence="the archive: for academic use; the original: unclear, see its publisher",
            citations=(
                "Shih et al., Augmenting the National Institutes of Health chest radiograph "
                "dataset with expert annotations of possible pneumonia, Radiology: Artificial "
                "Intelligence 2019 (RSNA Pneumonia Detection Challenge)",
                _SPLITS,
            ),
            archive="RSNA.tar.gz",
        ),
        Source(
            name="vindr-cxr",
            title="VinDr-CXR",
            counts=(4000, 1000, 1000),
            licence="the archive: for academic use; the original: unclear, see its publisher",
            citations=(
                "Nguyen et al., VinDr-CXR: An open dataset of chest X-rays with radiologist's "
                "annotations, Scientific Data 2022",
                _SPLITS,
            ),
            archive="VinCXR.tar.gz",
        ),
        Source(
            name="cxad",
            title="CXAD",
            counts=None,
            licence="unclear; an in-house set that is not public",
            citations=(
                "Cai et al., Dual-distribution discrepancy for anomaly detection in chest X-rays, "
                "MICCAI 2022 (the earlier paper that used it)",
            ),
            archive=None,
        ),
        Source(
            name="brain-mri",
            title="Brain MRI",
            counts=(1000, 600, 600),
            licence="the archive: for academic use; the original (as best known): CC0 on Kaggle, "
            "its figshare part CC BY 4.0, its Br35H part unclear",
            citations=(
                "Nickparvar, Brain Tumor MRI Dataset, Kaggle 2021, doi:10.34740/KAGGLE/DSV/2645886",
                _SPLITS,
            ),
            archive="BrainTumor.tar.gz",
        ),
        Source(
            name="lag",
            title="LAG",
            counts=(1500, 811, 811),
            licence="the archive: for academic use; the original: unclear",
            citations=(
                "Li et al., Attention based glaucoma detection: A large-scale database and CNN "
                "model, CVPR 2019",
                _SPLITS,
            ),
            archive="LAG.tar.gz",
        ),
    )
}


def paper_title(name: str) -> str:
    """The column of the paper's tables for a registered name; any other name as it is.

    Raises:
        InputError: if it is not a name of a data set.
    """
    name = check_name(name)
    return SOURCES[name].title if name in SOURCES else name


def marked(name: str) -> str:
    """The name of a data set, with a mark where the paper's tables have no column for it.

    Raises:
        InputError: if it is not a name of a data set.
    """
    return name if paper_title(name) in DATASETS else f"{name} (not in the paper)"


def check_name(name: str) -> str:
    """The name, if a data set may have it.

    Raises:
        InputError: if it is not made of lower-case letters, digits and "-", or is a registered
            name in another spelling, under which its results would stand in no table.
    """
    rule = "a data set's name has only a-z, 0-9 and '-', at most 64 of them"
    if not isinstance(name, str):
        raise InputError(f"{rule}, but a {type(name).__name__} was given.")
    for source in SOURCES.values():
        spellings = {_plain(word) for word in (*source.folders, source.title)}
        if name != source.name and _plain(name) in spellings:
            raise InputError(f"{show(name)} is called {source.name} here: give that name.")
    if not _NAME.fullmatch(name):
        raise InputError(f"{show(name)} cannot be used, as {rule}: choose another.")
    return name


def check_registered(name: str) -> Source:
    """What is known of one of the paper's data sets.

    Raises:
        InputError: if there is none of that name.
    """
    if check_name(name) in SOURCES:
        return SOURCES[name]
    if name in BUILT_IN:
        raise InputError(f"{name} is drawn by the program: nothing has to be downloaded for it.")
    raise InputError(f"There is no data set {name!r} here: take one of {', '.join(SOURCES)}.")


def find_folder(name: str, data: str | os.PathLike[str]) -> Path:
    """Where one of the paper's data sets lies.

    Args:
        name: a key of `SOURCES`.
        data: the folder of the set itself, or one that holds it in a folder called like the set
            or like its archive, in upper or lower case, with "-", "_" or nothing between words.

    Raises:
        InputError: on another name, or if no such folder with a data.json is there.
    """
    source = check_registered(name)
    folder = existing_folder(data)
    if os.path.lexists(folder / "data.json"):
        return folder
    if found := find_below(source.folders, folder):
        return found
    wanted = " or ".join(f"{word}/" for word in source.folders)
    advice = f"run 'd2ue download {name}' or give" if source.archive else "it is not public: give"
    raise InputError(
        f"{show(folder)} holds neither a data.json nor a folder {wanted} with one, where "
        f"{source.title} could lie; {advice} the folder that holds it."
    )


def find_below(words: Sequence[str], folder: Path) -> Path | None:
    """The sub-folder of `folder` in which a set of such names lies, the first name before all."""
    if os.path.lexists(folder / words[0] / "data.json"):
        return folder / words[0]
    spellings = {_plain(word) for word in words}
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"{show(folder)} cannot be read ({error.strerror}).") from error
    for name in names:
        if _plain(name) in spellings and os.path.lexists(folder / name / "data.json"):
            return folder / name
    return None


def load_named(
    name: str,
    data: str | os.PathLike[str] | None = None,
    image_size: int = 64,
    progress: bool = True,
) -> Dataset:
    """A data set that is called `name` in tables.

    Args:
        name: "phantom" or "phantom-chest" (built in, `data` is not looked at); a key of `SOURCES`
            (`find_folder` says where it is looked for); or a label, such as "kermany-cxr", for
            images of your own, in `data` or in a folder of that name with a data.json in it.
        data: folder, as above; or a .json file beside images/, another split than the published
            one, which needs a label.
        image_size: pixels a side.
        progress: show a bar once decoding has taken two seconds.

    Returns:
        The set under that name. Where the counts of a registered set are not those of the
        published split it is used all the same, with a warning.

    Raises:
        InputError: if the name or the folder cannot be used; the sentence says why.
    """
    name = check_name(name)
    if name in BUILT_IN:
        return phantom(BUILT_IN[name], image_size=image_size, progress=progress)
    if data is None:
        public = name in SOURCES and SOURCES[name].archive is not None
        advice = f"run 'd2ue download {name}' and give" if public else "give"
        raise InputError(f"{name} has to be read from a folder: {advice} the one it lies in.")
    folder, listing = find_listing(data)
    if listing is not None and listing.name == DATA_JSON:
        data, listing = folder, None
    if listing is not None:
        if name in SOURCES:
            raise InputError(
                f"{show(listing)} is another split than the published one of {name}: give it a "
                f"name of its own, such as {name}-cleaned."
            )
        folder = listing
    elif name in SOURCES:
        folder = find_folder(name, data)
    elif not os.path.lexists(folder / DATA_JSON):
        found = find_below([name], folder)
        if found is None:
            raise InputError(
                f"{show(folder)} holds neither a data.json nor a folder {name}/ with one: give the "
                f"folder in which the images of {name} lie, or their right name."
            )
        folder = found
    dataset = replace(load_folder(folder, image_size, progress=progress), name=name)
    if name in SOURCES:
        _warn_of_other_counts(SOURCES[name], dataset, folder)
    return dataset


def overview() -> str:
    """All data sets that have a name, for a terminal of 100 columns."""
    blocks = [_block(source) for source in SOURCES.values()]
    drawn = [f"  {name}: {kind} images" for name, kind in BUILT_IN.items()]
    blocks.append("\n".join(["Built in: phantoms, drawn by the program, no download", *drawn]))
    return "\n\n".join(blocks)


def _block(source: Source) -> str:
    counts = "not published"
    if source.counts is not None:
        counts = "{} normal to train on; {} normal and {} abnormal to test on".format(
            *source.counts
        )
    rows = [("images", counts), ("licence", source.licence)]
    rows += [("cite", citation) for citation in source.citations]
    rows.append(("get it", source.how_to_get))
    lines = [f"{source.name}: {source.title}"]
    for label, text in rows:
        lines += textwrap.wrap(
            text,
            98,
            initial_indent=f"  {label:9}",
            subsequent_indent=" " * 11,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _warn_of_other_counts(source: Source, dataset: Dataset, folder: str | Path) -> None:
    test = dataset.test
    labels = [] if test is None or test.labels is None else test.labels.tolist()
    found = (len(dataset.train), labels.count(NORMAL), labels.count(ABNORMAL))
    if source.counts is not None and found != source.counts:
        # Not an error: leaving out duplicates or broken files is a legitimate thing to do.
        warnings.warn(
            f"{show(folder)} holds {_counts(found)} images (train, test normal, test abnormal), "
            f"but {source.title} as published {_counts(source.counts)}: its results are those of "
            "another split than the paper's.",
            stacklevel=3,
        )


def _counts(counts: tuple[int, int, int]) -> str:
    return " + ".join(map(str, counts))


def _plain(name: str) -> str:
    """A name without case and the signs between its words."""
    return re.sub(r"[-_ ]", "", name).casefold()
