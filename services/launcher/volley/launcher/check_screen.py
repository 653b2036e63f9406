"""What `volley check` shows: the prompt, its answers, what they are worth, then the findings."""

import sys
from collections.abc import Iterator, Sequence

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.findings import Finding, Level, show, worst
from volley.launcher.trajectories import STYLES, describe_trajectory, harmless
from volley.learner.step_metrics import Metrics
from volley.learner.trajectory_record import Passage, TrajectoryRecord

SHOWN_TOKENS = 160
SHOWN_CHARACTERS = 2000
"""Of one passage."""


class Token(msgspec.Struct, frozen=True):
    """One of a prompt, or of a demonstration."""

    id: int
    text: str
    is_trained: bool = False


class Shown(msgspec.Struct):
    """What there is to see; less of it where something is wrong."""

    prompt: str | None = None
    """The first one that a run would ask, as the model sees it."""
    prompt_tokens: Sequence[Token] = ()
    demonstration: Sequence[Token] = ()
    """The first one of the cold start."""
    trajectories: Sequence[TrajectoryRecord] = ()
    metrics: Metrics = {}
    """Of a step on them, with the keys of metrics.jsonl."""


def show_json(shown: Shown, findings: Sequence[Finding]) -> None:
    """One object: the worst level, all findings, and everything that there is to see."""
    report = {"level": worst(findings), "findings": findings, **msgspec.structs.asdict(shown)}
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


def show_all(shown: Shown, findings: Sequence[Finding], console: Console) -> None:
    """For a person."""
    has_marks = console.color_system is None or console.no_color
    for text in _texts(shown, has_marks=has_marks):
        console.print(text, soft_wrap=True)
    if shown.trajectories:
        console.print(rewards_table(shown.trajectories))
    console.print(_heading("Findings"))
    console.file.flush()
    show(findings, console)
    console.print(Text(f"\n{verdict(findings)}", style="bold"), soft_wrap=True)


def _texts(shown: Shown, *, has_marks: bool) -> Iterator[Text]:
    if shown.prompt is not None:
        yield _heading("The first prompt, as the model sees it")
        yield Text(harmless(_cut(shown.prompt)))
        yield _heading(f"Its {len(shown.prompt_tokens)} tokens")
        yield tokens_text(shown.prompt_tokens)
    if shown.demonstration:
        num_trained = sum(token.is_trained for token in shown.demonstration)
        yield _heading(
            f"The first demonstration of the cold start, {num_trained} of its "
            f"{len(shown.demonstration)} tokens trained"
        )
        yield demonstration_text(shown.demonstration, has_marks=has_marks)
    if shown.trajectories:
        yield _heading("Its answers")
        if not has_marks:
            yield _legend()
    for record in shown.trajectories:
        short = msgspec.structs.replace(record, passages=tuple(map(_shortened, record.passages)))
        yield from describe_trajectory(short, len(shown.trajectories), has_marks=has_marks)


def _legend() -> Text:
    words = ((kind, STYLES[kind]) for kind in ("generated", "inserted"))
    return Text(" and ").join(Text(*word) for word in words)


def tokens_text(tokens: Sequence[Token]) -> Text:
    """`17 'a'  18 'b'`: id and piece, so that doubled or missing marks are seen."""
    pieces = [f"{one.id} {one.text!r}" for one in tokens[:SHOWN_TOKENS]]
    rest = len(tokens) - len(pieces)
    return Text("  ".join(pieces) + (f"  ... and {rest} more" if rest else ""))


def demonstration_text(tokens: Sequence[Token], *, has_marks: bool) -> Text:
    """What is trained stands out, by its colour or in brackets."""
    whole = Text()
    for index, token in enumerate(tokens):
        before = index > 0 and tokens[index - 1].is_trained
        if has_marks and token.is_trained != before:
            whole.append("[trained]" if token.is_trained else "[not trained]")
        whole.append(harmless(token.text), STYLES["generated"] if token.is_trained else "")
    return whole


def rewards_table(records: Sequence[TrajectoryRecord]) -> Table:
    """A row for each completion."""
    names = list(records[0].rewards)
    table = Table("", *names, "reward", "advantage", "tokens", "end", box=box.SIMPLE_HEAD)
    for record in records:
        num_tokens = len(record.input_ids) - len(record.prompt_ids)
        numbers = [*record.rewards.values(), record.reward, record.advantage]
        cells = ["none" if one is None else f"{one:.4g}" for one in numbers]
        table.add_row(str(record.index + 1), *cells, str(num_tokens), record.stop_reason.value)
    return table


def verdict(findings: Sequence[Finding]) -> str:
    """What to do next."""
    num_bad = sum(finding.level is Level.BAD for finding in findings)
    num_warnings = sum(finding.level is Level.WARN for finding in findings)
    if num_bad:
        return f"{num_bad} to be put right before a run."
    if num_warnings:
        return f"A run would start; {num_warnings} to look at first."
    return "A run would start."


def _heading(words: str) -> Text:
    return Text(f"\n{words}", style="bold underline")


def _shortened(passage: Passage) -> Passage:
    return msgspec.structs.replace(passage, text=_cut(passage.text))


def _cut(text: str) -> str:
    rest = len(text) - SHOWN_CHARACTERS
    return text if rest <= 0 else f"{text[:SHOWN_CHARACTERS]} ... and {rest:,} characters more"
