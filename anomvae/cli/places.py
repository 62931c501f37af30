"""Where answers and reports may be written: never over the data, the model or one another, and whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.errors import OutputError

if TYPE_CHECKING:
    from anomvae.bundle import Bundle


def refuse_own_input(place: Path, data: str, what: str = "answers") -> None:
    """What is written must not replace the measurements it tells of.

    Args:
        place: File to be written.
        data: File, folder or glob to be read.
        what: Is written.

    Raises:
        OutputError: They are the same, or the one lies in the other.
    """
    read = [Path(data).expanduser(), *map(Path, glob.glob(data))]  # noqa: PTH207  the pattern may be absolute
    if any(_is_or_holds(path, place) for path in read):
        raise OutputError(f"{place} is, or lies among, the data to be scored; name another file for the {what}")


def refuse_own_model(place: Path, bundle: Bundle, what: str = "answers") -> None:
    """What is written must not replace a file of the model.

    Args:
        place: File to be written.
        bundle: Of the detector.
        what: Is written.

    Raises:
        OutputError: It lies in the model's folder.
    """
    if _is_or_holds(bundle.folder, place):
        raise OutputError(
            f"{place} lies in the folder of the model, which must stay as it is; name another file for the {what}"
        )


def refuse_report(report: Path, out: str, bundle: Bundle) -> None:
    """Refuses a place for a report before anything is scored.

    Args:
        report: File to be written.
        out: Where the answers go; `-`: standard output.
        bundle: Of the detector.

    Raises:
        OutputError: It is the file of the answers, lies in the model, or cannot be written.
    """
    if out != "-" and report.resolve() == Path(out).resolve():
        raise OutputError(f"{report} is to hold both the answers and the report; name another file for the report")
    refuse_own_model(report, bundle, "report")
    folder = report.parent
    if report.exists() and not report.is_file():
        raise OutputError(f"{report} is no file; name one for the report")
    if not folder.is_dir():
        raise OutputError(
            f"{report} cannot be written: there is no folder {folder}; make it, or name another file for the report"
        )
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(report, error) from None


def write_report(report: Path, text: str) -> None:
    """Writes a report; the file appears only when it is complete.

    Args:
        report: File to be written.
        text: HTML.

    Raises:
        OutputError: It cannot be written, or the disk is full.
    """
    staging: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{report.name}-", dir=report.parent)
        staging = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        staging.chmod(0o644)
        staging.replace(report)
    except OSError as error:
        raise _unwritable(report, error) from None
    finally:
        if staging is not None:
            with contextlib.suppress(OSError):
                staging.unlink(missing_ok=True)


def _unwritable(report: Path, error: OSError) -> OutputError:
    why = error.strerror or "the system refuses"
    return OutputError(f"{report} cannot be written: {why}; name another file for the report")


def _is_or_holds(path: Path, place: Path) -> bool:
    """Whether a place is a path, or lies in it if it is a folder."""
    return place.resolve() == path.resolve() or (path.is_dir() and path.resolve() in place.resolve().parents)
