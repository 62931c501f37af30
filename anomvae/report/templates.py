"""Templates of the pages, filled."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from anomvae.report import wording

_SPEAK = (
    wording.number,
    wording.limit,
    wording.share,
    wording.rate,
    wording.count,
    wording.between,
    wording.nats,
    wording.breakable,
    wording.short,
)


def filled(template: str, **facts: Any) -> str:
    """A page as one HTML file: no script, no request, readable offline; the same facts give the same text.

    Args:
        template: Name of the template's file in this package.
        facts: All that it names.
    """
    environment = Environment(
        loader=FunctionLoader(_file), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update({speak.__name__: speak for speak in _SPEAK})
    return environment.get_template(template).render(css=_file("style.css"), **facts).strip() + "\n"


def _file(name: str) -> str:
    return (files("anomvae.report") / name).read_text(encoding="utf-8")
