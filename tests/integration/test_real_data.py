"""Real tables with categories and missing cells, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer

from pipelines.accuracy import breast_cancer, measure, tables

SHARED = Path(__file__).parents[3] / "shared" / "data"
NEEDS = {"ai4i2020": 0.80, "thyroid_garvan": 0.92}


@pytest.mark.parametrize("name", NEEDS)
def test_a_real_mixed_table_is_ranked_and_its_false_alarms_kept(name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not at hand: no {SHARED / name}")
    table = next(table for table in tables(SHARED) if table.name == name)
    found, _, _ = measure(table, 0)
    assert found.auroc > NEEDS[name]
    assert found.false_alarm_low <= table.alarm_rate * 1.5


def test_the_breast_cancer_table_is_ranked() -> None:
    table = breast_cancer()
    found, _, _ = measure(table, 0)
    assert found.auroc > 0.9
    assert found.anomalies == int((load_breast_cancer().target == 0).sum())
