"""A model is trusted while its rows are like those that calibrated it, and no longer."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomvae.bundle import GroupCalibration
from anomvae.calibration import CalibrationHealth
from anomvae.serving.trust import BATCH_SAMPLE, ERROR, Trust

if TYPE_CHECKING:
    from anomvae.bundle import Bundle, Calibration


@pytest.fixture
def calibration(fitted: Bundle) -> Calibration:
    return dataclasses.replace(fitted.manifest.calibration, rows=999, groups=())


def grouped(calibration: Calibration, n: int) -> Calibration:
    groups = tuple(GroupCalibration(f"g{number}", 500 + number, 1.0, 1.0) for number in range(n))
    return dataclasses.replace(calibration, by="site", groups=groups)


def levels(n: int, m: int, seed: int = 0) -> np.ndarray:
    """P-values of normal rows."""
    return (np.random.default_rng(seed).integers(1, m + 2, n) / (m + 1)).astype(np.float32)


def test_normal_rows_keep_the_trust_and_strange_ones_lose_it_for_good(calibration: Calibration) -> None:
    trust = Trust(calibration)
    assert (trust.evidence, trust.is_trusted) == (0.0, True)
    trust.note(levels(5_000, 999))
    before: bool = trust.is_trusted
    assert before
    assert trust.evidence < 1.0
    for _ in range(40):
        trust.note(levels(32, 999) / 4)
    assert trust.evidence >= -math.log10(ERROR)
    for seed in range(40):
        trust.note(levels(32, 999, seed))
    told: bool = trust.is_trusted
    assert not told


@pytest.mark.parametrize("size", [1, 7, BATCH_SAMPLE])
def test_it_makes_no_difference_in_which_batches_rows_come_or_who_asks_when(
    calibration: Calibration, size: int
) -> None:
    p = levels(1_300, 999) ** 1.2
    direct = CalibrationHealth(999, error=ERROR)
    direct.update(p.astype(np.float64))
    trust = Trust(calibration)
    for start in range(0, len(p), size):
        trust.note(p[start : start + size])
        if start % 5 == 0:
            assert isinstance(trust.evidence, float)
    assert trust.evidence == pytest.approx(direct.log_evidence)


def test_of_a_large_batch_a_sample_is_tested(calibration: Calibration) -> None:
    p = levels(1_000, 999)
    trust, sampled = Trust(calibration), CalibrationHealth(999, error=ERROR)
    trust.note(p)
    sampled.update(p[::32].astype(np.float64))
    assert sampled.rows == BATCH_SAMPLE
    assert trust.evidence == pytest.approx(sampled.log_evidence)


def test_each_group_is_tested_against_its_own_rows_at_a_share_of_the_error(calibration: Calibration) -> None:
    trust = Trust(grouped(calibration, 3))
    tables = np.arange(20_000) % 4
    p = levels(20_000, 999)
    p[tables == 2] /= 4
    tests = [CalibrationHealth(rows, error=ERROR / 4) for rows in (500, 501, 502, 999)]
    for number, test in enumerate(tests):
        test.update(p[tables == number].astype(np.float64))
    for start in range(0, 20_000, 25):
        trust.note(p[start : start + 25], tables[start : start + 25])
    assert [test.is_trusted for test in tests] == [True, True, False, True]
    assert not trust.is_trusted
    assert trust.evidence == pytest.approx(tests[2].log_evidence - math.log10(4))


def test_rows_whose_group_is_not_told_are_held_against_the_pooled_rows(calibration: Calibration) -> None:
    trust, pooled = Trust(grouped(calibration, 1)), CalibrationHealth(999, error=ERROR / 2)
    p = levels(20, 999) / 2
    trust.note(p)
    pooled.update(p.astype(np.float64))
    assert trust.evidence == pytest.approx(pooled.log_evidence - math.log10(2))


def test_what_is_no_p_value_is_passed_over(calibration: Calibration) -> None:
    trust, clean = Trust(calibration), Trust(calibration)
    p = levels(30, 999)
    trust.note(np.concatenate([p[:10], np.array([np.nan], np.float32), p[10:20]]))
    trust.note(np.concatenate([np.array([0.0, 2.0, -1.0, np.inf], np.float32), p[20:]]))
    trust.note(p[:0])
    clean.note(p)
    assert trust.evidence == clean.evidence
    assert trust.is_trusted


def test_it_keeps_no_rows_but_those_that_wait(calibration: Calibration) -> None:
    batch = levels(32, 999)
    trust = Trust(calibration)
    for _ in range(100):
        trust.note(batch)
    waiting = sum(len(part) for parts in trust._waiting.values() for part in parts)
    assert waiting + trust._n_unsorted < 1024


def test_threads_note_and_ask_at_once_and_no_row_is_lost(calibration: Calibration) -> None:
    trust = Trust(grouped(calibration, 2))
    batches = [levels(20, 999, seed) for seed in range(400)]

    def work(number: int) -> float:
        for batch in batches[number::4]:
            trust.note(batch, np.full(20, number % 3))
        return trust.evidence

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert math.isfinite(trust.evidence)
    assert sum(test.rows for test in trust._tests.values()) == 8_000
