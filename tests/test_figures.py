"""What stands in figures/ is what the scores kept there give today."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from d2ue import experiments as ex
from d2ue.config import TrainConfig
from d2ue.experiments import summary
from d2ue.experiments.rows import TABLES
from d2ue.statistics.clusters import read_clusters

FIGURES = Path(__file__).resolve().parent.parent / "figures"
EXPORTS = sorted(FIGURES.glob("scores/*.zip"))
#: What each folder of tables holds.
HELD = {name: of for name, of in TABLES.items() if name != "all"}
PLACES = [(e, name) for e in EXPORTS for name in HELD if (FIGURES / e.stem / name).is_dir()]


def parameters(folder):
    return json.loads((folder / "parameters.json").read_text())["parameters"]


def assert_kept(file, now):
    """A table as it was written, to a bit of its last digit."""
    written = io.StringIO(now.to_csv(float_format="%.6g"))
    kept, now = pd.read_csv(file, index_col=0), pd.read_csv(written, index_col=0)
    pd.testing.assert_frame_equal(kept, now, rtol=1e-5)


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
    used = parameters(folder)
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
    if notebook == "table1":  # the other methods stand in it too
        cells = {"table1": [*cells["table1"], *cells["baselines"]]}
    for name, of in cells.items():
        now = ex.long_table(of)
        assert_kept(folder / f"{name}.csv", now)
        assert ex.markdown(ex.layout(now, ("AUC", "AP"))) in (folder / f"{name}.md").read_text()
        compared = [*cells["table2"], *of] if name == "controls" else of
        assert_kept(folder / f"{name}_verdicts.csv", ex.verdicts(name, compared))
        if name == "table2":
            assert_kept(folder / "table2_central.csv", ex.central_verdicts(of))
        picture = folder / f"{notebook if name == 'controls' else name}.png"
        assert picture.exists() == bool(now["n_seeds"].any())


def test_both_splits_are_those_of_the_scores_and_clusters():
    folder, root = FIGURES / "brain-mri" / "cleaned", FIGURES.parent
    used = parameters(folder)
    settings = ex.Settings("brain-mri", results=str(root / used["scores"]), seeds=used["seeds"])
    cells, _ = ex.obtain(["table2", "controls"], settings)
    clusters = read_clusters(root / used["clusters"])
    both = [*cells["table2"], *cells["controls"]]
    assert_kept(folder / "cleaned.csv", ex.published_and_cleaned(both, clusters))
    for table, of in (("table2", cells["table2"]), ("controls", both)):
        judged = ex.cleaned_verdicts(of, clusters, table)
        kept = pd.read_csv(folder / f"{table}_verdicts.csv", index_col=0)
        numbers = [c for c in kept if not c.startswith("per_seed")]  # with fewer digits there
        pd.testing.assert_frame_equal(kept[numbers], judged[numbers], check_dtype=False, rtol=1e-5)


def test_the_series_of_learners_is_that_of_its_scores():
    folder = FIGURES / "brain-mri" / "ablations" / "series"
    used = parameters(folder)
    settings = ex.Settings(
        "brain-mri",
        results=str(FIGURES / "brain-mri" / used["results"]),
        seeds=used["seeds"],
        clusters=str(FIGURES / "brain-mri" / "audit" / used["clusters"]),
    )
    of = ex.obtain(["learners"], settings)[0]["learners"]
    assert_kept(folder / "series.csv", ex.long_table(of))
    assert_kept(folder / "series_verdicts.csv", ex.verdicts("learners", of))


def test_the_list_of_claims_is_that_of_the_tables():
    found = summary.read_claims([FIGURES / export.stem for export in EXPORTS])
    assert summary.claims_markdown(found) == (FIGURES / "claims.md").read_text()


def test_pictures_are_small_enough_to_keep():
    for path in FIGURES.rglob("*.png"):
        assert path.stat().st_size < 300_000, path
    for path in EXPORTS:
        assert path.stat().st_size < 5_000_000, path
