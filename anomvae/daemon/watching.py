"""Following references while serving: a new version is loaded beside the old one and swapped in, or refused."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from anomvae.daemon.loading import same_codes, same_inputs
from anomvae.daemon.one_thread import OneThread
from anomvae.errors import AnomvaeError, BundleError, ModelReferenceError, ScoringError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomvae.daemon.loading import Found, Loader
    from anomvae.observability import Log, Metrics
    from anomvae.serving.model import ServedModel
    from anomvae.serving.models import ModelTable
    from anomvae.serving.shadow import Shadow


T = TypeVar("T")


class Finder(Protocol):
    """Where references are looked up."""

    def find(self, ref: str) -> Found:
        """What a reference names now; raises an :class:`~anomvae.errors.AnomvaeError` if nothing."""
        ...

    def challenger(self, ref: str) -> Found | None:
        """The challenger of what it names, if there is one."""
        ...


@dataclass(slots=True)
class _Followed:
    """A reference that is served, and what came of it."""

    name: str
    ref: str
    found: Found
    refused: str | None = None
    trouble: str | None = None
    challenger: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def named_references(words: Sequence[str]) -> list[tuple[str | None, str]]:
    """Splits `NAME=REF` words.

    Example:
        >>> named_references(["press=./bundle", "pumps@champion"])
        [('press', './bundle'), (None, 'pumps@champion')]
    """
    split: list[tuple[str | None, str]] = []
    for word in words:
        name, is_named, ref = word.partition("=")
        split.append((name, ref) if is_named and "/" not in name else (None, word))
    return split


class Watcher:
    """Keeps a table of models at what their references name.

    Args:
        finder: Looks references up.
        loader: Loads versions.
        metrics: Told of outcomes.
        log: Told of them too.
        accept_new_columns: Whether a version that wants other columns may be swapped in.
    """

    def __init__(
        self, finder: Finder, loader: Loader, metrics: Metrics, log: Log, *, accept_new_columns: bool = False
    ) -> None:
        self._finder, self._loader, self._metrics, self._log = finder, loader, metrics, log
        self._accept_new_columns = accept_new_columns
        self._followed: dict[str, _Followed] = {}
        self._thread = OneThread("reload")

    async def find(self, words: Sequence[str]) -> tuple[str, ...]:
        """Looks up all references for the first time.

        Args:
            words: `REF` or `NAME=REF`.

        Returns:
            The names to serve them under, in order.

        Raises:
            AnomvaeError: A reference names nothing, or two have the same name.
        """
        for name, ref in named_references(words):
            found = await self._off_loop(self._finder.find, ref)
            chosen = name or found.name
            if chosen in self._followed:
                raise SettingError(f"two models would be served as {chosen!r}; name one of them, as in other={ref}")
            if "/" in chosen or not chosen.isprintable():
                raise SettingError(f"{ref} cannot be served as {chosen!r}; name it, as in press={ref}")
            self._followed[chosen] = _Followed(chosen, ref, found)
        return tuple(self._followed)

    async def start(self, models: ModelTable, shadow: Shadow) -> None:
        """Loads what was found, into a table.

        Raises:
            AnomvaeError: A version cannot be loaded.
        """
        self._models, self._shadow = models, shadow
        for followed in self._followed.values():
            model = await self._off_loop(self._loader.load, followed.name, followed.found)
            self._put(followed, followed.found, model)
            await self._look_for_challenger(followed)

    async def follow(self, every_s: float) -> None:
        """Looks at every reference again and again; never ends by itself."""
        while True:
            await asyncio.sleep(every_s)
            await self.look_at_all()

    async def look_at_all(self) -> None:
        """Looks at every reference once; what goes wrong with one is told, and concerns no other."""
        for name in self._followed:
            try:
                await self.look(name)
            except AnomvaeError:  # told and counted
                continue
            except Exception as error:  # noqa: BLE001  following must go on
                self._metrics.reload(name, "failed")
                self._log.error("reload failed", model=name, error=error)

    async def look(self, name: str, *, again: bool = False) -> None:
        """Looks at one reference, and serves what it names.

        Args:
            name: It is served under.
            again: Whether to try a version that was refused once more.

        Raises:
            AnomvaeError: The reference could not be looked up, or what it names was refused; the version before stays.
        """
        followed = self._followed[name]
        async with followed.lock:
            try:
                found = await self._off_loop(self._finder.find, followed.ref)
            except AnomvaeError as error:
                self._tell_trouble(followed, error)
                raise
            followed.trouble = None
            if found.digest == followed.found.digest and found.version == followed.found.version:
                followed.refused = None
                self._metrics.reload_settled(name)
            elif found.digest != followed.refused or again:
                await self._change(followed, found)
            else:
                self._metrics.reference_resolved(name)
            await self._look_for_challenger(followed)

    def _tell_trouble(self, followed: _Followed, error: AnomvaeError) -> None:
        """Tells why a reference led nowhere; once, as long as it stays the same."""
        refused = isinstance(error, BundleError)  # it is there, and it is bad
        if not refused or followed.trouble != str(error):
            self._metrics.reload(followed.name, "refused" if refused else "failed")
        if followed.trouble != str(error):
            followed.trouble = str(error)
            tell = self._log.error if refused else self._log.warning
            tell(
                "reload refused" if refused else "reference not found",
                model=followed.name,
                in_service=followed.found.version,
                reason=str(error),
            )

    async def _change(self, followed: _Followed, found: Found) -> None:
        """Loads another version beside the one in service; swaps it in if it is sound."""
        name, old = followed.name, self._models.get(followed.name)
        try:
            self._check_columns(old, found)
            model = await self._off_loop(self._loader.load, name, found)
        except ModelReferenceError as error:  # it was replaced meanwhile: the next look tells by what
            self._metrics.reload(name, "failed")
            self._log.warning("reference not found", model=name, reason=str(error))
            raise
        except ScoringError as error:  # memory, perhaps, or the device: it may pass, so the next look tries again
            self._metrics.reload(name, "failed")
            self._log.error(
                "reload failed", model=name, version=found.version, in_service=old.version, reason=str(error)
            )
            raise
        except AnomvaeError as error:
            followed.refused = found.digest
            self._metrics.reload(name, "refused")
            self._log.error(
                "reload refused", model=name, version=found.version, in_service=old.version, reason=str(error)
            )
            raise
        if not same_codes(old.manifest, found.bundle.manifest):
            self._log.warning("category codes changed", model=name)
        self._put(followed, found, model)
        self._metrics.reload(name, "loaded")
        self._log.info("model reloaded", model=name, version=found.version, before=old.version)

    def _check_columns(self, old: ServedModel, found: Found) -> None:
        if not self._accept_new_columns and not same_inputs(old.manifest, found.bundle.manifest):
            raise BundleError(
                f"version {found.version} of {old.name!r} wants other columns than version {old.version}, which callers send; "
                "start the daemon anew to serve it, or with --accept-new-columns"
            )

    def _put(self, followed: _Followed, found: Found, model: ServedModel) -> None:
        manifest = model.manifest
        if found.note:
            self._log.warning("note", model=model.name, note=found.note)
        self._models.put(model)
        followed.found, followed.refused, followed.challenger = found, None, None
        self._end_shadow(model.name)  # it was prepared for the version before
        self._metrics.model_loaded(
            model.name,
            version=model.version,
            kind=manifest.model,
            digest=found.digest[:12],
            reference=followed.ref,
            alarm_rate=manifest.calibration.alarm_rate,
            at=time.time(),
        )
        self._loader.tell_provider(model)

    async def _look_for_challenger(self, followed: _Followed) -> None:
        """Follows `@challenger`; whatever goes wrong with it concerns no caller."""
        if not self._shadow.share:
            return
        name, looked_up = followed.name, False
        try:
            found = await self._off_loop(self._finder.challenger, followed.ref)
            looked_up = True
            digest = found.digest if found and found.digest != followed.found.digest else None
            if digest == followed.challenger:
                return
            followed.challenger = digest  # also of one that will not load: it is not tried at every look
            self._end_shadow(name)
            if found is None or digest is None:
                return
            model = await self._off_loop(self._loader.load, name, found)
            self._shadow.prepare(self._models.get(name), model)
        except Exception as error:  # noqa: BLE001  of whatever kind
            if not looked_up or isinstance(error, ModelReferenceError | ScoringError):
                followed.challenger = None
            self._end_shadow(name)
            told = {"reason": str(error)} if isinstance(error, AnomvaeError) else {"error": error}
            self._log.warning("no shadow", model=name, **told)
            return
        self._models.put_challenger(name, model)
        self._metrics.shadow_loaded(name, found.version)
        self._log.info("challenger in shadow", model=name, version=found.version)

    def _end_shadow(self, name: str) -> None:
        if self._models.challenger(name) is not None:
            self._log.info("shadow ended", model=name)
        self._models.put_challenger(name, None)
        self._metrics.shadow_loaded(name, None)

    async def _off_loop(self, call: Callable[..., T], *arguments: Any) -> T:
        """On the one thread of reloads: MLflow is slow, and takes one conversation at a time."""
        return await self._thread.run(call, *arguments)

    def close(self) -> None:
        """Ends the thread; a call that hangs is not waited for."""
        self._thread.close()
