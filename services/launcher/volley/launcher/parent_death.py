"""Children that do not outlive the process that started them."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

# Loaded at import: between fork and exec no library may be opened.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; a no-op where it is not Linux.

    For `subprocess.Popen(preexec_fn=...)`. The kernel means the parent's *thread*: start children
    from one that lives as long as they should.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
