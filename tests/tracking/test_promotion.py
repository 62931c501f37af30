"""Who may become champion."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.errors import ModelReferenceError, PromotionError
from anomvae.tracking import registry
from anomvae.tracking.promotion import challenge, end_challenge, promote
from anomvae.tracking.runs import log_bundle

# The product sets MLflow up, so it is imported before anything of MLflow.
# isort: split
from mlflow import MlflowClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.bundle import Column
    from tests.tracking.conftest import MakeBundle

    Log = Callable[..., int]


@pytest.fixture
def log(make_bundle: MakeBundle, uri: str, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def log(evaluation: dict[str, float] | None = None, **changes: Any) -> int:
        return log_bundle(make_bundle(evaluation=evaluation, **changes)).version

    return log


def champion() -> int | None:
    (summary,) = registry.list_models()
    return summary.champion


def test_a_better_candidate_is_promoted_and_told_from_where(log: Log) -> None:
    log({"average_precision": 0.7})
    log({"average_precision": 0.8})
    promotion = promote("pumps@candidate")
    assert (promotion.model_name, promotion.previous, promotion.version, promotion.moved) == ("pumps", 1, 2, True)
    assert promotion.comparison == "its average precision is 0.8000, the champion's 0.7000, on the same data set"
    assert champion() == 2


def test_a_worse_candidate_is_refused_unless_forced(log: Log) -> None:
    log({"average_precision": 0.8, "auroc": 0.6})
    log({"average_precision": 0.7, "auroc": 0.9})
    with pytest.raises(PromotionError, match=r"pumps/2 was not promoted: .* 0\.7000, the champion's 0\.8000.*force"):
        promote("pumps@candidate")
    assert champion() == 1
    promotion = promote("pumps@candidate", force=True)
    assert promotion.forced
    assert champion() == 2


def test_the_area_under_the_curve_decides_where_average_precision_is_missing(log: Log) -> None:
    log({"auroc": 0.9})
    log({"auroc": 0.8, "average_precision": 0.9})
    with pytest.raises(PromotionError, match="its auroc is"):
        promote("pumps@candidate")


def test_worse_measures_on_other_data_refuse_too_and_say_so(log: Log, make_bundle: MakeBundle) -> None:
    log({"average_precision": 0.8})
    provenance = dataclasses.replace(make_bundle("x").manifest.provenance, digest="sha256:" + "cd" * 32)
    log({"average_precision": 0.1}, provenance=provenance)
    with pytest.raises(PromotionError, match="measured on different data sets"):
        promote("pumps@candidate")
    assert promote("pumps@candidate", force=True).forced


def test_without_labels_the_columns_decide(log: Log) -> None:
    log()
    log({"auroc": 0.1})
    assert "only their columns were compared" in promote("pumps/2").comparison


def test_other_columns_are_refused_and_named(log: Log, make_bundle: MakeBundle) -> None:
    log()
    flow, kind, starts = make_bundle("x").manifest.columns
    changed = (flow, dataclasses.replace(kind, kind="boolean"), dataclasses.replace(starts, name="stops"))
    log(columns=changed)
    with pytest.raises(PromotionError, match="adds 'stops' and lacks 'starts' and retypes 'kind'"):
        promote("pumps@candidate")
    assert promote("pumps@candidate", force=True).moved


def test_the_order_of_the_columns_is_no_difference(log: Log, make_bundle: MakeBundle) -> None:
    log()
    columns: tuple[Column, ...] = make_bundle("x").manifest.columns
    log(columns=columns[::-1])
    assert promote("pumps@candidate").moved


def test_rolling_back_is_promoting_the_old_version(log: Log) -> None:
    log()
    log()
    promote("pumps/2")
    back = promote("pumps/1")
    assert (back.previous, back.version) == (2, 1)
    assert champion() == 1


def test_promoting_the_champion_moves_nothing(log: Log) -> None:
    log()
    promotion = promote("pumps@champion")
    assert not promotion.moved
    assert promotion.comparison == "it was the champion already"


def test_a_first_champion_needs_no_comparison(log: Log, uri: str) -> None:
    log()
    MlflowClient(tracking_uri=uri).delete_registered_model_alias("pumps", "champion")
    promotion = promote("pumps/1")
    assert (promotion.previous, promotion.version) == (None, 1)


def test_a_deleted_champion_stands_in_nobodys_way_when_forced(log: Log, uri: str) -> None:
    log()
    log()
    client = MlflowClient(tracking_uri=uri)
    client.delete_logged_model(str(client.get_model_version("pumps", "1").source).removeprefix("models:/"))
    with pytest.raises(PromotionError, match="cannot be read"):
        promote("pumps/2")
    assert promote("pumps/2", force=True).version == 2


def test_only_registered_versions_can_be_promoted(make_bundle: MakeBundle, uri: str) -> None:
    logged = log_bundle(make_bundle(), tracking_uri=uri)
    with pytest.raises(ModelReferenceError, match="names no registered version"):
        promote(f"models:/{logged.model_id}", tracking_uri=uri)


def test_a_challenger_is_another_version_than_the_champion_and_can_be_ended(log: Log) -> None:
    log()
    log()
    assert challenge("pumps/2") == ("pumps", 2)
    assert registry.resolve("pumps@challenger").title == "pumps/2"
    with pytest.raises(PromotionError, match="is the champion"):
        challenge("pumps/1")
    end_challenge("pumps")
    end_challenge("pumps")
    with pytest.raises(ModelReferenceError, match="no alias 'challenger'"):
        registry.resolve("pumps@challenger")
    with pytest.raises(ModelReferenceError, match="no model 'nobody'"):
        end_challenge("nobody")
