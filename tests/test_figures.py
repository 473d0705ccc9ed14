"""What stands in figures/ is what the scores kept there give today."""

import json
from pathlib import Path

import pandas as pd
import pytest

from d2ue import experiments as ex
from d2ue.config import TrainConfig
from d2ue.experiments.tables import TABLES

FIGURES = Path(__file__).resolve().parent.parent / "figures"
EXPORTS = sorted(FIGURES.glob("scores/*.zip"))
PLACES = [(export, notebook) for export in EXPORTS for notebook in TABLES if notebook != "all"]


@pytest.mark.parametrize(
    ("export", "notebook"), PLACES, ids=lambda value: getattr(value, "stem", value)
)
def test_tables_are_those_of_the_scores(export, notebook):
    folder = FIGURES / export.stem / notebook
    used = json.loads((folder / "parameters.json").read_text())["parameters"]
    assert used["results"] == export.name and used["datasets"] == export.stem
    settings = ex.Settings(
        used["datasets"],
        results=str(export),
        seeds=used["seeds"],
        backbones=used["backbones"],
        base=TrainConfig(**used["base"]),
    )
    cells, _ = ex.obtain(TABLES[notebook], settings)
    for name, of in cells.items():
        kept = pd.read_csv(folder / f"{name}.csv", index_col=0, keep_default_na=True)
        now = ex.long_table(of)
        now["group"] = now["group"].replace("", float("nan"))
        pd.testing.assert_frame_equal(kept, now, check_dtype=False, rtol=1e-4)
        verdicts = pd.read_csv(folder / f"{name}_verdicts.csv", index_col=0)
        assert verdicts["verdict"].tolist() == ex.verdicts(name, of)["verdict"].tolist()
        assert (folder / f"{name}.png").exists() == bool(now["n_seeds"].any())
        text = (folder / f"{name}.md").read_text()
        assert (
            ex.markdown(ex.layout(now.assign(group=now["group"].fillna("")), ("AUC", "AP"))) in text
        )


def test_pictures_are_small_enough_to_keep():
    assert EXPORTS
    for path in FIGURES.rglob("*.png"):
        assert path.stat().st_size < 300_000, path
    for path in EXPORTS:
        assert path.stat().st_size < 5_000_000, path
