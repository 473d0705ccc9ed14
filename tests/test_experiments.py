"""Tables out of ensembles."""

import math

import numpy as np
import pandas as pd
import pytest

from d2ue.datasets.types import ImageSet
from d2ue.ensemble import train_ensembles
from d2ue.evaluation import auc, average_precision
from d2ue.experiments import score_table, summarise
from d2ue.uncertainty import image_scores


@pytest.fixture(scope="module")
def labelled(draw_images):
    """Eight normal images and eight with a bright square."""
    images = draw_images(16, seed=3)
    images[8:, :, 4:9, 4:9] = 255
    names = tuple(map(str, range(16)))
    return ImageSet(images, names, labels=np.repeat([0, 1], 8).astype(np.int8))


def made_up() -> pd.DataFrame:
    """Three seeds at lambda 1, one at lambda 0, scored in two ways."""
    rows = [
        ("ae", "cka", 1.0, 0, "output", 80.0, 70.0),
        ("ae", "cka", 1.0, 0, "dual", 90.0, 60.0),
        ("ae", "cka", 1.0, 1, "output", 83.0, 70.0),
        ("ae", "cka", 1.0, 1, "dual", 92.0, 62.0),
        ("ae", "cka", 1.0, 2, "output", 89.0, 70.0),
        ("ae", "cka", 1.0, 2, "dual", 94.0, 64.0),
        ("ae", "none", 0.0, 0, "output", 50.0, 40.0),
    ]
    columns = ["backbone", "similarity", "repulsion_weight", "seed", "method", "AUC", "AP"]
    return pd.DataFrame(rows, columns=columns)


def test_mean_spread_and_n_by_hand():
    """80, 83, 89: mean 84, squares 16 + 1 + 25 over 2: sqrt(21). 90, 92, 94: mean 92, std 2."""
    summary = summarise(made_up())
    assert [key[-1] for key in summary.index] == ["output", "dual", "output"]
    output = summary.loc["ae", "cka", 1.0, "output"]
    assert output["AUC", "mean"] == 84 and output["AUC", "std"] == pytest.approx(math.sqrt(21))
    assert output["AP", "mean"] == 70 and output["AP", "std"] == 0 and output["AUC", "n"] == 3
    dual = summary.loc["ae", "cka", 1.0, "dual"]
    assert (dual["AUC", "mean"], dual["AUC", "std"]) == (92, 2)
    assert (dual["AP", "mean"], dual["AP", "std"]) == (62, 2)
    single = summary.loc["ae", "none", 0.0, "output"]
    assert single["AUC", "n"] == 1 and math.isnan(single["AUC", "std"])


def test_a_row_for_every_run_and_score(tiny, draw_set, labelled):
    configs = [
        tiny(seed=0),
        tiny(seed=1),
        tiny(seed=0, repulsion_weight=0.0),
        tiny(seed=1, similarity="none"),
        tiny(backbone="aeu", similarity="cosine", repulsion_weight=0.5),
    ]
    ensembles = train_ensembles(configs, draw_set(20), progress=False)
    table = score_table(ensembles, labelled)
    named = [
        ("ae", "cka", 1.0, 0),
        ("ae", "cka", 1.0, 1),
        ("ae", "none", 0.0, 0),
        ("ae", "none", 0.0, 1),  # lambda 0 and "none" are one row of a table
        ("aeu", "cosine", 0.5, 0),
    ]
    expected = []
    for ensemble, name in zip(ensembles, named, strict=True):
        for method in ("ensemble", "output", "dual"):
            scores = image_scores(ensemble, labelled.images, method)
            labels = labelled.labels
            values = 100 * auc(labels, scores), 100 * average_precision(labels, scores)
            expected.append((*name, method, *values))
    assert list(table.itertuples(index=False, name=None)) == expected
    assert table[["AUC", "AP"]].map(lambda value: 0 <= value <= 100).all(axis=None)
    assert (summarise(table)["AUC", "n"] == [2, 2, 2, 2, 2, 2, 1, 1, 1]).all()


def test_images_without_labels_or_of_one_class(trained, labelled, draw_set, refused):
    with refused("labels"):
        score_table([trained()], draw_set(4))
    with refused("abnormal"):
        score_table([trained()], labelled.select(slice(0, 8)))


def test_a_single_learner_has_only_its_reconstruction(trained, labelled, refused):
    single = trained().first(1)
    assert len(score_table([single], labelled, ["ensemble"])) == 1
    with refused("two learners"):
        score_table([single], labelled)
