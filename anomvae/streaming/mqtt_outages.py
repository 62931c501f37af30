"""When an MQTT connection goes and comes, told once each; and whether it goes so often that it is no chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomvae.observability.logs import Log

LOST = "connection lost"
LOST_SOON = f"{LOST} soon after it stood, again and again: another client uses the client id, or a message is too large"
OFTEN = 3
"""Connections in a row that were lost soon, from which on it is no chance."""


class Outages:
    """What is told of one link.

    Args:
        address: Of the broker.
        client_id: Name of the link there; empty: the broker gave one.
        log: Told; None: nobody is.
    """

    def __init__(self, address: str, client_id: str, log: Log | None) -> None:
        self._log = log
        self._fields = {"address": address, **({"client_id": client_id} if client_id else {})}
        self._away = False
        self._soon = 0

    def reason(self, trouble: str | None, *, accepted: bool, stood: bool) -> str | None:
        """Why a connection ended, or came to nothing, in view of those before it.

        Args:
            trouble: What is known of it.
            accepted: Whether the broker had accepted it.
            stood: Whether it then stood for a good while.
        """
        self._soon = self._soon + 1 if accepted and not stood else 0
        return LOST_SOON if trouble == LOST and self._soon >= OFTEN else trouble

    def away(self, reason: str | None) -> None:
        """There is no connection."""
        if not self._away and self._log is not None:
            self._log.warning("mqtt unreachable", **self._fields, reason=reason)
        self._away = True

    def back(self) -> None:
        """There is one."""
        if self._away and self._log is not None:
            self._log.info("mqtt connected again", **self._fields)
        self._away = False
