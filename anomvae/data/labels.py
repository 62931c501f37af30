"""Which rows a label column calls anomalous."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import is_text, text_of
from anomvae.errors import SchemaError

NORMAL_WORDS = frozenset(
    [
        "0",
        "false",
        "f",
        "no",
        "n",
        "normal",
        "ok",
        "good",
        "benign",
        "healthy",
        "negative",
        "neg",
        "pass",
        "inlier",
        "none",
        "-",
    ]
)
ANOMALOUS_WORDS = frozenset(
    ["1", "true", "t", "yes", "y", "anomaly", "anomalous", "abnormal", "bad", "malignant", "positive", "pos", "fail", "failed",
     "failure", "fault", "faulty", "defect", "defective", "outlier", "attack", "fraud", "sick"]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Labels:
    """What a label column says, row by row.

    Attributes:
        anomalous: Shape ``(n,)``.
        unknown: Rows without a label: neither trained on nor evaluated.
    """

    anomalous: npt.NDArray[np.bool_]
    unknown: npt.NDArray[np.bool_]

    @property
    def normal(self) -> npt.NDArray[np.bool_]:
        """Rows labelled normal."""
        return ~self.anomalous & ~self.unknown


def read_labels(rows: pa.Table, label: str | None) -> Labels:
    """Reads the label column: 0/1, true/false, +1/-1 as scikit-learn has it, or words such as `normal` and `anomaly`.

    Args:
        rows: The table.
        label: The column's name; None: all rows are normal.

    Raises:
        SchemaError: There is no such column, it is empty, or its values do not say which rows are normal.
    """
    none = np.zeros(rows.num_rows, dtype=bool)
    if label is None:
        return Labels(none, none)
    if label not in rows.schema.names:
        raise SchemaError(f"--label names {label!r}, which is not a column")
    cells = rows.column(label)
    text = pc.utf8_lower(pc.utf8_trim_whitespace(text_of(cells)))
    text = pc.replace_substring_regex(text, r"^([+-]?\d+)\.0+$", r"\1")  # 1.0 in a text file is 1
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    unknown = np.asarray(pc.is_null(text))
    words = {word for word in pc.unique(text).to_pylist() if word is not None}
    if not words:
        raise SchemaError(f"the label column {label!r} is empty")
    normal = _normal_words(words, text=is_text(cells.type) or pa.types.is_dictionary(cells.type))
    if normal is None:
        raise SchemaError(
            f"the label column {label!r} does not say which rows are normal: it has {len(words):,} different values; "
            "use 0 and 1, true and false, or `normal` and anything else"
        )
    is_normal = np.asarray(pc.fill_null(pc.is_in(text, value_set=pa.array(sorted(normal), pa.string())), False))  # noqa: FBT003
    return Labels(~is_normal & ~unknown, unknown)


def _normal_words(words: set[str], *, text: bool) -> set[str] | None:
    """The values that mean normal, or None if that cannot be told."""
    if words <= {"1", "-1"}:  # scikit-learn: +1 inlier, -1 outlier
        return {"1"} if "-1" in words else set()
    normal = words & NORMAL_WORDS
    others = words - normal
    if not text:
        return normal if words <= {"0", "1"} or words <= {"false", "true"} else None
    if normal and len(normal) == 1:
        return normal
    return set() if not normal and others <= ANOMALOUS_WORDS else (normal if others <= ANOMALOUS_WORDS else None)
