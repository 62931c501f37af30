"""Where each histogram draws its lines, and why there."""

from __future__ import annotations

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Three lines a decade, from the 0.1 ms that one row takes to the 30 s after which every client has given up."""

BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
"""Powers of two, because batch limits are set in them: the line at the limit tells how often batches are full."""

MARGIN_NATS = (-100.0, -50.0, -20.0, -10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
"""Finest around 0, the threshold, where drift turns into alarms; 1000 parts the strange from the broken."""

P_VALUE = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Tenths, in which p-values of normal rows are spread evenly, and below 0.1 the alarm rates people choose."""
