"""What a caller asks for beside scores: how many reasons, at which alarm rate, in which form."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anomvae.errors import RequestError, RequestTooLargeError, SettingError
from anomvae.scoring.rates import asked_rate
from anomvae.scoring.reasons import REASON_OUTPUTS
from anomvae.scoring.scorer import MAX_TOP
from anomvae.serving.exchange import ARROW_STREAM, JSON

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from anomvae.serving.exchange import Headers
    from anomvae.serving.model import ServedModel

MAX_ROWS = 1_000_000
"""Most rows a request may hold, unless the daemon is told otherwise."""
MAX_JSON_BYTES = 16 << 20
"""Most bytes of JSON: no other request is answered while it is parsed, and few bytes can stand for many objects."""
DEFAULT_TOP = 3
"""Reasons a row gets unless the caller asks for more."""
OPTIONS = ("top", "alarm_rate")
_MEDIA_TYPES = (JSON, ARROW_STREAM)
_MEDIA_RANGE = re.compile(r"\s*([\w!#$&^.+*-]+/[\w!#$&^.+*-]+)\s*(?:;(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller asks for.

    Attributes:
        top: Reasons a row.
        alarm_rate: Replaces the model's default; None: the default.
    """

    top: int
    alarm_rate: float | None

    def outputs(self, model: ServedModel) -> tuple[str, ...]:
        """Outputs of the graph that the answer takes."""
        more = [name for name in REASON_OUTPUTS if name in model.outputs] if self.top else []
        return (*model.answered, *more)

    def rate_in_force(self, model: ServedModel) -> float:
        """The share of normal rows that may alarm in this answer."""
        return model.manifest.calibration.alarm_rate if self.alarm_rate is None else self.alarm_rate


def read_wishes(
    model: ServedModel, body: Mapping[str, Any], query: Mapping[str, str], *, default_top: int = DEFAULT_TOP
) -> Wishes:
    """Reads the options of a request, in its body or its query.

    Args:
        model: The model asked.
        body: Options of the body.
        query: Options of the query, as text.
        default_top: Reasons a row where nothing is said.

    Raises:
        RequestError: An option is no number, unknown, or said twice with different values.
        SettingError: It is out of range.
        TooFewRowsError: The calibration rows do not support the alarm rate.
    """
    refuse_unknown(query, OPTIONS, "the query")
    said = {name: [body[name]] if body.get(name) is not None else [] for name in OPTIONS}
    for name in query:
        texts = query.getlist(name) if hasattr(query, "getlist") else [query[name]]
        said[name] += [_number(text, name) for text in texts]
    top, rate = (_one(values, name) for name, values in said.items())
    if top is None:
        top = default_top
    elif isinstance(top, float) and top.is_integer():
        top = int(top)
    if not isinstance(top, int) or not 0 <= top <= MAX_TOP:
        raise SettingError(f"top must be a whole number from 0 to {MAX_TOP}: the number of reasons a row gets")
    if rate is not None:
        rate = float(rate)
        if math.isnan(rate):
            raise SettingError("alarm_rate must be a share above 0 and below 1")
    return Wishes(top, asked_rate(model.manifest, rate))


def refuse_unknown(given: Collection[str], known: Collection[str], where: str) -> None:
    """Refuses names that mean nothing here, so that a mistyped option does not pass for none.

    Raises:
        RequestError: There is one; it is named only where it is nearly a known one: callers may send anything.
    """
    for name in given:
        if name not in known:
            alike = difflib.get_close_matches(name, list(known), n=1)
            meant = f" (is {alike[0]!r} meant?)" if alike else ""
            raise RequestError(f"{where} holds an unknown key{meant}; known are {', '.join(known)}")


def refuse_too_many(rows: int, max_rows: int) -> None:
    """Refuses more rows than a request may hold.

    Raises:
        RequestTooLargeError: See above.
    """
    if rows > max_rows:
        raise RequestTooLargeError(f"the request holds {rows:,} rows, more than the {max_rows:,} it may; send fewer")


def refuse_large_json(size_bytes: int) -> None:
    """Refuses JSON that would take too long to parse.

    Args:
        size_bytes: Of the JSON, without tensors that follow it as bytes.

    Raises:
        RequestTooLargeError: It is larger than :data:`MAX_JSON_BYTES`.
    """
    if size_bytes > MAX_JSON_BYTES:
        raise RequestTooLargeError(
            f"the body has {size_bytes:,} bytes of JSON, more than the {MAX_JSON_BYTES >> 20} MiB it may; "
            "send Arrow or binary tensors, or cut it up"
        )


def answer_type(headers: Headers, own: str) -> str:
    """Media type of the answer, by the `Accept` header.

    Args:
        headers: Of the request.
        own: The request's own type, which is the answer's unless the caller prefers another.

    Raises:
        RequestError: The caller takes neither JSON nor an Arrow stream.

    Example:
        >>> answer_type({"accept": "text/html, */*;q=0.8"}, "application/json")
        'application/json'
    """
    accept = headers.get("accept", "").strip()
    if not accept:
        return own
    weights = {kind: _weight(accept.lower(), kind) for kind in _MEDIA_TYPES}
    best = max(weights, key=lambda kind: (weights[kind], kind == own))
    if weights[best] <= 0:
        raise RequestError(f"the answer can be {' or '.join(_MEDIA_TYPES)}, and the Accept header takes neither")
    return best


def _weight(accept: str, kind: str) -> float:
    """How welcome a media type is, 0 to 1: the most exact range that matches decides."""
    exactness, weight = 0, 0.0
    family = kind.split("/", 1)[0]
    for part in accept.split(","):
        found = _MEDIA_RANGE.fullmatch(part)
        rank = {kind: 3, f"{family}/*": 2, "*/*": 1}.get(found[1], 0) if found else 0
        if found and rank > exactness:
            quality = re.search(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", found[2] or "")
            exactness, weight = rank, float(quality[1]) if quality else 1.0
    return weight


def _number(text: str, name: str) -> float | int:
    try:
        return int(text) if name == "top" else float(text)
    except ValueError:
        raise RequestError(f"{name} in the query is no {'whole ' if name == 'top' else ''}number") from None


def _one(values: list[Any], name: str) -> float | int | None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(f"{name} is no number")
        if value != values[0]:
            raise RequestError(f"{name} is given twice, with different values; say it once")
    return values[0] if values else None
