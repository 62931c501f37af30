"""Settings of the daemon: from flags, then environment variables, then a TOML file, then defaults."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from anomvae.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "ANOMVAE_SERVE_"
SERVICE_LINK = re.compile(r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)")
"""Variables that Kubernetes sets in every pod for a service named `anomvae-serve` or `anomvae-serve-...`: no settings."""
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
LogFormat = Literal["json", "text"]


def told(sentence: str, low: float | None = None, high: float = math.inf) -> dict[str, Any]:
    """What help and checks say of a field: a sentence, and its range."""
    return {"help": sentence, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """All that decides how the daemon serves. Every field is a flag, an environment variable and a TOML key.

    The flag of `max_batch_rows` is `--max-batch-rows`, its variable `ANOMVAE_SERVE_MAX_BATCH_ROWS`, its key
    `max_batch_rows`.
    """

    models: tuple[str, ...] = field(
        default=(),
        metadata=told(
            "What to serve: bundle folders or registered models, NAME=REF to choose the name; the first is the default."
        ),
    )
    host: str = field(default="127.0.0.1", metadata=told("Address to listen on; 0.0.0.0 for all."))
    port: int = field(default=8080, metadata=told("Port of HTTP; 0: any free one.", 0, 65535))
    grpc_port: int = field(default=8081, metadata=told("Port of gRPC; 0: any free one, -1: no gRPC.", -1, 65535))
    providers: str = field(
        default="auto", metadata=told("Execution providers, best first: auto, cpu, cuda,cpu, tensorrt,cuda,cpu, ...")
    )
    strict_providers: bool = field(
        default=False, metadata=told("Refuse to start unless the first provider runs the whole model.")
    )
    threads: int = field(default=0, metadata=told("Threads that run the model; 0: one a core.", 0, 1024))
    max_batch_rows: int = field(
        default=1024,
        metadata=told(
            "Most rows in one call of the model; larger requests are cut. On the CPU never more than 1,024, of wide rows "
            "fewer: smaller calls are quicker there.",
            1,
            2**20,
        ),
    )
    max_wait_ms: float = field(
        default=2.0,
        metadata=told(
            "Longest wait for company while the model is busy, in milliseconds; an idle model never waits.", 0, 60_000
        ),
    )
    max_inflight_rows: int = field(
        default=200_000, metadata=told("Most rows in flight; more are refused at once.", 1, 2**31)
    )
    max_body_mb: float = field(default=64.0, metadata=told("Largest request body, in MiB.", 0.001, 2047))
    max_buffered_mb: float = field(
        default=256.0, metadata=told("Most bytes of bodies held while they arrive, in MiB.", 0.001, 2**20)
    )
    request_timeout: float = field(
        default=30.0, metadata=told("Longest time a request may take, in seconds.", 0.001, 86_400)
    )
    body_timeout: float = field(
        default=20.0, metadata=told("Longest time a body may take to arrive, in seconds.", 0.001, 86_400)
    )
    header_timeout: float = field(
        default=10.0, metadata=told("Longest time headers may take to arrive, in seconds.", 0.001, 86_400)
    )
    keep_alive: float = field(
        default=75.0, metadata=told("How long an idle connection is kept, in seconds.", 0, 86_400)
    )
    max_header_kb: float = field(
        default=32.0, metadata=told("Largest request line and headers together, in KiB.", 0.1, 1024)
    )
    max_connections: int = field(default=1000, metadata=told("Most HTTP connections at once.", 1, 1_000_000))
    tokens_file: Path | None = field(
        default=None, metadata=told("File of bearer tokens, one a line; without it everyone may ask.")
    )
    tls_cert: Path | None = field(default=None, metadata=told("Certificate chain (PEM) for HTTPS and gRPC."))
    tls_key: Path | None = field(default=None, metadata=told("Private key (PEM) of the certificate."))
    reload_every: float = field(
        default=30.0, metadata=told("How often references are looked at for new versions, in seconds; 0: never.", 0)
    )
    accept_new_columns: bool = field(
        default=False, metadata=told("Also load a new version that wants other columns than the one in service.")
    )
    shadow_share: float = field(
        default=0.1, metadata=told("Share of requests also scored by the model's @challenger; 0: none.", 0, 1)
    )
    drain_delay: float = field(
        default=1.0,
        metadata=told("How long requests are still taken after SIGTERM, with readiness off, in seconds.", 0, 3600),
    )
    drain_timeout: float = field(
        default=30.0, metadata=told("Longest time to finish what is in flight when stopping, in seconds.", 0, 3600)
    )
    log_format: LogFormat = field(default="json", metadata=told("json: one event a line; text: for terminals."))
    tracking_uri: str | None = field(
        default=None, metadata=told("MLflow tracking server or database; default: MLFLOW_TRACKING_URI.")
    )

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            SettingError: Names the setting and what it may be.
        """
        for known in fields(self):
            value, low, high = getattr(self, known.name), known.metadata["low"], known.metadata["high"]
            if low is not None and not low <= value <= high:
                bound = f"{low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
                raise SettingError(f"{flag_of(known.name)} is {value}; it must be {bound}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingError("--tls-cert and --tls-key go together; give both, or neither")
        if self.log_format not in get_args(LogFormat):
            raise SettingError(f"--log-format is {self.log_format!r}; it must be json or text")
        if self.port == self.grpc_port and self.port > 0:
            raise SettingError(f"--port and --grpc-port are both {self.port}; they need a port each")


def flag_of(name: str) -> str:
    """A field's flag.

    Example:
        >>> flag_of("max_batch_rows")
        '--max-batch-rows'
    """
    return "REF" if name == "models" else "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """A field's environment variable."""
    return PREFIX + name.upper()


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], config: Path | None = None
) -> ServeSettings:
    """Brings the sources together.

    Args:
        flags: Values by field name, as typed; None, or no models: not given.
        environment: Variables.
        config: TOML file; None: the one that `ANOMVAE_SERVE_CONFIG` names, if it does.

    Raises:
        SettingError: A value is no value of its setting, or a setting is not known.
    """
    hints = get_type_hints(ServeSettings)
    named = environment.get(PREFIX + "CONFIG")
    file = config or (Path(named) if named else None)
    values = _from_file(file, hints) if file else {}
    known = {variable_of(name): name for name in hints}
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable != PREFIX + "CONFIG" and not _is_service_link(variable, text):
            if variable not in known:
                raise SettingError(f"the environment variable {variable} is no setting{_close(variable, known)}")
            values[known[variable]] = parsed_text(variable, text, hints[known[variable]])
    values.update({name: value for name, value in flags.items() if value is not None and value != ()})
    settings = ServeSettings(**values)
    if not settings.models:
        raise SettingError(
            f"nothing to serve: name a bundle's folder or a registered model, as an argument or in {PREFIX}MODELS"
        )
    return settings


def _is_service_link(variable: str, text: str) -> bool:
    if variable.endswith("_PORT") and SERVICE_ADDRESS.match(text):
        return True
    return SERVICE_LINK.fullmatch(variable.removeprefix(PREFIX)) is not None


def _from_file(file: Path, hints: Mapping[str, Any]) -> dict[str, Any]:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the configuration {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise SettingError(f"the configuration {file} is not TOML; `anomvae serve --help` lists the keys") from None
    values = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name not in hints:
            raise SettingError(f"{file} has the unknown key {key!r}{_close(name, hints)}")
        values[name] = typed_value(f"{key} in {file}", value, hints[name])
    return values


def _close(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; `anomvae serve --help` lists them"


def typed_value(where: str, value: Any, hint: Any) -> Any:
    """A TOML value as its field has it."""
    kinds = set(get_args(hint)) | {hint} if get_origin(hint) is not Literal else {str}
    if get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise SettingError(f"{where} must be a list of texts")
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) in kinds:
        return value
    wanted = next(kind for kind in (bool, int, float, str, Path) if kind in kinds)
    raise SettingError(f"{where} must be {'a text' if wanted in (str, Path) else _WORDS[wanted]}")


_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}


def parsed_text(variable: str, text: str, hint: Any) -> Any:
    """An environment variable's text as its field has it."""
    if get_origin(hint) is tuple:
        return tuple(text.split())
    if hint is bool:
        word = text.strip().lower()
        if word not in ("1", "0", "true", "false", "yes", "no", "on", "off"):
            raise SettingError(f"the environment variable {variable} must be true or false")
        return word in ("1", "true", "yes", "on")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise SettingError(f"the environment variable {variable} must be {_WORDS[hint]}") from None
    return Path(text) if Path in get_args(hint) else text
