"""One's own images: estimator, threshold, report.

Imports the method, datasets, store, statistics and plotting; never the commands.
"""
