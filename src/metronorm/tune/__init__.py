"""Search for the options of a training: on Optuna, and with run directories as the only truth.

    study/
      study.json           what is searched: the config, the space, the objective
      trials/000/          an ordinary run, and beside it:
        trial.json         what was to be tried: the point, the ticks, the seed
        result.json        what came of it, written once
      claims/000/          whose trial it is: a lock that the kernel releases with its process
      best.toml            the best config so far, for `metronorm train --config`

| file | what is there |
| --- | --- |
| `options.py`, `space.py`, `space_file.py` | the options of a config by name; which values to try |
| `built_in.py` | spaces that are there for every training |
| `study.py`, `claiming.py` | the directory, and whose a trial is |
| `asking.py` | the only file that knows Optuna |
| `rungs.py` | short runs with whole schedules first |
| `stopping.py`, `watching.py` | when a trial cannot win |
| `subjects.py`, `running.py`, `search.py` | what is tuned; one trial, and one after the other |
| `findings.py`, `figures.py` | what a study has found |
| `rate.py` | a learning rate from a few short runs |

Importing this package loads neither torch nor Optuna.
"""

from metronorm.tune.space import Space
from metronorm.tune.space_file import read_space
from metronorm.tune.study import Study, open_study

__all__ = ["Space", "Study", "open_study", "read_space"]
