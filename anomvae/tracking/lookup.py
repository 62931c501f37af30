"""Finding what a reference names: the version, its model and what MLflow knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomvae.errors import ModelReferenceError
from anomvae.tracking.reference import CHAMPION, parse_reference
from anomvae.tracking.session import MlflowException, error_code, is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from anomvae.tracking.reference import Reference

_PAGE = 200
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference names.

    Attributes:
        model: The logged model, which holds the bundle.
        version: The registered version; None when the reference names a model or a run directly.
        aliases: Aliases of that version.
        note: What the caller should be told about how it was found.
    """

    model: LoggedModel
    version: ModelVersion | None = None
    aliases: tuple[str, ...] = ()
    note: str | None = None

    @property
    def title(self) -> str:
        """The version as `NAME/3`, or the model's id."""
        return f"{self.version.name}/{self.version.version}" if self.version else f"models:/{self.model.model_id}"


def find(client: MlflowClient, ref: str) -> Found:
    """Finds what a reference names.

    Raises:
        ModelReferenceError: Nothing answers to it; the message names what exists.
    """
    reference = parse_reference(ref)
    if reference.model_id is not None:
        return Found(_logged_model(client, reference.model_id, ref))
    if reference.run_id is not None:
        return Found(_logged_model(client, _model_of_run(client, reference.run_id, ref), ref))
    registered = registered_model(client, str(reference.name))
    number, note = _number(client, registered, reference)
    try:
        version = client.get_model_version(registered.name, str(number))
    except MlflowException as error:
        if not is_missing(error):
            raise
        numbers = [item.version for item in list_versions(client, registered.name)]
        raise ModelReferenceError(
            f"the model {registered.name!r} has no version {number}; it has {_named(numbers) or 'none'}"
        ) from error
    aliases = tuple(sorted(alias for alias, owner in registered.aliases.items() if int(owner) == int(number)))
    return Found(_logged_model(client, _model_of_version(version), ref), version, aliases, note)


def list_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a model, newest first."""
    versions: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=_PAGE, page_token=token)
        versions += page
        token = page.token
        if not token:
            return sorted(versions, key=lambda version: int(version.version), reverse=True)


def list_registered(client: MlflowClient) -> Iterator[RegisteredModel]:
    """All registered models that anomvae made, by name."""
    token: str | None = None
    while True:
        page = client.search_registered_models(max_results=_PAGE, page_token=token)
        yield from (model for model in page if "anomvae.kind" in model.tags)
        token = page.token
        if not token:
            return


def registered_model(client: MlflowClient, name: str) -> RegisteredModel:
    """A registered model.

    Raises:
        ModelReferenceError: There is none of that name; the message names what exists.
    """
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if not is_missing(error):
            raise
        names = [repr(model.name) for model in list_registered(client)]
        has = f"it has {_named(names)}" if names else "it has none; fit one first"
        raise ModelReferenceError(f"the registry has no model {name!r}; {has}") from error


def _number(client: MlflowClient, registered: RegisteredModel, reference: Reference) -> tuple[int, str | None]:
    """The version's number, and a note if it is not the one that a plain name stands for."""
    aliases = registered.aliases
    if reference.version is not None:
        return reference.version, None
    if reference.alias is not None:
        if reference.alias not in aliases:
            raise ModelReferenceError(
                f"the model {registered.name!r} has no alias {reference.alias!r}; "
                f"it has {_named(sorted(aliases)) or 'none'}"
            )
        return int(aliases[reference.alias]), None
    if CHAMPION in aliases:
        return int(aliases[CHAMPION]), None
    versions = list_versions(client, registered.name)
    if not versions:
        raise ModelReferenceError(f"the model {registered.name!r} has no versions; fit it again")
    newest = int(versions[0].version)
    return newest, f"{registered.name!r} has no champion: this is its newest version, {newest}"


def _logged_model(client: MlflowClient, model_id: str | None, ref: str) -> LoggedModel:
    if model_id is None:
        raise ModelReferenceError(f"{ref!r} was not made by anomvae: it holds no bundle")
    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if not is_missing(error) and error_code(error) != "INVALID_PARAMETER_VALUE":
            raise
        raise ModelReferenceError(f"{ref!r} names a model that does not exist, or was deleted") from error


def _model_of_version(version: ModelVersion) -> str | None:
    if version.model_id:
        return str(version.model_id)
    source = str(version.source)
    return source.removeprefix("models:/") if source.startswith("models:/m-") else None


def _model_of_run(client: MlflowClient, run_id: str, ref: str) -> str:
    try:
        outputs = client.get_run(run_id).outputs
    except MlflowException as error:
        if not is_missing(error) and error_code(error) != "INVALID_PARAMETER_VALUE":
            raise
        raise ModelReferenceError(f"{ref!r} names a run that does not exist") from error
    models = outputs.model_outputs if outputs is not None else []
    if not models:
        raise ModelReferenceError(f"{ref!r} names a run that logged no model")
    return str(models[-1].model_id)


def _named(items: Sequence[object]) -> str:
    """Items for a message: the first few, then a count."""
    shown = ", ".join(str(item) for item in items[:_MOST_NAMED])
    return shown if len(items) <= _MOST_NAMED else f"{shown} and {len(items) - _MOST_NAMED} more"
