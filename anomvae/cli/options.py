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
Label = Annotated[
    str | None,
    typer.Option("--label", help="Column that marks anomalies (0/1, true/false, words).", show_default=False),
]
