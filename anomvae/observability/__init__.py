"""What the product tells of itself: every Prometheus instrument, and structured logs."""

from anomvae.observability.instruments import INSTRUMENTS, Instrument
from anomvae.observability.log_records import library_records
from anomvae.observability.logs import Log
from anomvae.observability.metrics import Metrics

__all__ = ["INSTRUMENTS", "Instrument", "Log", "Metrics", "library_records"]
