"""An input of a request of the Open Inference Protocol, whichever way it came, before it is read."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from anomvae.errors import RequestError
from anomvae.serving.datatypes import (
    BYTES,
    NUMBERS,
    numbers_of_list,
    numbers_of_raw,
    quoted,
    texts_of_list,
    texts_of_raw,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

MOST_DIMENSIONS = 2
SHARED_MEMORY = "shared_memory_"


class Tensor(NamedTuple):
    """An input: what it says of itself, and its cells still unread.

    Attributes:
        name: Its name.
        datatype: One that :func:`~anomvae.serving.datatypes.known_datatype` let pass.
        shape: At most 2 extents, none negative; they may still be more than there are cells.
        cells: A JSON list, flat or nested; or bytes; or, of a message, the list of its text cells.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    cells: list[Any] | memoryview

    @property
    def size(self) -> int:
        """Cells that the shape takes."""
        return math.prod(self.shape)

    def numbers(self) -> Array:
        """The cells as an array of the tensor's shape.

        Raises:
            RequestError: They do not fit the shape or the datatype.
        """
        datatype = NUMBERS.get(self.datatype)
        if datatype is None:
            raise RequestError(f"input {quoted(self.name)} has datatype {BYTES} where numbers are expected; send FP32")
        if isinstance(self.cells, list):
            return numbers_of_list(self._flat(self.cells), datatype, self.name).reshape(self.shape)
        return numbers_of_raw(self.cells, self.size, datatype, self.name).reshape(self.shape)

    def texts(self) -> Sequence[str | bytes | None]:
        """The cells of a tensor of `BYTES`, flat; None where missing.

        Raises:
            RequestError: They do not fit the shape, or are no text.
        """
        if isinstance(self.cells, list):
            cells = self._flat(self.cells)
            return cells if cells and type(cells[0]) is bytes else texts_of_list(cells, self.name)
        return texts_of_raw(self.cells, self.size, self.name)

    def _flat(self, cells: list[Any]) -> list[Any]:
        """The cells in one list, as many as the shape takes."""
        if cells and type(cells[0]) is list:
            if len(self.shape) != MOST_DIMENSIONS or set(map(type, cells)) != {list}:
                raise RequestError(f"the data of input {quoted(self.name)} are not nested as its shape says")
            extents = (len(cells), *set(map(len, cells)))
            if extents != self.shape:
                raise RequestError(
                    f"the data of input {quoted(self.name)} are not nested as its shape {list(self.shape)} says"
                )
            return list(chain.from_iterable(cells))
        if len(cells) != self.size:
            raise RequestError(
                f"input {quoted(self.name)} has {len(cells):,} cells; its shape {list(self.shape)} takes {self.size:,}"
            )
        return cells


def checked_shape(shape: Any, name: str) -> tuple[int, ...]:
    """A shape as a request states it.

    Raises:
        RequestError: It is no list of at most 2 whole numbers, none negative.
    """
    if type(shape) is list and len(shape) <= MOST_DIMENSIONS:
        for extent in shape:
            if type(extent) is not int or extent < 0:
                break
        else:
            return tuple(shape)
    raise RequestError(
        f"the shape of input {quoted(name)} is not a list of at most {MOST_DIMENSIONS} whole numbers, none negative"
    )


def refuse_shared_memory(parameters: Mapping[str, Any], where: str) -> None:
    """Refuses an input or output that lies in shared memory.

    Args:
        parameters: Its parameters.
        where: What it is, for messages.

    Raises:
        RequestError: It does.
    """
    for key in parameters:
        if key.startswith(SHARED_MEMORY):
            raise RequestError(f"{where} names shared memory, which this daemon does not use; send the data themselves")


def refuse_outputs_beyond_tensors(parameters: Mapping[str, Any], where: str) -> None:
    """Refuses what can be asked of an output and is not given here.

    Args:
        parameters: Of an output that is asked for.
        where: What it is, for messages.

    Raises:
        RequestError: It should lie in shared memory, or be a list of classes.
    """
    refuse_shared_memory(parameters, where)
    if parameters.get("classification"):
        raise RequestError(f"{where} is asked for with 'classification'; a detector has no classes, leave it out")
