"""``python -m pools_core`` is the command ``pools``."""

from __future__ import annotations

import sys

from pools_core.cli import main

if __name__ == "__main__":  # a spawned worker imports this module, too
    sys.exit(main())
