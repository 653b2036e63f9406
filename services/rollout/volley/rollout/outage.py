"""One log line when something goes away, one when it is back, however many threads notice."""

import logging
import threading
import time

logger = logging.getLogger(__name__)


class Outage:
    """Whether `what` is away; safe to use from several threads."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._since: float | None = None
        self._has_worked = False

    def failed(self, reason: object) -> None:
        """It did not answer."""
        with self._lock:
            if self._since is not None:
                return
            self._since = time.monotonic()
        logger.warning("waiting for %s: %s", self._what, reason)

    @property
    def is_up(self) -> bool:
        """Whether it answered when it was asked last; False before that."""
        return self._has_worked and self._since is None

    def worked(self) -> None:
        """It answered."""
        with self._lock:
            self._has_worked = True
            if self._since is None:
                return
            duration_s, self._since = time.monotonic() - self._since, None
        logger.info("%s is back", self._what, extra={"duration_s": round(duration_s, 1)})
