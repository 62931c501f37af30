"""Novelty against a plain count of values and pairs, row by row."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import warnings
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from anomvae.vae.layout import NO_CODE, Layout
from anomvae.vae.novelty import Novelty, NoveltySpec
from anomvae.vae.novelty_tables import cuckoo, exact, knots_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Table = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

CARDS = (4, 3)


def layout(d: int = 5, cards: tuple[int, ...] = CARDS) -> Layout:
    """Infinities of the second column are missing; the first category has missing cells."""
    return Layout(
        offset=(0.0,) * d,
        scale=(1.0,) * d,
        infinite_is_missing=tuple(j == 1 for j in range(d)),
        cardinalities=cards,
        missing_codes=tuple(size if j == 0 else NO_CODE for j, size in enumerate(cards)),
        unknown_mass=0.1,
    )


def table(n: int, seed: int = 0) -> Table:
    """Columns that repeat, and repeat together; one that is continuous; missing, infinite and unknown cells."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 12, n)
    tied = (kind * 0.3 + rng.integers(0, 2, n), kind * 7.0 - 20.0, kind % 5, kind // 2 - 1e6)
    numeric = np.stack([*tied, rng.normal(size=n)], axis=1)
    loose = rng.random(numeric.shape) < 0.03
    numeric[loose] = rng.normal(size=np.count_nonzero(loose)).round(2)
    numeric[rng.random(numeric.shape) < 0.03] = np.nan
    numeric[rng.random(numeric.shape) < 0.01] = np.inf
    numeric[rng.random(numeric.shape) < 0.01] = -0.0
    codes = np.stack([kind % CARDS[0], kind % CARDS[1]], axis=1)
    codes[rng.random(n) < 0.05, 0] = CARDS[0]
    codes[rng.random(codes.shape) < 0.02] = CARDS[0] + 2
    codes[rng.random(codes.shape) < 0.02] = -1
    return numeric.astype(np.float32), codes.astype(np.int64)


def tensors(rows: Table) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows[0]), torch.from_numpy(rows[1])


def cell(shape: Layout, rows: Table, i: int, j: int) -> float | None:
    """A cell's value, NaN if it is a category never seen, None if it is missing."""
    if j < shape.d:
        value = float(rows[0][i, j])
        return None if math.isnan(value) or (math.isinf(value) and shape.infinite_is_missing[j]) else value
    code = int(rows[1][i, j - shape.d])
    if code == shape.missing_codes[j - shape.d]:
        return None
    return float(code) if 0 <= code < shape.cardinalities[j - shape.d] else math.nan


def unseen(
    shape: Layout, train: Table, rows: Table, group: tuple[int, ...], others: int, own: bool
) -> list[bool | None]:
    """Whether fewer than `others` training rows (but for the row itself) hold a row's cells; None where one is missing."""

    def key(table: Table, i: int) -> tuple[float, ...] | None:
        cells = [cell(shape, table, i, j) for j in group]
        return None if None in cells else tuple(value for value in cells if value is not None)

    def known(found: tuple[float, ...] | None) -> bool:
        return found is not None and not any(math.isnan(value) for value in found)

    keys = [key(train, i) for i in range(len(train[0]))]
    counts = Counter(found for found in keys if known(found))
    return [
        None if found is None else not known(found) or counts[found] - own < others
        for found in (key(rows, i) for i in range(len(rows[0])))
    ]


def log_odds(flags: list[bool | None]) -> float:
    there = [flag for flag in flags if flag is not None]
    share = (there.count(False) + 1) / (len(there) + 2)
    return math.log(share / (1 - share))


def survival(totals: npt.NDArray[np.float64], total: float) -> float:
    """Nats by the definition, on a total that training has, or above all of them."""
    return -math.log((1 + int((totals >= total).sum())) / (len(totals) + 1)) if total else 0.0


def part(  # noqa: PLR0913
    model: Novelty,
    train: Table,
    rows: Table,
    groups: list[tuple[int, ...]],
    weights: list[float],
    others: int,
    *,
    own: bool,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Totals of training and of rows, and each column's share of a total, for values or for pairs."""
    shape = model.layout
    loo = np.zeros(len(train[0]))
    total, share = np.zeros(len(rows[0])), np.zeros((len(rows[0]), shape.d + shape.c))
    for group, weight in zip(groups, weights, strict=True):
        loo += weight * np.array([flag is True for flag in unseen(shape, train, train, group, others, own=True)])
        added = weight * np.array([flag is True for flag in unseen(shape, train, rows, group, others, own=own)])
        total += added
        for j in group:
            share[:, j] += added / len(group)
    return loo, total, share


def check(model: Novelty, train: Table, rows: Table, others: int, *, own: bool) -> None:
    """Compares the answers for rows with the definition, where a total is one of training's or above all."""
    values = [(j,) for j in model.spec.columns]
    pairs = list(zip(model.spec.first, model.spec.second, strict=True))
    expected, exactly = np.zeros((len(rows[0]), model.layout.d + model.layout.c)), np.ones(len(rows[0]), dtype=bool)
    for groups, weight in ((values, model.weight), (pairs, model.pair_weight)):
        loo, total, share = part(model, train, rows, list(groups), weight[0].double().tolist(), others, own=own)
        nats = np.array([survival(loo, t) for t in total])
        step = exact(weight[0].double().numpy())[1]
        nats += 0.1 * np.maximum(total - loo.max() - step, 0.0)
        exactly &= np.isin(total, np.append(loo, 0.0)) | (total > loo.max())
        expected += share * (nats / np.where(total > 0, total, 1.0))[:, None]
    with torch.no_grad():
        answers = model(*tensors(rows), own=own).numpy()
    assert exactly.mean() > 0.3
    np.testing.assert_allclose(answers[exactly], expected[exactly], rtol=1e-4, atol=1e-4)
    assert (answers >= 0.0).all()


@pytest.mark.parametrize("least", [1, 3])
def test_equals_a_plain_count(least: int) -> None:
    train, rows = table(400), table(300, seed=1)
    model = Novelty.learn(layout(), *train, least=least)
    others = 1 if least == 1 else least + 1
    assert model.spec.columns == (0, 1, 2, 3)
    assert model.spec.first
    check(model, train, rows, others, own=False)
    check(model, train, train, others, own=True)


def test_weighs_and_keeps_what_the_definition_says() -> None:
    train = table(400)
    model = Novelty.learn(layout(), *train)
    odds = [log_odds(unseen(layout(), train, train, (j,), 1, own=True)) for j in range(5)]
    assert [j for j in range(5) if odds[j] >= 0] == list(model.spec.columns)
    np.testing.assert_allclose(model.weight[0], odds[:4], atol=2.0**-10)
    pairs = list(zip(model.spec.first, model.spec.second, strict=True))
    for pair, weight in zip(pairs, model.pair_weight[0].tolist(), strict=True):
        assert weight == pytest.approx(log_odds(unseen(layout(), train, train, pair, 1, own=True)), abs=2.0**-10)
    left_out = set(itertools.combinations([0, 1, 2, 3, 5, 6], 2)) - set(pairs)
    assert (0, 1) in pairs
    assert len(pairs) + len(left_out) == 15


def test_own_rows_are_seen_as_if_learnt_without_them() -> None:
    train = table(250)
    model = Novelty.learn(layout(), *train)
    compared = 0
    with torch.no_grad():
        own = model(*tensors(train), own=True) > 0
        for i in range(0, 250, 7):
            rest = (np.delete(train[0], i, 0), np.delete(train[1], i, 0))
            without = Novelty.learn(layout(), *rest)
            if (without.spec.columns, set(zip(without.spec.first, without.spec.second, strict=True))) != (
                model.spec.columns,
                set(zip(model.spec.first, model.spec.second, strict=True)),
            ):
                continue
            row = tensors((train[0][i : i + 1], train[1][i : i + 1]))
            assert torch.equal(without(*row)[0] > 0, own[i])
            compared += 1
    assert compared > 20
    assert own.any()


@pytest.mark.parametrize("case", ["mixed", "numbers", "categories", "continuous", "many"])
def test_the_graph_answers_the_same(case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    ort = pytest.importorskip("onnxruntime")
    shape, train, rows = _case(case)
    model = Novelty.learn(shape, *train)
    assert model.is_empty == (case == "continuous")
    session = ort.InferenceSession(_graph(model), providers=["CPUExecutionProvider"])
    named: dict[str, npt.NDArray[Any]] = {"numeric": rows[0], "categorical": rows[1]}
    feed: dict[str, npt.NDArray[Any]] = {i.name: named[i.name] for i in session.get_inputs()}
    for n in (1, 5, 300):
        answer = session.run(None, {name: values[:n] for name, values in feed.items()})[0]
        with torch.no_grad():
            expected = model(*tensors((rows[0][:n], rows[1][:n]))).numpy()
        np.testing.assert_allclose(answer, expected, rtol=1e-6, atol=1e-6)
        for i in range(0, n, 17):
            alone = session.run(None, {name: values[i : i + 1] for name, values in feed.items()})[0]
            np.testing.assert_array_equal(alone[0], answer[i])
    assert (answer > 0).any() == (case != "continuous")


def _case(case: str) -> tuple[Layout, Table, Table]:
    train, rows = table(400), table(300, seed=2)
    rows[0][3:6, 2:] = [[np.inf, -np.inf, np.nan], [3e38, -3e38, 1e-45], [np.nan, np.nan, np.nan]]
    if case == "numbers":
        none = np.zeros((400, 0), dtype=np.int64)
        return layout(5, ()), (train[0], none), (rows[0], none[:300])
    if case == "categories":
        codes = np.random.default_rng(0).integers(0, 40, (400, 1)) + np.array([[0, 1]])
        strange = np.random.default_rng(1).integers(-1, 45, (300, 2))
        no_numbers = np.zeros((400, 0), dtype=np.float32)
        return layout(0, (41, 41)), (no_numbers, codes), (no_numbers[:300], strange)
    if case == "continuous":
        made = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
        none = np.zeros((400, 0), dtype=np.int64)
        return layout(5, ()), (made, none), (rows[0], none[:300])
    if case == "many":  # more values than two levels of a search hold
        kind = np.random.default_rng(0).integers(0, 3000, 6000)
        made = np.stack([kind * 1e-3, kind * 1e30 - 1e33, -1.0 * kind], axis=1).astype(np.float32)
        none = np.zeros((6000, 0), dtype=np.int64)
        tests = made[:300].copy()
        tests[::3, 1], tests[1::3, 2] = tests[5, 1], 0.5
        return layout(3, ()), (made, none), (tests, none[:300])
    return layout(), train, rows


class _WithRows(nn.Module):
    def __init__(self, model: Novelty, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, rows: list[Tensor]) -> Tensor:
        given_rows = dict(zip(self.names, rows, strict=True))
        numeric = given_rows.get("numeric", torch.zeros_like(rows[0][:, :0], dtype=torch.float32))
        categorical = given_rows.get("categorical", torch.zeros_like(rows[0][:, :0], dtype=torch.int64))
        answer: Tensor = self.model(numeric, categorical)
        return answer


def _graph(model: Novelty) -> bytes:
    example = {
        "numeric": torch.zeros(3, model.layout.d),
        "categorical": torch.zeros(3, model.layout.c, dtype=torch.int64),
    }
    names = [name for name, rows in example.items() if rows.shape[1]]
    n = torch.export.Dim("n")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _WithRows(model, names).eval(),
            ([example[name] for name in names],),
            dynamo=True,
            input_names=names,
            dynamic_shapes=([{0: n} for _ in names],),
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    serialised: bytes = program.model_proto.SerializeToString()
    return serialised


def test_many_values_are_found() -> None:
    shape, train, rows = _case("many")
    model = Novelty.learn(shape, *train)
    assert len(model.search.levels) == 3
    assert len(model.spec.first) == 3
    check(model, train, rows, 1, own=False)


def test_is_saved_as_spec_and_weights() -> None:
    train, rows = table(400), tensors(table(200, seed=3))
    model = Novelty.learn(layout(), *train)
    spec = NoveltySpec(**json.loads(json.dumps(asdict(model.spec))))
    assert spec == model.spec
    loaded = Novelty(layout(), spec)
    loaded.load_state_dict(model.state_dict())
    for own in (False, True):
        assert torch.equal(loaded(*rows, own=own), model(*rows, own=own))


def test_stores_nothing_rare() -> None:
    train = table(400)
    model = Novelty.learn(layout(), *train, least=10)
    stored = torch.cat([getattr(model.search, name).flatten() for name in model.search.keys])
    for j in range(5):
        values, counts = np.unique(train[0][:, j], return_counts=True)
        rare = values[(counts <= 10) & np.isfinite(values)]
        common = [c for c in range(5) if c != j and c in model.spec.columns]
        elsewhere = np.concatenate([train[0][:, c] for c in common])
        assert not np.isin(rare[~np.isin(rare, elsewhere)], stored.numpy()).any()
    assert int((model.pair_keys >= 0).sum()) > 0
    seen = sum(
        sum(times > 10 for times in _pair_counts(train, pair).values())
        for pair in zip(model.spec.first, model.spec.second, strict=True)
    )
    assert int((model.pair_keys >= 0).sum()) == seen


def _pair_counts(train: Table, pair: tuple[int, ...]) -> Counter[tuple[float | None, ...]]:
    cells = (tuple(cell(layout(), train, i, j) for j in pair) for i in range(len(train[0])))
    return Counter(found for found in cells if None not in found and not any(math.isnan(v or 0.0) for v in found))


def test_missing_cells_add_nothing() -> None:
    train = table(400)
    model = Novelty.learn(layout(), *train)
    numeric = torch.full((2, 5), torch.nan)
    numeric[1, 1] = -torch.inf  # counts as missing there
    codes = torch.tensor([[CARDS[0], 0], [CARDS[0], 1]])
    assert not model(numeric, codes).any()
    numeric[0, 2] = 123.0
    answer = model(numeric, codes)
    assert answer[0, 2] > 1.0
    assert not answer[0, [0, 1, 3, 4, 5]].any()
    assert not answer[1].any()


def test_zero_has_no_sign() -> None:
    numeric = np.tile(np.array([[0.0], [1.0]], dtype=np.float32), (50, 1))
    model = Novelty.learn(layout(1, ()), numeric, np.zeros((100, 0), dtype=np.int64))
    answer = model(torch.tensor([[-0.0], [1.0], [2.0]]), torch.zeros(3, 0, dtype=torch.int64))
    assert (answer[:, 0] > 0).tolist() == [False, False, True]
    assert answer[2, 0] == pytest.approx(math.log(101), abs=0.1 * float(model.weight[0, 0]) + 1e-3)


def test_a_row_alone_and_in_a_batch_have_the_same_bits() -> None:
    train, rows = table(400), tensors(table(100, seed=4))
    model = Novelty.learn(layout(), *train)
    together = model(*rows)
    for i in range(100):
        assert torch.equal(model(rows[0][i : i + 1], rows[1][i : i + 1])[0], together[i])


def test_learning_again_is_the_same() -> None:
    one, other = (Novelty.learn(layout(), *table(400), seed=5) for _ in range(2))
    assert one.spec == other.spec
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_wide_tables_keep_few_pairs() -> None:
    rng = np.random.default_rng(0)
    numeric = (rng.integers(0, 30, (300, 1)) + np.zeros((1, 40))).astype(np.float32)
    model = Novelty.learn(layout(40, ()), numeric, np.zeros((300, 0), dtype=np.int64))
    assert len(model.spec.columns) == 40
    assert len(model.spec.first) == 32
    assert len({*model.spec.first, *model.spec.second}) <= 24


def test_no_rows_no_answers() -> None:
    model = Novelty.learn(layout(), *table(400))
    assert model(torch.zeros(0, 5), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 7)


@given(st.lists(st.integers(0, 2**62), unique=True, min_size=1, max_size=300))
def test_every_code_has_its_place(codes: list[int]) -> None:
    keys = np.array(codes, dtype=np.int64)
    sizes, at = cuckoo(keys)
    assert len(set(at.tolist())) == len(codes)
    assert ((at == keys % sizes[0]) | (at == sizes[0] + keys % sizes[1])).all()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=400))
def test_a_line_through_totals_rises(totals: list[int]) -> None:
    line = knots_of(np.array(totals) / 1024.0, 1 / 1024.0)
    assert len(line) <= 64
    assert line[0, :2].tolist() == [0.0, 0.0]
    assert (np.diff(line[:, 0]) > 0).all()
    assert (np.diff(line[:, 1]) >= 0).all()
    assert line[-1, 1] == pytest.approx(math.log(len(totals) + 1))
