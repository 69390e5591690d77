"""`python -m metronorm`."""

import sys

from metronorm.cli import main

sys.exit(main())
