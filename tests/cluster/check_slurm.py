"""A batch through a real SLURM: `make cluster-test`. The same bits as in this process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2ue.experiments.status import status_lines

SCRIPT = Path(__file__).with_name("slurm.sh")
BATCH = "reproduce table2 --backbones ae --seeds 2 --epochs 2 --batch-size 16 --n-train 64"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True)
    os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
    yield folder
    subprocess.run([SCRIPT, "stop", folder], check=True)


def contents(folder):
    kept = [p for part in ("learners", "scores") for p in sorted((folder / part).rglob("*"))]
    return {p.relative_to(folder): p.read_bytes() for p in kept if p.is_file()}


def reproduce(folder, *options):
    out = ["--n-test", "40", "--store", f"{folder}/store", "--out", f"{folder}/out"]
    command = [sys.executable, "-m", "d2ue", *BATCH.split(), *out, *options]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return contents(folder / "store")


def test_the_same_bits_through_slurm(slurm, tmp_path):
    queue = ["--cluster", "slurm", "--jobs", "2", "--cluster-option", "interface=lo"]
    queue += ["--cluster-option", f"log_directory={slurm}/log"]
    through = reproduce(tmp_path / "slurm", *queue)
    assert through and through == reproduce(tmp_path / "here", "--jobs", "1")
    done = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert not done.stdout.strip() or " CG " in done.stdout, "workers end with the batch"
    (line,) = status_lines(tmp_path / "slurm" / "store")
    assert "10 learners finished" in line
