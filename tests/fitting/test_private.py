"""What a private bundle holds of its data, looked for in the bytes of all its files."""

from __future__ import annotations

import base64
import contextlib
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file

from anomvae.cli.models import _stored
from anomvae.data.encoding import EncodedRows, encode
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings
from anomvae.vae.mixture import PseudoRowPrior
from anomvae.vae.objective import exemplar_prior
from anomvae.vae.weights import from_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomvae.bundle import Bundle
    from anomvae.vae.model import TableVAE

    Doubles = npt.NDArray[np.float64]

ROWS = 700
FEW = 10
"""A value that so many rows hold is rare."""
LABELLED = 25
SECRET, RARE = "Ms-Eleanor-Whitcombe", "prototype-Zx81"
SPIKE, RARE_STEP, EARLIEST = 9173.4375, 4711.0, "2019-03-17"
CONTINUOUS = ("flow", "speed", "pressure")
SHARE_BY_CHANCE = 0.01


def table() -> pa.Table:
    """Numbers, whole numbers that repeat, categories, a flag and dates; of each something that few rows hold."""
    draw = np.random.default_rng(7)
    load = draw.normal(size=ROWS)
    flow = 731.7 + 96.3 * load + 11.9 * draw.normal(size=ROWS)
    flow[draw.choice(ROWS, 3, replace=False)] = SPIKE
    step = np.array([137.0, 211.0, 389.0, 523.0])[draw.integers(0, 4, ROWS)]
    step[draw.choice(ROWS, 4, replace=False)] = RARE_STEP
    speed = 2917.3 - 183.1 * load + 29.7 * draw.normal(size=ROWS)
    material = np.array(["steel", "brass"])[(load > 0).astype(int)].astype(object)
    material[draw.choice(ROWS, 3, replace=False)] = RARE
    material[draw.integers(ROWS)] = SECRET
    cooled = np.zeros(ROWS, dtype=bool)
    cooled[draw.choice(ROWS, 300, replace=False)] = True
    serviced = np.datetime64("2024-01-01") + draw.integers(0, 300, ROWS)
    serviced[draw.integers(ROWS)] = np.datetime64(EARLIEST)
    fault = np.zeros(ROWS, dtype=int)
    fault[:LABELLED] = 1
    flow[:LABELLED] += 1900.0
    return pa.table(
        {
            "flow": flow,
            "speed": speed,
            "step": step.astype(np.int64),
            "pressure": 57.9 + 6.1 * load + 0.7 * draw.normal(size=ROWS),
            "material": pa.array(material.tolist()),
            "cooled": cooled,
            "serviced": pa.array(serviced),
            "fault": fault,
        }
    )


def settings(*, private: bool) -> FitSettings:
    return FitSettings(
        private=private,
        effort="quick",
        alarm_rate=0.05,
        label="fault",
        columns={"serviced": "date"},
        training=TrainingSettings(max_steps=120),
    )


@dataclass(frozen=True)
class Fitted:
    """A bundle, its model, the encoded rows it was made of, and the bytes of its files with all they embed."""

    bundle: Bundle
    model: TableVAE
    rows: EncodedRows
    files: dict[str, bytes]

    @classmethod
    def of(cls, folder: Path, *, private: bool) -> Fitted:
        bundle = fit_bundle(table(), settings(private=private), folder / "bundle").bundle
        files = {path.name: path.read_bytes() for path in bundle.folder.iterdir()}
        model = from_files(files["weights.safetensors"], files["config.json"].decode())
        embedded = {
            f"{name}, part {at}": part for name, content in files.items() for at, part in enumerate(parts(content))
        }
        return cls(bundle, model, encode(table(), bundle.manifest.columns), {**files, **embedded})

    @property
    def raw(self) -> Doubles:
        """Numbers in raw units, shape ``(n, d)``."""
        return self.rows.numeric.astype(np.float64)

    @property
    def scaled(self) -> Doubles:
        """Numbers as the model sees them, shape ``(n, d)``."""
        return self.model.preparation.numbers(torch.from_numpy(self.rows.numeric))[0].numpy().astype(np.float64)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return Fitted.of(tmp_path_factory.mktemp("private"), private=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return Fitted.of(tmp_path_factory.mktemp("plain"), private=False)


def parts(content: bytes) -> Iterator[bytes]:
    """What a file embeds: base64 as in data URIs, and what zlib, gzip and zip have compressed."""
    for found in re.finditer(rb"[A-Za-z0-9+/]{80,}={0,2}", content):
        with contextlib.suppress(ValueError):
            yield base64.b64decode(found[0] + b"=" * (-len(found[0]) % 4))
    for start, wbits in [(m.start(), 15) for m in re.finditer(rb"\x78[\x01\x9c\xda]", content)] + [
        (m.start() + 10, -15) for m in re.finditer(rb"\x1f\x8b\x08", content)
    ]:
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj(wbits).decompress(content[start:], 2**24)


def words(content: bytes, size: int) -> Iterator[npt.NDArray[np.uint64]]:
    """A file as unsigned numbers of so many bytes, from each offset they may start at."""
    for offset in range(size):
        whole = (len(content) - offset) // size
        yield np.frombuffer(content, dtype=f"<u{size}", count=whole, offset=offset).astype(np.uint64)


def bits(values: Doubles, size: int) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(values, dtype=f"<f{size}").view(f"<u{size}").astype(np.uint64)


def neighbours(content: bytes, numbers: Doubles) -> int:
    """How many of the file's words are two neighbouring cells of one row, one after the other, in float32 or float64.

    Pairs that more than `FEW` rows hold are no row's secret.
    """
    found = 0
    for size in (4, 8):
        firsts, seconds = (bits(part, size).ravel() for part in (numbers[:, :-1], numbers[:, 1:]))
        pairs, times = np.unique(np.stack([firsts, seconds], axis=1), axis=0, return_counts=True)
        wanted = set(map(tuple, pairs[times <= FEW].tolist()))
        for word in words(content, size):
            near = np.flatnonzero(np.isin(word[:-1], firsts))
            found += sum((int(word[at]), int(word[at + 1])) in wanted for at in near)
    return found


def share_held(content: bytes, values: Doubles) -> float:
    """Share of the values that stand anywhere in the file, in float32 or float64."""
    held = np.zeros(len(values), dtype=bool)
    for size in (4, 8):
        patterns = bits(values, size)
        for word in words(content, size):
            held |= np.isin(patterns, word)
    return float(held.mean())


def texts(value: float) -> set[bytes]:
    """A number as text, whole and to five and six digits, rounded or cut off."""
    shortest = repr(float(np.float32(value)))
    return {text.encode() for text in (f"{value:.6g}", f"{value:.5g}", f"{value:,.2f}", shortest[:7], shortest)}


def secrets(fitted: Fitted) -> dict[str, set[bytes]]:
    """What few rows hold, as text, by what it is."""
    raw, names = fitted.raw, [column.name for column in fitted.bundle.manifest.numeric]
    rare = {
        "a rare category": {RARE.encode(), RARE[:9].encode(), SECRET.encode(), SECRET[:9].encode()},
        "the earliest date": {EARLIEST.encode(), EARLIEST[:7].encode()},
        "a rare value": texts(SPIKE),
        "a rare step": texts(RARE_STEP),
    }
    for name in CONTINUOUS:
        column = raw[:, names.index(name)]
        rare[f"the lowest {name}"], rare[f"the highest {name}"] = texts(float(column.min())), texts(float(column.max()))
    return rare


def traces(fitted: Fitted, files: dict[str, bytes]) -> list[str]:
    """All that files hold of what few rows hold, in words."""
    raw, names = fitted.raw, [column.name for column in fitted.bundle.manifest.numeric]
    rare, found = secrets(fitted), []
    singles = [SPIKE, RARE_STEP, *raw[:, [names.index(name) for name in CONTINUOUS]].max(axis=0)]
    for file, content in files.items():
        found += [f"{file}: {what}" for what, forms in rare.items() if any(form in content for form in forms)]
        found += [f"{file}: bytes of a rare value" for value in singles if share_held(content, np.array([value]))]
        found += [f"{file}: cells of a row" for rows in (raw, fitted.scaled) if neighbours(content, rows)]
        for name in CONTINUOUS:
            if share_held(content, np.unique(raw[:, names.index(name)])) > SHARE_BY_CHANCE:
                found.append(f"{file}: values of {name}")
    return found


def test_a_private_bundle_holds_no_row_no_rare_value_no_rare_category_and_no_extreme(private: Fitted) -> None:
    assert traces(private, private.files) == []


def test_the_same_search_finds_them_in_a_bundle_that_is_not_private(plain: Fitted) -> None:
    found = traces(plain, plain.files)
    everything = {trace.partition(": ")[2] for trace in found}
    assert everything >= {"a rare category", "a rare value", "a rare step", "the earliest date", "the highest speed"}
    assert everything >= {"bytes of a rare value"}
    files = {trace.partition(":")[0] for trace in found}
    assert files >= {"scorer.onnx", "weights.safetensors", "manifest.json", "report.html"}


def test_what_mlflow_keeps_of_a_private_bundle_tells_of_no_row_either(private: Fitted, tmp_path: Path) -> None:
    from anomvae.tracking.runs import log_bundle

    log_bundle(private.bundle, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert kept.keys() >= {"mlflow.db", "input_example.json", "schema.json", "MLmodel"}
    found = traces(private, {name: content for name, content in kept.items() if name not in private.files})
    assert [
        trace for trace in found if not trace.endswith(": a rare step")
    ] == []  # its four digits stand in ids and times


def test_the_search_finds_rows_however_they_are_laid_out(private: Fitted) -> None:
    raw, scaled = private.raw, private.scaled
    for rows in (raw[40:42], scaled[40:42]):
        for content in (rows.astype("<f4").tobytes(), rows.astype("<f8").tobytes()):
            assert neighbours(b"odd" + content + b"end", raw) or neighbours(b"odd" + content + b"end", scaled)
    column = b"x" + raw[:, 0].astype("<f4").tobytes()
    assert share_held(column, raw[:, 0]) == 1.0
    packed = b"<img src='data:;base64," + base64.b64encode(zlib.compress(column)) + b"'>"
    assert any(share_held(inner, raw[:, 0]) == 1.0 for part in parts(packed) for inner in parts(part))


def nearest(model: TableVAE, made: Doubles, scaled: Doubles) -> Doubles:
    """Largest difference of each made-up row from the training row nearest to it, scaled units."""
    gaps: Doubles = np.abs(made[:, None] - scaled[None]).max(axis=2).min(axis=1)
    return gaps


def test_rows_can_be_computed_from_exemplars_and_not_from_a_private_bundle(plain: Fitted, private: Fitted) -> None:
    with torch.no_grad():
        prior = exemplar_prior(plain.model)
        made = plain.model.decode(prior.stored_mean[None]).numeric[0] + prior.stored_residual
        assert np.mean(nearest(plain.model, made.numpy().astype(np.float64), plain.scaled) < 1e-4) > 0.99
        assert isinstance(private.model.prior, PseudoRowPrior)
        numbers = private.scaled.shape[1]
        for made in (
            private.model.decode(private.model.prior.stored_mean[None]).numeric[0],
            private.model.prior.pseudo_rows[:, :numbers],
        ):
            assert nearest(private.model, made.numpy().astype(np.float64), private.scaled).min() > 1e-3


def test_seen_values_that_a_private_bundle_stores_are_held_by_more_than_ten_rows(private: Fitted) -> None:
    stored = load_file(private.bundle.folder / "weights.safetensors")["novelty.search.keys1"]
    values = stored[np.isfinite(stored)]
    assert set(values.tolist()) >= {137.0, 211.0, 389.0, 523.0}
    assert all((private.raw == value).sum(axis=0).max() > FEW for value in values)


def test_what_is_said_of_a_private_bundle_is_true_of_it(private: Fitted, plain: Fitted) -> None:
    manifest = private.bundle.manifest
    assert manifest.exemplars == 0
    assert manifest.prior == "pseudo-rows"
    assert "none" in _stored(manifest)
    assert "No training row is in this bundle" in private.files["card.md"].decode()
    assert f"{plain.bundle.manifest.exemplars:,} are stored" in _stored(plain.bundle.manifest)
    assert "holds training data" in plain.files["card.md"].decode()
    report = private.files["report.html"].decode()
    assert "This table shows cells of the data" not in report
    assert "in the latent space" not in report  # a dot a row
    assert "This table shows cells of the data" in plain.files["report.html"].decode()


def test_a_private_detector_counts_dates_from_a_day_that_tells_of_no_row(private: Fitted, plain: Fitted) -> None:
    ours, theirs = (
        next(column for column in fitted.bundle.manifest.columns if column.name == "serviced")
        for fitted in (private, plain)
    )
    assert theirs.origin == f"{EARLIEST}T00:00:00"
    assert ours.origin is not None
    assert ours.mean is not None
    assert theirs.mean is not None
    shift = (np.datetime64(ours.origin) - np.datetime64(theirs.origin)) / np.timedelta64(1, "D")
    assert ours.mean + shift == pytest.approx(theirs.mean)
    assert ours.low == pytest.approx(0.0, abs=1.0)
