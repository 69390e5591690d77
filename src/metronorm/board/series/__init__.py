"""The series of a run: its columns, read once, and reduced to what the pixels of a view show."""

from metronorm.board.series.ahead import read_ahead
from metronorm.board.series.chart import Chart, Stretch
from metronorm.board.series.reduced import Column, Reduced
from metronorm.board.series.run_series import RunSeries

__all__ = ["Chart", "Column", "Reduced", "RunSeries", "Stretch", "read_ahead"]
