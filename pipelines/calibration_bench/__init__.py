"""Parts of the calibration benchmark: what a run counts, what many runs say together, the page."""
