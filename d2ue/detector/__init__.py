"""One's own images: estimator, threshold, report.

Imports the method, datasets, store, statistics and plotting; never the commands.
"""

from d2ue.detector.baseline import Baseline
from d2ue.detector.estimator import D2UE

__all__ = ["D2UE", "Baseline"]
