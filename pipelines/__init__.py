"""Scheduled jobs and measurements, as short lists of calls."""
