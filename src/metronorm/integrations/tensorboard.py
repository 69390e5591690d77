"""A `SummaryWriter` that writes to a run: code for TensorBoard goes on as it is.

```python
from metronorm.integrations.tensorboard import SummaryWriter  # was: torch.utils.tensorboard
```

Neither torch nor tensorboard is needed or imported.
"""

from __future__ import annotations

import platform
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from metronorm.clock.metric_values import plain_number
from metronorm.errors import ConfigError
from metronorm.integrations.axes import require_step
from metronorm.integrations.histogram import histogram
from metronorm.integrations.names import MetricNames
from metronorm.integrations.summary_records import Records, join

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType


class SummaryWriter:
    """As `torch.utils.tensorboard.SummaryWriter`, for scalars, histograms and text.

    Args:
        log_dir: the run. If there is one already, it goes on as a new attempt; while another writer
            of this process writes it, both write the same attempt.
        comment: end of the name that the directory gets without `log_dir`.
        purge_step: not needed: what older attempts did beyond the step at which this one begins is
            in the full history only. Where it begins behind `purge_step`, what lies between stays.
        max_queue, flush_secs, filename_suffix: not needed.
        config: what the run was configured with: plain JSON values.
        now: a monotonic clock in integer nanoseconds.

    The scalars of a `global_step` are the metrics of one tick, and the time since the last scalar
    of the step before is what it took (`wall_ns`); where only every fiftieth step is logged, that
    is fifty steps. Its record is written when a larger step comes, by `flush` and by `close`.

    A run has one record for each tick, so a scalar of an older step comes too late for its own. It
    is put on the record that is open or comes next (a validation loss that is counted in epochs is
    there at the tick after which it was measured), unless that has one of the name, and an event
    `late scalar` says its `metric`, `step` and `value`, and whether it was `placed`. Of two late
    ones of a name the last is placed; that one is only an event is warned of once.

    Writers of a directory in one process, from whatever threads, share its records; what two of
    them log under one name at one step is a scalar of the record and a late one. Of two processes
    the second is refused.

    `walltime` is seconds since 1970; milliseconds, microseconds and nanoseconds are recognised.

    Without `global_step` the values of a tag are counted: 0, 1, 2 (torch puts them all at 0).

    Tensors of one element go to `clock.log` as they are, so a device is not waited for; histograms
    and late scalars do wait. Names that no metric can have get an underscore at the end (`tick_`).
    A writer that is never closed is closed when the process exits.

    Raises:
        RunError: another process writes the run, or the directory is not writable.
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
        self.log_dir = Path(log_dir).absolute()
        self._config = config
        self._time = now
        self._names = MetricNames()
        self._counted: dict[str, int] = {}
        self._records: Records | None = None
        self._open()

    def _open(self) -> Records:
        """The records that this writer writes to; what comes after `close` begins others."""
        if self._records is None:
            self._records = join(self, self.log_dir, self._names, self._config, self._time)
            self._names = self._records.names
        return self._records

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
            ConfigError: not one number, a step that is no integer of 64 bits, or a `walltime` that
                is no time.
        """
        step = self._step_of(tag, global_step)
        self._open().add(self, tag, scalar_value, step, walltime)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: Any = None,
        walltime: float | None = None,
    ) -> None:
        """Several numbers at a step, named `main_tag/tag`.

        Raises:
            ConfigError: not one number each, no such step or no such time.
        """
        step = self._step_of(main_tag, global_step)
        for tag, value in tag_scalar_dict.items():
            self._open().add(self, f"{main_tag}/{tag}", value, step, walltime)

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
        self._open().event("histogram", tag=tag, step=step, **histogram(values, bins, max_bins))

    def add_text(
        self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None
    ) -> None:
        """An event `text`: `tag, step, text`."""
        step = self._step_of(tag, global_step)
        self._open().event("text", tag=tag, step=step, text=text_string)

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
        self._open().event("hparams", parameters=hparam_dict, metrics=metrics)

    def flush(self) -> None:
        """Write the record that is open; what comes for its step now is late."""
        if self._records is not None:
            self._records.end_record()

    def close(self) -> None:
        """Write the record that is open; the last writer of a directory ends the attempt.

        What comes now begins another, or joins that of the writers that go on.
        """
        self._close(None)

    def _step_of(self, tag: str, step: Any) -> int:
        if step is not None:
            return require_step(step)
        count = self._counted.get(tag, 0)
        self._counted[tag] = count + 1
        return count

    def _close(self, error: BaseException | None) -> None:
        if self._records is not None:
            records, self._records = self._records, None
            records.leave(self, error)


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
