"""Every picture of the notebooks: plain arrays and tables in, a matplotlib figure out."""

from d2ue.lessons.diversity_pictures import (
    diversity_axes,
    diversity_scatter,
    embeddings,
    learners_cost,
    similarity_by_epoch,
    similarity_matrices,
)
from d2ue.lessons.toy_pictures import toy_effects, toy_parts, toy_view, toy_views
from d2ue.plotting.images import BOX_COLOUR, heat_maps, image_rows, reconstructions, score_maps
from d2ue.plotting.scores import localisation, mirror_dots, score_histograms, training_curves
from d2ue.plotting.style import (
    ABNORMAL_COLOUR,
    FONT,
    METHOD_TITLES,
    NORMAL_COLOUR,
    OUTLINE,
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
    "BOX_COLOUR",
    "FONT",
    "METHOD_TITLES",
    "NORMAL_COLOUR",
    "OUTLINE",
    "PALETTE",
    "auc_by_seed",
    "axes_grid",
    "diversity_axes",
    "diversity_scatter",
    "embeddings",
    "heat_maps",
    "image_rows",
    "learners_cost",
    "localisation",
    "mirror_dots",
    "paired_by_seed",
    "published_against_cleaned",
    "reconstructions",
    "score_histograms",
    "score_maps",
    "similarity_by_epoch",
    "similarity_matrices",
    "table_dots",
    "toy_effects",
    "toy_parts",
    "toy_view",
    "toy_views",
    "training_curves",
    "verdict_intervals",
]
