"""`anomvae replay`: what last month would have alarmed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomvae.cli.console import err, escape, out, table, warn
from anomvae.cli.options import AlarmRate, Data, Model, TrackingUri
from anomvae.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    import pyarrow as pa

    from anomvae.bundle import SeriesFacts
    from anomvae.daemon.replaying import Replayed, Tally
    from anomvae.streaming.graph_runner import StreamModel

DAY_S = 86_400.0
QUIET, LEAST = 5, 1


def replay(
    data: Data,
    model: Model,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from", help="First moment: 2026-10-01, 2026-10-01T06:00+02:00; default: all.", show_default=False
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="The moment after the last; default: all.", show_default=False)
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Table models: column of the time.", show_default=False)
    ] = None,
    asset: Annotated[
        str | None, typer.Option("--asset", help="Table models: column of the asset.", show_default=False)
    ] = None,
    alarm_rate: AlarmRate = None,
    top: Annotated[int, typer.Option("--top", help="Reasons an alarm, and an asset.")] = 3,
    events: Annotated[bool, typer.Option("--events", help="Merge consecutive alarms of an asset into events.")] = False,
    quiet: Annotated[int, typer.Option("--quiet", help="Events: steps without an alarm that one outlasts.")] = QUIET,
    least: Annotated[int, typer.Option("--least", help="Events: alarms before one counts.")] = LEAST,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Replay rows as a stream would have answered them: alarms and events a day, per asset, with their reasons."""
    from anomvae.data.reading import open_rows
    from anomvae.references import find_model
    from anomvae.scoring.needs import arrow_types

    try:
        from anomvae.daemon.replaying import ReplaySettings
        from anomvae.daemon.replaying import replay as replay_rows
        from anomvae.daemon.stream_models import load_stream_model
        from anomvae.daemon.stream_settings import usable_threads
        from anomvae.streaming.settings import EventSettings
        from anomvae.streaming.table_lane import known_time
    except ImportError as error:
        raise MissingExtraError("`anomvae replay`", "stream") from error
    for flag, value, usual in (("--quiet", quiet, QUIET), ("--least", least, LEAST)):
        if not events and value != usual:
            raise SettingError(f"{flag} is about events, which are not asked for; add --events, or leave it out")
    loaded = load_stream_model(find_model(model, tracking_uri=tracking_uri))
    merged = EventSettings(quiet, least, announce=False) if events else None
    settings = ReplaySettings(begin, end, time, asset, alarm_rate, top, merged, usable_threads(0))
    types = arrow_types(loaded.manifest)
    timed = time or known_time(loaded.manifest)
    if timed is not None:
        types.setdefault(timed, None)
    rows = open_rows(data, types=types).table()
    found = replay_rows(loaded, rows, settings)
    if loaded.manifest.series is not None:
        _warn_of_unlike(rows, loaded.manifest.series)
    stated = loaded.manifest.calibration.alarm_rate if alarm_rate is None else alarm_rate
    if as_json:
        print(json.dumps(_as_json(loaded, found, settings.top, stated, has_events=events), indent=2))  # noqa: T201
        return
    _show(loaded, found, settings.top, stated, has_events=events)


def _warn_of_unlike(rows: pa.Table, facts: SeriesFacts) -> None:
    """Warns as `anomvae score` does; rows without an asset are dead letters and tell nothing."""
    import pyarrow.compute as pc

    from anomvae.cli.series_score import warn_of_unlike

    warn_of_unlike(rows if facts.asset is None else rows.filter(pc.is_valid(rows.column(facts.asset))), facts)


def _as_json(model: StreamModel, found: Replayed, top: int, stated: float, *, has_events: bool) -> dict[str, Any]:
    def told(tally: Tally) -> dict[str, Any]:
        counted = {"scored": tally.scored, "alarms": tally.alarms}
        counted |= {"events": tally.events} if has_events else {}
        return {**counted, "reasons": tally.top_reasons(top)}

    return {
        "model": model.manifest.name,
        "model_version": model.version,
        "alarm_rate": stated,
        "rows": found.rows,
        "scored": found.scored,
        "alarms": found.alarms,
        "unscored": dict(found.unscored),
        "dead": found.dead,
        "days": [{"day": day, **told(tally)} for day, tally in sorted(found.days.items())],
        "assets": [{"asset": asset or None, **told(tally)} for asset, tally in sorted(found.assets.items())],
        **({"events": found.events} if has_events else {}),
    }


def _show(model: StreamModel, found: Replayed, top: int, stated: float, *, has_events: bool) -> None:
    console = out()
    share = f" ({found.alarms / found.scored:.2%} of them, at a stated rate of {stated:.2%})" if found.scored else ""
    unscored = ", ".join(f"{count:,} {reason}" for reason, count in found.unscored.most_common())
    console.print(
        f"{escape(model.manifest.name)} {escape(model.version)}: {found.rows:,} rows replayed, {found.scored:,} scored"
        f"{f', {unscored}' if unscored else ''}: {found.alarms:,} alarms{share}"
        f"{f', {len(found.events):,} events' if has_events else ''}",
        soft_wrap=True,
    )
    also = ["events"] if has_events else []
    if found.days:
        rows = [
            (
                day,
                f"{tally.scored:,}",
                f"{tally.alarms:,}",
                *([f"{tally.events:,}"] if has_events else []),
                _why(tally, top),
            )
            for day, tally in sorted(found.days.items())
        ]
        heads = ("day (UTC)", "scored", "alarms", *also, "strongest reasons")
        console.print(table("by day", heads, rows, right=("scored", "alarms", "events")))
    days = found.span_s / DAY_S
    a_day = found.has_days and days >= 1.0
    lines = []
    for asset, tally in sorted(found.assets.items(), key=lambda entry: (-entry[1].alarms, entry[0])):
        counts = [f"{tally.scored:,}", f"{tally.alarms:,}", *([f"{tally.alarms / days:,.1f}"] if a_day else [])]
        counts += [f"{tally.events:,}"] if has_events else []
        lines.append((asset or "all", *counts, _why(tally, top)))
    heads = ("asset", "scored", "alarms", *(["alarms a day"] if a_day else []), *also, "strongest reasons")
    console.print(table("by asset", heads, lines, right=("scored", "alarms", "alarms a day", "events")))
    if found.dead:
        warn(f"{found.dead:,} rows cannot be answered; a stream would have made them dead letters")
    elif not found.scored:
        err().print("no row was scored: sequences are shorter than a window, or assets were off", soft_wrap=True)


def _why(tally: Tally, top: int) -> str:
    return ", ".join(f"{reason['column']} ({reason['alarms']:,})" for reason in tally.top_reasons(top))
