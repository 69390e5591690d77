"""What is installed here, on what machine, and what does not work: `metronorm doctor`."""

from metronorm.doctor.examining import examine
from metronorm.doctor.report import Problem, Report

__all__ = ["Problem", "Report", "examine"]
