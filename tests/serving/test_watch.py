"""What is noted of rows: by their own group's threshold, by the p-value of the verdict, by the table they were held against."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anomvae.data.encoding import encode_for
from anomvae.observability import Metrics
from anomvae.scoring import Scorer
from anomvae.serving.model import ServedModel
from anomvae.serving.watch import RowWatch
from tests.calibrated import sites

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.bundle import Bundle
    from tests.serving.conftest import Scene

NAME = {"model": "press"}


def announced() -> Metrics:
    metrics = Metrics()
    metrics.model_loaded("press", version="1", kind="vae", digest="0", reference="press", alarm_rate=0.05, at=0.0)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, {**NAME, **labels})
    return 0.0 if found is None else found


def seen(bundle: Bundle, **changes: Any) -> tuple[Metrics, dict[str, Any], Any]:
    """The metrics of 200 rows of the sites, the graph's answers to them, and their encoding."""
    scorer, metrics = Scorer(bundle), announced()
    rows = dataclasses.replace(encode_for(sites(200, seed=8), bundle.manifest), **changes)
    found = scorer.answers(rows, scorer.session.outputs)
    RowWatch(ServedModel("press", "1", bundle, scorer.session), metrics).at_own_rate(rows, found)
    return metrics, found, rows


def test_rows_are_held_against_the_threshold_of_their_own_group(grouped: Bundle) -> None:
    metrics, found, rows = seen(grouped)
    calibration = grouped.manifest.calibration
    thresholds = np.array([*(group.score_threshold for group in calibration.groups), calibration.score_threshold])
    beyond = found["score"].astype(np.float64) > thresholds[rows.group]
    below = value(metrics, "anomvae_score_margin_nats_bucket", le="0.0")
    assert 200 - below == beyond.sum() > 0
    assert value(metrics, "anomvae_pooled_rows_total") == found["pooled"].sum() > 0


def test_rows_that_do_not_tell_their_group_are_held_against_the_pooled_threshold(grouped: Bundle) -> None:
    metrics, found, _ = seen(grouped, group=None)
    beyond = found["score"] > grouped.manifest.calibration.score_threshold
    assert 200 - value(metrics, "anomvae_score_margin_nats_bucket", le="0.0") == beyond.sum()
    assert value(metrics, "anomvae_pooled_rows_total") == 200


def test_numbers_of_no_group_are_pooled(grouped: Bundle) -> None:
    metrics, found, _ = seen(grouped, group=np.resize([0, 1, 2, 3, -1, 2**40], 200))
    assert value(metrics, "anomvae_pooled_rows_total") == found["pooled"].sum() == 132


def test_a_model_without_groups_has_no_pooled_rows(fitted: Bundle) -> None:
    assert value(seen(fitted)[0], "anomvae_pooled_rows_total") == 0


@pytest.mark.parametrize(
    ("decision", "name"),
    [
        ("elbo", "p_value"),
        ("reconstruction", "p_value_reconstruction"),
        ("both", "p_value_verdict"),
        ("either", "p_value"),
    ],
)
def test_p_values_are_those_that_the_verdict_is_held_against(grouped: Bundle, decision: str, name: str) -> None:
    calibration = dataclasses.replace(grouped.manifest.calibration, decision=decision)  # type: ignore[arg-type]
    bundle = dataclasses.replace(grouped, manifest=dataclasses.replace(grouped.manifest, calibration=calibration))
    metrics, found, _ = seen(bundle)
    assert value(metrics, "anomvae_p_value_sum") == pytest.approx(float(found[name].sum()), rel=1e-5)


def test_verdicts_by_the_tail_are_counted_at_the_models_own_rate_alone(grouped: Bundle) -> None:
    scorer, metrics = Scorer(grouped), announced()
    rows = encode_for(sites(40, seed=8), grouped.manifest)
    far = dataclasses.replace(rows, numeric=rows.numeric * 3, group=None)
    found = scorer.answers(far, scorer.session.outputs)
    watch = RowWatch(ServedModel("press", "1", grouped, scorer.session), metrics)
    watch.at_another_rate(far, found)
    assert value(metrics, "anomvae_tail_verdicts_total") == value(metrics, "anomvae_verdicts_total") == 0
    watch.at_own_rate(far, found)
    assert value(metrics, "anomvae_tail_verdicts_total") == found["tail"].sum() > 0
    assert value(metrics, "anomvae_verdicts_total") == 40


def test_rows_at_another_rate_and_rows_without_p_values_say_nothing_of_the_calibration(grouped: Bundle) -> None:
    scorer = Scorer(grouped)
    rows = encode_for(sites(64, seed=8), grouped.manifest)
    rows = dataclasses.replace(rows, numeric=rows.numeric * 9)
    found = scorer.answers(rows, scorer.session.outputs)
    watch = RowWatch(ServedModel("press", "1", grouped, scorer.session), announced())
    quiet = watch.trust.evidence
    watch.at_another_rate(rows, found)
    watch.at_own_rate(rows, {"score": found["score"], "alarm": found["alarm"]})
    assert watch.trust.evidence == quiet
    watch.at_own_rate(rows, found)
    assert watch.trust.evidence > quiet
    assert not watch.trust.is_trusted


def test_the_service_tells_whether_a_version_is_trusted_until_another_one_is_loaded(
    play: Callable[..., Scene], fitted: Bundle
) -> None:
    async def story(scene: Scene) -> None:
        assert scene.value("anomvae_calibration_trusted", **NAME) == 1
        for _ in range(60):  # the graph says 0 for p-values of row 0 and 1 for those of row 1: every row has p = 1
            await scene.ask(2, outputs=("score", "p_value"))
        calm = scene.value("anomvae_calibration_evidence_log10", **NAME)
        assert calm < 0
        assert scene.value("anomvae_calibration_trusted", **NAME) == 1
        old = scene.model
        watch = scene.service.watch_of(old, own_rate=True)
        for _ in range(8):
            watch(_rows(scene, 30), {"p_value": np.full(30, 1 / 600, np.float32)})
        assert scene.value("anomvae_calibration_trusted", **NAME) == 0
        assert scene.value("anomvae_calibration_evidence_log10", **NAME) > 2
        scene.service.models.put(ServedModel("press", "2", fitted, scene.session))  # type: ignore[arg-type]
        scene.metrics.model_loaded(
            "press", version="2", kind="vae", digest="0", reference="press", alarm_rate=0.1, at=0.0
        )
        assert scene.value("anomvae_calibration_trusted", **NAME) == 1
        await scene.ask(2, outputs=("score", "p_value"))  # of a request that was read for the version before
        watch(_rows(scene, 30), {"p_value": np.full(30, 1 / 600, np.float32)})
        assert scene.value("anomvae_calibration_trusted", **NAME) == 1
        await asyncio.sleep(0)

    play(story)


def _rows(scene: Scene, n: int) -> Any:
    return scene.decoder(n)().rows
