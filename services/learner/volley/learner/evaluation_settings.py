"""The [evaluation] section: held-out prompts, asked now and then while the run trains."""

from pathlib import Path

from volley.learner.section import PositiveFloat, PositiveInt, Section


class EvaluationSettings(Section):
    data: Path
    """JSONL as data.train; none of its rows should be in that."""
    eval_steps: PositiveInt = 50
    """Versions from one evaluation to the next; the first and the last are always evaluated."""
    max_prompts: PositiveInt = 256
    """Rows that are asked, the same ones each time; all are outstanding at once."""
    num_generations: PositiveInt | None = None
    """Completions of each prompt at the sampling temperature; left out: sampling.num_generations.
    Beside them each prompt has one greedy completion."""
    pass_reward: float = 1.0
    """From this reward on a completion counts as passed, for pass@k."""
    timeout_s: PositiveFloat = 600.0
    """Seconds that the end of the run waits for the last evaluation."""
