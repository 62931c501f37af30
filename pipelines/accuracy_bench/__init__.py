"""Parts of the accuracy benchmark: the split of each table, the peers, our own detector, the runs, the page."""
