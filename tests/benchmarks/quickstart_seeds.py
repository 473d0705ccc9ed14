"""The quickstart's numbers over many seeds, so that its page can say what one training cannot.

    python tests/benchmarks/quickstart_seeds.py figures/quickstart/seeds.csv 10

Trains what notebooks/00_quickstart.py trains at its defaults, for seeds 0, 1, ... (ten take seven
minutes of one core), and writes a row an ensemble and score: AUC, AP, and `ratio`, the error on
held-out normals over that of the mean training image.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import torch

from d2ue import TrainConfig, train_ensembles
from d2ue import experiments as ex
from d2ue.lessons.diversity import small_dataset
from d2ue.lessons.pages import declared

PAGE = Path(__file__).resolve().parents[2] / "notebooks" / "00_quickstart.py"


def defaults() -> dict[str, object]:
    """The page's own parameters."""
    cell = re.split(r"^# %%.*$", PAGE.read_text(), flags=re.MULTILINE)
    namespace: dict[str, object] = {}
    exec(next(source for source in cell if declared(source)), namespace)  # plain assignments
    return namespace


def main(target: str, seeds: int) -> None:
    """Train, score, write, and print the summary."""
    torch.set_num_threads(1)
    p = defaults()
    dataset = small_dataset(p["data"], p["image_size"], p["n_train"], p["n_test"])
    test = dataset.test
    assert test is not None
    normals = test.select(test.labels == 0)
    tables = []
    for seed in range(seeds):
        both = [
            TrainConfig(
                seed=seed,
                repulsion_weight=weight,
                image_size=p["image_size"],
                backbone=p["backbone"],
                n_learners=p["learners"],
                epochs=p["epochs"],
                batch_size=p["batch_size"],
                learning_rate=p["learning_rate"],
            )
            for weight in (0.0, p["repulsion_weight"])
        ]
        for ensemble in train_ensembles(both, dataset.train, device="cpu", progress=False):
            ratio = ex.reconstruction_ratio(ensemble, dataset.train, normals)
            tables.append(ex.score_table([ensemble], test).assign(ratio=ratio))
        table = pd.concat(tables, ignore_index=True)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(target, index=False, float_format="%.4f")
        print(f"seed {seed}: ratio {table['ratio'].tail(6).unique().round(3)}", flush=True)
    print(ex.paper_layout(table).to_string())
    print(*ex.readings(table), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
