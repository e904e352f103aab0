"""`python -m engine`, where the console script is not on PATH."""

import sys

from engine.cli import main

sys.exit(main())
