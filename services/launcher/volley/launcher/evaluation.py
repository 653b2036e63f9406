"""`volley evaluate CONFIG.toml DATA.jsonl`: how well a model answers prompts that it has not seen.

    data, code -> model -> prompts -> a worker: answers and their rewards -> means over the prompts

As a run evaluates it: the environment, the rewards and the engine are the config's, and the numbers
have the keys of evaluations.jsonl. Nothing stays on the disk.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from volley.launcher.check_inputs import Inputs
from volley.launcher.evaluation_screen import Evaluation, Part, Sample, show, show_json
from volley.launcher.progress_bar import progress_bar
from volley.launcher.rehearsal import group_in, place_of, rehearse, task_of, temporary_folder
from volley.learner.advantages import combine_rewards
from volley.learner.assembly import tokenised
from volley.learner.chat_frames import framed
from volley.learner.environment_code import read_environment_spec, tool_schemas
from volley.learner.evaluation_scores import Answer, answer_in, describe_answers
from volley.learner.evaluation_settings import EvaluationSettings
from volley.learner.policy import Policy
from volley.learner.prompts import Prompt, Prompts, read_rows
from volley.learner.reward_code import read_reward_specs
from volley.learner.run_spec import evaluation_samplings, sampling_spec
from volley.learner.settings import Settings
from volley.learner.trajectory_record import passages_of
from volley.schemas.groups import Group, Task
from volley.schemas.past import Source
from volley.telemetry.stops import ExitCode, Stop

NUM_SAMPLES = 5


def run_evaluation(settings: Settings, code_folder: Path, *, as_json: bool) -> None:
    """Show how well it does; raises Stop naming what cannot be used."""
    with temporary_folder("evaluate") as folder:
        evaluation = evaluate(settings, code_folder, folder)
    if as_json:
        show_json(evaluation)
    else:
        show(evaluation, Console(highlight=False))


def evaluate(settings: Settings, code_folder: Path, folder: Path) -> Evaluation:
    """Ask a worker every held-out prompt, as often as a run does."""
    evaluation = settings.evaluation
    if evaluation is None:
        raise Stop(
            ExitCode.CONFIG,
            "there are no held-out prompts: name a JSONL file behind the config, or in "
            "evaluation.data",
        )
    inputs, prompts = _read(settings, evaluation, code_folder)
    samplings = evaluation_samplings(evaluation, sampling_spec(settings, inputs.policy))
    seed, run = settings.run.seed, folder.name
    # As in a run: number 2 i is prompt i sampled, 2 i + 1 greedy.
    tasks = [
        task_of(prompts[number // 2], number, run, seed, samplings[number % 2])
        for number in range(2 * len(prompts))
    ]
    groups = _ask(settings, inputs, tasks, code_folder, folder)
    weights = settings.reward.function_weights
    return Evaluation(
        model=settings.model.path,
        data=str(evaluation.data),
        temperature=settings.sampling.temperature,
        num_generations=samplings[0].num_generations,
        metrics=describe_answers(
            _answers(groups, 0, weights),
            [greedy for [greedy] in _answers(groups, 1, weights)],
            len(prompts),
            evaluation.pass_reward,
        ),
        samples=tuple(
            _sample(prompts[number // 2], groups[number], inputs.policy, weights)
            for number in range(0, 2 * NUM_SAMPLES, 2)
            if number in groups
        ),
    )


def _read(
    settings: Settings, evaluation: EvaluationSettings, code_folder: Path
) -> tuple[Inputs, Prompts]:
    """What a worker is told, and all prompts of the data."""
    rewards = read_reward_specs(settings.reward, code_folder)
    environment = read_environment_spec(settings.environment, code_folder)
    rows = read_rows(evaluation.data, "evaluation.data")
    # Adapters are of no use here, and what was trained with them is a whole model.
    model = settings.model.model_copy(update={"lora_r": None})
    policy = Policy.load(model, "cpu", tool_schemas(environment))
    stop_token_ids = policy.stop_token_ids(settings.sampling.stop_token_ids)
    environment = framed(environment, policy, stop_token_ids, rows)
    prompts = tokenised(rows, policy, settings)
    return Inputs(policy, rewards, environment), prompts


def _ask(
    settings: Settings, inputs: Inputs, tasks: Sequence[Task], code_folder: Path, folder: Path
) -> dict[int, Group]:
    """Groups by number, those that there are; raises Stop where there is none."""
    typer.echo(f"{len(tasks) // 2:,} prompts, {place_of(settings)}", err=True)
    with progress_bar() as bar:
        sampled = bar.add_task("sampled", total=len(tasks))
        answers = rehearse(
            *(settings, inputs, tasks, code_folder, folder),
            lambda num_sampled: bar.update(sampled, completed=num_sampled),
        )
    groups: dict[int, Group] = {}
    reasons: list[str] = []
    for answer, task in zip(answers, tasks, strict=True):
        reasons += answer.complaints
        try:
            groups[task.number] = group_in(answer.body, task, settings, inputs.policy.vocab_size)
        except Stop as stop:
            reasons.append(stop.message)
    if not groups:
        raise Stop(ExitCode.CONFIG, reasons[0])
    for reason in dict.fromkeys(reasons):
        typer.echo(f"without a reward: {reason}", err=True)
    return groups


def _answers(
    groups: Mapping[int, Group], is_greedy: int, weights: Sequence[float]
) -> list[list[Answer]]:
    """Of each prompt that has them."""
    return [
        [answer_in(one, weights) for one in groups[number].trajectories]
        for number in sorted(groups)
        if number % 2 == is_greedy
    ]


def _sample(prompt: Prompt, group: Group, policy: Policy, weights: Sequence[float]) -> Sample:
    """The first answer."""
    text_of = partial(policy.text_of, skip_special_tokens=True)
    asked = prompt.prompt if isinstance(prompt.prompt, str) else text_of(prompt.prompt_ids)
    first = group.trajectories[0]
    passages = passages_of(prompt.prompt_ids, first, text_of)
    return Sample(
        prompt=asked,
        parts=tuple(
            Part(one.source, one.text) for one in passages if one.source is not Source.PROMPT
        ),
        reward=combine_rewards(first.rewards, weights),
    )
