"""What `anomvae check --window` says: what a fit of a series would do with the data, and what looks wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.bundle.promise import rows_needed
from anomvae.cli.check import show_concerns
from anomvae.cli.console import escape, out, table
from anomvae.data.concerns import Concern
from anomvae.data.health import label_concerns, look_at_channels
from anomvae.data.modes import mode_concerns
from anomvae.data.schema import Schema
from anomvae.data.sequences import sequence_concerns, sequence_words
from anomvae.errors import CellError, SchemaError, TooFewRowsError

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.data.series import Sequences
    from anomvae.fitting.series_preparation import ReadRows
    from anomvae.fitting.settings import FitSettings

ORDER = ("problem", "warning", "info")


def check_series(data: Any, asked: dict[str, Any]) -> None:
    """Says which columns are channels, how the rows lie on steps, which of these train, and what looks wrong.

    Args:
        data: As of the command.
        asked: Settings of the fit, with a window.

    Raises:
        InputError: The data cannot be read, no column is a number, or the settings are wrong.
    """
    from anomvae.fitting.series_preparation import lay_out, parts_of, read_rows
    from anomvae.fitting.settings import settings_from

    settings = settings_from({}, asked)
    read = read_rows(data, settings)
    console, normal = out(), read.normal
    marked = f", {read.labelled:,} of them labelled anomalous" if settings.label else ""
    console.print(
        f"[bold]{escape(read.source.name)}[/bold]: {read.n_rows:,} rows, {normal.num_columns} columns{marked}"
    )
    kinds = {name: read.schema.kinds[name] for name in read.channels.kinds}
    console.print(table("channels", ("column", "as"), kinds.items()))
    if read.channels.left_out:
        left = [(column.name, column.reason) for column in read.channels.left_out]
        console.print(table("left out", ("column", "why"), left))
    concerns = [*label_concerns(normal, read.schema.kinds)]
    try:
        sequences = lay_out(read, settings)
    except (SchemaError, CellError) as error:
        show_concerns([_problem(error), *concerns])
        return
    part = parts_of(sequences)
    console.print(escape(sequence_words(sequences)), soft_wrap=True)
    console.print(_parts_words(sequences, part, settings), soft_wrap=True)
    concerns += [*_of_sequences(sequences, part, settings), *_of_columns(read, sequences, settings)]
    show_concerns(sorted(concerns, key=lambda concern: ORDER.index(concern.severity)))


def _problem(error: Exception) -> Concern:
    """What a fit would refuse the data for."""
    return Concern("problem", None, f"a fit refuses this: {error}")


def _steps(sequences: Sequences, part: npt.NDArray[np.int8]) -> tuple[int, int, int]:
    """Steps with a row that train, validate and calibrate."""
    from anomvae.fitting.series_preparation import CALIBRATION, TRAIN, VALIDATION

    train, validation, calibration = (
        int(((part == each) & (sequences.row >= 0)).sum()) for each in (TRAIN, VALIDATION, CALIBRATION)
    )
    return train, validation, calibration


def _parts_words(sequences: Sequences, part: npt.NDArray[np.int8], settings: FitSettings) -> str:
    from anomvae.fitting.series_preparation import trains_on_all

    train, validation, calibration = _steps(sequences, part)
    is_refitted = trains_on_all(settings, train, len(sequences.columns))
    anew = f"; the network that is kept then trains on all {train + validation + calibration:,}" if is_refitted else ""
    of = "" if len(sequences.assets) == 1 else " of each asset"
    return (
        f"the earliest steps{of} would train, {train:,} in all, {validation:,} decide when to stop, and the latest "
        f"{calibration:,} calibrate{anew}"
    )


def _of_sequences(sequences: Sequences, part: npt.NDArray[np.int8], settings: FitSettings) -> list[Concern]:
    """How the rows lie in time, and what modes they hold; if a fit refuses them, why."""
    from anomvae.fitting.series_preparation import CALIBRATION, TRAIN, refuse_too_short

    window, time, by = settings.window or 0, settings.time or "", settings.by
    found = sequence_concerns(sequences, window, time=time, asset=by, off=settings.off)
    try:
        refuse_too_short(sequences, part, settings)
    except TooFewRowsError as error:  # which says what a problem of the sequences would, and more
        return [_problem(error), *(concern for concern in found if concern.severity != "problem")]
    calibrating, least = _steps(sequences, part)[2], rows_needed(settings.budget.alarm_rate)
    if calibrating < least:
        said = f"{calibrating:,} steps that calibrate are too few for an alarm rate of {settings.budget.alarm_rate:.2%}"
        found.append(Concern("problem", None, f"{said}, which takes {least:,}; bring more, or bear more alarms."))
    return [*found, *mode_concerns(sequences, part == TRAIN, part == CALIBRATION, window, asset=by)]


def _of_columns(read: ReadRows, sequences: Sequences, settings: FitSettings) -> list[Concern]:
    """Dirt, stuck sensors and copies among the channels."""
    kinds = {name: read.schema.kinds[name] for name in read.channels.kinds}
    first = np.diff(sequences.asset_of_row[sequences.order], prepend=-1) != 0
    schema = Schema(kinds, read.channels.left_out)
    return look_at_channels(read.normal, schema, sequences.order, first, time=settings.time or "")
