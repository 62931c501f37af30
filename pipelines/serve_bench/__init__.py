"""The daemon beside its peers: the same model, the same rows, the same load, in one run."""
