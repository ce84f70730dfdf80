"""What the suite's commands have in common: how a run ends, and what it returns to the shell."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from .session import LibraryFailed
from .workshop import Unavailable

USAGE_CODE = 2
INTERRUPTED_CODE = 130  # as a shell has it


def carry_out(run: Callable[[], None]) -> int:
    """Runs to the end, or until something ends it: 0, or the code to exit with."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave in order then, too
    try:
        run()
    except KeyboardInterrupt:
        return INTERRUPTED_CODE
    except (Unavailable, LibraryFailed) as error:
        print(f"shoal bench: {error}", file=sys.stderr)
        return 1
    return 0
