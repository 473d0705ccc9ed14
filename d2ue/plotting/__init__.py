"""The pictures that several rooms share: plain arrays and tables in, a matplotlib figure out."""

from d2ue.plotting.images import heat_maps, image_rows, reconstructions, score_maps
from d2ue.plotting.scores import localisation, mirror_dots, score_histograms, training_curves
from d2ue.plotting.style import (
    ABNORMAL_COLOUR,
    FONT,
    METHOD_TITLES,
    NORMAL_COLOUR,
    PALETTE,
    axes_grid,
)
from d2ue.plotting.tables import (
    auc_by_seed,
    paired_by_seed,
    published_against_cleaned,
    table_dots,
    verdict_intervals,
)

__all__ = [
    "ABNORMAL_COLOUR",
    "FONT",
    "METHOD_TITLES",
    "NORMAL_COLOUR",
    "PALETTE",
    "auc_by_seed",
    "axes_grid",
    "heat_maps",
    "image_rows",
    "localisation",
    "mirror_dots",
    "paired_by_seed",
    "published_against_cleaned",
    "reconstructions",
    "score_histograms",
    "score_maps",
    "table_dots",
    "training_curves",
    "verdict_intervals",
]
