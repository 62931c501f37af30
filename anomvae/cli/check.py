"""`anomvae check`: what a fit would do with the data, and what looks wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomvae.cli.console import escape, out, table
from anomvae.cli.options import Data, Every, Label, Off, Window
from anomvae.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anomvae.data.concerns import Concern

COLOURS = {"problem": "red", "warning": "yellow", "info": "cyan"}


def check(
    data: Data,
    alarm_rate: Annotated[float, typer.Option("--alarm-rate", help="Share of normal rows that may alarm.")] = 0.01,
    label: Label = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Column to leave out; repeat it for more.", show_default=False)
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="Column that orders the rows.", show_default=False)] = None,
    by: Annotated[str | None, typer.Option("--by", help="Column that groups the rows.", show_default=False)] = None,
    window: Window = None,
    every: Every = None,
    off: Off = None,
) -> None:
    """Say what fit would do with the data and what looks wrong; fits and writes nothing."""
    from anomvae.calibration.conformal import check_alarm_rate

    check_alarm_rate(alarm_rate)
    if window is None:
        for name, stated in (("every", every), ("off", off)):
            if stated is not None:
                raise SettingError(f"{name} belongs to series: state --window too, or leave --{name} out")
        _check_rows(data, alarm_rate, label, drop, time, by)
        return
    try:
        from anomvae.cli.check_series import check_series
    except ImportError as error:
        raise MissingExtraError("`anomvae check --window`", "train") from error
    asked = {"alarm_rate": alarm_rate, "label": label, "drop": tuple(drop or ()), "time": time, "by": by}
    check_series(data, {**asked, "window": window, "every": every, "off": off})


def show_concerns(concerns: Iterable[Concern]) -> None:
    """Prints concerns one by one, or that there are none."""
    console, none = out(), True
    for concern in concerns:
        colour, none = COLOURS[concern.severity], False
        console.print(f"[{colour}]{concern.severity}[/{colour}]: {escape(concern.message)}", soft_wrap=True)
    if none:
        console.print("nothing looks wrong")


def _check_rows(
    data: Any, alarm_rate: float, label: str | None, drop: list[str] | None, time: str | None, by: str | None
) -> None:
    import numpy as np
    import pyarrow as pa

    from anomvae.data.health import look_over
    from anomvae.data.labels import read_labels
    from anomvae.data.reading import open_rows
    from anomvae.data.schema import SchemaRules, check_names, infer_schema
    from anomvae.data.splits import calibration_method, part_sizes
    from anomvae.errors import DataFileError, TooFewRowsError

    rules = SchemaRules(drop=tuple(drop or ()), label=label, time=time, by=by)
    source = open_rows(data)
    check_names(source.schema.names, rules)
    rows = source.table()
    if rows.num_rows == 0:
        raise DataFileError(f"{source.name} has no rows")
    labels = read_labels(rows, label)
    normal = rows.take(pa.array(np.flatnonzero(labels.normal))) if label else rows
    schema = infer_schema(normal, rules)
    console = out()
    marked = f", {int(labels.anomalous.sum()):,} of them labelled anomalous" if label else ""
    console.print(f"[bold]{escape(source.name)}[/bold]: {rows.num_rows:,} rows, {rows.num_columns} columns{marked}")
    console.print(table("fit would score", ("column", "as"), schema.kinds.items()))
    if schema.left_out:
        console.print(table("and leave out", ("column", "why"), [(c.name, c.reason) for c in schema.left_out]))
    try:
        method = calibration_method("auto", normal.num_rows, time)
        train, validation, calibration = part_sizes(normal.num_rows, alarm_rate, method)
    except TooFewRowsError as error:
        console.print(f"[red]problem[/red]: {escape(error)}", soft_wrap=True)
    else:
        console.print(
            f"{train:,} rows would train, and all of them calibrate, each scored by a network that has not seen it"
            if method == "cross"
            else f"{train:,} rows would train, {validation:,} validate, {calibration:,} calibrate"
        )
    show_concerns(look_over(normal, schema, time=time, by=by))
