"""The models a daemon serves, by name: looked up by every request, swapped whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.errors import StoppingError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.serving.model import ServedModel


NAMES_TOLD = 8
"""Most names that a refusal lists."""


class ModelTable:
    """One current version a name, and perhaps a challenger in its shadow.

    A request keeps the version it was decoded for, so a swap between two requests disturbs neither.

    Args:
        names: Names to serve, the default first.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._current: dict[str, ServedModel] = {}
        self._challengers: dict[str, ServedModel] = {}

    @property
    def complete(self) -> bool:
        """Whether every name has a version."""
        return len(self._current) == len(self.names)

    @property
    def current(self) -> tuple[ServedModel, ...]:
        """The versions in service, in the order of their names."""
        return tuple(self._current[name] for name in self.names if name in self._current)

    def get(self, name: str, version: str = "") -> ServedModel:
        """The version in service.

        Args:
            name: Of the model; empty: the default one.
            version: The version that must be in service; empty: whichever is.

        Raises:
            UnknownModelError: No such model, or another version of it, is served.
            StoppingError: It is still being loaded.
        """
        model = self._current.get(name or self.names[0])
        if model is None:
            if name and name not in self.names:
                raise UnknownModelError(f"no model of that name is served here; there are {self._told()}")
            raise StoppingError("the model is still being loaded; try again in a moment")
        if version and version != model.version:
            raise UnknownModelError(
                f"that version of {model.name!r} is not served; the one in service is {model.version}"
            )
        return model

    def _told(self) -> str:
        others = len(self.names) - NAMES_TOLD
        return ", ".join(self.names[:NAMES_TOLD]) + (f" and {others:,} more" if others > 0 else "")

    def put(self, model: ServedModel) -> None:
        """Puts a version into service in place of the one before."""
        self._current[model.name] = model

    def challenger(self, name: str) -> ServedModel | None:
        """The version scored in a model's shadow, if there is one."""
        return self._challengers.get(name)

    def put_challenger(self, name: str, model: ServedModel | None) -> None:
        """Sets or ends a model's shadow."""
        if model is None:
            self._challengers.pop(name, None)
        else:
            self._challengers[name] = model
