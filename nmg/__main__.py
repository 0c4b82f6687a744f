"""`python -m nmg` is `nmg`."""

import sys

from nmg.cli import main

sys.exit(main())
