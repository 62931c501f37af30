"""How models are named: `NAME`, `NAME@alias`, `NAME/3`, `models:/...`, `runs:/...`. Imports no MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from anomvae.errors import ModelReferenceError, SettingError

CHAMPION = "champion"
"""Alias of the version in service."""
CHALLENGER = "challenger"
"""Alias of the version that the daemon scores in the champion's shadow."""
CANDIDATE = "candidate"
"""Alias of the version fitted last."""

FORMS = "NAME, NAME@alias, NAME/3, models:/NAME/3, models:/NAME@alias, models:/m-ID or runs:/RUN"

_NAME = r"[^/@:\\\s.~][^/@:\\]*"
_VERSION = re.compile(rf"(?P<name>{_NAME})(?:@(?P<alias>[\w-]+)|/(?P<version>[0-9]+))?")
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
_FORBIDDEN = re.compile(r"[/\\:@.%\"'~]|^\s|\s$")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference: a registered model's name, a logged model's id, or a run's id.

    Attributes:
        text: As the user wrote it.
        name: Name of a registered model.
        alias: Alias of one of its versions.
        version: Number of one of its versions.
        model_id: Id of a logged model.
        run_id: Id of a run.
    """

    text: str
    name: str | None = None
    alias: str | None = None
    version: int | None = None
    model_id: str | None = None
    run_id: str | None = None


def is_registry_reference(ref: str) -> bool:
    """Whether a word names a model in a registry, and not a folder on this machine.

    Example:
        >>> is_registry_reference("pumps@champion"), is_registry_reference("models:/pumps/3")
        (True, True)
        >>> is_registry_reference("./pumps"), is_registry_reference("out/pumps")
        (False, False)
    """
    if ref.startswith(("models:/", "runs:/")):
        return True
    return _VERSION.fullmatch(ref) is not None and not Path(ref).exists()


def parse_reference(ref: str) -> Reference:
    """Reads a reference.

    Raises:
        ModelReferenceError: It has none of the known forms.

    Example:
        >>> parse_reference("models:/pumps@champion").alias
        'champion'
        >>> parse_reference("pumps/3").version
        3
    """
    scheme, _, rest = ref.partition(":/") if ref.startswith(("models:/", "runs:/")) else ("models", "", ref)
    rest = rest.strip("/")
    if scheme == "runs" and rest:
        return Reference(ref, run_id=rest.split("/")[0])
    if ref.startswith("models:/") and _MODEL_ID.fullmatch(rest):
        return Reference(ref, model_id=rest)
    found = _VERSION.fullmatch(rest)
    if found is None:
        raise ModelReferenceError(f"{ref!r} does not name a model; write {FORMS}")
    version = found["version"]
    return Reference(ref, name=found["name"], alias=found["alias"], version=int(version) if version else None)


def check_model_name(name: str) -> str:
    r"""Returns a name that can be registered and referred to.

    Raises:
        SettingError: It is empty or holds characters that references need: ``/ \ : @ . % ~`` and quotes.
    """
    if not name or _FORBIDDEN.search(name):
        raise SettingError(f"{name!r} cannot be a model's name: use letters, digits, spaces, '-' and '_'")
    return name
