"""Scores, verdicts and reasons as people, MLflow and bulk callers get them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from anomvae.scoring.exact import exact
from anomvae.serving.cells import layout_of
from anomvae.serving.exchange import ARROW_STREAM, JSON, Reply

if TYPE_CHECKING:
    from anomvae.data.encoding import EncodedRows
    from anomvae.scoring.reasons import Picks
    from anomvae.serving.exchange import Arrays
    from anomvae.serving.given import Given
    from anomvae.serving.model import ServedModel
    from anomvae.serving.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Answering:
    """How the answers to one request are written.

    Attributes:
        model: The model that answers.
        wishes: What the caller asked for.
        rows: The encoded rows.
        given: The rows as they came.
    """

    model: ServedModel
    wishes: Wishes
    rows: EncodedRows
    given: Given

    def as_asked(self, media_type: str) -> Any:
        """The function that writes an answer of a media type."""
        return self.arrow if media_type == ARROW_STREAM else self.json

    def json(self, arrays: Arrays) -> Reply:
        """The answers for people: carried columns as they came, then numbers, verdict and natural reasons."""
        reasons = (
            layout_of(self.model).writer(self.wishes.top).natural(self._picks(arrays), self.given)
            if self.wishes.top
            else [[] for _ in range(len(self.rows))]
        )
        content = {
            "model": self.model.name,
            "version": self.model.version,
            "alarm_rate": self.wishes.rate_in_force(self.model),
            "answers": self._records(arrays, reasons),
        }
        return Reply(as_json(content), JSON)

    def predictions(self, arrays: Arrays) -> Reply:
        """The answers as MLflow's server gives them: reasons as Arrow holds them, text where categories are about."""
        reasons = self._reasons(arrays).to_pylist() if self.wishes.top else [[] for _ in range(len(self.rows))]
        return Reply(as_json({"predictions": self._records(arrays, reasons)}), JSON)

    def arrow(self, arrays: Arrays) -> Reply:
        """The answers as an Arrow stream; no column of reasons where none are asked for."""
        columns = {name: self.given.column(name) for name in self._carried()}
        for name in self.model.answered:
            columns[name] = pa.array(exact(self.model.manifest, name, arrays[name]))
        if self.wishes.top:
            columns["reasons"] = self._reasons(arrays)
        told = {b"anomvae.model": self.model.name, b"anomvae.version": self.model.version}
        table = pa.table(columns, metadata=told)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return Reply(sink.getvalue().to_pybytes(), ARROW_STREAM)

    def _records(self, arrays: Arrays, reasons: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        columns = {name: self.given.cells(name) for name in self._carried()}
        for name in self.model.answered:
            columns[name] = exact(self.model.manifest, name, arrays[name]).tolist()
        names = (*columns, "reasons")
        return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), reasons, strict=True)]

    def _carried(self) -> list[str]:
        """Identifier, time and group columns that the rows have, in the manifest's order; answers of their names go before."""
        taken = {*self.model.answered, "reasons"}
        return [name for name in layout_of(self.model).carried if name not in taken and self.given.has(name)]

    def _picks(self, arrays: Arrays) -> Picks:
        return layout_of(self.model).writer(self.wishes.top).pick(self.rows, arrays)

    def _reasons(self, arrays: Arrays) -> pa.ListArray:
        return layout_of(self.model).writer(self.wishes.top).write([self._picks(arrays)], self.given)


def as_json(content: Any) -> bytes:
    """Content as JSON; a number that is not finite is null, dates and other cells of Arrow are text."""
    return orjson.dumps(content, default=str, option=orjson.OPT_PASSTHROUGH_DATETIME)
