"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DATA_HELP = "Parquet, CSV, Arrow/Feather or JSON lines: a file, a folder or a glob."
REF_HELP = "A bundle's folder, or a registered model: NAME, NAME@alias, NAME/3, models:/..."

Data = Annotated[str, typer.Argument(help=DATA_HELP, metavar="DATA", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help=REF_HELP, metavar="REF", show_default=False)]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow tracking server or database; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here.",
        show_default=False,
    ),
]
AlarmRate = Annotated[
    float | None, typer.Option("--alarm-rate", help="Share of normal rows that may alarm.", show_default=False)
]
AlarmsPerDay = Annotated[
    float | None,
    typer.Option(
        "--alarms-per-day",
        help="False alarms a day that can be borne, in place of --alarm-rate; takes --rows-per-day.",
        show_default=False,
    ),
]
RowsPerDay = Annotated[
    float | None, typer.Option("--rows-per-day", help="Normal rows that are scored a day.", show_default=False)
]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        help="Have the rate hold for these very rows with this probability, such as 0.95, not only on average.",
        show_default=False,
    ),
]
Tail = Annotated[
    bool | None,
    typer.Option(
        "--tail/--no-tail",
        help="Extrapolate rates that the rows cannot support by a generalised Pareto tail; such verdicts are flagged.",
        show_default=False,
    ),
]
Decision = Annotated[
    str | None,
    typer.Option(
        "--decision",
        help="What gives the verdict: elbo (the score), reconstruction, or both together at the one rate.",
        show_default=False,
    ),
]
Label = Annotated[
    str | None,
    typer.Option("--label", help="Column that marks anomalies (0/1, true/false, words).", show_default=False),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        help="Steps a window: fit a detector of series, ordered by --time, one sequence for each value of --by.",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride", help="Series: steps between the windows that judge a step together; default: 1.", show_default=False
    ),
]
Every = Annotated[
    str | None,
    typer.Option(
        "--every",
        help="Series: length of a step, such as 1s, 5min; default: the median interval.",
        show_default=False,
    ),
]
Off = Annotated[
    str | None,
    typer.Option(
        "--off",
        help="Series: condition under which an asset is off, such as 'rpm < 10': such rows neither teach nor alarm.",
        show_default=False,
    ),
]
PastOnly = Annotated[
    bool | None,
    typer.Option(
        "--past-only/--both-sides",
        help="Series: judge steps by their past alone, as a stream does, or by all windows that cover them; default: as fitted.",
        show_default=False,
    ),
]
