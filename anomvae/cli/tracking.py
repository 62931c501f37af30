"""Logging and registering a bundle at the end of a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.cli.console import err, escape, out, warn

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


def track(bundle: Bundle, folder: Path, tracking_uri: str | None) -> str:
    """Logs and registers; a server that does not answer costs nothing but a later command."""
    from anomvae.errors import TrackingError

    to = f" --tracking-uri {tracking_uri}" if tracking_uri else ""
    later = f"the bundle is safe in {folder}; log it later with `anomvae models log {folder}{to}`"
    try:
        from anomvae.tracking.runs import log_bundle
    except ImportError:
        warn(f"MLflow is not installed, so the model is not registered (pip install 'anomvae[mlflow]'); {later}")
        return str(folder)
    try:
        with err().status("logging to MLflow"):
            run = log_bundle(bundle, tracking_uri=tracking_uri)
    except TrackingError as error:
        warn(f"{error}; {later}")
        return str(folder)
    aliases = ", ".join(run.aliases)
    out().print(
        f"registered as {escape(run.model_name)} version {run.version} ({aliases}); open with: {escape(run.how_to_open)}",
        soft_wrap=True,
    )
    return f"{run.model_name}/{run.version}"
