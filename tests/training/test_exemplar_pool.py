"""Exemplars cover the rows, each once, and no row is held against itself in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.training.exemplars import NEAREST, PER_ROW, ExemplarPool, cover, points_of
from anomvae.training.loop import train
from anomvae.training.settings import TrainingSettings
from anomvae.vae.objective import encode_exemplars
from anomvae.vae.preparation import Rows, StoredRows

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE
    from tests.training.conftest import MakeModel


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stored(model: TableVAE, n: int, seed: int = 0) -> StoredRows:
    """Rows about a line, some cells missing, some categories never seen."""
    draw = seeded(seed)
    cause = torch.randn(n, 1, generator=draw)
    numeric = torch.cat([cause, -cause, cause], dim=1) + 0.1 * torch.randn(n, 3, generator=draw)
    numeric[torch.rand(n, 3, generator=draw) < 0.1] = torch.nan
    codes = torch.randint(0, 4, (n, 1), generator=draw)
    return StoredRows(model.preparation, numeric, codes)


def everything(rows: StoredRows) -> Rows:
    return rows.take(torch.arange(len(rows.observed)))


@pytest.mark.parametrize("seed", range(5))
def test_small_clusters_far_apart_are_covered_where_a_random_sample_misses_them(seed: int) -> None:
    draw = seeded(seed)
    crowd = torch.randn(3000, 4, generator=draw)
    corners = 40.0 * torch.randn(12, 4, generator=draw).sign() * torch.linspace(1.0, 3.0, 12)[:, None]
    few = corners.repeat_interleave(2, dim=0) + 0.01 * torch.randn(24, 4, generator=draw)
    points = torch.cat([crowd, few])

    def reached(chosen: Tensor) -> int:
        return int((torch.cdist(corners, points[chosen]).amin(dim=1) < 1.0).sum())

    assert reached(cover(points, 60, seeded(seed))) == 12
    assert reached(torch.randperm(len(points), generator=draw)[:60]) < 6


@settings(max_examples=40)
@given(st.integers(1, 120), st.integers(1, 60), st.integers(1, 6), st.integers(0, 5))
def test_positions_are_ascending_unique_and_no_more_than_asked(n: int, most: int, width: int, seed: int) -> None:
    points = torch.randn(n, width, generator=seeded(seed))
    chosen = cover(points, most, seeded(seed))
    assert len(chosen) == min(n, most)
    assert chosen.dtype == torch.int64
    assert (chosen.diff() > 0).all()
    assert 0 <= int(chosen[0]) <= int(chosen[-1]) < n
    assert torch.equal(chosen, cover(points, most, seeded(seed)))


def test_another_seed_covers_with_other_points() -> None:
    points = torch.randn(500, 3, generator=seeded())
    assert not torch.equal(cover(points, 50, seeded(1)), cover(points, 50, seeded(2)))


def test_covering_leaves_the_points_and_the_global_random_state_alone() -> None:
    points = torch.randn(200, 3, generator=seeded())
    before, state = points.clone(), torch.get_rng_state()
    cover(points, 20, seeded())
    assert torch.equal(points, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("width", [1, 3, 30, 200])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_a_repeated_point_is_taken_once(width: int, scale: float) -> None:
    distinct = scale * torch.randn(60, width, generator=seeded(width))
    distinct[:, 0] = scale * torch.linspace(-2.0, 2.0, 60)  # none within rounding of another
    order = torch.randperm(300, generator=seeded(1))
    chosen = cover(distinct.repeat(5, 1)[order], 200, seeded(2))
    assert sorted((order[chosen] % 60).tolist()) == list(range(60))


def test_all_points_alike_are_covered_by_one() -> None:
    assert len(cover(torch.full((50, 3), 0.7), 10, seeded())) == 1


def test_no_more_points_than_asked_for_are_all_taken() -> None:
    assert cover(torch.zeros(4, 2), 4, seeded()).tolist() == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> TableVAE:
    return make_model(prior="exemplars")


@pytest.mark.parametrize("count", [2, 3, 9, 40, 1000])
def test_near_lists_hold_the_nearest_exemplars_and_never_the_row_itself(model: TableVAE, count: int) -> None:
    rows = stored(model, 150)
    pool = ExemplarPool(rows, count, seed=0)
    points = points_of(everything(rows)).double()
    m = len(pool.positions)
    assert m == min(count, 150)
    assert pool.near.shape == (150, min(NEAREST, m - 1))
    for i in range(150):
        named = pool.positions[pool.near[i]]
        assert i not in named.tolist()
        assert len(set(named.tolist())) == len(named)
        others = pool.positions[pool.positions != i]
        wanted = (points[others] - points[i]).norm(dim=1).sort().values[: len(named)]
        found = (points[named] - points[i]).norm(dim=1).sort().values
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=5e-3)  # as near, whichever of equals they are


def test_rows_in_many_parts_find_the_same_exemplars(model: TableVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored(model, 150)
    whole = ExemplarPool(rows, 20, seed=0)
    monkeypatch.setattr("anomvae.training.exemplars.CHUNK", 32)
    parts = ExemplarPool(rows, 20, seed=0)
    assert torch.equal(whole.positions, parts.positions)
    assert torch.equal(whole.near.sort(dim=1).values, parts.near.sort(dim=1).values)


@pytest.mark.parametrize("count", [2, 5, 1000])
def test_a_draw_holds_two_near_exemplars_of_every_row_and_says_which_are_the_row_itself(
    model: TableVAE, count: int
) -> None:
    rows = stored(model, 120)
    pool = ExemplarPool(rows, count, seed=0)
    batch = torch.tensor([5, 0, 119, 60, 61, int(pool.positions[0])])
    everyone, met = everything(rows), False
    for seed in range(40):
        drawn = pool.draw(batch, seeded(seed))
        assert len(drawn.rows.observed) == PER_ROW * len(batch)
        assert drawn.own.shape == (len(batch), PER_ROW * len(batch))
        assert drawn.own.dtype == torch.bool
        for i, position in enumerate(batch.tolist()):
            near = everyone.take(pool.positions[pool.near[position]])
            for e in range(PER_ROW * i, PER_ROW * (i + 1)):
                assert not drawn.own[i, e]
                assert any(
                    all(torch.equal(a[e], b[j]) for a, b in zip(drawn.rows, near, strict=True))
                    for j in range(len(near.x))
                )
            for e in torch.nonzero(drawn.own[i])[:, 0].tolist():
                met = True
                assert all(torch.equal(a[e], b[position]) for a, b in zip(drawn.rows, everyone, strict=True))
    assert met or count == 1000  # a row is the exemplar of a batch-mate somewhere in forty draws


def test_encoding_gives_every_exemplar_with_the_weights_as_they_are(model: TableVAE) -> None:
    rows = stored(model, 80)
    pool = ExemplarPool(rows, 20, seed=0)
    with torch.no_grad():
        found, wanted = pool.encode(model), encode_exemplars(model, everything(rows).take(pool.positions))
    assert found.onehot.shape == (20, 3)
    for left, right in ((found.posterior.mean, wanted.posterior.mean), (found.residual, wanted.residual)):
        torch.testing.assert_close(left, right)
    assert torch.equal(found.onehot, wanted.onehot)


def test_training_against_a_pool_repeats_to_the_last_bit_and_lowers_the_bound(make_model: MakeModel) -> None:
    states = []
    for _ in range(2):
        model = make_model(prior="exemplars", mask_rate=0.1)
        rows, validation = stored(model, 400), stored(model, 80, seed=1)
        pool = ExemplarPool(rows, 60, seed=0)
        torch.rand(17)  # the global generator plays no part
        history = train(
            model, rows, validation, TrainingSettings(max_steps=150, batch_rows=32, device="cpu"), pool=pool
        )
        assert history.best.validation_loss < history.checks[0].validation_loss - 0.5
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    fresh = make_model(prior="exemplars").state_dict()
    for name in ("prior.spread_logit", "prior.carry_logit", "prior.copy_logit", "likelihood.numeric.free_log_variance"):
        assert (states[0][name] - fresh[name]).abs().max() > 0.05


@pytest.mark.parametrize("count", [12, 1000])
def test_under_folds_every_row_keeps_the_nearest_of_each_fold_and_never_itself(model: TableVAE, count: int) -> None:
    rows = stored(model, 150)
    folds = torch.randperm(150, generator=seeded(4)) % 4
    pool = ExemplarPool(rows, count, seed=0, folds=folds)
    points = points_of(everything(rows)).double()
    kept = folds[pool.positions]
    assert kept.bincount().tolist() == ([3] * 4 if count == 12 else folds.bincount().tolist())
    assert pool.near.shape == (150, 8)
    assert torch.equal(kept[pool.near], torch.arange(4).repeat_interleave(2).expand(150, -1))
    for i in range(150):
        named = pool.positions[pool.near[i]]
        assert i not in named.tolist()
        for fold in range(4):
            others = pool.positions[(kept == fold) & (pool.positions != i)]
            wanted = (points[others] - points[i]).norm(dim=1).sort().values[:2]
            found = (points[named[2 * fold : 2 * fold + 2]] - points[i]).norm(dim=1).sort().values
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=5e-3)


def test_what_is_drawn_from_one_fold_says_nothing_of_another(model: TableVAE) -> None:
    """Rows of the other folds keep and draw the same exemplars of their folds, whatever one fold's rows hold."""
    rows, other = stored(model, 150), stored(model, 150)
    folds = torch.randperm(150, generator=seeded(4)) % 3
    other.x[folds == 1] = 0.5  # copies of one another, which a cover takes once
    pools = [ExemplarPool(each, 15, seed=0, folds=folds) for each in (rows, other)]
    batch = torch.nonzero(folds != 1)[:60, 0]
    drawn = [pool.draw(batch, seeded(7)).positions for pool in pools]
    outside = folds[drawn[0]] != 1
    assert torch.equal(outside, folds[drawn[1]] != 1)
    assert torch.equal(drawn[0][outside], drawn[1][outside])
    assert not torch.equal(drawn[0], drawn[1])
