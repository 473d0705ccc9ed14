"""Tables and claims out of records whose scores are known, so that every number can be checked."""

import itertools

import numpy as np
import pandas as pd
import pytest

from d2ue import plotting
from d2ue.config import TrainConfig
from d2ue.evaluation import auc, average_precision
from d2ue.experiments import claims, layouts, paper
from d2ue.experiments import rows as tables
from d2ue.statistics.significance import Estimate
from d2ue.store.results import DataKey, Record, record_name

LABELS = np.repeat([0, 1], 30).astype(np.int8)
BRAIN = DataKey("brain-mri", "a" * 64, "b" * 64, 1000, 30, 30)
OTHER = DataKey("rsna", "c" * 64, "d" * 64, 900, 30, 30)


def record(config, shift, data=BRAIN, spread=1.0):
    """An ensemble whose scores of abnormal images are shifted, by method; noise by its seed."""
    rng = np.random.default_rng(config.seed)
    noise = rng.normal(0, spread, 60)
    scores = {
        method: (np.exp(0.2 * (noise + shift.get(method, 0.0) * LABELS))).astype(np.float32)
        for method in ("ensemble", "output", "dual", "input", "reconstruction")
    }
    return Record(config, data, LABELS, scores, {}, {})


@pytest.fixture
def records():
    """Table 2 of AE on two seeds: Unc is chance, RAR helps a little, DSU much; nothing else."""
    found = {}
    for seed in (1, 2):
        for weight, shifts in ((0.0, {"dual": 1.8}), (1.0, {"output": 0.8, "dual": 2.4})):
            config = TrainConfig(backbone="ae", seed=seed, repulsion_weight=weight)
            found[record_name(config, BRAIN)] = record(config, shifts)
    return found


@pytest.fixture
def cells(records):
    return tables.collect("table2", records, [BRAIN], (1, 2, 3))


def by_line(cells):
    return {(cell.row.group, cell.row.label): cell for cell in cells}


def test_every_row_of_the_paper_has_its_published_value():
    one = {(row.label, row.group): row for row in tables.rows("table1")}
    assert one["Ours", "AEU"].published["Brain MRI"] == 96.2
    assert one["Ours", "AEU"].published_ap["Brain MRI"] == 92.0
    assert one["DDAD", ""].published["RSNA"] == 87.3
    two = {(row.label, row.group): row for row in tables.rows("table2")}
    assert two["Unc+DSU", "AE"].published["Brain MRI"] == 88.9
    for (label, group), values in paper.TABLE2.items():
        assert tuple(two[label, group].published.values()) == values
    three = {(row.label, row.group): row for row in tables.rows("table3")}
    assert {k[0]: v.published["RSNA"] for k, v in three.items() if v.published} == paper.TABLE3
    assert not three["debiased-cka", "Unc"].published  # ours, not the paper's


@pytest.mark.parametrize(
    ("table", "line", "settings", "method"),
    [
        ("table1", ("AEU", ""), {"backbone": "aeu", "n_learners": 1}, "ensemble"),
        ("table1", ("DDAD", ""), {"backbone": "aeu", "repulsion_weight": 0.0}, "output"),
        ("table1", ("Ours", "AE"), {"backbone": "ae", "repulsion_weight": 1.0}, "dual"),
        ("table2", ("Ens", "MemAE"), {"backbone": "memae", "repulsion_weight": 0.0}, "ensemble"),
        ("table2", ("Unc+RAR", "AEU"), {"backbone": "aeu", "repulsion_weight": 1.0}, "output"),
        ("table2", ("Unc+DSU", "AE"), {"backbone": "ae", "repulsion_weight": 0.0}, "dual"),
        ("table3", ("pearson", "Unc"), {"backbone": "ae", "similarity": "pearson"}, "output"),
        ("lambda", ("λ = 0.01", "DSU"), {"repulsion_weight": 0.01}, "dual"),
        ("layer", ("en2", "Unc, debiased-cka"), {"layer": "en2"}, "output"),
        ("learners", ("N = 8", "DSU+RAR"), {"n_learners": 8, "repulsion_weight": 1.0}, "dual"),
        ("learners", ("N = 2", "Unc"), {"n_learners": 2, "repulsion_weight": 0.0}, "output"),
    ],
)
def test_rows_are_what_they_are_called(table, line, settings, method):
    row = {(row.label, row.group): row for row in tables.rows(table)}[line]
    assert row.config == TrainConfig(backbone="ae").replace(
        **{"backbone": "ae", "similarity": row.config.similarity, **settings}
    )
    assert row.method == method


def test_settings_of_the_base_reach_every_row():
    base = TrainConfig(backbone="ae", epochs=7, batch_size=16)
    for table in ("table1", "table2", "table3", "lambda", "layer", "learners"):
        assert {(r.config.epochs, r.config.batch_size) for r in tables.rows(table, base)} == {
            (7, 16)
        }


def test_unknown_tables_and_backbones_are_refused(refused):
    with refused("table9", "table1"):
        tables.rows("table9")
    with refused("no backbone meame: take some of ae, memae, aeu"):
        tables.rows("table2", None, ["ae", "meame"])


def test_cells_hold_the_mean_over_seeds_of_the_ensembles_own_auc(cells):
    cell = by_line(cells)["AE", "Unc+DSU"]
    assert sorted(cell.records) == [1, 2]
    own = [r.scores["dual"] for _, r in sorted(cell.records.items())]
    frame = layouts.long_table(cells).set_index(["group", "row"])
    line = frame.loc[("AE", "Unc+DSU")]
    values = [100 * auc(LABELS, scores) for scores in own]
    assert line["AUC"] == pytest.approx(np.mean(values))
    assert line["AUC_std"] == pytest.approx(np.std(values, ddof=1))
    assert line["AP"] == pytest.approx(
        np.mean([100 * average_precision(LABELS, scores) for scores in own])
    )
    assert line["n_seeds"] == 2 and line["interval"] == "images only"
    assert line["prevalence"] == 50 and line["n_train"] == 1000
    assert line["paper_AUC"] == 88.9
    assert line["AUC_difference"] == pytest.approx(np.mean(values) - 88.9)
    assert line["AUC_low"] < line["AUC"] < line["AUC_high"]
    assert frame.loc[("AE", "Unc+RAR"), "code_AUC"] == 58.1
    assert frame.loc[("MemAE", "Unc")].isna()["AUC"]


def test_the_layout_says_n_paper_and_difference_and_what_was_not_run(cells):
    frame = layouts.long_table(cells)
    wide = layouts.layout(frame, ("AUC", "AP"))
    assert list(wide.columns) == ["Brain MRI, AUC", "Brain MRI, AP"]
    line = frame.set_index(["group", "row"]).loc[("AE", "Unc+RAR+DSU")]
    wanted = (
        f"**{line['AUC']:.1f}** ± {line['AUC_std']:.1f} (n = 2); paper 89.2, "
        f"{line['AUC'] - 89.2:+.1f}; released code 81.3"
    )
    assert wide.loc[("AE", "Unc+RAR+DSU"), "Brain MRI, AUC"] == wanted
    assert wide.loc[("MemAE", "Unc"), "Brain MRI, AUC"] == "not run; paper 52.6"
    marked = [text for text in wide["Brain MRI, AUC"] if text.startswith("*")]
    assert len(marked) == 2 and sum(text.startswith("**") for text in marked) == 1


def test_a_single_seed_has_no_spread(records):
    cells = tables.collect("table2", records, [BRAIN], (1,))
    text = layouts.layout(layouts.long_table(cells)).loc[("AE", "Unc"), "Brain MRI, AUC"]
    assert "±" not in text and "(n = 1)" in text


def test_an_average_stands_beside_the_papers_of_the_same_sets(records):
    for (seed, weight), shifts in {(1, 0.0): {"dual": 4.0}, (2, 0.0): {"dual": 4.0}}.items():
        config = TrainConfig(backbone="ae", seed=seed, repulsion_weight=weight)
        records[record_name(config, OTHER)] = record(config, shifts, OTHER)
    cells = tables.collect("table2", records, [BRAIN, OTHER], (1, 2))
    frame = layouts.long_table(cells)
    wide = layouts.layout(frame)
    assert wide.columns[-1] == "average of 2 sets, AUC"
    ours = frame[(frame["row"] == "Unc") & (frame["group"] == "AE")]["AUC"].mean()
    text = wide.loc[("AE", "Unc"), "average of 2 sets, AUC"].replace("*", "")
    assert text == f"{ours:.1f} (n = 2); paper 64.6, {ours - 64.6:+.1f}"  # 69.4 and 59.8
    # repulsion was run on one set only: its average would be of another set of sets
    assert "not run" in wide.loc[("AE", "Unc+RAR"), "average of 2 sets, AUC"]


def test_sets_that_are_not_the_papers_are_marked(records):
    mine = DataKey("my-scans", "e" * 64, "f" * 64, 50, 30, 30)
    config = TrainConfig(backbone="ae", seed=1)
    cells = tables.collect(
        "table2", {record_name(config, mine): record(config, {}, mine)}, [mine], (1,)
    )
    frame = layouts.long_table(cells)
    assert frame["paper_AUC"].isna().all()
    assert list(layouts.layout(frame).columns) == ["my-scans (not in the paper), AUC"]
    (sentence,) = layouts.about(cells)
    assert "not the paper's" in sentence and "50 normal images" in sentence


def test_tables_that_the_paper_has_elsewhere_say_so():
    config = TrainConfig(backbone="ae", seed=1)
    found = {record_name(config, BRAIN): record(config, {})}
    third = tables.collect("table3", found, [BRAIN], (1,))
    sentence = "The paper has this table on RSNA, not on Brain MRI."
    assert layouts.about(third)[1:] == [sentence]
    assert layouts.long_table(third).attrs["about"] == layouts.about(third)
    assert sentence not in layouts.about(tables.collect("table2", found, [BRAIN], (1,)))


def test_what_the_paper_contradicts_is_said():
    chest = DataKey("vindr-cxr", "a" * 64, "b" * 64, 4000, 1000, 1000)
    (_, contradiction) = layouts.about(tables.collect("table2", {}, [chest], (1,)))
    assert contradiction.startswith("The paper's table 2, AEU, Unc+RAR, VinDr-CXR: unreadable")
    rsna = DataKey("rsna", "c" * 64, "d" * 64, 3851, 1000, 1000)
    (_, other) = layouts.about(tables.collect("table3", {}, [rsna], (1,)))
    assert other == "The paper's table 3, AE, pearson, RSNA: 72.9 in the table, 72.6 in the text."


def test_one_seeds_difference_is_that_seeds_value():
    """-15.4519 is -15.5 rounded once, and -15.4 by way of -15.45 (seen in a committed table)."""
    value = -0.154519
    estimate = Estimate(value, -0.2, -0.1, 0.02, 0.01, 1, 60, False, (value,))
    shown = layouts.show_verdicts(
        claims._judged(
            [claims.Claim("a", estimate)],
            lambda fraction: 100 * fraction,
        ).assign(dataset="x")
    )
    assert shown["by seed"].item() == "-15.5"
    assert shown["difference in AUC (95 % interval)"].item().startswith("-15.5 ")


@pytest.mark.parametrize("draw", [claims.central_verdicts, lambda c: claims.verdicts("table2", c)])
def test_what_was_not_run_is_drawn_as_such(draw):
    frame = draw(tables.collect("table2", {}, [BRAIN], (1, 2, 3)))
    assert len(frame) and (frame["verdict"] == "not run").all()
    assert "not run" in layouts.markdown(layouts.show_verdicts(frame))
    (text,) = plotting.verdict_intervals(frame).axes[0].texts
    assert text.get_text() == "not run"
    nothing = layouts.long_table(tables.collect("table2", {}, [BRAIN], (1,)))
    assert (
        plotting.table_dots(nothing.assign(paper_AUC=np.nan)).axes[0].texts[0].get_text()
        == "not run"
    )


def test_fewer_epochs_are_not_the_papers_numbers():
    cells = tables.collect(
        tables.rows("table1", TrainConfig(backbone="ae", epochs=5)), {}, [BRAIN], (1,)
    )
    (sentence,) = layouts.about(cells)
    assert "epochs 5 instead of 250" in sentence and "not the published split" in sentence


def test_differences_name_the_cells_where_the_paper_is_outside_our_interval(cells):
    sentences = layouts.differences(layouts.long_table(cells))
    assert any("AE, Unc+DSU" in sentence and "paper has 88.9" in sentence for sentence in sentences)
    frame = layouts.long_table(cells).assign(paper_AUC=lambda f: f["AUC"])
    assert layouts.differences(frame) == ["No published value lies outside our interval."]
    nothing = frame.assign(AUC_difference=float("nan"))
    (sentence,) = layouts.differences(nothing)
    assert "Nothing here has a published value" in sentence


@pytest.mark.parametrize(
    ("key", "title"),
    [
        (("brain-mri", "a", "b", 1000, 600, 600), "brain-mri"),
        (
            ("brain-mri", "a", "b", 16, 10, 12),
            "brain-mri (not the paper's split, 16 to train, 10 + 12 to test)",
        ),
        (("mine", "a", "b", 16, 10, 12), "mine (not in the paper, 16 to train, 10 + 12 to test)"),
    ],
)
def test_names_of_sets_say_what_is_not_the_papers(key, title):
    assert layouts.titled(DataKey(*key)) == title


def test_the_ticks_of_table_3_are_the_functions():
    ticks = layouts.ticks()
    assert ticks.loc["cka"].tolist() == [True, True]
    assert ticks.loc["euclidean"].tolist() == [False, False]
    assert ticks.loc["cosine"].tolist() == [True, False]
    assert set(ticks.index) == set(paper.TABLE3) | {"debiased-cka"}
    assert layouts.markdown(ticks).startswith("| similarity | scaling | rotation |")


def test_markdown_tables():
    """Cells without a number are empty, bars are escaped, an index that only counts is left out."""
    frame = pd.DataFrame({"a": ["x|y", "z"], "b": [0.12345, np.nan], "c": [2, 3]})
    assert layouts.markdown(frame).splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| x\\|y | 0.123 | 2 |",
        "| z |  | 3 |",
    ]
    assert "| q | z |  | 3 |" in layouts.markdown(frame.set_axis(["p", "q"]))


# --- claims ---


def test_claims_of_table_2(cells):
    found = claims.verdicts("table2", cells).set_index("claim")
    dsu = found.loc["AE: DSU raises AUC over Unc"]
    lines = by_line(cells)
    wanted = np.mean(lines["AE", "Unc+DSU"].auc()) - np.mean(lines["AE", "Unc"].auc())
    assert dsu["difference"] == pytest.approx(wanted)
    assert dsu["low"] < wanted < dsu["high"]
    assert dsu["verdict"] == "holds (2 seeds, images only)"
    assert [float(v) for v in dsu["per_seed"].split()] == pytest.approx(
        np.subtract(lines["AE", "Unc+DSU"].auc(), lines["AE", "Unc"].auc()), abs=0.01
    )
    assert found.loc["MemAE: DSU raises AUC over Unc", "verdict"] == "not run"
    assert len(found) == 15
    # a family is corrected for its own size: five claims were run
    assert (found["p_holm"].dropna() >= found["p"].dropna()).all()
    assert found["p_holm"].notna().sum() == 5


def test_claims_the_other_way_do_not_hold():
    found = {}
    for seed in (1, 2, 3):
        for weight, shift in ((0.0, 3.0), (1.0, 0.0)):
            config = TrainConfig(backbone="ae", seed=seed, repulsion_weight=weight)
            found[record_name(config, BRAIN)] = record(config, {"output": shift})
    cells = tables.collect("table2", found, [BRAIN], (1, 2, 3))
    verdict = claims.verdicts("table2", cells).set_index("claim")["verdict"]
    assert verdict["AE: RAR raises AUC over Unc"] == "does not hold (3 seeds, images only)"


def test_one_seed_decides_nothing(records):
    cells = tables.collect("table2", records, [BRAIN], (1,))
    verdict = claims.verdicts("table2", cells).set_index("claim")["verdict"]
    assert verdict["AE: DSU raises AUC over Unc"] == "cannot tell with 1 seed"


def test_the_ranking_of_table_3_is_tested_link_by_link():
    found = {}
    for seed in (1, 2, 3, 4, 5):
        for shift, name in enumerate(paper.TABLE3):
            config = TrainConfig(backbone="ae", seed=seed, similarity=name)
            found[record_name(config, BRAIN)] = record(config, {"output": 0.8 * shift})
    cells = tables.collect("table3", found, [BRAIN], (1, 2, 3, 4, 5))
    frame = claims.verdicts("table3", cells)
    claimed = ["cka", "pearson", "cosine", "manhattan", "euclidean", "none"]
    links = [f"{a} > {b}" for a, b in itertools.pairwise(claimed)]
    assert list(frame["claim"]) == [*links, "cka > none"]
    assert (frame["difference"] > 0).all()
    assert frame["verdict"].iloc[-1] == "holds (5 seeds, images and seeds)"


def test_central_claims_are_factors_with_against_without_repulsion():
    """With repulsion: reconstruction the same, disagreement doubled on abnormal images alone."""
    found = {}
    for seed in (1, 2, 3):
        rng = np.random.default_rng(seed)
        error, doubt = rng.uniform(1, 2, (2, 60))
        for weight in (0.0, 1.0):
            config = TrainConfig(backbone="ae", seed=seed, repulsion_weight=weight)
            more = np.where((LABELS == 1) & (weight > 0), 2.0, 1.0)
            scores = {"output": doubt * more, "reconstruction": error * (1 + 0.01 * weight)}
            both = record(config, {})
            both.scores.update({k: v.astype(np.float32) for k, v in scores.items()})
            found[record_name(config, BRAIN)] = both
    both = claims.central_verdicts(tables.collect("table2", found, [BRAIN], (1, 2, 3)))
    frame = both[both["verdict"] != "not run"]
    absent = both[both["verdict"] == "not run"]["claim"]
    assert len(absent) == 8 and absent.str.contains("AEU|MemAE").all()
    factors = dict(zip(frame["claim"].str.removeprefix("AE: RAR "), frame["factor"], strict=True))
    assert factors == pytest.approx(
        {
            "keeps the reconstruction error of normals (within 5 %)": 1.01,
            "keeps the disagreement on normals (within 5 %)": 1.0,
            "raises the disagreement on anomalies": 2.0,
            "raises the disagreement on anomalies more than on normals": 2.0,
        },
        rel=1e-5,
    )
    assert frame["verdict"].str.startswith("holds").all()


def test_claims_of_every_table_name_rows_that_exist():
    for table, pairs in claims._PAIRS.items():
        lines = {(row.label, row.group) for row in tables.rows(table)}
        found = pairs([group for _, group in dict.fromkeys(lines)])
        assert found and all({better, worse} <= lines for _, better, worse in found)


def test_verdicts_for_readers_leave_nothing_out(cells):
    shown = layouts.show_verdicts(claims.verdicts("table2", cells))
    assert len(shown) == 15 and "data set" not in shown  # one data set needs no column
    assert (shown["verdict"] == "not run").sum() == 10
    assert "nan" not in layouts.markdown(shown)


def test_gains_are_taken_seed_by_seed():
    frame = pd.DataFrame(
        {
            "group": ["Unc", "Unc", "Unc", "DSU", "Unc"],
            "row": ["none", "cka", "cosine", "cka", "pearson"],
            "n_seeds": [2, 3, 1, 1, 0],
            "AUC_by_seed": ["1:50 2:60", "1:51.5 2:58 3:70", "2:61", "1:90", np.nan],
        }
    )
    gains = layouts.seed_gains(frame, over="none")
    assert gains.to_dict() == {
        ("Unc", "cka", "1"): 1.5,
        ("Unc", "cka", "2"): -2.0,
        ("Unc", "cosine", "2"): 1.0,
    }
