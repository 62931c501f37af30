"""Execution providers: what was asked for, what this machine has, what a session really uses."""

from __future__ import annotations

from typing import Any

Provider = str | tuple[str, dict[str, Any]]
"""A provider of ONNX Runtime by its full name, with or without options."""
