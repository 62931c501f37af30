"""Streams: records in, answers out, for months; sources, sinks, windows by asset and the pump between them."""
