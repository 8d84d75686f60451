"""`python -m tavern`."""

import sys

from tavern.cli import main

sys.exit(main())
