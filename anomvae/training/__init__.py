"""Fitting the weights: settings, the loop, and what happens along it."""
