"""What a store holds, what is being done in it just now and where, and what failed and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from d2ue.errors import InputError
from d2ue.experiments.run import failures
from d2ue.store.learners import Store


def status_lines(folder: Path) -> Iterator[str]:
    """Lines to print of a store.

    Args:
        folder: the store's.

    Raises:
        InputError: if there is no store.
    """
    if not any((folder / part).is_dir() for part in ("learners", "scores", "running")):
        raise InputError(f"{folder} is not a store: give the folder that --store named.")
    store = Store(folder)
    finished = sum(1 for _ in folder.glob("learners/*/learner.json"))
    scored = sum(1 for _ in folder.glob("scores/*.safetensors"))
    yield f"{folder}: {finished} learners finished, {scored} ensembles scored."
    for note in sorted(folder.glob("running/*/*")):
        fields = note.read_text().split("\t")
        # Notes stay until their batch ends; only a learner in work is locked.
        if len(fields) == 5 and store.is_claimed(note.name):
            done, epochs, title, place, since = fields
            yield f"running: {title}: epoch {done} of {epochs}, on {place}, since {since}"
    for title, why in failures(store).values():
        yield f"failed: {title}: {why}"
