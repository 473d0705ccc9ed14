"""The table of near duplicates: read as it is written, or refused in a sentence."""

import numpy as np
import pytest

from d2ue.statistics.clusters import Clusters, independence, read_clusters

TABLE = """name,split,label,cluster
a.png,train,0,0
NA,train,0,3
c.png,test,0,3
d.png,test,0,7
e.png,test,1,7
f.png,test,1,5
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "clusters.csv"
        path.write_text(text)
        return path

    return write


def test_a_table_is_read_in_its_order(written):
    found = read_clusters(written(TABLE))
    assert found.train.tolist() == [0, 3]
    assert found.test.tolist() == [3, 7, 7, 5]
    assert found.labels.tolist() == [0, 0, 1, 1] and found.labels.dtype == np.int8


def test_what_has_a_near_duplicate_in_train_is_not_kept(written):
    assert read_clusters(written(TABLE)).kept.tolist() == [False, True, True, True]
    # other columns do no harm
    more = "\n".join(line + ",x" for line in TABLE.splitlines())
    assert read_clusters(written(more)).kept.tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("cluster\n", "klass\n", ("lacks", "cluster")),
        ("f.png,test,1,5", "f.png,train,0,5", ("split", "train")),
        ("f.png,test,1,5", "f.png,test,1,5.5", ("cluster", "integers")),
        ("f.png,test,1,5", "f.png,test,2,5", ("0 or 1",)),
        ("a.png,train,0", "a.png,train,1", ("0 for training",)),
    ],
)
def test_other_tables_are_refused(written, old, new, words, refused):
    assert old in TABLE
    with refused("clusters.csv", *words):
        read_clusters(written(TABLE.replace(old, new)))


def test_what_is_no_table_is_refused(written, tmp_path, refused):
    with refused("nowhere.csv", "cannot be read"):
        read_clusters(tmp_path / "nowhere.csv")
    with refused("no CSV table"):
        read_clusters(written(""))
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00name")
    with refused("b.csv"):
        read_clusters(tmp_path / "b.csv")
    with refused("one integer an image"):
        Clusters(np.arange(2), np.arange(3), np.zeros(4, np.int8))


def test_what_is_independent_is_said():
    assert independence(9) == "images as independent"
    assert independence(9, 4) == "clusters respected (4 clusters of 9 images)"
