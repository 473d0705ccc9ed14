"""One's own images: estimator, threshold, report. Imports the method, datasets, store and statistics; never the commands."""
