"""What a run folder says of the run, when nobody works on it."""

from pathlib import Path

from volley.learner.audit import audit
from volley.learner.past_run import open_run


def is_clean(folder: Path) -> bool:
    """Whether the audit from the run's first step finds nothing; fails the test with what it does.

    From the oldest checkpoint on where the first steps are not kept.
    """
    with open_run(folder) as run:
        findings = audit(run, run.oldest_kept(from_start=run.oldest_step == 0))
    assert [fault for finding in findings for fault in finding.faults] == []
    return True
