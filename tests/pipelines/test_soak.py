"""A soak in small: the same callers, the same checks, some seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.hostile.clients import HONEST, HOSTILE
from pipelines.soak import report, soak

if TYPE_CHECKING:
    from pathlib import Path


def test_every_answer_is_right_while_models_are_swapped_and_callers_vanish(tmp_path: Path) -> None:
    outcome = soak(tmp_path, seconds=12.0, reload_every_s=2.5)
    assert outcome.faults == []
    assert outcome.code == 0
    assert outcome.reloads >= 2
    assert outcome.refused >= 1
    assert set(outcome.tally.requests) == {*HONEST, *HOSTILE}
    assert "exit code" in report(outcome)
