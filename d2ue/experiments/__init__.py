"""Experiments: what the notebooks run, and tables out of it.

`quick` scores a few ensembles at hand; `tables` says which runs stand behind every cell of the
paper's tables, and lays them out; `claims` tests what the paper says of them; `cleaned` draws them
without the test images that have near duplicates in train; `batch` trains and scores all of it,
however long it takes.
"""

from d2ue.experiments.batch import Report, Settings, obtain, save_tables, score_controls
from d2ue.experiments.claims import central_verdicts, verdicts
from d2ue.experiments.cleaned import (
    cleaned_cells,
    cleaned_verdicts,
    published_and_cleaned,
    save_cleaned,
    show_cleaned,
    show_cleaned_verdicts,
)
from d2ue.experiments.layouts import (
    about,
    differences,
    layout,
    long_table,
    markdown,
    seed_gains,
    show_verdicts,
    ticks,
)
from d2ue.experiments.paper import TABLE3 as PAPER_TABLE3
from d2ue.experiments.printed import caption, table2_as_printed, table3_as_printed
from d2ue.experiments.quick import (
    ROW_NAMES,
    drawn_examples,
    examples,
    paper_layout,
    readings,
    reconstruction_ratio,
    save_results,
    score_table,
    summarise,
    worst_cases,
)
from d2ue.experiments.rows import Cell, Row, collect

__all__ = [
    "PAPER_TABLE3",
    "ROW_NAMES",
    "Cell",
    "Report",
    "Row",
    "Settings",
    "about",
    "caption",
    "central_verdicts",
    "cleaned_cells",
    "cleaned_verdicts",
    "collect",
    "differences",
    "drawn_examples",
    "examples",
    "layout",
    "long_table",
    "markdown",
    "obtain",
    "paper_layout",
    "published_and_cleaned",
    "readings",
    "reconstruction_ratio",
    "save_cleaned",
    "save_results",
    "save_tables",
    "score_controls",
    "score_table",
    "seed_gains",
    "show_cleaned",
    "show_cleaned_verdicts",
    "show_verdicts",
    "summarise",
    "table2_as_printed",
    "table3_as_printed",
    "ticks",
    "verdicts",
    "worst_cases",
]
