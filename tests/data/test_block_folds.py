"""Folds of a series: who is held out, who may train, and that no window sees both sides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.data.block_folds import BlockFolds, block_folds
from anomvae.errors import SettingError, TooFewRowsError

IntArray = npt.NDArray[np.int64]

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def series(lengths: list[int]) -> IntArray:
    return np.repeat(np.arange(len(lengths)) * 3 + 1, lengths)


def divided(lengths: list[int], n_blocks: int, gap: int) -> BlockFolds | None:
    try:
        return block_folds(series(lengths), n_blocks, gap)
    except TooFewRowsError:
        return None


def windows(segment: IntArray, length: int) -> list[IntArray]:
    """All windows that lie in one segment."""
    every = [np.arange(end - length + 1, end + 1) for end in range(length - 1, len(segment))]
    return [steps for steps in every if (segment[steps] == segment[steps[0]]).all()]


@settings(deadline=None)
@given(sizes, st.integers(2, 4), st.integers(1, 8))
def test_no_training_window_shares_a_step_with_one_that_covers_a_held_out_step(
    lengths: list[int], n_blocks: int, window: int
) -> None:
    folds = divided(lengths, n_blocks, window - 1)
    if folds is None:
        return
    for fold in range(n_blocks):
        held, may = folds.held_out(fold), folds.may_train(fold)
        seen = np.zeros(len(held), dtype=bool)
        for steps in windows(folds.segment, window):
            if may[steps].all():
                seen[steps] = True
        for steps in windows(folds.segment, window):
            assert not (held[steps].any() and seen[steps].any())


@given(sizes, st.integers(2, 4), st.integers(0, 8))
def test_only_steps_of_the_fold_and_those_within_the_gap_in_its_segment_do_not_train(
    lengths: list[int], n_blocks: int, gap: int
) -> None:
    folds = divided(lengths, n_blocks, gap)
    if folds is None:
        return
    places = np.arange(len(folds.fold))
    for fold in range(n_blocks):
        held = folds.held_out(fold)
        close = (abs(places[:, None] - places) <= gap) & (folds.segment[:, None] == folds.segment) & held
        assert (folds.may_train(fold) == ~close.any(axis=1)).all()


@given(sizes, st.integers(2, 4), st.integers(0, 8))
def test_every_fold_holds_steps_and_trains_on_steps_and_blocks_are_contiguous(
    lengths: list[int], n_blocks: int, gap: int
) -> None:
    folds = divided(lengths, n_blocks, gap)
    if folds is None:
        assert max(lengths) < n_blocks * max(1, 2 * gap)
        assert len(lengths) < n_blocks
        return
    assert set(folds.fold.tolist()) == set(range(n_blocks))
    assert all(folds.may_train(fold).any() for fold in range(n_blocks))
    for number in np.unique(folds.segment):
        own = folds.fold[folds.segment == number]
        assert (np.diff(own) >= 0).all()
        counts = np.bincount(own, minlength=n_blocks)
        assert counts.max() - counts.min() <= 1 or np.count_nonzero(counts) == 1


def test_steps_of_a_segment_may_lie_between_those_of_another() -> None:
    mixed = np.tile([0, 1], 30)
    apart, together = block_folds(np.repeat([0, 1], 30), 3, 4), block_folds(mixed, 3, 4)
    for number in (0, 1):
        for fold in range(3):
            expected = apart.may_train(fold)[number * 30 : number * 30 + 30]
            assert together.may_train(fold)[mixed == number].tolist() == expected.tolist()


def test_short_segments_stay_whole_and_balance_the_folds() -> None:
    folds = block_folds(series([9, 8, 7, 3, 2, 1]), 3, 5)
    assert [np.unique(folds.fold[folds.segment == number]).tolist() for number in np.unique(folds.segment)] == [
        [0],
        [1],
        [2],
        [2],
        [1],
        [0],
    ]
    assert np.bincount(folds.fold).tolist() == [10, 10, 10]
    assert (folds.may_train(0) == ~folds.held_out(0)).all()


def test_what_cannot_be_divided_is_refused_with_the_steps_it_takes() -> None:
    with pytest.raises(
        TooFewRowsError, match=r"39 steps, at most 39 .* into 4 folds that lie 5 steps apart: it takes a piece of 40"
    ) as caught:
        block_folds(series([39]), 4, 5)
    assert caught.value.rows_needed == 40
    block_folds(series([40]), 4, 5)
    with pytest.raises(TooFewRowsError, match="0 steps"):
        block_folds(series([]), 2, 1)


@pytest.mark.parametrize(("n_blocks", "gap"), [(1, 3), (0, 3), (3, -1)])
def test_fewer_than_two_folds_or_a_negative_gap_are_refused(n_blocks: int, gap: int) -> None:
    with pytest.raises(SettingError, match="fold"):
        block_folds(series([100]), n_blocks, gap)
