"""A scheduled training job from a TOML file: check, fit, calibrate, export, log, register, compare, promote if better.

    python -m pipelines.train job.toml

.. code-block:: toml

    data = "normal.parquet"            # what to learn from
    evaluation = "labelled.parquet"    # optional: labelled rows to compare with the champion on
    label = "failure"                  # the label column of `evaluation`
    out = "models/press"               # where the bundle goes
    tracking_uri = "sqlite:///mlflow.db"
    promote = "better"                 # better (default), always or never; without labels by its power on made-up faults

    [fit]                              # settings as `anomvae fit --config` takes them
    name = "press"
    alarm_rate = 0.01

Relative paths are taken from the TOML file's folder; `out` holds the newest fit, promoted or not. Run again on the same data and settings, it does nothing. Exit code 0:
the newest version is champion, or nothing was to be done; 3: fitted and registered, and the champion stays; 2: the data or
the settings are wrong; 1: our fault or the registry's. Nothing but a whole bundle is ever registered.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anomvae.data.labels import read_labels
from anomvae.data.reading import open_rows
from anomvae.data.schema import infer_schema
from anomvae.detector import find_bundle
from anomvae.errors import AnomvaeError, ModelReferenceError, SchemaError, SettingError
from anomvae.evaluation import Evaluation, evaluate
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.fitting.settings import settings_from
from anomvae.scoring import Scorer
from anomvae.scoring.needs import arrow_types
from anomvae.tracking.promotion import promote
from anomvae.tracking.runs import log_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.bundle import Bundle

CHAMPION_STAYS = 3
MORE_BLIND = 1
"""Blind columns a candidate may have beyond the champion's: a column on the edge falls on either side."""
LARGER_SHIFT = 1.25
"""Factor by which the shift that it catches half of the time may exceed the champion's."""
PROMOTE = ("better", "always", "never")


@dataclass(frozen=True, slots=True)
class Job:
    """A training job.

    Attributes:
        data: What to learn from.
        fit: Settings of the fit.
        out: Folder of the bundle.
        evaluation: Labelled rows, if there are any.
        label: Their label column.
        tracking_uri: Tracking server or database.
        promote: `better`: where the new version ranks at least as well on the labelled rows and notices made-up faults as well;
            without labelled rows the latter alone; `always`; `never`.
    """

    data: str
    fit: FitSettings
    out: Path
    evaluation: str | None = None
    label: str | None = None
    tracking_uri: str | None = None
    promote: str = "better"

    @classmethod
    def from_toml(cls, path: Path) -> Job:
        """Reads a job.

        Raises:
            SettingError: The file is missing or wrong.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingError(f"the job {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingError(f"the job {path} is no TOML: {error}") from None
        unknown = raw.keys() - {"data", "fit", "out", "evaluation", "label", "tracking_uri", "promote"}
        if unknown:
            raise SettingError(f"{path}: there is no setting {min(unknown)!r}")
        if not isinstance(raw.get("data"), str):
            raise SettingError(f"{path}: `data` must name what to learn from")
        for name in sorted(raw.keys() - {"fit"}):
            if not isinstance(raw[name], str):
                raise SettingError(f"{path}: {name} must be text")
        if raw.get("promote", "better") not in PROMOTE:
            raise SettingError(f"{path}: promote must be one of {', '.join(PROMOTE)}")
        if ("evaluation" in raw) != ("label" in raw):
            raise SettingError(f"{path}: `evaluation` and `label` go together")
        fit = settings_from(raw.get("fit", {}), where=str(path))
        here = path.absolute().parent
        return cls(
            data=_from(here, raw["data"]),
            fit=fit,
            out=Path(_from(here, raw.get("out", f"models/{fit.name}"))),
            evaluation=_from(here, raw["evaluation"]) if "evaluation" in raw else None,
            label=raw.get("label"),
            tracking_uri=_uri_from(here, raw["tracking_uri"]) if "tracking_uri" in raw else None,
            promote=raw.get("promote", "better"),
        )


@dataclass(slots=True)
class Outcome:
    """What a job did.

    Attributes:
        exit_code: For the scheduler.
        lines: What to tell, in order.
    """

    exit_code: int = 0
    lines: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        """Prints and keeps a line."""
        self.lines.append(line)
        print(line, flush=True)


def run(job: Job) -> Outcome:
    """Runs a job.

    Raises:
        AnomvaeError: Whatever went wrong, with its exit code.
    """
    outcome = Outcome()
    source = open_rows(job.data)
    outcome.tell(f"ingest: {source.name}")
    champion, newest = _version(job, "champion"), _version(job, "candidate")
    digest = source.digest()
    for bundle, is_champion in ((champion, True), (newest, False)):
        if _is_fitted_already(job, bundle, digest):
            which = "champion" if is_champion else "newest version"
            outcome.tell(
                f"nothing to fit: the {which} of {job.fit.name!r} was fitted on these data with these settings"
            )
            if not is_champion and job.promote == "always":
                _promote(job, f"{job.fit.name}@candidate", outcome)
            elif not is_champion:
                outcome.exit_code = CHAMPION_STAYS
            return outcome
    schema = infer_schema(source.table(), job.fit.rules)
    outcome.tell(f"check: {len(schema.kinds)} columns to score, {len(schema.left_out)} left out")
    result = fit_bundle(job.data, job.fit, job.out)
    for warning in result.warnings:
        outcome.tell(f"warning: {warning}")
    calibration = result.bundle.manifest.calibration
    outcome.tell(
        f"fit: {result.history.steps:,} steps, calibrated on {calibration.rows:,} rows, parity {result.parity:.1e}"
    )
    logged = log_bundle(result.bundle, tracking_uri=job.tracking_uri)
    outcome.tell(f"register: {logged.model_name} version {logged.version}")
    if champion is None:
        outcome.tell(f"promote: version {logged.version} is the first, and champion")
        return outcome
    better, why = _compare(job, result.bundle, champion)
    outcome.tell(f"evaluate: {why}")
    if job.promote == "never" or (job.promote == "better" and not better):
        outcome.tell("promote: the champion stays")
        outcome.exit_code = CHAMPION_STAYS
        return outcome
    _promote(job, f"{logged.model_name}/{logged.version}", outcome)
    return outcome


def _promote(job: Job, reference: str, outcome: Outcome) -> None:
    done = promote(reference, force=True, tracking_uri=job.tracking_uri)
    outcome.tell(f"promote: version {done.version} is champion now, before: version {done.previous}")


def _version(job: Job, alias: str) -> Bundle | None:
    with contextlib.suppress(ModelReferenceError):
        return find_bundle(f"{job.fit.name}@{alias}", tracking_uri=job.tracking_uri)
    return None


def _is_fitted_already(job: Job, bundle: Bundle | None, digest: str) -> bool:
    if bundle is None or bundle.manifest.provenance.digest != digest:
        return False
    return bundle.read_record().parameters.get("settings_digest") == job.fit.digest


def _compare(job: Job, candidate: Bundle, champion: Bundle) -> tuple[bool, str]:
    """Whether the candidate does at least as well as the champion on the same labelled rows, and a sentence."""
    names = [{column.name for column in bundle.manifest.columns} for bundle in (candidate, champion)]
    if names[0] != names[1]:
        return (
            False,
            f"the columns differ from the champion's in {len(names[0] ^ names[1])}; promote it by hand if that is meant",
        )
    power = compare_power(*(bundle.read_record().metrics for bundle in (candidate, champion)))
    if job.evaluation is None or job.label is None:
        if power is None:
            return False, 'no labelled rows to compare on; set `evaluation` and `label`, or promote = "always"'
        return power.holds, f"no labelled rows; {power.told}"
    new, old = (_evaluate(job.evaluation, job.label, bundle) for bundle in (candidate, champion))
    told = (
        f"average precision {new.average_precision:.4f} against the champion's {old.average_precision:.4f}, false alarms "
        f"{new.false_alarm_rate:.2%} against {old.false_alarm_rate:.2%}"
    )
    too_loud = new.false_alarm_low > max(new.alarm_rate, old.false_alarm_high)
    better = new.average_precision >= old.average_precision and not too_loud
    if power is None:
        return better, told
    return better and power.holds, f"{told}; {power.told}"


class Power(NamedTuple):
    """How a candidate's power without labels compares with the champion's.

    Attributes:
        holds: Whether it notices faults in single columns as well, up to what 100 rows can tell.
        told: Sentence.
    """

    holds: bool
    told: str


def compare_power(new: Mapping[str, float], old: Mapping[str, float]) -> Power | None:
    """Compares what two fits noticed of faults put into their own normal rows.

    Args:
        new: Metrics of the candidate's record.
        old: Of the champion's.

    Returns:
        None where either was not measured.
    """
    names = ("power_blind_columns", "power_shift_half_median")
    if any(name not in metrics for name in names for metrics in (new, old)):
        return None
    if new.get("power_alarm_rate") != old.get("power_alarm_rate"):  # at another rate other faults are noticed
        return None
    (new_blind, new_shift), (old_blind, old_shift) = ([metrics[name] for name in names] for metrics in (new, old))
    told = (
        f"a shift of {new_shift:.2g} standard deviations is caught half of the time against the champion's {old_shift:.2g}, "
        f"{new_blind:.0f} blind columns against {old_blind:.0f}"
    )
    return Power(new_blind <= old_blind + MORE_BLIND and new_shift <= LARGER_SHIFT * old_shift, told)


def _evaluate(data: str, label: str, bundle: Bundle) -> Evaluation:
    scorer = Scorer(bundle)
    rows = open_rows(data, types=arrow_types(bundle.manifest)).table()
    labels = read_labels(rows, label)
    if labels.unknown.any():
        raise SchemaError(f"{int(labels.unknown.sum()):,} rows of {data} have no label; a comparison needs them all")
    answers = scorer.score(rows, top=0)
    score, error, alarm = (answers[name].to_numpy() for name in ("score", "reconstruction_error", "alarm"))
    return evaluate(score, error, alarm.astype(bool), labels.anomalous, bundle.manifest.calibration.alarm_rate)


def _from(folder: Path, name: str) -> str:
    return str(folder / Path(name).expanduser())


def _uri_from(folder: Path, uri: str) -> str:
    """A tracking URI whose SQLite file, where it is relative, is taken from a folder."""
    prefix = "sqlite:///"
    return f"{prefix}{_from(folder, uri.removeprefix(prefix))}" if uri.startswith(prefix) else uri


def main(arguments: list[str] | None = None) -> int:
    """Runs the job of a TOML file; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="The TOML file.")
    try:
        return run(Job.from_toml(parser.parse_args(arguments).job)).exit_code
    except AnomvaeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
