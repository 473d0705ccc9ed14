"""What stands in figures/ is what the scores kept there give today."""

import json
from pathlib import Path

import pandas as pd
import pytest

from d2ue import experiments as ex
from d2ue.clusters import read_clusters
from d2ue.config import TrainConfig
from d2ue.experiments.tables import TABLES

FIGURES = Path(__file__).resolve().parent.parent / "figures"
EXPORTS = sorted(FIGURES.glob("scores/*.zip"))
#: What each folder of tables holds.
HELD = {name: of for name, of in TABLES.items() if name != "all"}
PLACES = [(e, name) for e in EXPORTS for name in HELD if (FIGURES / e.stem / name).is_dir()]


def test_every_export_is_drawn_and_every_drawing_has_its_export():
    assert {export for export, _ in PLACES} == set(EXPORTS)
    drawn = {path.parents[1].name for path in FIGURES.glob("*/*/parameters.json")}
    assert drawn == {export.stem for export in EXPORTS}
    whole = {name for export, name in PLACES if export.stem == "brain-mri"}
    assert whole == HELD.keys()


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
        clusters=str(FIGURES / export.stem / "audit" / used["clusters"]),
    )
    cells, _ = ex.obtain(HELD[notebook], settings)
    for name, of in cells.items():
        kept = pd.read_csv(folder / f"{name}.csv", index_col=0, keep_default_na=True)
        now = ex.long_table(of)
        now[["group", "note"]] = now[["group", "note"]].replace("", float("nan"))
        pd.testing.assert_frame_equal(kept, now, check_dtype=False, rtol=1e-4)
        compared = [*cells["table2"], *of] if name == "controls" else of
        verdicts = pd.read_csv(folder / f"{name}_verdicts.csv", index_col=0)
        assert verdicts["verdict"].tolist() == ex.verdicts(name, compared)["verdict"].tolist()
        assert (folder / f"{notebook if name == 'controls' else name}.png").exists() == bool(
            now["n_seeds"].any()
        )
        text = (folder / f"{name}.md").read_text()
        whole = now.assign(group=now["group"].fillna(""), note=now["note"].fillna(""))
        assert ex.markdown(ex.layout(whole, ("AUC", "AP"))) in text


def test_both_splits_are_those_of_the_scores_and_clusters():
    folder = FIGURES / "brain-mri" / "cleaned"
    used = json.loads((folder / "parameters.json").read_text())["parameters"]
    root = FIGURES.parent
    settings = ex.Settings("brain-mri", results=str(root / used["scores"]), seeds=used["seeds"])
    cells, _ = ex.obtain(["table2", "controls"], settings)
    clusters = read_clusters(root / used["clusters"])
    both = [*cells["table2"], *cells["controls"]]
    now = ex.published_and_cleaned(both, clusters)
    kept = pd.read_csv(folder / "cleaned.csv", index_col=0)
    now["note"] = now["note"].replace("", float("nan"))
    pd.testing.assert_frame_equal(kept, now, check_dtype=False, rtol=1e-4)
    for table, of in (("table2", cells["table2"]), ("controls", both)):
        verdicts = pd.read_csv(folder / f"{table}_verdicts.csv", index_col=0)
        found = ex.cleaned_verdicts(of, clusters, table)
        for split in ("published", "cleaned"):
            assert verdicts[f"verdict_{split}"].tolist() == found[f"verdict_{split}"].tolist()


def test_pictures_are_small_enough_to_keep():
    assert EXPORTS
    for path in FIGURES.rglob("*.png"):
        assert path.stat().st_size < 300_000, path
    for path in EXPORTS:
        assert path.stat().st_size < 5_000_000, path
