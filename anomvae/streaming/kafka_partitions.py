"""Which partitions of a topic a member of a group has, how far each is, and what of that its caller has been told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomvae.streaming.contracts import Place, Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(slots=True)
class Partitions:
    """The partitions of one topic, in the hands of one member. Knows no client.

    A partition is given by the group, waits until it is known where it begins, is read, and is taken again. The caller hears
    of those that are read: of each as assigned before its first record, and as revoked after its last one.

    Attributes:
        topic: Its name.
        waiting: Partitions that wait to begin; with the progress to begin at where that is known without asking.
        due: Offset of the next record of each that is read.
        asked: Offset at which it was to begin, until its first record.
        ends: End of the log of each that was read to it; beyond `due` where the last offsets hold marks of transactions, which
            are no records.
        committed: Last commit of each since it began.
    """

    topic: str
    waiting: dict[int, Progress | None] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    committed: dict[int, Progress] = field(default_factory=dict)
    _fresh: dict[Place, Progress] = field(default_factory=dict)
    _gone: list[Place] = field(default_factory=list)

    def place(self, partition: int) -> Place:
        """The partition's name for callers."""
        return Place(self.topic, partition)

    def given(self, partitions: Iterable[int]) -> None:
        """The group gave them to this member."""
        self.waiting |= dict.fromkeys(partitions)

    def begin(self, begun: Mapping[int, Progress]) -> None:
        """They are read from now on, each from where it is to be replayed."""
        for partition, progress in begun.items():
            del self.waiting[partition]
            self.due[partition] = self.asked[partition] = progress.replay_from
            self._fresh[self.place(partition)] = progress

    def taken(self, partitions: Iterable[int]) -> list[int]:
        """The group took them, or this member lost them.

        Returns:
            Those that were being read.
        """
        read = []
        for partition in partitions:
            self.waiting.pop(partition, None)
            if partition in self.due:
                read.append(partition)
                self._stop(partition)
        return read

    def again(self, partitions: Iterable[int], progress: Progress | None = None) -> list[int]:
        """Stops reading them, to begin anew: at this progress, or at what is committed.

        Returns:
            Those that were being read.
        """
        read = self.taken(list(partitions))
        self.waiting |= dict.fromkeys(read, progress)
        return read

    def passed(self, partition: int, offset: int) -> None:
        """A record was delivered."""
        self.due[partition] = offset + 1
        self.asked.pop(partition, None)

    def reached(self, partition: int, end: int) -> bool:
        """All that lies before the end of the log has been delivered.

        Returns:
            Whether that is further than its last commit, and no record waits for an answer between them.
        """
        if partition not in self.due:
            return False  # taken from us meanwhile
        self.ends[partition] = end
        last = self.committed.get(partition)
        return last is not None and self.passing(partition, last) != last

    def passing(self, partition: int, progress: Progress) -> Progress:
        """The progress to commit: where all that was delivered is answered, up to the end of the log."""
        end = self.ends.get(partition, 0)
        ahead = progress.answered == self.due.get(partition) and progress.answered < end
        return Progress(end, progress.replay_from) if ahead else progress

    def left(self, partition: int, high: int) -> int:
        """Offsets between what was delivered and the end of the log as it was last heard of."""
        return max(0, high - max(self.due[partition], self.ends.get(partition, 0)))

    def owns(self, place: Place) -> bool:
        """Whether the place is one of those being read."""
        return place.topic == self.topic and place.partition in self.due

    def tell(self) -> tuple[dict[Place, Progress], list[Place]]:
        """What the caller has not been told yet: partitions that came, and those that went before."""
        told = self._fresh, self._gone
        self._fresh, self._gone = {}, []
        return told

    def _stop(self, partition: int) -> None:
        del self.due[partition]
        for known in (self.asked, self.ends, self.committed):
            known.pop(partition, None)
        if self._fresh.pop(self.place(partition), None) is None:  # else the caller never heard of it
            self._gone.append(self.place(partition))
