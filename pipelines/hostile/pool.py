"""Rows that are asked about, with what each version of the model says of them, known beforehand."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.bundle.folder import MANIFEST
from anomvae.data.encoding import encode
from anomvae.scoring import Scorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pyarrow as pa

    from anomvae.bundle import Bundle
    from anomvae.data.encoding import EncodedRows

OUTPUTS = ("score", "p_value", "alarm")
VERSION_LETTERS = 12


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the model and its answers.

    Attributes:
        name: The version as the daemon names it.
        encoded: The rows of the pool as its graph takes them.
        arrays: The graph's own outputs.
        scores: As people, Arrow and MLflow get them.
        alarms: Verdicts.
    """

    name: str
    encoded: EncodedRows
    arrays: dict[str, npt.NDArray[Any]]
    scores: npt.NDArray[np.float64]
    alarms: npt.NDArray[np.bool_]


def version_of(bundle: Bundle, table: pa.Table) -> Version:
    """What a bundle says of rows, computed without the daemon.

    Args:
        bundle: The bundle.
        table: The rows.
    """
    digest = hashlib.sha256((bundle.folder / MANIFEST).read_bytes()).hexdigest()
    scorer = Scorer(bundle)
    encoded = encode(table, bundle.manifest.columns)
    answers = scorer.score(table, top=0)
    return Version(
        digest[:VERSION_LETTERS],
        encoded,
        dict(scorer.answers(encoded, OUTPUTS)),
        answers["score"].to_numpy(),
        answers["alarm"].to_numpy(zero_copy_only=False),
    )


class Pool:
    """Rows and their answers by version.

    Args:
        table: The rows.
        bundles: The versions.

    Raises:
        ValueError: The versions cannot be told from one another by their answers.
    """

    def __init__(self, table: pa.Table, bundles: Sequence[Bundle]) -> None:
        self.table = table
        self.records: list[dict[str, Any]] = table.to_pylist()
        for record in self.records:
            record["oiled"] = record["oiled"].isoformat()
        self.versions = {version.name: version for version in (version_of(bundle, table) for bundle in bundles)}
        first, *others = self.versions.values()
        if not others or any((first.scores == other.scores).any() for other in others):
            raise ValueError("two versions give a row the same score; fit them with other seeds")
        for other in others:
            numbers = np.array_equal(first.encoded.numeric, other.encoded.numeric, equal_nan=True)
            if not numbers or not np.array_equal(first.encoded.categorical, other.encoded.categorical):
                raise ValueError("two versions encode rows differently; callers who send tensors could not know how")

    def __len__(self) -> int:
        return len(self.records)

    def people_are_right(self, rows: Sequence[int], scores: Any, alarms: Any, named: str | None) -> bool:
        """Whether all of one answer is what one version says, and that the one it names.

        Args:
            rows: Asked about.
            scores: Answered, as double precision.
            alarms: Answered.
            named: Version that the answer names; None: it names none.
        """
        versions = self.versions.values() if named is None else filter(None, [self.versions.get(named)])
        return any(
            np.array_equal(version.scores[rows], scores) and np.array_equal(version.alarms[rows], alarms)
            for version in versions
        )

    def tensors_are_right(self, rows: Sequence[int], found: dict[str, Any], named: str) -> bool:
        """The same of the graph's outputs.

        Args:
            rows: Asked about.
            found: Answered, by name.
            named: Version that the answer names.
        """
        version = self.versions.get(named)
        return version is not None and all(np.array_equal(version.arrays[name][rows], found[name]) for name in OUTPUTS)


@dataclass(slots=True)
class Tally:
    """What became of all requests.

    Attributes:
        requests: By kind.
        rows: Answered rightly.
        wrong: Answers that were not the version's own.
        lost: Requests without an answer.
        failed: Answers with a status that should not be.
        turned_away: Calls that gRPC cancelled at the door after the daemon was told to stop; no handler saw them.
        told: Whether the daemon has been told to stop.
    """

    requests: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    turned_away: int = 0
    told: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, kind: str, rows: int, *, right: bool, named: str | None) -> None:
        """Notes an answer."""
        with self._lock:
            self.requests[kind] += 1
            self.rows += rows
            if not right:
                self.wrong.append(f"{kind}: {rows} rows, version {named}")

    def counted(self, kind: str, status: int, expected: Sequence[int]) -> None:
        """Notes a request that meant no good; its status must be one of those expected."""
        with self._lock:
            self.requests[kind] += 1
            if status not in expected:
                self.failed.append(f"{kind}: status {status}")

    def missed(self, kind: str, what: str) -> None:
        """Notes a request without an answer."""
        with self._lock:
            self.lost.append(f"{kind}: {what}")
