"""What can go wrong, and whose fault it is.

Every error the product raises on purpose is one of these. The message is one clear sentence: what was wrong, where, and
what to do about it. It never holds a data value: column names and row numbers only.

.. code-block:: text

    AnomvaeError                      exit code 1: our fault
    +-- ParityError                   the exported graph answers differently from the model
    +-- TrackingError                 the tracking server or registry cannot be reached
    +-- ScoringError                  the graph failed on rows it should answer
    +-- OverloadedError               more rows are in flight than may be; try again later
    +-- DeadlineError                 the caller's time was up before its rows were answered
    +-- StreamError                   a stream's source or sink is gone for good
    +-- StoppingError                 the daemon is about to stop and takes no more requests
    +-- InputError                    exit code 2: the caller's
        +-- DataFileError             a data file is missing, empty, damaged or not what its name says
        +-- SchemaError               a table cannot be learnt from as it is
        +-- RowError                  rows do not fit the detector
        |   +-- ColumnMismatchError   columns are missing or renamed
        |   +-- CellError             a column holds what its type cannot be
        +-- SettingError              an option or a configuration value is wrong
        +-- TooFewRowsError           the rows cannot support what was asked
        +-- BundleError               a bundle is damaged, incomplete or of a newer format
        +-- ModelReferenceError       no model answers to a reference
        +-- PromotionError            a version may not be promoted
        +-- RequestError              a request to the daemon cannot be read
        |   +-- RequestTooLargeError  it is larger than the daemon takes
        |   +-- SlowRequestError      it did not arrive in time
        +-- UnknownModelError         the daemon serves no such model or version
        +-- UnauthorizedError         a request carries no valid token
        +-- ProviderError             an execution provider that was asked for cannot be had
        +-- OutputError               an answer cannot be written where it should go
        +-- MissingExtraError         an optional part of the installation is needed
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


LONGEST_NAME = 60
"""Characters of a column's name that a message shows: names come from callers, too."""
_MOST_COMPARED = 100
"""Names that are looked through for ones alike: a caller may send a million."""


class AnomvaeError(Exception):
    """The root of all errors raised on purpose."""

    exit_code = 1


class ParityError(AnomvaeError):
    """The exported graph and the trained model do not give the same answers; nothing was written."""


class TrackingError(AnomvaeError):
    """The tracking server or the registry did not answer."""


class ScoringError(AnomvaeError):
    """The graph failed on rows it should answer."""


class OverloadedError(AnomvaeError):
    """More rows are in flight than may be.

    Args:
        message: The sentence.
        retry_after_s: When to try again, in seconds.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(AnomvaeError):
    """The caller's time was up before its rows were answered."""


class StreamError(AnomvaeError):
    """A stream's source or sink is gone for good, or refuses what it is sent."""


class StoppingError(AnomvaeError):
    """The daemon is about to stop and takes no more requests."""


class InputError(AnomvaeError):
    """The caller can mend it: a file, a table, an option."""

    exit_code = 2


class DataFileError(InputError):
    """A data file is missing, empty, damaged or not what its name says."""


class SchemaError(InputError):
    """A table cannot be learnt from as it is."""


class RowError(InputError):
    """Rows do not fit the detector."""


class ColumnMismatchError(RowError):
    """Rows do not have the columns the bundle was trained on.

    Args:
        missing: Columns the detector needs and the rows lack.
        unknown: Columns the rows have and the detector does not know.
    """

    def __init__(self, missing: Sequence[str], unknown: Sequence[str]) -> None:
        lower = [miss.lower() for miss in missing[:_MOST_COMPARED]]
        named = [name for name in unknown[:_MOST_COMPARED] if len(name) <= LONGEST_NAME]
        alike = [name for name in named if difflib.get_close_matches(name.lower(), lower, 1)]
        others = len(unknown) - len(alike)
        also = f" (they have {_some(alike)}, which it does not know)" if alike else ""
        if others and not alike:  # not by name: without a header the first row's cells would stand here
            also = (
                f" (they have {others} {'column' if others == 1 else 'columns'} it does not know; is there a header?)"
            )
        super().__init__(
            f"the rows lack {_some(missing)}, which the detector needs{also}; "
            "rename or add the columns, `anomvae models show` lists them"
        )
        self.missing, self.unknown = tuple(missing), tuple(unknown)


class CellError(RowError):
    """A column holds cells that its type cannot be."""


class SettingError(InputError):
    """An option or a configuration value is wrong."""


class TooFewRowsError(InputError):
    """The rows cannot support what was asked.

    Args:
        message: The sentence.
        rows_needed: Rows that would be enough.
    """

    def __init__(self, message: str, rows_needed: int) -> None:
        super().__init__(message)
        self.rows_needed = rows_needed


class BundleError(InputError):
    """A bundle is damaged, incomplete or of a newer format."""


class ModelReferenceError(InputError):
    """No model answers to a reference."""


class PromotionError(InputError):
    """A version may not be promoted: it is worse, or other, than the one in service."""


class RequestError(InputError):
    """A request to the daemon cannot be read."""


class RequestTooLargeError(RequestError):
    """A request is larger than the daemon takes."""


class SlowRequestError(RequestError):
    """A request did not arrive in time."""


class UnknownModelError(InputError):
    """The daemon serves no such model or version."""


class UnauthorizedError(InputError):
    """A request carries no valid token."""


class ProviderError(InputError):
    """An execution provider that was asked for cannot be had."""


class OutputError(InputError):
    """An answer cannot be written where it should go."""


class MissingExtraError(InputError):
    """An optional part of the installation is needed.

    Args:
        what: What was asked for, as the start of a sentence.
        extra: The extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'anomvae[{extra}]'")
        self.extra = extra


def _some(names: Sequence[str], most: int = 8) -> str:
    """Names for a message: at most `most` of them, then a count."""
    shown = ", ".join(repr(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}...") for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
