"""Assets of a table that a detector of series has not met."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import codes_of, group_names

if TYPE_CHECKING:
    from anomvae.bundle import SeriesFacts


class Strangers(NamedTuple):
    """Assets that a detector has no scaling for.

    Attributes:
        assets: How many.
        rows: Theirs.
        column: That tells assets apart.
        of_assets: Assets in all.
        of_rows: Rows in all.
    """

    assets: int
    rows: int
    column: str
    of_assets: int
    of_rows: int

    @property
    def words(self) -> str | None:
        """What a user must know of them; None: there are none."""
        if not self.assets:
            return None
        told = (
            f"{self.assets:,} of the {self.of_assets:,} assets of {self.column!r} {'is' if self.assets == 1 else 'are'}"
        )
        if self.of_assets == 1:
            told = f"the one asset of {self.column!r} is"
        return (
            f"{told} not known to the model ({self.rows:,} of {self.of_rows:,} rows): such rows are scaled by all known assets "
            "together, which fits only where assets resemble each other; see whether the names are written as at the fit, else "
            "fit with these rows too"
        )


def find_strangers(rows: pa.Table, facts: SeriesFacts) -> Strangers:
    """Counts the assets of a table whose number, as :func:`~anomvae.data.series.asset_numbers` has it, is unknown.

    Args:
        rows: At least the asset's column, if the detector has one.
        facts: The detector's.
    """
    column = facts.asset_column
    if column is None or not rows.num_rows:
        return Strangers(0, 0, "", 0, rows.num_rows)
    cells = rows.column(column.name)
    if pa.types.is_dictionary(cells.type):
        cells = pc.cast(cells, cells.type.value_type)
    counted = pc.value_counts(cells)
    values, counts = counted.field("values"), counted.field("counts").to_numpy()
    names, _ = group_names(values)
    unknown = codes_of(values, column) == column.unknown_code
    strange = {name for name, is_unknown in zip(names, unknown.tolist(), strict=True) if is_unknown}
    return Strangers(len(strange), int(np.sum(counts[unknown])), column.name, len(set(names)), rows.num_rows)
