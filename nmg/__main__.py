"""`python -m nmg` is `nmg`."""

import sys

from nmg.lab.cli import main

sys.exit(main())
