"""Whose a trial is: of several processes that work on a study, one at a time has it.

| a process | the trial |
| --- | --- |
| has claimed it | is its own: nobody else trains it or writes its result |
| has been killed | is free again, as the kernel has released the lock, and goes on in mid-run |
| has written its result | is never claimed again: whoever claims it looks for a result first |

The lock is that of runs (`metronorm.store.owner`), on a directory of the study's: so it also holds
before a trial has a run, and after that has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.errors import RunError
from metronorm.store.owner import Ownership
from metronorm.tune.study import CLAIMS, no_room

if TYPE_CHECKING:
    from metronorm.tune.study import Study


def claim(study: Study, number: int) -> Ownership | None:
    """The claim of this process on a trial, until it is released; None: somebody else has it.

    Raises:
        RunError: the study's directory cannot be written.
    """
    folder = study.directory / CLAIMS / f"{number:03d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Ownership(folder, 0)
    except RunError:
        return None
    except OSError as error:
        raise no_room(study.directory, error) from None
