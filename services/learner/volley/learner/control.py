"""What people ask of a run that is going on; the loop looks here between two of its steps."""

import threading


class Control:
    """Wishes, written by the server and heeded by the loop; none of them outlives the process."""

    def __init__(self, stopping: threading.Event) -> None:
        """`stopping` is what signals set as well."""
        self._stopping = stopping
        self._is_paused = False
        self._wants_checkpoint = False

    def pause(self) -> None:
        """Issue nothing and train nothing, after the step in hand."""
        self._is_paused = True

    def resume(self) -> None:
        """Go on after a pause."""
        self._is_paused = False

    def checkpoint(self) -> None:
        """Save a snapshot, after the step in hand."""
        self._wants_checkpoint = True

    def stop(self) -> None:
        """End the run as SIGTERM does: after the step in hand, to be resumed at any time."""
        self._stopping.set()

    @property
    def is_paused(self) -> bool:
        """Whether the loop is to wait; not while it is to stop."""
        return self._is_paused and not self._stopping.is_set()

    def take_checkpoint(self) -> bool:
        """Whether a snapshot was asked for since the last call."""
        wanted, self._wants_checkpoint = self._wants_checkpoint, False
        return wanted
