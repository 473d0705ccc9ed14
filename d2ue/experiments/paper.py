"""What the paper prints: its tables, as data.

Gu, Lin, Cheng, Chen: Revisiting Deep Ensemble Uncertainty for Enhanced Medical Anomaly Detection,
MICCAI 2024, arXiv 2409.17485. All values in percent. Table 2's rows are named after the text
(+7.4 and +11.4 on RSNA); Table 3 is scored with Unc, on RSNA with AE.
"""

from __future__ import annotations

from d2ue.datasets.registry import DATASETS

#: Columns of the rows below: the datasets, then the average as printed.
COLUMNS = (*DATASETS, "Average")

#: Where the paper contradicts itself: (table, row, backbone, column) -> what is wrong.
CONTRADICTIONS = {
    (1, "MemAE", "", "Average AUC"): "printed 66.7; the five cells give 67.1, as in Table 2",
    (1, "MemAE", "", "Average AP"): "printed 66.6; the five cells give 66.4",
    (1, "Ours", "AEU", "Average AP"): "printed 82.6; the five cells give 82.1",
    (2, "Unc+RAR", "AEU", "VinDr-CXR"): "unreadable: 77.6, while the printed average implies 75.6",
    (2, "Unc+DSU", "AE", "Average"): "printed 75.5; the five cells give 76.3",
    (3, "pearson", "AE", "RSNA"): "72.9 in the table, 72.6 in the text",
}

# fmt: off
#: Table 1 by method and backbone: AUC of each column, AP of each column.
TABLE1: dict[tuple[str, str], tuple[tuple[float, ...], tuple[float, ...]]] = {
    ("AE", ""): ((66.9, 55.9, 55.6, 79.7, 79.3, 67.5), (66.1, 60.3, 59.6, 71.9, 76.1, 66.8)),
    ("MemAE", ""): ((68.0, 55.8, 56.0, 77.4, 78.5, 66.7), (67.1, 59.8, 60.0, 70.0, 74.9, 66.6)),
    ("AEU", ""): ((86.7, 73.8, 66.4, 94.0, 81.3, 80.4), (84.7, 72.8, 66.9, 89.0, 78.9, 78.5)),
    ("IGD", ""): ((81.2, 59.2, 55.2, 94.3, 80.7, 74.1), (78.0, 58.7, 57.6, 90.6, 75.3, 72.0)),
    ("f-AnoGAN", ""): ((79.8, 76.3, 61.9, 82.5, 84.2, 76.9), (75.6, 74.8, 67.3, 74.3, 77.5, 73.9)),
    ("Ganomaly", ""): ((71.4, 59.6, 62.5, 75.1, 77.7, 69.3), (69.1, 60.3, 63.0, 69.7, 75.7, 67.6)),
    ("DDAD", ""): ((87.3, 74.3, 69.2, 84.5, 75.3, 78.1), (86.4, 71.5, 71.7, 83.3, 75.1, 77.6)),
    ("Multi-ST", ""): ((86.0, 68.1, 60.8, 95.6, 79.1, 77.9), (83.5, 68.2, 63.6, 92.7, 74.4, 76.5)),
    ("RDAD", ""): ((85.7, 69.4, 55.3, 96.0, 82.7, 77.8), (82.9, 66.3, 56.9, 92.5, 78.5, 75.4)),
    ("DeSTSeg", ""): ((73.3, 64.4, 55.8, 96.7, 73.6, 72.8), (73.9, 66.8, 56.0, 95.6, 72.1, 72.9)),
    ("Ours", "AE"): ((84.1, 76.6, 65.2, 89.2, 82.5, 79.5), (82.4, 74.4, 66.4, 83.0, 79.0, 77.0)),
    ("Ours", "AEU"): ((88.6, 78.7, 72.9, 96.2, 86.3, 84.5), (86.8, 76.1, 71.8, 92.0, 84.0, 82.6)),
}
# fmt: on

#: Table 2 by row and backbone: AUC of each column.
TABLE2: dict[tuple[str, str], tuple[float, ...]] = {
    ("Ens", "AE"): (66.9, 55.9, 55.6, 79.7, 79.3, 67.5),
    ("Ens", "MemAE"): (68.0, 55.8, 56.0, 77.4, 78.5, 67.1),
    ("Ens", "AEU"): (86.7, 73.8, 66.4, 94.0, 81.3, 80.4),
    ("Unc", "AE"): (69.4, 60.1, 59.8, 59.8, 72.1, 64.2),
    ("Unc", "MemAE"): (68.0, 59.5, 59.4, 52.6, 70.4, 62.0),
    ("Unc", "AEU"): (87.3, 74.3, 69.2, 84.5, 75.3, 78.1),
    ("Unc+RAR", "AE"): (76.8, 71.8, 62.9, 61.1, 79.6, 70.4),
    ("Unc+RAR", "MemAE"): (77.9, 71.6, 62.4, 63.9, 78.7, 70.9),
    ("Unc+RAR", "AEU"): (87.8, 77.6, 72.4, 91.0, 79.9, 81.3),
    ("Unc+DSU", "AE"): (80.8, 68.5, 61.1, 88.9, 82.4, 75.5),
    ("Unc+DSU", "MemAE"): (81.6, 66.2, 62.6, 86.2, 78.5, 75.0),
    ("Unc+DSU", "AEU"): (88.5, 77.5, 72.6, 95.1, 83.7, 83.5),
    ("Unc+RAR+DSU", "AE"): (84.1, 76.6, 65.2, 89.2, 82.5, 79.5),
    ("Unc+RAR+DSU", "MemAE"): (83.5, 75.7, 63.1, 87.5, 79.0, 77.8),
    ("Unc+RAR+DSU", "AEU"): (88.6, 78.7, 72.9, 96.2, 86.3, 84.5),
}

#: Table 3: AUC on RSNA with AE by similarity, in the order the paper claims to be the ranking.
TABLE3: dict[str, float] = {
    "none": 69.4,
    "euclidean": 70.2,
    "manhattan": 71.3,
    "cosine": 72.1,
    "pearson": 72.9,
    "cka": 76.8,
}

#: What the released code itself gives with its own configuration and its one seed, run once on the
#: Brain MRI set at 128 x 128: (data set, row of table 2, backbone) -> AUC, AP. Its ensembles are
#: trained with repulsion (lambda 1), so they stand beside the rows with RAR.
RELEASED_CODE: dict[tuple[str, str, str], tuple[float, float]] = {
    ("Brain MRI", "Ens+RAR", "AE"): (80.0, 72.3),
    ("Brain MRI", "Unc+RAR", "AE"): (58.1, 55.3),
    ("Brain MRI", "Unc+RAR+DSU", "AE"): (81.3, 74.6),
    ("Brain MRI", "Ens+RAR", "AEU"): (93.9, 88.4),
    ("Brain MRI", "Unc+RAR", "AEU"): (95.9, 94.5),
    ("Brain MRI", "Unc+RAR+DSU", "AEU"): (95.6, 90.9),
}
