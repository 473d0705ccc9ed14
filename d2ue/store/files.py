"""Files written whole or not at all, and read with a sentence where that fails."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from d2ue.datasets.results_folder import MARK
from d2ue.errors import DamagedError, InputError


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, flush to disk, rename.

    Raises:
        OSError: if it cannot be written; what stood there before still does.
    """
    with write_whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write in pieces, which takes its place only when all are there.

    Raises:
        OSError: if it cannot be written; what stood there before still does.
    """
    temporary = path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        InputError: if it cannot be written; what stood there before still does.
    """
    with writing(Path(path)):
        write_file(Path(path), text.encode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in a sentence why something cannot be written."""
    try:
        yield
    except OSError as error:
        advice = "give a folder that can be written to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space"
        elif error.errno == errno.ENOENT:
            advice = f"make the folder {path.parent} first"
        raise InputError(f"{path} cannot be written ({error.strerror}): {advice}.") from error


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """A folder for what is written inside; where that fails, empty folders made for it go again.

    Raises:
        InputError: if it cannot be made, or nothing can be written into it.
    """
    folder = folder.resolve()
    made: list[Path] = []
    try:
        with writing(folder):
            absent = [each for each in (folder, *folder.parents) if not each.exists()]
            for each in reversed(absent):
                each.mkdir(exist_ok=True)
                made.append(each)
            with tempfile.TemporaryFile(dir=folder):
                pass
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if made:
                (folder / MARK).unlink(missing_ok=True)
            for each in reversed(made):
                each.rmdir()
        raise


def check_writable(folder: Path) -> None:
    """Refuse before hours of work a folder that nothing can be written to; leaves no trace.

    Raises:
        InputError: if it cannot be made, or nothing can be written into it.
    """
    folder = folder.resolve()
    with writing(folder):
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
        # A folder of its own name: the one asked for may be made by somebody else meanwhile.
        with tempfile.TemporaryDirectory(prefix=".d2ue-", dir=nearest):
            pass


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in a sentence why something cannot be read."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check that it is there and yours to read."
        ) from error


def versions(device: str = "cpu") -> dict[str, str]:
    """What numbers may depend on: package, torch, Python, system, processor and GPU."""
    try:
        package = metadata.version("d2ue")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        package = "unknown"
    made = {
        "d2ue": package,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": f"{processor()} ({torch.backends.cpu.get_cpu_capability()})",
    }
    if device.startswith("cuda"):
        made["gpu"] = torch.cuda.get_device_name(device)
    return made


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}.tmp-"


def sweep(path: Path) -> None:
    """Remove what a killed process left of earlier attempts at this path (it is ours to write)."""
    for left in path.parent.glob(f"{glob.escape(_temporary_prefix(path))}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dump(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """Tensors and a header of texts as a safetensors file's content."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return dump_tensors(plain, metadata=header)


def parse(content: bytes, path: Path, wanted: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file of ours."""
    try:
        tensors = load_tensors(content)
        length = int.from_bytes(content[:8], "little")
        header = dict(json.loads(content[8 : 8 + length])["__metadata__"])
    except (SafetensorError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise damaged(path) from error
    if header.get("format") != wanted:
        raise InputError(f"{path} is not a file of this program: remove it or give another folder.")
    return tensors, header


def read_json(path: Path, wanted: str) -> dict[str, Any]:
    """A JSON file of ours, of the wanted format."""
    with reading(path):
        content = path.read_bytes()
    return load_json(content, path, wanted)


def load_json(content: bytes, path: Path, wanted: str) -> dict[str, Any]:
    """The same out of its content; `path` is for the sentence."""
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path) from error
    kind = manifest.get("format") if isinstance(manifest, dict) else None
    if kind != wanted:
        if isinstance(kind, str) and kind.startswith("d2ue "):
            raise InputError(f"{path} is a {kind!r:.40}, not a {wanted!r}: give another folder.")
        raise InputError(f"{path} was not written by this program: give another folder.")
    return manifest


def read_checked(path: Path, sha256: str) -> bytes:
    """A file's content, refused where it is not what its hash says."""
    with reading(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise damaged(path)
    return content


def damaged(
    path: Path,
    advice: str = "remove its folder and train again, or copy it anew from where it came",
) -> DamagedError:
    """The sentence for a file that does not hold what was written."""
    return DamagedError(f"{path} is damaged or incomplete: {advice}.")


def json_bytes(value: object) -> bytes:
    """A value as the content of a JSON file."""
    return (json.dumps(value, indent=1) + "\n").encode()
