"""What passes between a wire format and the one path that all formats share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from anomvae.data.encoding import EncodedRows

    Arrays = Mapping[str, npt.NDArray[np.generic]]
    Headers = Mapping[str, str]
    """Of a request, by lower-case name."""

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"
BINARY = "application/octet-stream"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id of a W3C `traceparent` header; None if there is no valid one.

    Example:
        >>> trace_id_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return found[1] if found else None


@dataclass(frozen=True, slots=True)
class Reply:
    """The body of an answer.

    Attributes:
        body: Its bytes.
        media_type: What they are.
        headers: More headers, by lower-case name.
    """

    body: bytes
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request, decoded and found sound: what to score, and how the answers go back.

    Attributes:
        rows: n encoded rows; n may be 0.
        outputs: Names of the graph's outputs to compute, without repetition.
        encode: Turns those outputs, n entries each, into the answer: a :class:`Reply`, or a message of gRPC. It runs once.
        protocol: `v2-json`, `v2-binary`, `v1-json`, `v1-arrow`, `mlflow` or `grpc`; a label of metrics.
        alarm_rate: Replaces the model's default; None: the default.
        timeout_s: The caller's patience in seconds, if it stated one.
    """

    rows: EncodedRows
    outputs: tuple[str, ...]
    encode: Callable[[Arrays], Any]
    protocol: str
    alarm_rate: float | None = None
    timeout_s: float | None = None
