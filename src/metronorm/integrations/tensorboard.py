"""A `SummaryWriter` that writes to a run: code for TensorBoard goes on as it is.

```python
from metronorm.integrations.tensorboard import SummaryWriter  # was: torch.utils.tensorboard
```

Neither torch nor tensorboard is needed or imported.
"""

from __future__ import annotations

import atexit
import platform
import sys
import time
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from metronorm.clock import Clock
from metronorm.clock.record import plain_number
from metronorm.clock.run import RUN_FILE
from metronorm.errors import ConfigError
from metronorm.integrations.histogram import histogram
from metronorm.integrations.names import MetricNames

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Container, Mapping, Sequence
    from types import TracebackType


class SummaryWriter:
    """As `torch.utils.tensorboard.SummaryWriter`, for scalars, histograms and text.

    Args:
        log_dir: the run. If there is one already, it goes on as a new attempt.
        comment: end of the name that the directory gets without `log_dir`.
        purge_step: not needed: what older attempts did beyond the step at which this one begins is
            in the full history only.
        max_queue, flush_secs, filename_suffix: not needed.
        config: what the run was configured with: plain JSON values.
        now: a monotonic clock in integer nanoseconds.

    The scalars of a `global_step` are the metrics of one tick, and the time since the last scalar
    of the step before is what it took (`wall_ns`); where only every fiftieth step is logged, that
    is fifty steps. Its record is written when a larger step comes, by `flush` and by `close`.

    A run has one record for each tick, so a scalar of an older step comes too late for its own. It
    is put on the record that is open or comes next (a validation loss that is counted in epochs is
    there at the tick after which it was measured), unless that has one of the name, and an event
    `late scalar` says its `metric`, `step` and `value`, and whether it was `placed`.

    Without `global_step` the values of a tag are counted: 0, 1, 2 (torch puts them all at 0).

    Tensors of one element go to `clock.log` as they are, so a device is not waited for; histograms
    and late scalars do wait. Names that no metric can have get an underscore at the end (`tick_`).
    A writer that is never closed is closed when the process exits.

    Raises:
        RunError: the directory is not writable.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
        *,
        config: dict[str, Any] | None = None,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        if not log_dir:
            begun = datetime.now().strftime("%b%d_%H-%M-%S")
            log_dir = Path("runs", f"{begun}_{platform.node()}{comment}")
        self.log_dir = log_dir
        self._config = config
        self._time = now
        self._names = MetricNames()
        self._counted: dict[str, int] = {}
        self._clock: Clock | None = None
        self._open_clock()

    def _open_clock(self) -> Clock:
        self._held: int | None = None
        self._offset = time.time_ns() - self._time()
        self._clock = Clock(
            self.log_dir,
            config=self._config,
            resume=Path(self.log_dir, RUN_FILE).exists(),
            progress=False,
            stall=None,  # what is logged seldom does not stall
            now=self._now,
        ).open()
        self._step: int | None = None  # the largest so far
        self._begun = False
        self._ended: int | None = None
        self._moment = 0
        self._on_record: set[str] = set()
        self._late: list[tuple[str, int, float | int]] = []
        atexit.register(self._close_at_exit)
        return self._clock

    def _now(self) -> int:
        """The time, except while a record is made of what was logged a while ago."""
        return self._time() if self._held is None else self._held

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(error)

    def get_logdir(self) -> str:
        """The run's directory."""
        return str(self.log_dir)

    # --- what is recorded -----------------------------------------------------------------------

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: Any = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """A number at a step; all digits are kept, whatever `double_precision` says.

        Raises:
            ConfigError: not one number.
        """
        self._add(tag, scalar_value, self._step_of(tag, global_step), walltime)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: Any = None,
        walltime: float | None = None,
    ) -> None:
        """Several numbers at a step, named `main_tag/tag`.

        Raises:
            ConfigError: not one number each.
        """
        step = self._step_of(main_tag, global_step)
        for tag, value in tag_scalar_dict.items():
            self._add(f"{main_tag}/{tag}", value, step, walltime)

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: Any = None,
        bins: str | Sequence[float] = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """An event `histogram`: `tag, step, edges, counts, min, max, sum, sum_squares`.

        Raises:
            ConfigError: no finite elements.
            MissingDependencyError: NumPy is not installed.
        """
        step = self._step_of(tag, global_step)
        clock = self._clock or self._open_clock()
        clock.event("histogram", tag=tag, step=step, **histogram(values, bins, max_bins))

    def add_text(
        self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None
    ) -> None:
        """An event `text`: `tag, step, text`."""
        step = self._step_of(tag, global_step)
        clock = self._clock or self._open_clock()
        clock.event("text", tag=tag, step=step, text=text_string)

    def add_hparams(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        hparam_domain_discrete: dict[str, list[Any]] | None = None,
        run_name: str | None = None,
        global_step: Any = None,
    ) -> None:
        """An event `hparams`: `parameters, metrics`. What is known before belongs into `config`.

        Raises:
            ConfigError: a metric is not one number.
        """
        metrics = {name: plain_number(name, value) for name, value in metric_dict.items()}
        clock = self._clock or self._open_clock()
        clock.event("hparams", parameters=hparam_dict, metrics=metrics)

    def flush(self) -> None:
        """Write the record that is open; what comes for its step now is late."""
        self._end_record()

    def close(self) -> None:
        """Write the record that is open and end the attempt; what comes now begins another."""
        self._close(None)

    # --- records --------------------------------------------------------------------------------

    def _step_of(self, tag: str, step: Any) -> int:
        if step is not None:
            return int(step)
        count = self._counted.get(tag, 0)
        self._counted[tag] = count + 1
        return count

    def _add(self, tag: str, value: Any, step: int, walltime: float | None) -> None:
        clock = self._clock or self._open_clock()
        name = self._names[tag]
        if self._step is None or step > self._step:
            self._end_record()
            self._begin_record(clock, step, walltime)
        elif step < self._step or not self._begun:
            self._late.append((name, step, plain_number(name, value)))
            return
        clock.log(**{name: value})
        self._on_record.add(name)
        self._moment = max(self._moment, self._moment_of(walltime))

    def _moment_of(self, walltime: float | None) -> int:
        if walltime is None:
            return self._time()
        return round(walltime * 1e9) - self._offset

    def _begin_record(self, clock: Clock, step: int, walltime: float | None) -> None:
        moment = self._moment_of(walltime)
        self._held = moment if self._ended is None else self._ended
        self._moment = max(moment, self._held)
        clock.tick = step - 1
        clock.begin_tick()
        self._held = None
        self._step, self._begun = step, True
        self._on_record.clear()

    def _end_record(self) -> None:
        if self._clock is None or not self._begun:
            return
        placed = {name: value for name, _, value in self._late if name not in self._on_record}
        self._clock.log(**placed)
        self._held = self._ended = self._moment
        self._clock.end_tick()
        self._clock.pause()
        self._held = None
        self._begun = False
        self._tell_late(self._clock, placed)

    def _tell_late(self, clock: Clock, placed: Container[str]) -> None:
        for name, step, value in self._late:
            told = {"metric": name, "step": step, "placed": name in placed}
            told["value"] = value if isfinite(value) else str(value)
            clock.event("late scalar", **told)
        self._late.clear()

    def _close(self, error: BaseException | None) -> None:
        if self._clock is None:
            return
        atexit.unregister(self._close_at_exit)
        self._end_record()
        self._tell_late(self._clock, ())
        self._clock.close(error)
        self._clock = None

    def _close_at_exit(self) -> None:
        self._close(getattr(sys, "last_value", None))  # an error that nobody caught


def _not_recorded(name: str) -> Callable[..., NoReturn]:
    def method(self: SummaryWriter, *arguments: Any, **named: Any) -> NoReturn:
        raise ConfigError(
            "a run records scalars, histograms and text",
            got=name,
            fix="keep torch.utils.tensorboard.SummaryWriter beside it for the rest",
        )

    return method


for _name in (
    *("add_audio", "add_embedding", "add_figure", "add_graph", "add_histogram_raw", "add_image"),
    *("add_image_with_boxes", "add_images", "add_mesh", "add_onnx_graph", "add_pr_curve"),
    *("add_pr_curve_raw", "add_tensor", "add_video", "add_custom_scalars"),
    *("add_custom_scalars_marginchart", "add_custom_scalars_multilinechart"),
):
    setattr(SummaryWriter, _name, _not_recorded(_name))
