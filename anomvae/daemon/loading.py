"""Loading a version: session, provider, self-test; what fails here never serves."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from anomvae.bundle.folder import GRAPH
from anomvae.errors import BundleError, ModelReferenceError, ProviderError
from anomvae.scoring import GraphSession
from anomvae.scoring.providers import short_name
from anomvae.scoring.selftest import self_test, settle_chunk
from anomvae.scoring.session import CHUNK_ROWS
from anomvae.serving.model import ServedModel

if TYPE_CHECKING:
    from anomvae.bundle import Bundle, Manifest
    from anomvae.observability import Log, Metrics
    from anomvae.scoring.providers import ProviderChoice


class Found(Protocol):
    """What a reference names: :class:`anomvae.references.FoundModel`."""

    @property
    def name(self) -> str:
        """Of the model."""
        ...

    @property
    def version(self) -> str:
        """Of the model."""
        ...

    @property
    def bundle(self) -> Bundle:
        """Verified."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the manifest."""
        ...

    @property
    def note(self) -> str | None:
        """What the operator should be told."""
        ...


class Loader:
    """Makes served models of found ones; blocks, so call it off the event loop.

    Args:
        choice: Execution providers wanted and usable.
        metrics: Told of the provider in use.
        log: Told of it too.
        max_batch_rows: Most rows in one call of a model.
    """

    def __init__(self, choice: ProviderChoice, metrics: Metrics, log: Log, *, max_batch_rows: int = CHUNK_ROWS) -> None:
        self._choice, self._metrics, self._log = choice, metrics, log
        self._max_batch_rows = max_batch_rows

    def load(self, name: str, found: Found) -> ServedModel:
        """Opens a session on the graph, checks what it runs on, and tries it on probe rows.

        Args:
            name: To serve it under.
            found: The version.

        Raises:
            BundleError: The graph cannot be loaded, does not answer as it should, or is one of series.
            ModelReferenceError: The folder was replaced since it was found.
            ProviderError: Providers are strict, and another one would run it.
            ScoringError: Running it failed, perhaps for a reason that passes.
        """
        choice, manifest = self._choice, found.bundle.manifest
        if manifest.series is not None:
            raise BundleError(
                f"{name!r} scores series, which the daemon does not serve: use `anomvae stream` or `score`"
            )
        graph = graph_of(found.bundle)
        session = self._session(graph, manifest)
        in_use, fell_back = short_name(session.providers[0]), choice.fell_back(session.providers)
        if fell_back and choice.strict:
            raise ProviderError(
                f"{name!r} would run on {in_use!r} and not on {choice.wanted[0]!r}: its libraries cannot be loaded here; "
                "mend the installation, or leave out --strict-providers"
            )
        on_cpu = in_use == "cpu"
        reference = None if on_cpu else GraphSession(graph, manifest.width)
        apart = self_test(session, manifest, reference)
        settle_chunk(session, manifest)
        self._log.info(
            "model loaded",
            model=name,
            version=found.version,
            provider=in_use,
            chunk_rows=session.chunk_rows,
            apart_from_cpu=None if on_cpu else apart,
        )
        return ServedModel(name, found.version, found.bundle, session)

    def tell_provider(self, model: ServedModel) -> None:
        """Reports what a model that went into service runs on; loudly, where that is not what was asked for."""
        in_use, fell_back = short_name(model.session.providers[0]), self._choice.fell_back(model.session.providers)
        self._metrics.provider(model.name, in_use, fell_back)
        if fell_back:
            self._log.warning(
                "execution provider fell back",
                model=model.name,
                in_use=in_use,
                wanted=self._choice.wanted[0],
                reason="it is not installed here"
                if self._choice.wanted[0] not in self._choice.usable
                else "it cannot be loaded",
            )

    def _session(self, graph: bytes, manifest: Manifest) -> GraphSession:
        choice = self._choice
        try:
            return GraphSession(
                graph, manifest.width, choice.providers, strict=choice.strict, largest_chunk=self._max_batch_rows
            )
        except BundleError:
            if choice.strict or choice.usable == ("cpu",):
                raise
        self._log.warning("execution provider failed to load the model", model=manifest.name, wanted=choice.usable[0])
        return GraphSession(graph, manifest.width, largest_chunk=self._max_batch_rows)


def graph_of(bundle: Bundle, name: str = GRAPH) -> bytes:
    """The graph that the manifest names, and no other: the folder may have been replaced since it was read.

    Args:
        bundle: As it was read.
        name: Of the file.

    Raises:
        ModelReferenceError: It was.
    """
    try:
        graph = (bundle.folder / name).read_bytes()
    except OSError:
        graph = b""
    if hashlib.sha256(graph).hexdigest() != bundle.manifest.files[name]:
        raise ModelReferenceError(f"{bundle.folder} has changed since it was read; it is looked at again")
    return graph


def same_inputs(old: Manifest, new: Manifest) -> bool:
    """Whether callers can go on sending what they send: the same columns, of the same kinds, in the same order."""
    return [(column.name, column.is_numeric) for column in old.scored] == [
        (column.name, column.is_numeric) for column in new.scored
    ]


def same_codes(old: Manifest, new: Manifest) -> bool:
    """Whether callers who send codes, days and numbers of groups mean the same by them."""
    return _codes(old) == _codes(new)


def _codes(manifest: Manifest) -> list[tuple[object, ...]]:
    group = manifest.calibration.group_column
    coded = manifest.scored if group is None else (*manifest.scored, group)
    return [(column.categories, column.missing_code, column.origin) for column in coded]
