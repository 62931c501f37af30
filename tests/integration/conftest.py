"""What the tests of whole streams share: brokers, a small detector of series, and the service as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.stream_records import fit_pumps
from tests.integration.stream_service import services
from tests.streaming.kafka_broker import kafka, kafka_to_cut

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.stream_service import Start

__all__ = ["kafka", "kafka_to_cut"]


@pytest.fixture(scope="session")
def pumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a detector of series."""
    return fit_pumps(tmp_path_factory.mktemp("pumps") / "bundle")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services that end with the test."""
    with services() as starts:
        yield starts
