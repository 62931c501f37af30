"""A challenger scores a sample of the champion's rows in its shadow; nobody waits for it, and nobody gets its answers."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anomvae.data.encoding import EncodedRows
from anomvae.errors import ColumnMismatchError
from anomvae.scoring.jobs import Answered, Job

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from anomvae.bundle import Column, Manifest
    from anomvae.observability import Metrics
    from anomvae.scoring.batcher import Batcher
    from anomvae.serving.exchange import Decoded
    from anomvae.serving.model import ServedModel
    from anomvae.serving.models import ModelTable

    Arrays = Mapping[str, npt.NDArray[np.generic]]

DEFAULT_SHARE = 0.1
TIMEOUT_S = 5.0


class Translation:
    """Turns rows encoded for one detector into rows encoded for another: other column order, categories, date origins, groups.

    Groups are known again by name. Where the target's are those of another column, nothing is known of them, and its pooled
    calibration judges all rows.

    Args:
        source: The detector the rows were encoded for.
        target: The one that shall score them.

    Raises:
        ColumnMismatchError: The target scores columns that the source does not, or as another kind.
    """

    def __init__(self, source: Manifest, target: Manifest) -> None:
        kinds = {column.name: column.kind for column in source.columns}
        missing = [column.name for column in target.columns if kinds.get(column.name) != column.kind]
        if missing:
            raise ColumnMismatchError(missing, [])
        numeric = {column.name: place for place, column in enumerate(source.numeric)}
        categorical = {column.name: place for place, column in enumerate(source.categorical)}
        self._numbers = [numeric[column.name] for column in target.numeric]
        self._shift = np.array(
            [_days_between(source.numeric[numeric[column.name]], column) for column in target.numeric], dtype=np.float32
        )
        self._codes = [
            (categorical[column.name], _codes(source.categorical[categorical[column.name]], column))
            for column in target.categorical
        ]
        self._groups = _group_numbers(source, target)

    def __call__(self, rows: EncodedRows) -> EncodedRows:
        """The same rows, encoded for the target."""
        codes = [table[rows.categorical[:, place]] for place, table in self._codes]
        categorical = np.stack(codes, axis=1) if codes else np.empty((len(rows), 0), dtype=np.int64)
        group = None
        if self._groups is not None and rows.group is not None:
            others = len(self._groups) - 1
            known = (rows.group >= 0) & (rows.group < others)
            group = self._groups[np.where(known, rows.group, others)]
        return EncodedRows(rows.numeric[:, self._numbers] + self._shift, categorical, group)


class Shadow:
    """Sends a sample of answered rows to the challenger and counts where its verdict differs.

    Args:
        models: Who is champion, and who its challenger.
        batcher: Runs the challenger's rows; they wait behind nobody's and hold up at most one call.
        metrics: Counts.
        share: Of the requests, 0 to 1.
    """

    def __init__(self, models: ModelTable, batcher: Batcher, metrics: Metrics, share: float = DEFAULT_SHARE) -> None:
        self.share = share
        self._models, self._batcher, self._metrics = models, batcher, metrics
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._translations: dict[str, tuple[tuple[int, int], Translation]] = {}

    def prepare(self, champion: ServedModel, challenger: ServedModel) -> None:
        """Makes ready to score a champion's rows with a challenger.

        Raises:
            ColumnMismatchError: The challenger scores columns that the champion's callers do not send.
        """
        translation = Translation(champion.manifest, challenger.manifest)
        self._translations[champion.name] = (id(champion), id(challenger)), translation

    def look(self, model: ServedModel, decoded: Decoded, answers: Arrays) -> None:
        """Perhaps sends a request's rows to the challenger, a call's worth at most; returns at once."""
        challenger = self._models.challenger(model.name)
        if challenger is None or "alarm" not in answers or not len(decoded.rows):
            return
        due = self._due.get(model.name, 0.0) + self.share
        self._due[model.name] = due % 1.0
        if due < 1.0:
            return
        n = min(len(decoded.rows), challenger.session.chunk_rows)
        pair, translation = self._translations.get(model.name, (None, None))
        if translation is None or pair != (id(model), id(challenger)) or model.name in self._busy:
            self._metrics.shadow_dropped(model.name, n)
            return
        verdicts = np.asarray(answers["alarm"][:n])
        try:
            rows = translation(decoded.rows.take(slice(0, n)))
            deadline = time.monotonic() + TIMEOUT_S
            job = Job(
                challenger.session, model.name, rows, ("alarm",), decoded.alarm_rate, deadline, quiet=True, max_rows=n
            )
            future = self._batcher.submit(job)
        except Exception:  # noqa: BLE001  whatever it is, the caller has its answer
            self._metrics.shadow_dropped(model.name, n)
            return
        self._busy.add(model.name)
        future.add_done_callback(lambda done: self._compare(model.name, verdicts, done))

    def _compare(self, name: str, verdicts: npt.NDArray[np.generic], done: asyncio.Future[Answered]) -> None:
        self._busy.discard(name)
        found = None if done.cancelled() or done.exception() is not None else done.result().arrays.get("alarm")
        if found is None or found.shape != verdicts.shape:
            self._metrics.shadow_dropped(name, len(verdicts))
            return
        self._metrics.shadow(name, len(verdicts), int((found != verdicts).sum()))


def _days_between(source: Column, target: Column) -> float:
    """What to add to a date's days since the source's origin to get those since the target's."""
    if source.origin is None or target.origin is None:
        return 0.0
    return (
        dt.datetime.fromisoformat(source.origin) - dt.datetime.fromisoformat(target.origin)
    ).total_seconds() / 86_400


def _group_numbers(source: Manifest, target: Manifest) -> npt.NDArray[np.int64] | None:
    """Number of a group in the target by that in the source, groups without a number last; None: none can be known."""
    here, there = source.calibration.group_column, target.calibration.group_column
    return None if here is None or there is None or here.name != there.name else _codes(here, there)


def _codes(source: Column, target: Column) -> npt.NDArray[np.int64]:
    """Code in the target by code in the source."""
    code = {word: place for place, word in enumerate(target.categories)}
    table = [code.get(word, target.unknown_code) for word in source.categories]
    if source.missing_code is not None:
        table.append(target.unknown_code if target.missing_code is None else target.missing_code)
    return np.array([*table, target.unknown_code], dtype=np.int64)
