"""`python -m phase_doctor`, and `python phase_doctor` beside a copy of the folder."""

import sys
from pathlib import Path

if not __package__:  # run as a folder, whose own modules are no top-level ones
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from phase_doctor.cli import main

if __name__ == "__main__":
    sys.exit(main())
