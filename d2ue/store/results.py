"""Scores of trained ensembles on disk: what tables are made of, small enough to travel.

A **record** holds what one ensemble says of one set of test images: every image's score by every
method and its reconstruction error, with the labels and the settings they came from. Records stand
in a store beside the learners:

    store/scores/NAME.safetensors     named by the learners' names and the test images

`d2ue.store.exchange` packs them into one file that travels.

**Controls** (`d2ue.experiments.controls`) are records too, so that they travel with the ensembles
they are to be compared with: one of all that looks at images alone, one for each untrained
ensemble, one for each single learner's gradient. Their names hold what acts on them, and their
version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from d2ue.config import TrainConfig
from d2ue.datasets.types import ABNORMAL, NORMAL, Dataset
from d2ue.errors import DamagedError, InputError
from d2ue.learners import learner_name, name_of
from d2ue.store.files import (
    damaged,
    digest,
    dump,
    parse,
    reading,
    sweep,
    write_file,
    writing,
)
from d2ue.store.learners import Store

#: Raised whenever a change alters what a score is; part of every record's name.
SCORING_VERSION = 1
#: The same of the controls.
CONTROLS_VERSION = 1
#: The same of other methods, whose controls start so (`d2ue.experiments.rivals`).
RIVALS_VERSION, RIVAL = 1, "baseline:"
#: Kinds of controls: scores of images alone, of an untrained ensemble, of one learner's gradient.
CONTROLS = ("images", "untrained", "gradient")
#: Scores of images alone, by name (`d2ue.experiments.controls`).
IMAGE_SCORES = ("intensity", "sharpness", "mean-image", "neighbour", "pca")
RECORD_FORMAT = "d2ue scores 1"
#: Per-image mean squared error of the learners' own reconstructions, averaged over learners.
RECONSTRUCTION = "reconstruction"
_SCORE_AGAIN = (
    "remove this file; 'd2ue reproduce' with the images computes it again, 'd2ue import' takes it "
    "from an export"
)


@dataclass(frozen=True)
class DataKey:
    """What results depend on of their data.

    Attributes:
        name: the data set's, as `--dataset` has it.
        train: fingerprint of the training images.
        test: fingerprint of the test images and their labels.
        n_train, n_normal, n_abnormal: training images, test images of either class.
    """

    name: str
    train: str
    test: str
    n_train: int
    n_normal: int
    n_abnormal: int

    @classmethod
    def of(cls, dataset: Dataset) -> DataKey:
        """The key of images at hand.

        Raises:
            InputError: if the data set has not at least two labelled test images of each class.
        """
        test = dataset.labelled
        assert test.labels is not None
        counts = [int((test.labels == label).sum()) for label in (NORMAL, ABNORMAL)]
        if min(counts) < 2:
            raise InputError(
                f"{dataset.name} has {counts[0]} normal and {counts[1]} abnormal test images: an "
                "AUC and its interval need at least two of each."
            )
        digest = hashlib.sha256(test.fingerprint.encode() + test.labels.tobytes()).hexdigest()
        return cls(dataset.name, dataset.train.fingerprint, digest, len(dataset.train), *counts)


@dataclass(frozen=True, eq=False)
class Record:
    """What an ensemble, or a control, says of test images.

    Attributes:
        config: the ensemble's settings; of a control those of its networks, where it has any.
        data: what it was trained and judged on.
        labels: int8 [n], 0 normal, 1 abnormal.
        scores: by method (and `RECONSTRUCTION`), float32 [n], higher = more abnormal.
        similarity: debiased CKA of the repelled layer's features, mean over pairs of learners,
            over the normal and over the abnormal test images; empty for a single learner.
        made: versions of the software and device that computed it.
        control: one of `CONTROLS`; "" for a trained ensemble.
    """

    config: TrainConfig
    data: DataKey
    labels: np.ndarray
    scores: dict[str, np.ndarray]
    similarity: dict[str, float]
    made: dict[str, str]
    control: str = ""

    @property
    def name(self) -> str:
        """The record's name; see `record_name`."""
        return record_name(self.config, self.data, self.control)


def record_name(config: TrainConfig, data: DataKey, control: str = "") -> str:
    """16 hex digits of the SHA-256 of the learners' names, the test images and the scoring code.

    A control's name has what acts on it in the learners' place: training images, initial weights,
    or one learner.
    """
    if control:
        about: dict[str, object] = {"control": control, "version": CONTROLS_VERSION}
        about |= {"test": data.test} | _acting(config, data, control)
        return name_of(about)
    numbers = range(1, config.n_learners + 1)
    learners = [learner_name(config, number, data.train) for number in numbers]
    # Two layers' ensembles without repulsion are one; so are lambda 0 and "none".
    return name_of({"learners": learners, "test": data.test, "scoring_version": SCORING_VERSION})


def _acting(config: TrainConfig, data: DataKey, control: str) -> dict[str, object]:
    """What acts on a control besides the test images."""
    if control == "images":
        return {"train": data.train}
    if control == "gradient":
        return {"learner": learner_name(config, 1, data.train)}
    if control.startswith(RIVAL):
        acting = {"train": data.train, "image_size": config.image_size}
        return {**acting, "seed": config.seed, "epochs": config.epochs, "rival": RIVALS_VERSION}
    if control != "untrained":
        raise ValueError(f"there is no control {control!r}")
    memory = ("memory_slots", "shrinkage") if config.backbone == "memae" else ()
    names = ("backbone", "image_size", "seed", "n_learners", *memory)
    return {name: getattr(config, name) for name in names}


def put_record(store: Store, record: Record) -> None:
    """Keep a record; one that is there already stays, unless its file is damaged.

    Raises:
        InputError: if it cannot be written.
    """
    path = _path(store, record.name)
    # Two batches may score one ensemble at once: what the other is writing must not be swept.
    with store.claim([record.name]), writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        if not has_record(store, record.name):
            write_file(path, dump_record(record))


def has_record(store: Store, name: str) -> bool:
    """Whether a record is there, whole: a damaged one can be computed again."""
    try:
        return get_record(store, name) is not None
    except DamagedError:
        return False


def rename_data(store: Store, name: str, called: str) -> None:
    """Have a record say what its data set is called now: the record's own name is of images alone.

    Raises:
        InputError: if it is damaged, or cannot be written.
    """
    record = get_record(store, name)
    if record is not None and record.data.name != called:
        data = dataclasses.replace(record.data, name=called)
        path = _path(store, name)
        with store.claim([name]), writing(path):
            write_file(path, dump_record(dataclasses.replace(record, data=data)))


def get_record(store: Store, name: str) -> Record | None:
    """A record, or None.

    Raises:
        InputError: if the file does not hold what was written.
    """
    path = _path(store, name)
    if not path.exists():
        return None
    with reading(path):
        content = path.read_bytes()
    try:
        return parse_record(content, path, name)
    except DamagedError as error:
        raise damaged(path, _SCORE_AGAIN) from error


def data_keys(records: Iterable[Record], n_train: int = 0, n_test: int = 0) -> dict[str, DataKey]:
    """The data sets that records are of, by name.

    Args:
        records: any.
        n_train: training images that the set has; 0 = all, the most that one of this name has.
        n_test: test images, likewise.

    Raises:
        InputError: if two different sets of images with as many images go by one name.
    """
    found: dict[str, dict[DataKey, None]] = {}
    for record in records:
        found.setdefault(record.data.name, {})[record.data] = None
    keys: dict[str, DataKey] = {}
    for name, known in found.items():
        most_train = n_train or max(key.n_train for key in known)
        fitting = [key for key in known if key.n_train == most_train]
        tested = {key: key.n_normal + key.n_abnormal for key in fitting}
        most_test = n_test or max(tested.values(), default=0)
        fitting = [key for key in fitting if tested[key] == most_test]
        if len(fitting) > 1:
            raise InputError(
                f"The results hold two different sets of images named {name!r}, both with "
                f"{most_train} to train on and {most_test} to test: give one of them another name, "
                "or say which images are meant by giving their folder."
            )
        if fitting:
            keys[name] = fitting[0]
    return keys


#: The scores that a record has at least, by its control.
_METHODS = {
    "": {"ensemble", RECONSTRUCTION},
    "untrained": {"ensemble", RECONSTRUCTION},
    "images": set(IMAGE_SCORES),
    "gradient": {"gradient"},
}


def _required(control: str) -> set[str]:
    return {"score"} if control.startswith(RIVAL) else _METHODS[control]


def _path(store: Store, name: str) -> Path:
    return store.folder / "scores" / f"{name}.safetensors"


def dump_record(record: Record) -> bytes:
    """A record as the bytes of its file; equal records are equal bytes."""
    tensors = {f"scores.{key}": torch.from_numpy(value) for key, value in record.scores.items()}
    tensors["labels"] = torch.from_numpy(record.labels.astype(np.int8))
    about: dict[str, object] = {
        "config": record.config.as_dict(),
        "data": record.data.__dict__,
        "similarity": record.similarity,
        "made": record.made,
    }
    if record.control:  # trained ensembles are written as they always were
        about["control"] = record.control
    # As tensors, not as the header's texts: the order of several texts there is not fixed, and
    # equal records shall be equal files.
    tensors["about"] = _bytes_tensor(json.dumps(about, sort_keys=True).encode())
    tensors["sha256"] = _bytes_tensor(bytes.fromhex(digest(tensors)))
    return dump(tensors, {"format": RECORD_FORMAT})


def _bytes_tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def parse_record(content: bytes, path: Path, name: str) -> Record:
    """The record out of its file's bytes.

    Raises:
        InputError: if they are not, bit by bit, what was written under that name.
    """
    tensors, _ = parse(content, path, RECORD_FORMAT)
    try:
        sha256 = tensors.pop("sha256").numpy().tobytes().hex()
        if sha256 != digest(tensors):
            raise damaged(path)
        about = json.loads(tensors.pop("about").numpy().tobytes())
        labels = tensors.pop("labels").numpy()
        scores = {key.removeprefix("scores."): value.numpy() for key, value in tensors.items()}
        record = Record(
            TrainConfig(**about["config"]),
            DataKey(**about["data"]),
            labels,
            scores,
            {str(key): float(value) for key, value in about["similarity"].items()},
            {str(key): str(value) for key, value in about["made"].items()},
            str(about.get("control", "")),
        )
        n = record.data.n_normal + record.data.n_abnormal
        sound = (
            labels.dtype == np.int8
            and labels.shape == (n,)
            and int((labels == ABNORMAL).sum()) == record.data.n_abnormal
            and int((labels == NORMAL).sum()) == record.data.n_normal
            and _required(record.control) <= set(scores)
            and all(v.shape == (n,) and v.dtype == np.float32 for v in scores.values())
            and all(np.isfinite(v).all() for v in scores.values())
        )
        own_name = record.name
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise damaged(path) from error
    if not sound or own_name != name:
        raise damaged(path)
    return record
