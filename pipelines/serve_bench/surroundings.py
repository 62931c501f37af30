"""What the figures depend on: the machine, the packages, the size of an installation."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

OURS = (
    "anomvae",
    "onnxruntime",
    "uvicorn",
    "uvloop",
    "httptools",
    "starlette",
    "orjson",
    "pyarrow",
    "grpcio",
    "mlflow",
)
THEIRS = ("mlserver", "onnxruntime", "fastapi", "uvicorn", "uvloop", "orjson", "numpy")


def machine() -> str:
    """Processor, cores and Python in a phrase."""
    names = [line.partition(":")[2].strip() for line in _read(Path("/proc/cpuinfo")) if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    return f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def versions(names: Iterable[str] = OURS) -> dict[str, str]:
    """Versions of packages in this environment, of those that are here."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"wrk": wrk_version()}


def peer_versions(python: Path, names: Iterable[str] = THEIRS) -> dict[str, str]:
    """Versions of packages in the environment of another interpreter."""
    code = "import sys; from importlib.metadata import version\nfor name in sys.argv[1:]: print(name, version(name))"
    done = subprocess.run([str(python), "-c", code, *names], check=True, capture_output=True, text=True)
    return dict(line.split() for line in done.stdout.splitlines())


def wrk_version() -> str:
    """Version of wrk; empty where it is not installed."""
    if shutil.which("wrk") is None:
        return ""
    told = subprocess.run(["wrk", "-v"], check=False, capture_output=True, text=True).stdout
    return told.split()[1].removeprefix("debian/") if told else ""


def disk_mb(folder: Path) -> float | None:
    """Space that a folder takes on disk, each file once; None where there is no such folder."""
    if not folder.is_dir():
        return None
    seen: dict[int, int] = {}
    for path, _, files in os.walk(folder):
        for file in files:
            status = os.lstat(os.path.join(path, file))  # noqa: PTH118  a path object a file takes its time
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values()) / 2**20


def _read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
