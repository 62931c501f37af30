"""`anomvae models`: the registry and bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomvae.cli.console import err, escape, out, table, warn
from anomvae.cli.options import REF_HELP, TrackingUri
from anomvae.cli.promise import unit_of
from anomvae.errors import MissingExtraError

if TYPE_CHECKING:
    from anomvae.bundle import Column, Manifest

app = typer.Typer(
    name="models", help="List, show, promote, pull and log models.", no_args_is_help=True, rich_markup_mode=None
)

Ref = Annotated[str, typer.Argument(help=REF_HELP, metavar="REF", show_default=False)]
SHOWN_CATEGORIES = 8


def _registry() -> Any:
    try:
        from anomvae.tracking import registry
    except ImportError as error:
        raise MissingExtraError("the model registry", "mlflow") from error
    return registry


@app.command("list")
def list_models(
    tracking_uri: TrackingUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List registered models with their versions and aliases."""
    found = _registry().list_models(tracking_uri=tracking_uri)
    if as_json:
        fields = ("name", "versions", "newest", "champion", "candidate", "alarm_rate", "updated")
        typer.echo(json.dumps([{field: getattr(model, field) for field in fields} for model in found], indent=2))
        return
    if not found:
        err().print("no models are registered; `anomvae fit DATA` registers one")
        return
    rows = [
        (m.name, m.versions, _or_dash(m.champion), _or_dash(m.candidate), _rate(m.alarm_rate), m.updated) for m in found
    ]
    heads = ("model", "versions", "champion", "candidate", "alarm rate", "updated")
    out().print(table("", heads, rows, right=("versions", "champion", "candidate", "alarm rate")))


@app.command("show")
def show(
    ref: Ref,
    tracking_uri: TrackingUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a model expects and promises: columns, calibration, provenance."""
    facts: list[tuple[str, str]] = []
    if Path(ref).is_dir():
        from anomvae.bundle import read_bundle

        manifest = read_bundle(Path(ref)).manifest
    else:
        details = _registry().show(ref, tracking_uri=tracking_uri)
        manifest = details.bundle.manifest
        facts = [
            ("version", details.title),
            ("aliases", ", ".join(details.aliases) or "-"),
            ("run", details.run_id or "-"),
        ]
        if details.note:
            warn(details.note)
    if as_json:
        typer.echo(manifest.to_json(), nl=False)
        return
    _show_manifest(manifest, facts)


@app.command("promote")
def promote(
    ref: Ref,
    force: Annotated[
        bool, typer.Option("--force", help="Promote although columns differ or the evaluation is worse.")
    ] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make a version the champion, unless its columns differ from the champion's or its evaluation is worse."""
    _registry()
    from anomvae.tracking.promotion import promote as promote_version

    done = promote_version(ref, force=force, tracking_uri=tracking_uri)
    before = f", before: version {done.previous}" if done.previous is not None else ""
    verb = "is now" if done.moved else "stays"
    out().print(
        escape(f"{done.model_name} version {done.version} {verb} champion{before}; {done.comparison}"), soft_wrap=True
    )


@app.command("challenge")
def challenge(
    ref: Ref,
    end: Annotated[bool, typer.Option("--end", help="End the challenge of the model REF names.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make a version the challenger: the daemon scores it in the champion's shadow and counts where their verdicts differ."""
    _registry()
    from anomvae.tracking import promotion

    if end:
        name = ref.partition("@")[0].partition("/")[0]
        promotion.end_challenge(name, tracking_uri=tracking_uri)
        out().print(escape(f"{name} has no challenger any more"), soft_wrap=True)
        return
    name, number = promotion.challenge(ref, tracking_uri=tracking_uri)
    out().print(escape(f"{name} version {number} is now challenger"), soft_wrap=True)


@app.command("pull")
def pull(
    ref: Ref,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the bundle.", show_default=False)],
    tracking_uri: TrackingUri = None,
) -> None:
    """Copy a registered model's bundle into a folder, verified."""
    found = _registry().pull(ref, out_folder, tracking_uri=tracking_uri)
    if found.note:
        warn(found.note)
    out().print(escape(f"{found.title} is in {found.folder}"), soft_wrap=True)


@app.command("log")
def log(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.", metavar="BUNDLE", show_default=False)],
    name: Annotated[
        str | None, typer.Option("--name", help="Name to register it under; default: its own.", show_default=False)
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Log and register a bundle that was fitted without a tracking server."""
    from anomvae.bundle import read_bundle

    verified = read_bundle(bundle)
    _registry()
    from anomvae.tracking.runs import log_bundle

    run = log_bundle(verified, tracking_uri=tracking_uri, model_name=name)
    out().print(
        escape(
            f"registered as {run.model_name} version {run.version} ({', '.join(run.aliases)}); open with: {run.how_to_open}"
        ),
        soft_wrap=True,
    )


def _show_manifest(manifest: Manifest, facts: list[tuple[str, str]]) -> None:
    console, calibration, origin, split = out(), manifest.calibration, manifest.provenance, manifest.split
    facts = [
        ("model", f"{manifest.name} ({manifest.model})"),
        *facts,
        (
            "alarm rate",
            f"{calibration.alarm_rate:.2%} of normal rows; the smallest supported is {calibration.smallest_alarm_rate:.2g}",
        ),
        (
            "thresholds",
            f"score {calibration.score_threshold:.4g} {unit_of(manifest)}, reconstruction error "
            f"{calibration.reconstruction_threshold:.4g}",
        ),
        *_series_facts(manifest),
        ("verdict by", calibration.decision),
        ("fitted on", f"{origin.data} ({origin.rows:,} rows), {origin.created}, seed {origin.seed}"),
        (
            "split",
            f"{split.how}: {split.train:,} train, {split.validation:,} validate, {split.calibration:,} calibrate",
        ),
        ("digest", origin.digest),
        ("training rows", _stored(manifest)),
    ]
    console.print(table("", ("what", "value"), facts))
    rows = [(column.name, column.kind, _facts(column, private=manifest.private)) for column in manifest.columns]
    console.print(table("columns it needs", ("column", "kind", "seen in training"), rows))
    if manifest.left_out:
        left = [(column.name, column.reason) for column in manifest.left_out]
        console.print(table("columns it does not score", ("column", "why"), left))


def _series_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """How rows become steps, of a detector of series."""
    facts = manifest.series
    if facts is None:
        return []
    known = "" if facts.asset is None else f"{len(facts.assets):,} told apart by {facts.asset}, others scaled by all"
    batch = facts.batch
    whole = "" if batch is None else f"; in whole series above {batch.score_threshold:.4g}"
    told = [
        ("steps", f"of {facts.step}, by {facts.time}; more than {facts.longest_gap:,} missing begin a new sequence"),
        ("windows", f"{facts.window:,} steps; the thresholds are for the newest of them{whole}"),
        ("assets", known or "one"),
    ]
    if facts.refitted_on:
        told.append(("networks kept", f"trained on all {facts.refitted_on:,} steps, after others had been calibrated"))
    return told if facts.off is None else [*told, ("off", facts.off)]


def _stored(manifest: Manifest) -> str:
    if manifest.private:
        return (
            f"none are stored, and no value that 10 rows or fewer hold (fitted with --private, prior {manifest.prior})"
        )
    if manifest.exemplars:
        return f"{manifest.exemplars:,} are stored in the model as exemplars: it is training data in all but name"
    return f"none are stored whole in the model (prior {manifest.prior}); the report shows the strangest ones"


def _facts(column: Column, *, private: bool) -> str:
    if column.categories:
        shown = ", ".join(column.categories[:SHOWN_CATEGORIES])
        more = len(column.categories) - SHOWN_CATEGORIES
        return f"{shown} and {more} more" if more > 0 else shown
    if private and column.mean is not None:  # the ends are no row's
        return f"mean {column.mean:.5g}, standard deviation {column.std:.5g}"
    return "-" if column.low is None else f"{column.low:.5g} to {column.high:.5g}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
