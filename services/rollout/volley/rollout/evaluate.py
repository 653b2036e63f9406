"""`python -m volley.rollout.evaluate MODEL DATA.jsonl`: how well a model folder answers prompts.

The last line on standard output is one JSON object: mean reward when sampling at temperature 1
with its standard error, mean reward when greedy, means of what the environment counts, and five
sampled answers.
"""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from volley.telemetry.logs import set_up_logs
from volley.telemetry.stops import ExitCode, Stop, reporting_stops

EXAMPLES = """
Example:

python -m volley.rollout.evaluate runs/sort/model test.jsonl --max-completion-length 10
"""


def evaluate(
    model: Annotated[Path, typer.Argument(help="A Hugging Face model folder.")],
    data: Annotated[Path, typer.Argument(help="JSONL with `prompt` and the rewards' columns.")],
    reward: Annotated[str, typer.Option(help="Built-in, or module:function.")] = "exact_match",
    environment: Annotated[
        str | None, typer.Option(help="Built-in, or module:Class; left out: a single turn.")
    ] = None,
    environment_options: Annotated[
        str, typer.Option(help="Its keyword arguments, as JSON: '{\"top_k\": 1}'.")
    ] = "{}",
    max_turns: Annotated[int, typer.Option(min=1)] = 8,
    code: Annotated[Path, typer.Option(help="Folder with the code of both.")] = Path(),
    max_completion_length: Annotated[int, typer.Option(min=1)] = 256,
    samples_per_prompt: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    max_num_seqs: Annotated[int, typer.Option(min=1)] = 256,
) -> None:
    """Sample answers at temperature 1 and greedily, and score them."""
    with reporting_stops():
        set_up_logs("evaluate", style="text")
        from volley.rollout.evaluation import EvaluationSettings, evaluate_folder

        result = evaluate_folder(
            EvaluationSettings(
                model_folder=model,
                data=data,
                reward=reward,
                environment=environment,
                environment_options=_read_options(environment_options),
                max_turns=max_turns,
                code_folder=code,
                max_completion_length=max_completion_length,
                samples_per_prompt=samples_per_prompt,
                seed=seed,
                device=device,
                num_threads=threads,
                max_num_seqs=max_num_seqs,
            )
        )
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


def _read_options(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise Stop(ExitCode.CONFIG, f"--environment-options: not a JSON object: {error}") from error


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLES)(evaluate)
    app()
