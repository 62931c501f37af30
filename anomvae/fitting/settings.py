"""Settings of a fit, from flags, Python or a TOML file."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
import types
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from anomvae.bundle.promise import DECISIONS
from anomvae.calibration.budget import Budget
from anomvae.calibration.calibrator import rows_it_takes
from anomvae.calibration.tail import MIN_ROWS as LEAST_TAIL_ROWS
from anomvae.data.schema import Declared, SchemaRules
from anomvae.errors import SettingError
from anomvae.training.settings import TrainingSettings
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Decision = Literal["elbo", "reconstruction", "both"]
CalibrationMethod = Literal["auto", "cross", "split"]
Effort = Literal["quick", "default", "best"]
Members = Literal["both", "row", "window"]


class EffortSizes(NamedTuple):
    """What an effort buys.

    Attributes:
        exemplars: Rows stored.
        steps: Most steps of the optimiser with exemplars.
        plain_steps: Most steps without.
    """

    exemplars: int
    steps: int
    plain_steps: int


EFFORTS: dict[str, EffortSizes] = {
    "quick": EffortSizes(350, 500, 1_000),
    "default": EffortSizes(1_000, 600, 3_000),
    "best": EffortSizes(4_000, 3_000, 6_000),
}
MOST_STEPS = 4_096
"""Longest window."""
EXEMPLAR_BATCH = 64
EXEMPLAR_RATE = 5e-3
PRIVATE_LEAST = 10
"""Other rows that must hold a value for a private bundle to keep it."""
DURATION = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(us|ms|s|sec|min|m|h|d)?\s*")
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,99}")


@dataclass(frozen=True, slots=True)
class FitSettings:
    """All that decides a fit beside the data.

    Attributes:
        name: Name of the model, in the registry too.
        alarm_rate: Share of normal rows that may alarm; None: 0.01, unless alarms a day are stated.
        alarms_per_day: The same as a number a day, with `rows_per_day`; with `by` of each group.
        rows_per_day: Normal rows a day.
        confidence: With this probability the rate holds for the very rows that calibrate; None: on average over such rows.
        tail: Whether rates that the rows cannot support are extrapolated by a generalised Pareto tail, and flagged.
        calibration: `cross`: every row trains and calibrates, scored by a network that has not seen it; `split`: a part of
            the rows calibrates and trains nothing; `auto`: cross up to 10,000 rows, unless `time` orders them.
        decision: What gives the verdict: the score (`elbo`), the reconstruction error, or `both` together at the one rate.
        label: Column that marks anomalies.
        time: Column that orders the rows: the latest calibrate.
        by: Column that groups them: a group with the rows for it gets a calibration of its own.
        window: Steps a window; makes the detector one of series, with `time` their order and `by` their assets. None: of
            rows, and none of the next five means anything.
        stride: Steps between the windows of a whole series that is scored.
        every: Length of a step, as `1s`, `5min`, `0.5h`; None: the median interval between rows.
        past_only: Whether steps of a whole series are scored by their past alone, as in a stream.
        off: Condition under which an asset is off, as `rpm < 10`: such rows neither teach nor alarm.
        members: Who judges: `row`, the table detector on each step; `window`, a convolutional VAE, a linear forecast and the distance from known windows; or `both`.
        drop: Columns to leave out.
        columns: What columns are, where inference must not say: `numeric`, `categorical`, `boolean`, `date`, `omit`.
        keep_constant: Whether columns of one value stay in.
        effort: `quick`, `default` or `best`: what ranking may cost, in exemplars and steps; see :data:`EFFORTS`. What
            `model` and `training` say themselves stands.
        private: Whether the bundle must do without training rows and rare values: learnt pseudo-rows take the place of
            exemplars, and a value counts as seen only if eleven rows hold it.
        model: What is fitted.
        training: How.
    """

    name: str = "detector"
    alarm_rate: float | None = None
    alarms_per_day: float | None = None
    rows_per_day: float | None = None
    confidence: float | None = None
    tail: bool = False
    calibration: CalibrationMethod = "auto"
    decision: Decision = "elbo"
    label: str | None = None
    time: str | None = None
    by: str | None = None
    window: int | None = None
    stride: int = 1
    every: str | None = None
    past_only: bool = False
    off: str | None = None
    members: Members = "both"
    drop: tuple[str, ...] = ()
    columns: Mapping[str, Declared] = field(default_factory=dict)
    keep_constant: bool = False
    effort: Effort = "default"
    private: bool = False
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        """Refuses values that make no fit.

        Raises:
            SettingError: Names the setting and what it may be.
        """
        _ = self.budget
        self._check_series()
        if self.decision not in DECISIONS:
            raise SettingError(f"decision is {self.decision!r}; it must be one of {', '.join(DECISIONS)}")
        if self.calibration not in get_args(CalibrationMethod):
            raise SettingError(
                f"calibration is {self.calibration!r}; it must be one of {', '.join(get_args(CalibrationMethod))}"
            )
        if self.calibration == "cross" and self.time is not None:
            raise SettingError(
                "calibration = 'cross' lets later rows vouch for earlier ones; with --time it must be split"
            )
        if not NAME.fullmatch(self.name):
            raise SettingError(
                f"the name {self.name!r} cannot name a model; use letters, digits, dots, dashes and underscores"
            )
        if self.effort not in EFFORTS:
            raise SettingError(f"effort is {self.effort!r}; it must be one of {', '.join(EFFORTS)}")
        if self.private and self.model.prior == "exemplars":
            raise SettingError(
                "private leaves training rows out of the bundle, and model.prior = 'exemplars' stores them"
            )
        for column, kind in self.columns.items():
            if kind not in get_args(Declared):
                raise SettingError(f"columns.{column} is {kind!r}; it must be one of {', '.join(get_args(Declared))}")

    def _check_series(self) -> None:
        if self.members not in get_args(Members):
            raise SettingError(f"members is {self.members!r}; it must be one of {', '.join(get_args(Members))}")
        if self.window is None:
            stated = {"stride": self.stride != 1, "every": self.every, "past_only": self.past_only, "off": self.off}
            for name, is_stated in {**stated, "members": self.members != "both"}.items():
                if is_stated:
                    raise SettingError(
                        f"{name} belongs to series: state --window too, or leave --{name.replace('_', '-')} out"
                    )
            return
        self._check_window(self.window)

    def _check_window(self, window: int) -> None:
        if not 2 <= window <= MOST_STEPS:  # noqa: PLR2004  one step is no window
            raise SettingError(f"--window must be 2 to {MOST_STEPS:,} steps")
        if not 1 <= self.stride <= window:
            raise SettingError("--stride must be 1 to as many steps as a window has")
        if self.time is None:
            raise SettingError("--window asks for a series, which takes --time too: the column that orders the rows")
        if self.private:
            raise SettingError(
                "--private is not for series yet: leave it out, or leave --window out to score single rows"
            )
        if self.calibration == "cross":
            raise SettingError("calibration = 'cross' lets later rows vouch for earlier ones; a series must be split")
        if self.every is not None:
            duration(self.every)

    @property
    def every_s(self) -> float | None:
        """Length of a step in seconds."""
        return None if self.every is None else duration(self.every)

    def resolved(self) -> FitSettings:
        """The same with everything that effort and privacy decide written out.

        Example:
            >>> FitSettings(effort="quick").resolved().model.exemplars
            350
        """
        model, training, effort = self.model, self.training, EFFORTS[self.effort]
        if self.private:
            prior = "pseudo-rows" if model.prior_in_force == "exemplars" else model.prior
            least = max(PRIVATE_LEAST, model.novelty_least)
            model = replace(model, prior=prior, novelty_least=least)
        if model.prior_in_force == "exemplars":
            model = replace(model, prior="exemplars", exemplars=model.exemplars or effort.exemplars)
            training = replace(
                training,
                max_steps=training.max_steps or effort.steps,
                batch_rows=training.batch_rows or EXEMPLAR_BATCH,
                learning_rate=training.learning_rate or EXEMPLAR_RATE,
            )
        else:
            training = replace(
                training,
                max_steps=training.max_steps or effort.plain_steps,
                learning_rate=training.rate,
            )
        return replace(self, model=model, training=training)

    @property
    def digest(self) -> str:
        """Digest of all settings: two fits of the same data and digest are the same."""
        text = json.dumps(asdict(self.resolved()), sort_keys=True, default=dict)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def rules(self) -> SchemaRules:
        """How columns are understood."""
        return SchemaRules(self.columns, self.drop, self.label, self.time, self.by, self.keep_constant)

    @property
    def budget(self) -> Budget:
        """What may alarm.

        Raises:
            SettingError: It is stated twice, or by half.
        """
        return Budget.of(self.alarm_rate, self.alarms_per_day, self.rows_per_day, self.confidence)

    @property
    def least_rate(self) -> float:
        """The rate that decides how many rows calibrate: a confidence takes more of them, a tail fewer."""
        budget = self.budget
        rate = 1.0 / (rows_it_takes(budget, self.decision) + 1) if budget.confidence else budget.alarm_rate
        return max(rate, 1.0 / (LEAST_TAIL_ROWS + 1)) if self.tail else rate


def settings_from_toml(path: Path, overrides: Mapping[str, Any] | None = None) -> FitSettings:
    """Settings of a TOML file: the fields of :class:`FitSettings`, with tables `[model]`, `[training]`, `[columns]`.

    Args:
        path: The file.
        overrides: Fields that overrule the file; None values do not. `seed` and `device` are those of `[training]`.

    Raises:
        SettingError: The file is missing or no TOML, or holds an unknown or wrong setting.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"the configuration {path} is no TOML: {error}") from None
    return settings_from(raw, overrides, where=str(path))


def settings_from(
    raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, where: str = "settings"
) -> FitSettings:
    """Settings of a mapping; see :func:`settings_from_toml`."""
    if not hasattr(raw, "items"):
        raise SettingError(f"{where}: the settings of a fit must be a table")
    merged: dict[str, Any] = dict(raw)
    for name in ("columns", "model", "training"):
        if not hasattr(_fields(merged.get(name, {})), "items"):
            raise SettingError(f"{where}: {name} must be a table of settings")
    for name, value in (overrides or {}).items():
        if value is None or value == ():
            continue
        if name in ("seed", "device"):
            merged["training"] = {**_fields(merged.get("training", {})), name: value}
        elif name in ("columns", "model", "training"):
            merged[name] = {**_fields(merged.get(name, {})), **_fields(value)}
        else:
            merged[name] = value
    settings: FitSettings = _build(FitSettings, merged, where, "")
    return settings


def _fields(value: Any) -> Any:
    """A table of settings, or settings as a table."""
    return asdict(value) if isinstance(value, ModelSettings | TrainingSettings) else value


def _build(kind: type[Any], raw: Mapping[str, Any], where: str, prefix: str) -> Any:
    if isinstance(raw, kind):
        return raw
    if not hasattr(raw, "items"):
        raise SettingError(f"{where}: {prefix.rstrip('.')} must be a table of settings")
    known = {part.name for part in fields(kind)}
    hints = get_type_hints(kind, localns={"Mapping": dict})
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise SettingError(f"{where}: there is no setting {prefix}{name}; {hint}")
        values[name] = _convert(hints[name], value, f"{where}: {prefix}{name}", where, f"{prefix}{name}.")
    return kind(**values)


def _convert(hint: Any, value: Any, name: str, where: str, prefix: str) -> Any:
    """Checks a value against a field's type; whole numbers pass for fractions, lists for tuples."""
    if hint in (ModelSettings, TrainingSettings):
        return _build(hint, value, where, prefix)
    options = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    for option in options:
        fits, converted = _as_option(option, value)
        if fits:
            return converted
    raise SettingError(f"{name} has a value of the wrong type")


def _as_option(option: Any, value: Any) -> tuple[bool, Any]:
    """Whether a value is of a type, and the value as that type."""
    origin = get_origin(option)
    if origin is Literal or option is str:
        return isinstance(value, str), value
    if origin is tuple:
        inner = get_args(option)[0]
        fits = isinstance(value, list | tuple) and all(isinstance(part, inner) for part in value)
        return fits, tuple(value) if fits else value
    if origin is dict:
        fits = hasattr(value, "items") and all(isinstance(part, str) for part in value.values())
        return fits, dict(value) if fits else value
    if option is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return fits, float(value) if fits else value
    if option in (bool, int):
        return isinstance(value, option) and isinstance(value, bool) == (option is bool), value
    return option is type(None) and value is None, value


def duration(text: str) -> float:
    """Seconds of a length of time as people write it.

    Example:
        >>> [duration(text) for text in ("1s", "5min", "0.5h", "200 ms", "3")]
        [1.0, 300.0, 1800.0, 0.2, 3.0]
    """
    found = DURATION.fullmatch(text)
    seconds = float(found[1]) * SECONDS[found[2] or "s"] if found else 0.0
    if seconds <= 0.0:
        raise SettingError(f"{text!r} is no length of time; write it as 1s, 200ms, 5min, 0.5h or 1d")
    return seconds
