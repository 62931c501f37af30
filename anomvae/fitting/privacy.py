"""What a private fit leaves out of the facts about columns."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from anomvae.data.encoding import encode
from anomvae.fitting.settings import PRIVATE_LEAST

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from anomvae.bundle import Column

REACH = 3.0


def private_columns(columns: tuple[Column, ...], normal: pa.Table, train: npt.NDArray[np.int64]) -> tuple[Column, ...]:
    """Columns without what single rows hold.

    Extremes become mean +- 3 standard deviations, rare categories become unknown ones, and dates are counted from the
    lower of the new ends.

    Args:
        columns: Facts about the scored columns.
        normal: The normal rows.
        train: Numbers of the training rows among them.
    """
    codes = encode(normal.take(pa.array(train)), columns).categorical
    position = 0
    found = []
    for column in columns:
        if column.is_numeric:
            found.append(_without_extremes(column))
            continue
        held = [int((codes[:, position] == code).sum()) for code in range(len(column.categories))]
        position += 1
        kept = tuple(category for category, rows in zip(column.categories, held, strict=True) if rows > PRIVATE_LEAST)
        missing = None if column.missing_code is None else len(kept)
        found.append(replace(column, categories=kept, missing_code=missing))
    return tuple(found)


def _without_extremes(column: Column) -> Column:
    if column.mean is None or column.std is None:
        return column
    mean, reach, origin = column.mean, REACH * column.std, column.origin
    if origin is not None:  # the earliest of all dates
        start = dt.datetime.fromisoformat(origin)
        moved = max(math.floor(mean - reach), 1 - start.toordinal())  # there is no day before the first of year 1
        mean, origin = mean - moved, (start + dt.timedelta(days=moved)).isoformat()
    return replace(column, low=mean - reach, high=mean + reach, mean=mean, origin=origin)
