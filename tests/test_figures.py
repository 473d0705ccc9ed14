"""What stands in figures/ is what the scores kept there give today."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from d2ue import experiments as ex
from d2ue.config import TrainConfig
from d2ue.evaluation import auc
from d2ue.experiments.rows import TABLES
from d2ue.lessons import diversity
from d2ue.statistics.clusters import read_clusters
from d2ue.store.results import read_records

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


def table(folder, name):
    return pd.read_csv(FIGURES / folder / f"{name}.csv", index_col=0)


def test_the_summary_says_what_the_tables_say():
    text = (FIGURES / "README.md").read_text()
    said = next(line for line in text.splitlines() if line.startswith("What they say in short."))
    claims = table("brain-mri/table2", "table2_verdicts").set_index("claim")["verdict"]
    assert "DSU raises AUC over Unc for all three backbones" in said
    assert "that repulsion does cannot be told for any" in said
    for backbone in ("AE", "MemAE", "AEU"):
        assert claims[f"{backbone}: DSU raises AUC over Unc"].startswith("holds")
        assert claims[f"{backbone}: RAR raises AUC over Unc"].startswith("cannot tell")
    assert "the ranking of Table 3 is not to be seen" in said
    assert not table("brain-mri/table3", "table3_verdicts")["verdict"].str.startswith("holds").any()

    assert "in the decoder gives higher AUC of DSU than in the encoder by CKA and lower by" in said
    layers = table("brain-mri/ablations", "layer").set_index(["group", "row"])["AUC"]
    debiased, layers = layers["DSU, debiased-cka"].dropna(), layers["DSU, cka"]
    assert debiased[debiased.index.str.startswith("de")].max() < debiased["en4"]
    assert layers[["de1", "de2", "de3", "de4"]].min() > layers[["en1", "en2", "en3", "en4"]].max()
    assert "no weight, and no layer by CKA, gives a point more than no repulsion" in said
    weights = table("brain-mri/ablations", "lambda").set_index(["group", "row"])["AUC"]["DSU"]
    assert max(layers.max(), weights.max()) < weights["λ = 0"] + 1

    assert "more learners than two bring DSU nothing" in said
    grown = table("brain-mri/ablations/series", "series").set_index(["group", "row"])["AUC"]
    for group in ("DSU", "DSU+RAR"):
        assert grown[group].idxmax() == "N = 2"

    chest = Chest()
    assert (chest.n == 3).all() and set(chest.n.index.levels[0]) == {"AE", "MemAE", "AEU"}
    assert "three seeds of all three backbones, is another story" in said
    lost, free = -chest.by_claim["AEU: DSU raises AUC over Unc"], chest.cell("AEU", "Unc")
    assert f"DSU takes {lost:.1f} points from Unc of AEU ({free}), in each seed" in said
    assert chest.claims["AEU: DSU raises AUC over Unc"].startswith("does not hold")
    level = []
    for one in ("AE", "MemAE"):
        claim = f"{one}: DSU raises AUC over Unc"
        level.append(f"{one} ({chest.by_claim[claim]:.1f}, from {chest.cell(one, 'Unc')})")
        assert chest.claims[claim].startswith("cannot tell")
    assert f"is not to be told from nothing for {' and '.join(level)};" in said
    gained = chest.by_claim["AEU: RAR raises AUC over Unc"]
    assert f"repulsion raises Unc of AEU in each seed, by {gained:.1f} points, lowers" in said
    assert chest.claims["AEU: RAR raises AUC over Unc"].startswith("holds")
    lowered = -chest.by_claim["MemAE: RAR raises AUC over Unc"]
    assert f"lowers that of MemAE in each seed, by {lowered:.1f}, and raises that of AE" in said
    assert max(chest.by_seed["MemAE: RAR raises AUC over Unc"]) < 0
    assert "raises that of AE in two of three, which decides nothing;" in said
    assert sum(gain > 0 for gain in chest.by_seed["AE: RAR raises AUC over Unc"]) == 2
    below = -chest.by_claim["Ours (AEU) > DDAD"]
    assert f"Ours (AEU) is {below:.1f} points *below* DDAD, in each seed" in said
    assert chest.claims["Ours (AEU) > DDAD"].startswith("does not hold")
    step, lead = (chest.by_claim[f"cka > {other}"] for other in ("pearson", "none"))
    assert f"CKA above Pearson ({step:.1f} points by Unc, in each of three seeds)" in said
    assert f"that CKA is above none is not either ({lead:.1f})" in said
    decided = chest.claims[chest.claims.index.str.fullmatch(r"[a-z-]+ > [a-z-]+")]
    assert decided["cka > pearson"].startswith("holds")
    assert decided.drop("cka > pearson").str.startswith("cannot tell").all()
    before = [r for r in ensembles(CHEST_APART).values() if r.config.n_learners == 3]
    cka, free = sorted(before, key=lambda r: not r.config.repels)
    assert cka.config.repels and not free.config.repels
    assert (
        f"has {percent(cka, 'output'):.1f} with CKA and {percent(free, 'output'):.1f} without"
        in said
    )
    assert (
        f"({100 - chest.sharp:.1f} one way round) than the best row does ({chest.auc.max():.1f})"
        in said
    )


def of_seed1(rows):
    """AUC of seed 1 alone, by row of a table; NaN where it was not run."""
    return rows["AUC_by_seed"].str.extract(r"\b1:(\S+)")[0].astype(float)


class Chest:
    """What the chest set's tables give."""

    def __init__(self):
        rows = table("kermany-cxr/table2", "table2").set_index(["group", "row"])
        self.auc, self.spread, self.n = rows["AUC"], rows["AUC_std"], rows["n_seeds"]
        verdicts = pd.concat(
            table(f"kermany-cxr/{name}", f"{name}_verdicts")
            for name in ("table1", "table2", "table3")
        ).set_index("claim")
        self.claims, self.by_claim = verdicts["verdict"], verdicts["difference"]
        self.by_seed = {
            claim: [float(value) for value in str(values).split()]
            for claim, values in verdicts["per_seed"].items()
        }
        self.sharp = table("kermany-cxr/table2", "controls").set_index("row")["AUC"]["sharpness"]
        third = table("kermany-cxr/table3", "table3").set_index(["group", "row"])
        self.seed1 = of_seed1(third)

    def cell(self, *line):
        return f"{self.auc[line]:.1f} ± {self.spread[line]:.1f}"


def test_the_pages_say_what_the_chest_tables_say():
    chest = Chest()

    def page(name):
        text = (FIGURES.parent / "notebooks" / f"{name}.py").read_text()
        return text.split("**On chest radiographs**")[1].split("\n")[0]

    text = page("11_table1")
    gains = [chest.by_claim[f"Ours ({one}) > {one}"] for one in ("AEU", "AE")]
    assert (
        "AEU there too, by {:.1f} points, and Ours (AE) beats AE, by {:.1f};".format(*gains) in text
    )
    assert all(chest.claims[f"Ours ({one}) > {one}"].startswith("holds") for one in ("AE", "AEU"))
    below = -chest.by_claim["Ours (AEU) > DDAD"]
    assert f"Ours (AEU) is {below:.1f} points below it, in each seed" in text
    assert max(chest.by_seed["Ours (AEU) > DDAD"]) < 0

    text = page("12_table2")
    lost, *level = (
        chest.by_claim[f"{one}: DSU raises AUC over Unc"] for one in ("AEU", "AE", "MemAE")
    )
    assert f"takes {-lost:.1f} points from Unc of AEU, which contradicts the claim in each" in text
    assert max(chest.by_seed["AEU: DSU raises AUC over Unc"]) < 0
    assert "from nothing for AE ({:.1f}) and MemAE ({:.1f})".format(*level) in text
    gained = chest.by_claim["AEU: RAR raises AUC over Unc"]
    assert f"raises Unc of AEU in each seed, by {gained:.1f} points on average, and" in text
    lowered = -chest.by_claim["MemAE: RAR raises AUC over Unc"]
    assert f"lowers that of MemAE in each seed, by {lowered:.1f};" in text
    assert chest.claims["MemAE: RAR raises AUC over Unc"].startswith("does not hold")
    assert min(chest.by_seed["AEU: RAR raises AUC over Unc"]) > 0
    assert np.ptp(np.sign(chest.by_seed["AE: RAR raises AUC over Unc"])) == 2
    both = [chest.by_claim[f"{one}: both beat RAR alone"] for one in ("AE", "MemAE", "AEU")]
    below = "AE, MemAE and AEU are {:.1f}, {:.1f} and {:.1f} points below".format(*-np.array(both))
    assert below in text
    for one in ("AE", "MemAE", "AEU"):
        assert chest.claims[f"{one}: both beat RAR alone"].startswith("does not hold")
        assert max(chest.by_seed[f"{one}: both beat RAR alone"]) < 0
    central = table("kermany-cxr/table2", "table2_central").set_index("claim")
    rises = []
    for what in ("reconstruction error of", "disagreement on"):
        claim = central.loc[f"MemAE: RAR keeps the {what} normals (within 5 %)"]
        rises.append(100 * (claim["factor"] - 1))
        assert claim["verdict"].startswith("does not hold")
        assert min(map(float, claim["per_seed"].split())) > 1.05
    assert "disagreement rise by {:.0f} and {:.0f} %, in each".format(*rises) in text
    assert f"alone ({chest.sharp:.0f}, turned round {100 - chest.sharp:.0f}) is above every" in text
    assert chest.auc.idxmax() == ("AEU", "Unc+RAR")
    assert f"has {chest.auc.max():.0f}." in text and chest.auc.max() < 100 - chest.sharp

    text = page("13_table3")
    step, leads = chest.by_seed["cka > pearson"], chest.by_seed["cka > none"]
    assert "CKA is above Pearson, by {:.1f}, {:.1f} and {:.1f} points".format(*step) in text
    assert "lead over none, {:.1f}, {:.1f} and {:.1f} points: cosine".format(*leads) in text
    rows = table("kermany-cxr/table3", "table3").set_index(["group", "row"])
    assert set(rows[rows["n_seeds"] == 1].loc["Unc"].index) == {"euclidean", "debiased-cka"}
    assert set(rows["n_seeds"]) == {1, 3}
    mean = rows["AUC"]
    assert mean["Unc"][["cosine", "pearson"]].max() < mean["Unc", "none"]
    assert mean["DSU"].idxmax() == "none"
    whole = rows.assign(group=rows.index.get_level_values(0), row=rows.index.get_level_values(1))
    gains = ex.seed_gains(whole, over="none")["Unc"]["manhattan"]
    assert "within 0.6 points in every seed" in text and gains.abs().max() < 0.6
    second = chest.seed1["Unc"].drop("cka").max()
    assert chest.claims["cka > none"].startswith("cannot tell")
    (before,) = [
        percent(r, "output")
        for r in ensembles(CHEST_APART).values()
        if r.config.n_learners == 3 and r.config.repels
    ]
    assert f"seed 1 ended with {before:.1f} for CKA, no better than the rest" in text
    assert before < second


def test_the_ablations_page_says_what_the_chest_tables_say():
    text = (FIGURES.parent / "notebooks" / "14_ablations.py").read_text()
    text = text.split("**On chest radiographs**")[1].split("\n")[0]

    def seed1(name):
        return of_seed1(table("kermany-cxr/ablations", name).set_index(["group", "row"])).round(1)

    grown = seed1("learners")
    ends = {
        group: f"{grown[group, 'N = 2']} to {grown[group, 'N = 8']}"
        for group in grown.index.levels[0]
    }
    assert f"DSU goes from {ends['DSU']} without repulsion and from {ends['DSU+RAR']} with" in text
    assert f"Unc from {ends['Unc']} and from {ends['Unc+RAR']}, most of it by the sixth" in text
    for group in ends:
        two, six, eight = (grown[group, f"N = {n}"] for n in (2, 6, 8))
        assert eight > two and six - two > (eight - two) / 2
    judged = table("kermany-cxr/ablations", "learners_verdicts").set_index("claim")
    three = judged[judged.index.str.endswith("N = 3 beats N = 2")]
    assert (three["n_seeds"] == 3).all() and three["verdict"].str.startswith("cannot tell").all()
    weights = seed1("lambda")["Unc"]
    assert "no order: {}, {}, {}, {} and {} by Unc".format(*weights) in text
    assert list(weights.index) == [f"λ = {weight}" for weight in ("0", "0.01", "0.1", "1", "10")]


def test_the_ablations_page_says_what_the_chest_layers_give():
    text = (FIGURES.parent / "notebooks" / "14_ablations.py").read_text()
    text = text.split("# Nor do the layers fall")[1].split("\n")[0]
    rows = table("kermany-cxr/ablations", "layer").set_index(["group", "row"])
    assert (rows["n_seeds"] > 0).all()
    first = of_seed1(rows)
    assert first["Unc, cka"].idxmax() == first["DSU, cka"].idxmax() == "en3"
    alone = rows["AUC"].where(rows["n_seeds"] == 1).round(1)
    unc, dsu, debiased = (alone[of] for of in ("Unc, cka", "DSU, cka", "DSU, debiased-cka"))
    assert f"{dsu['en1']} by CKA and {debiased['en1']} by debiased CKA" in text
    inside, deep = ["en2", "en3", "en4"], ["de4", "de3", "de2", "de1"]

    def reach(values):
        return f"{values.min()} to {values.max()}"

    assert f"{reach(dsu[inside])} in the encoder and {reach(dsu[deep])} in the decoder" in text
    free = of_seed1(table("kermany-cxr/ablations", "lambda").set_index(["group", "row"]))
    none = [free[score, "λ = 0"] for score in ("Unc", "DSU")]
    assert f"{unc['en3']} and {dsu['en3']}, where no repulsion has" in text
    assert "no repulsion has {:.1f} and {:.1f}.".format(*none) in text
    assert "no layer repelled by debiased CKA reaches no repulsion" in text
    assert debiased.notna().all() and debiased.max() < none[1]
    assert "By DSU that costs no more on this set than being repelled in the encoder" in text
    assert debiased[deep].min() > debiased[inside].min()
    assert debiased[deep].max() > debiased[inside].max()
    assert f"DSU is {reach(debiased[deep])} there, and {reach(debiased[inside])} at en2" in text

    histories = table("kermany-cxr/ablations", "debiased_histories").reset_index()
    last = histories[histories["epoch"] == 250]
    assert set(last["layer"].dropna()) == set(rows.index.levels[1]) - {"z"} and len(last) == 17
    paid = last[last["layer"].str.startswith("de", na=False)]
    stood, lost = paid["similarity"], paid["loss"]
    assert f"it stood at {stood.max():.2f} to {stood.min():.2f} in the last epoch" in text
    senior = last[last["learner"] == 1]["loss"].item()
    assert f"loss at {lost.min():.3f} to {lost.max():.3f}, where the first learner has" in text
    assert f"the first learner has {senior:.3f} " in text


def test_the_words_about_speed_are_those_of_the_table():
    text = (FIGURES / "README.md").read_text().split("## Speed")[1]
    facts = (FIGURES / "speed" / "table.md").read_text()
    rows = table("speed", "table").reset_index().set_index(["measure", "threads"])
    ratio = {key: f"{value:.1f}" for key, value in rows["ratio"].items()}
    fit = "CPU seconds to fit 3 learners"
    fits = [ratio[m, t] for m in (fit, f"{fit}, ours in bf16") for t in ("1", "all")]
    assert "{} times less CPU time on one thread and {} times on two".format(*fits[:2]) in text
    assert "in bf16, on a processor that has it, {} and {} times".format(*fits[2:]) in text
    score = "images/s, dual-space uncertainty"
    scores = [ratio[score, threads] for threads in ("1", "all")]
    assert "Scoring is {} times faster on one thread and {} times on two".format(*scores) in text
    eighth = re.search(r"learner 8 .*: ([\d.]+) .*plain recipe ([\d.]+) ", facts)
    assert f"Learner 8 costs {eighth[1]} times as much as learner 1" in text
    assert f"the plain recipe's {eighth[2]} times" in text

    floor = re.search(r"floor of a step: (\d+) ms.*a step of learner 1 takes (\d+)", facts)
    assert (
        "a step of learner 1 takes {1} ms, its operations at the peak measured there {0}".format(
            *floor.groups()
        )
        in text
    )
    runs = pd.read_csv(FIGURES / "speed" / "runs.csv")
    plain = runs.query("what == 'fit' and side == 'plain' and learners == 3 and threads == 1")
    steps = plain["images"] // 64 * plain["epochs"] * 3
    each = (1e3 * plain["cpu_s"] / steps)[plain["workers"] == 0].median()
    assert f"take {each:.0f} ms a step on average; 2.5 times less would be {each / 2.5:.0f}" in text
    now = rows["ours"][score, "1"].split()[0]
    most = re.search(r"floor of scoring .*?(\d+) images/s", facts)[1]
    assert f"{now} images/s, where the operations of three learners allow {most}" in text


APART = FIGURES / "brain-mri" / "other_processor.zip"
CHEST_APART = FIGURES / "kermany-cxr" / "other_processor.zip"


def percent(record, method):
    """An ensemble's AUC."""
    return 100 * auc(record.labels, record.scores[method].astype(float))


def ensembles(place):
    """Records of trained ensembles of an export, by name."""
    return {name: r for name, r in read_records(place).items() if not r.control}


def test_the_series_of_learners_is_that_of_its_scores():
    folder = FIGURES / "brain-mri" / "ablations" / "series"
    used = json.loads((folder / "parameters.json").read_text())["parameters"]
    assert used["results"] == APART.name
    clusters = FIGURES / "brain-mri" / "audit" / used["clusters"]
    settings = ex.Settings(
        "brain-mri", results=str(APART), seeds=used["seeds"], clusters=str(clusters)
    )
    of = ex.obtain(["learners"], settings)[0]["learners"]
    now = ex.long_table(of)
    assert (now["n_seeds"] == 1).all() and len(now) == 2 * 2 * 7
    kept = table("brain-mri/ablations/series", "series")
    now[["group", "note"]] = now[["group", "note"]].replace("", float("nan"))
    pd.testing.assert_frame_equal(kept, now, check_dtype=False, rtol=1e-4)
    verdicts = table("brain-mri/ablations/series", "series_verdicts")["verdict"].tolist()
    assert verdicts == ex.verdicts("learners", of)["verdict"].tolist()


def test_the_ablations_page_says_what_its_tables_say():
    """Its words on debiased CKA; those on CKA are asserted in the page."""
    text = (FIGURES.parent / "notebooks" / "14_ablations.py").read_text()
    layers = table("brain-mri/ablations", "layer").set_index(["group", "row"])["AUC"]
    dsu, unc = (layers[f"{score}, debiased-cka"].drop("z") for score in ("DSU", "Unc"))
    deep = dsu.index.str.startswith("de")
    inside = f"{dsu[~deep].min():.1f} to {dsu[~deep].max():.1f} in the encoder"
    assert f"DSU is {inside} and {dsu[deep].min():.1f} to {dsu[deep].max():.1f} in the deco" in text
    assert f"Unc falls to {unc[deep].min():.1f} to {unc[deep].max():.1f}, far below" in text

    histories = table("brain-mri/ablations", "debiased_histories").reset_index()
    last = histories[histories["epoch"] == 250]
    assert set(last["layer"].dropna()) == set(dsu.index) and len(last) == 1 + 2 * len(dsu)
    paid = last[last["layer"].str.startswith("de", na=False)]
    stood = paid["similarity"]
    assert f"it stood at {stood.max():.2f} to {stood.min():.2f} over batches" in text
    first = last[last["learner"] == 1]["loss"].item()
    ends = f"{paid['loss'].min():.3f} to {paid['loss'].max():.3f}"
    assert f"loss at {ends}, where the first learner has {first:.3f}" in text
    honest = last[last["layer"] == "en2"]
    assert "losses of {:.3f} and {:.3f}".format(*sorted(honest["loss"])) in text
    assert {f"{value:.2f}" for value in honest["similarity"]} == {"0.05"}
    assert "an estimate of 0.05" in text and unc.idxmax() == "en2"


def test_the_ablations_page_says_what_en2_gives():
    text = (FIGURES.parent / "notebooks" / "14_ablations.py").read_text()
    kept = [r for r in ensembles(EXPORTS[0]).values() if r.config.layer == "en2"]
    kept = [r for r in kept if r.config.similarity == "debiased-cka"]
    free = [r for r in ensembles(APART).values() if not r.config.repels]
    free = [r for r in free if (r.config.n_learners, r.config.precision) == (3, "float32")]
    unc, dsu = (by_seed(kept, method) for method in ("output", "dual"))
    assert list(unc) == [1, 2, 3]
    assert f"run: {spread(unc)}," in text and f"and DSU {spread(dsu)}," in text
    none, none_dsu = (by_seed(free, method) for method in ("output", "dual"))
    assert f"({spread(none)})" in text and f"where that has {spread(none_dsu)}." in text
    least = min(unc[seed] - none[seed] for seed in unc)
    assert "in every seed 18 points or more above no repulsion" in text and 18 <= least < 19
    assert f"the other two have {unc[2]:.1f} and {unc[3]:.1f}." in text
    layers = table("brain-mri/ablations", "layer").set_index(["group", "row"])
    layers = layers.loc["DSU, debiased-cka"]
    top = layers["AUC"].idxmax()
    assert f"The highest DSU, {layers['AUC'][top]:.1f} at {top}, stands on that one seed" in text
    assert layers["n_seeds"][top] == 1
    said = (FIGURES / "README.md").read_text()
    assert f"18 points or more in each of three seeds, to {spread(unc)}, but not DSU" in said
    assert f"but not DSU ({spread(dsu)})" in said


def by_seed(records, method):
    """AUC by seed, in order."""
    return {r.config.seed: percent(r, method) for r in sorted(records, key=lambda r: r.config.seed)}


def spread(values):
    """Mean and standard deviation as the pages have them."""
    values = list(values.values())
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def test_the_ablations_page_says_what_the_series_gives():
    text = (FIGURES.parent / "notebooks" / "14_ablations.py").read_text()
    grown = table("brain-mri/ablations/series", "series").set_index(["group", "row"])["AUC"]
    free, repelled, output = (grown[group] for group in ("DSU", "DSU+RAR", "Unc+RAR"))
    free, repelled = free.round(1), repelled.round(1)
    assert f"{free.min()} to {free.max()} without repulsion" in text
    assert f"{repelled.min()} to {repelled.max()} with;" in text
    assert max(free.max() - free.min(), repelled.max() - repelled.min()) < 1.25
    assert "it stays within 1.2 points" in text
    assert output.idxmax() == "N = 2" and output.idxmin() == "N = 8"
    assert f"Unc with repulsion falls from {output.max():.1f} to {output.min():.1f}" in text
    assert f"three repelled learners has a DSU of {repelled['N = 3']}" in text
    before = table("brain-mri/ablations", "lambda").set_index(["group", "row"])
    seed, value = before["AUC_by_seed"]["DSU", "λ = 1"].split()[0].split(":")
    assert seed == "1" and f"where the same seed had {float(value):.1f} before" in text


def test_the_diversity_page_says_how_little_its_correlations_last():
    kept = {n: r for n, r in ensembles(EXPORTS[0]).items() if r.config.n_learners > 1}
    kept = {n: r for n, r in kept.items() if r.config.layer == "z"}
    new = {n: r for n, r in ensembles(APART).items() if n not in kept}
    new = {n: r for n, r in new.items() if r.config.precision == "float32"}
    xs = {name: name for name in ("cka_normal", "cka_abnormal", "unc_normal", "unc_abnormal")}
    clear, ensembles_used = [], []
    for records in (kept, kept | new):
        frame, found = diversity.record_table(records.values()), set()
        for within in (None, "backbone"):
            rows = diversity.correlations(
                frame, xs, {"AUC_output": "Unc", "AUC_dual": "DSU"}, within=within
            )
            rows = rows[rows["clear of 0"] == "yes"]
            found |= {(within, *pair) for pair in rows[["diversity", "AUC of"]].to_numpy()}
        clear.append(found)
        ensembles_used.append(len(frame))
    assert ensembles_used == [37, 37 + 11] and [len(found) for found in clear] == [4, 3]
    assert not clear[0] & clear[1]


def test_what_was_trained_anew_says_whether_speed_changed_results():
    text = (FIGURES / "README.md").read_text().split("Speed did not change results")[1]
    free = [r for r in ensembles(EXPORTS[0]).values() if r.config.n_learners == 3]
    free += [r for r in ensembles(APART).values() if r.config.n_learners == 3]
    free = [r for r in free if r.config.backbone == "ae" and not r.config.repels]
    assert len(free) == 9
    unc = []
    for precision, rows in (("float32", free[:3]), ("float32", free[3:]), ("bf16", free[3:])):
        rows = [r for r in rows if r.config.precision == precision]
        assert sorted(r.config.seed for r in rows) == [1, 2, 3]
        said = []
        for method, title in (("ensemble", "Ens"), ("output", "Unc"), ("dual", "DSU")):
            values = [percent(r, method) for r in rows]
            said.append(f"{title} {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")
            unc += values if method == "output" else []
        assert ", ".join(said) in text
    assert f"from {min(unc):.1f} to {max(unc):.1f} over all nine" in text
    dual = {(r.config.precision, r.config.seed): percent(r, "dual") for r in free[3:]}
    lower = [dual["float32", seed] - dual["bf16", seed] for seed in (1, 2, 3)]
    assert f"in each of the three seeds, by {min(lower):.1f} to {max(lower):.1f}" in text
    assert min(lower) > 0


def test_table2s_page_says_what_rounding_alone_does():
    text = (FIGURES.parent / "notebooks" / "12_table2.py").read_text()
    kept = {
        (r.config.backbone, r.config.repulsion_weight, r.config.seed): r
        for r in ensembles(EXPORTS[0]).values()
        if (r.config.n_learners, r.config.similarity, r.config.layer) == (3, "cka", "z")
    }

    other = pd.read_csv(FIGURES / "brain-mri" / "other_rounding.csv")
    found = [
        (row.backbone, float(row.repulsion_weight), row.seed, row.method, row.AUC)
        for row in other.itertuples()
    ]
    for r in ensembles(APART).values():
        c = r.config
        if c.n_learners == 3 and c.precision == "float32":
            found += [
                (c.backbone, c.repulsion_weight, c.seed, method, percent(r, method))
                for method in ("ensemble", "output", "dual", "input")
            ]
    off = pd.DataFrame(
        [(*key, abs(value - percent(kept[tuple(key[:3])], key[3]))) for *key, value in found],
        columns=["backbone", "weight", "seed", "method", "off"],
    )
    free, repelled = off[off["weight"] == 0]["off"], off[off["weight"] > 0]
    assert (
        f"by {free.mean():.1f} points on average and {free.max():.1f} at most ({len(free)} pairs)"
        in text
    )
    unc = repelled[repelled["method"] == "output"]["off"]
    assert f"Unc differs by {unc.min():.1f} to {unc.max():.1f} ({len(unc)} pairs)" in text
    dual = repelled[(repelled["method"] == "dual") & (repelled["backbone"] == "ae")]["off"]
    assert "DSU of AE by {:.1f}, {:.1f} and {:.1f}".format(*sorted(dual)) in text


def test_pictures_are_small_enough_to_keep():
    assert EXPORTS
    for path in FIGURES.rglob("*.png"):
        assert path.stat().st_size < 300_000, path
    for path in EXPORTS:
        assert path.stat().st_size < 5_000_000, path
