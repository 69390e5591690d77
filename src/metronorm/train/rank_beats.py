"""Which beats of a tick are this rank's. The tick does not know how many ranks there are.

A tick has J beats of the endless order, whatever the world. Rank r of N makes the beats j with
j mod N = r, in ceil(J / N) rounds; in the last round some ranks may have none. With J = 5, N = 3:

| round | rank 0 | rank 1 | rank 2 |
| --- | --- | --- | --- |
| first | 0 | 1 | 2 |
| second | 3 | 4 | none |

So a run may stop on 4 processes and go on with 3: where it stands is a number of examples (or of
batches), and random numbers come from the seed, the tick and the number of the beat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from metronorm.optim import windows
from metronorm.train.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.optim import Window
    from metronorm.train.beats import IteratedBeats, OrderedBeats


class Beat(NamedTuple):
    """A beat of a window on this rank.

    Attributes:
        number: of the beat in its tick, over all ranks, from 0 on.
        batch: its examples.
        is_idle: whether the rank has no beat left: nothing of the batch may count.
    """

    number: int
    batch: Any
    is_idle: bool = False


class RankBeats(Iterator[Beat]):
    """The beats of this rank, window after window; as many on every rank.

    Args:
        beats: of all ranks.
        micro_batches: beats of a tick, on all ranks together.
        world: the ranks.
        spare: the batch of a rank that has no beat left.
    """

    def __init__(
        self,
        beats: OrderedBeats | IteratedBeats,
        micro_batches: int,
        world: World,
        spare: Any = None,
    ) -> None:
        self._beats, self._micro_batches, self._spare = beats, micro_batches, spare
        self._rank, self._size = world.rank, world.size
        self._read: deque[Beat] = deque()

    @property
    def rounds(self) -> int:
        """Beats of a window on each rank, those that do not count included."""
        return -(-self._micro_batches // self._size)

    def __next__(self) -> Beat:
        if not self._read:
            self._read_window()
        return self._read.popleft()

    def _read_window(self) -> None:
        """Read all of a window, so that the beats of all ranks stand at its end afterwards."""
        for number in range(self.rounds * self._size):
            mine = number % self._size == self._rank
            if number >= self._micro_batches:
                if mine:
                    self._read.append(Beat(number, self._spare, is_idle=True))
            elif mine:
                self._read.append(Beat(number, next(self._beats)))
            else:
                self._beats.skip()


def rank_windows(
    beats: Any,
    micro_batches: int,
    count: Callable[[Any], int],
    world: World | None = None,
    spare: Any = None,
) -> Iterator[Window[Beat]]:
    """This rank's beats of one tick after the other, with the weights of all ranks' counts.

    Args:
        beats: of all ranks: `OrderedBeats` or `IteratedBeats`; of one process any iterator.
        micro_batches: beats of a tick, on all ranks together.
        count: what the summed loss of a batch is over.
        world: the ranks; None: this process alone.
        spare: the batch of a rank that has no beat left.
    """
    world = world or World()
    mine = RankBeats(beats, micro_batches, world, spare)
    return windows(
        mine,
        mine.rounds,
        lambda beat: 0 if beat.is_idle else count(beat.batch),
        process_group=world.control,
    )
