"""A batch through a real SLURM: `make cluster-test`. The same bits as in this process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2ue.experiments.status import status_lines

SCRIPT = Path(__file__).with_name("slurm.sh")
BATCH = "--seeds 1 --epochs 1 --batch-size 16 --n-train 16 --n-test 40"


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
    """Tables 1 to 3 of the phantoms, as somebody types it; what the store holds then."""
    for table in ("table1", "table2", "table3"):
        out = ["--store", f"{folder}/store", "--out", f"{folder}/{table}"]
        command = [sys.executable, "-m", "d2ue", "reproduce", table, *BATCH.split(), *out, *options]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return contents(folder / "store")


def test_three_tables_are_the_same_bits_on_every_engine(slurm, tmp_path):
    here = reproduce(tmp_path / "here", "--jobs", "1")
    queue = ["--cluster", "slurm", "--jobs", "2", "--cluster-option", "interface=lo"]
    queue += ["--cluster-option", f"log_directory={slurm}/log"]
    assert here == reproduce(tmp_path / "slurm", *queue)
    done = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert not done.stdout.strip() or " CG " in done.stdout, "workers end with the batch"
    (line,) = status_lines(tmp_path / "slurm" / "store")
    assert f"{sum(path.name == 'learner.json' for path in here)} learners finished" in line
    local = ["--cluster", "local", "--jobs", "2", "--cluster-option", "host=127.0.0.1"]
    assert here == reproduce(tmp_path / "local", *local)
    assert here == reproduce(tmp_path / "pool", "--jobs", "2")
