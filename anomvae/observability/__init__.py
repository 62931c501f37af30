"""What the product tells of itself: every Prometheus instrument, and structured logs."""
