"""A `SummaryWriter` that writes to a run, so that code for TensorBoard works without changes.

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
    """Like `torch.utils.tensorboard.SummaryWriter`, for scalars, histograms and text.

    Args:
        log_dir: the run's directory. An existing run is continued as a new attempt; if another
            writer of this process is writing it, both write the same attempt.
        comment: the end of the directory's name if `log_dir` is not given.
        purge_step: not used. Where this attempt begins, older attempts end, and what they did after
            that step is only in the full history. If this attempt begins after `purge_step`, the
            steps between stay.
        max_queue: not used.
        flush_secs: not used.
        filename_suffix: not used.
        config: the config for a new run: plain JSON values.
        now: a monotonic clock in integer nanoseconds.

    The scalars of a `global_step` are the metrics of one tick. The tick's `wall_ns` is the time
    since the last scalar of the step before; if only every 50th step is logged, that is the time of
    50 steps. Its record is written when a larger step is logged, by `flush` and by `close`.

    A run has one record for each tick, so a scalar of an older step is too late for its own record.
    It is put on the open or the next record, unless this has a scalar of the name. (So a validation
    loss that is counted in epochs is at the tick after which it was measured.) An event `late
    scalar` has its `metric`, `step` and `value`, and whether it was `placed` on a record. Of two
    late scalars of a name, the last one is placed. The first that is only an event is warned about.

    Writers of a directory in one process, on any threads, share its records. If two of them log the
    same name at the same step, one scalar is on the record and one is late. A second process gets
    an error.

    `walltime` is in seconds since 1970; milliseconds, microseconds and nanoseconds are recognised.

    Without `global_step` the values of a tag are counted: 0, 1, 2. (Torch puts them all at 0.)

    Tensors of one element go to `clock.log` as they are, so nothing waits for a device; histograms
    and late scalars do wait. Names that a metric cannot have get an underscore at the end
    (`tick_`). A writer that is not closed is closed when the process exits.

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
            begin = datetime.now().strftime("%b%d_%H-%M-%S")
            log_dir = Path("runs", f"{begin}_{platform.node()}{comment}")
        self.log_dir = Path(log_dir).absolute()
        self._config = config
        self._time = now
        self._names = MetricNames()
        self._counted: dict[str, int] = {}
        self._records: Records | None = None
        self._open()

    def _open(self) -> Records:
        """Return the records that this writer writes to; after `close`, new ones."""
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
        """Record a number at a step; all its digits are kept, with any `double_precision`.

        Raises:
            ConfigError: the value is not one number, the step is not an integer of 64 bits, or
                `walltime` is not a time.
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
        """Record several numbers at a step, named `main_tag/tag`.

        Raises:
            ConfigError: as `add_scalar`.
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
        """Record an event `histogram`: `tag, step, edges, counts, min, max, sum, sum_squares`.

        Raises:
            ConfigError: `values` has no finite element.
            MissingDependencyError: NumPy is not installed.
        """
        step = self._step_of(tag, global_step)
        self._open().event("histogram", tag=tag, step=step, **histogram(values, bins, max_bins))

    def add_text(
        self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None
    ) -> None:
        """Record an event `text`: `tag, step, text`."""
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
        """Record an event `hparams`: `parameters, metrics`. Known values belong into `config`.

        Raises:
            ConfigError: a metric is not one number.
        """
        metrics = {name: plain_number(name, value) for name, value in metric_dict.items()}
        self._open().event("hparams", parameters=hparam_dict, metrics=metrics)

    def flush(self) -> None:
        """Write the open record; more scalars of its step will be late."""
        if self._records is not None:
            self._records.end_record()

    def close(self) -> None:
        """Write the open record; the last writer of a directory ends the attempt.

        If more is logged, a new attempt begins, or the attempt of the other writers continues.
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
