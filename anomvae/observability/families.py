"""Series by their labels: quick to find, never one for a name that is not served, never two where one is meant."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from prometheus_client.core import Metric

    from anomvae.observability.instruments import Instrument

ChildT = TypeVar("ChildT")


class Registry(CollectorRegistry):
    """A registry that leaves out the `_created` series: they double the exposition, and nothing reads them."""

    def collect(self) -> Iterable[Metric]:
        """All families of all collectors."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class Children(dict[tuple[str, ...], ChildT]):
    """Series by label values, the model first, made on the first use.

    A model that is not known shares the series of the model `""`, and is not remembered: names that callers make up can
    neither become labels nor fill the memory.

    Args:
        make: Makes the series of given label values, or finds the one made before.
        known: Models that have series of their own; must hold `""`.
    """

    def __init__(self, make: Callable[..., ChildT], known: Container[str]) -> None:
        super().__init__()
        self._make, self._known = make, known

    def __missing__(self, labels: tuple[str, ...]) -> ChildT:
        model, *rest = labels
        if model not in self._known:
            return self["", *rest]
        # Two threads may get here at once; `make` gives both the same series.
        child = self[labels] = self._make(*labels)
        return child


class Current(Collector):
    """A gauge of 1 per key whose other labels say what is so now: setting a key replaces its series in one step."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument, self._lock = instrument, Lock()
        self._now: dict[str, tuple[str, ...]] = {}

    def set(self, key: str, labels: tuple[str, ...] | None) -> None:
        """States what is so now for a key; None: nothing is.

        Args:
            key: The model, or `""` where there is one series in all.
            labels: Values of all labels of the instrument, in order.
        """
        with self._lock:
            if labels is None:
                self._now.pop(key, None)
            else:
                self._now[key] = tuple(_encodable(label) for label in labels)

    def describe(self) -> Iterable[Metric]:
        """The family without samples, for the registry's check of names."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """The family with one sample a key."""
        with self._lock:
            now = list(self._now.values())
        family = self._family()
        for labels in now:
            family.add_metric(labels, 1.0)
        return [family]

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self._instrument.name, self._instrument.help, labels=self._instrument.labels)


def _encodable(text: str) -> str:
    # A lone surrogate in a folder's name would otherwise break every scrape.
    return text.encode("utf-8", "replace").decode("utf-8")
