"""Answers in double precision: conformal p-values to the letter, others without the noise of float32."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anomvae.bundle import GroupCalibration, TailRecord
from anomvae.calibration import CalibrationTables, Table, TailParameters
from anomvae.scoring.exact import FLAGS, exact

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Bundle


def answered(bundle: Bundle, name: str, answers: npt.NDArray[Any], **facts: Any) -> npt.NDArray[Any]:
    """What is handed out where the calibration has these facts."""
    calibration = dataclasses.replace(bundle.manifest.calibration, **facts)
    return exact(dataclasses.replace(bundle.manifest, calibration=calibration), name, answers)


NAMES = ("p_value", "p_value_reconstruction", "p_value_verdict")
OTHER = {"groups": (GroupCalibration("a", 99, 1.0, 1.0),)}, {"confidence": 0.95}


@pytest.mark.parametrize("m", [1, 2, 9, 99, 299, 1000, 12_345, 10**6])
@pytest.mark.parametrize("decision", ["elbo", "both"])
def test_conformal_p_values_are_the_multiples_that_they_are(fitted: Bundle, m: int, decision: str) -> None:
    score = np.arange(m, dtype=np.float32)
    tables = CalibrationTables.of([Table(score, score)], decision)
    new = np.linspace(-1, 2.0 * m, 500)
    verdicts = tables.verdicts(new, new, 0.5)
    for name in NAMES:
        found = answered(fitted, name, getattr(verdicts, name), rows=m)
        assert found.dtype == np.float64
        steps = np.rint(found * (m + 1))
        np.testing.assert_array_equal(found, steps / (m + 1))
        np.testing.assert_allclose(found, getattr(verdicts, name), rtol=3e-7)
    assert (answered(fitted, "p_value", verdicts.p_value, rows=m) >= 1 / (m + 1)).all()


@pytest.mark.parametrize("facts", OTHER, ids=str)
@pytest.mark.parametrize("m", [9, 99, 199, 999])
def test_p_values_of_other_tables_come_without_the_noise_of_float32(fitted: Bundle, facts: Any, m: int) -> None:
    tables = CalibrationTables.of([Table(np.arange(m) * 10.0, np.arange(m) * 10.0)], "elbo")
    new = np.arange(m + 1) * 10.0 - 5.0  # one of each rank
    found = answered(fitted, "p_value", tables.verdicts(new, new, 0.5).p_value, rows=5 * m, **facts)
    assert found.tolist() == pytest.approx([(k + 1) / (m + 1) for k in range(m, -1, -1)], rel=2e-7)
    assert found.tolist() == [float(f"{p:.6e}") for p in found]
    assert {0.1, 0.2, 0.3, 0.7, 1.0} <= set(found.tolist())


def test_the_p_values_of_a_tail_keep_their_digits(fitted: Bundle) -> None:
    tail = TailParameters(50.0, 5.0, 0.1, 0.5)
    tables = CalibrationTables.of([Table(np.arange(99.0), np.arange(99.0), None, (tail, tail))], "elbo")
    new = np.geomspace(110, 1e30, 50)
    p = tables.verdicts(new, new, 0.5).p_value
    found = answered(fitted, "p_value", p, tail=(TailRecord(50.0, 5.0, 0.1, 49, 0.1, 0.5),) * 2)
    np.testing.assert_allclose(found, p, rtol=7e-7)
    assert (np.diff(found) <= 0).all()
    assert (found > 0).all()


@pytest.mark.parametrize("facts", [{}, *OTHER], ids=str)
def test_flags_are_booleans_and_scores_are_left_as_they_are(fitted: Bundle, facts: Any) -> None:
    for name in FLAGS:
        found = answered(fitted, name, np.array([0, 1, 1], dtype=np.uint8), **facts)
        assert found.dtype == np.bool_
        assert found.tolist() == [False, True, True]
    scores = np.array([-3.25, np.inf, np.nan, 1e-30], dtype=np.float32)
    found = answered(fitted, "score", scores, **facts)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, scores.astype(np.float64))


def test_no_rows_have_no_answers(fitted: Bundle) -> None:
    for facts in ({}, *OTHER):
        assert answered(fitted, "p_value", np.empty(0, np.float32), **facts).shape == (0,)
