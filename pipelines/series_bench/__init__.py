"""Series: ours beside other detectors on the same windows."""
