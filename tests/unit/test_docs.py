"""What the documents name exists: links, files, verbs, options, keys, messages, numbers."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from tests.builders import make_group
from tests.serving import TOKENS, served
from tests.settings_page import PAGE, keys_of, page_with_tables
from volley.launcher.__main__ import app
from volley.launcher.doctor_memory import CONTEXT_BYTES, VLLM_KV_BYTES
from volley.launcher.sizing import (
    LOGITS_BYTES,
    ModelShape,
    activation_bytes_per_token,
    disk_bytes,
    kv_bytes_per_token,
    learner_bytes,
    weight_bytes,
)
from volley.learner.api import create_app
from volley.learner.settings import Settings
from volley.learner.weight_store import WeightStore
from volley.schemas.codec import encode
from volley.schemas.groups import (
    StopReason,
    Trajectory,
    Version,
    VersionSpan,
    pack_logprobs,
    pack_token_ids,
)
from volley.telemetry.stops import ExitCode

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
)
SOURCES = [*ROOT.glob("services/**/*.py"), *ROOT.glob("shared/**/*.py")]
SECTIONS = tuple(Settings.model_fields)
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
CODE_BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
OF_OTHERS = re.compile(r"^\|[^|]*\|", re.MULTILINE)
"""The first column of docs/names.md."""
FOLDERS = "services|shared|tests|bench|deploy|constraints|examples|docs"

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@each_document
def test_every_link_leads_somewhere(document: Path):
    text = CODE_BLOCK.sub("", document.read_text())
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|srcset)="([^"]+)"', text)]
    dead = [link for link in links if "://" not in link and not leads_somewhere(document, link)]
    assert dead == []


@each_document
def test_every_file_that_is_named_exists(document: Path):
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*\w)`", document.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_document
def test_every_verb_and_option_exists(document: Path):
    unknown = [
        f"{verb} {option}".strip()
        for verb, options in commands_in(document.read_text())
        for option in ("", *options)
        if verb not in VERBS or (option and option not in options_of(verb))
    ]
    assert unknown == []


@each_document
def test_every_config_key_exists(document: Path):
    text = document.read_text()
    if document.name == "names.md":
        text = OF_OTHERS.sub("|", text)
    assert [key for key in keys_in(text) if not is_key(key)] == []


@each_document
def test_every_config_is_one(document: Path):
    for block in re.findall(r"```toml\n(.*?)```", document.read_text(), re.DOTALL):
        for section, content in tomllib.loads(block).items():
            assert set(content) <= set(keys_of(section)), (section, content)


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/errors/*-[0-9]*.md")), ids=lambda p: p.stem)
def test_every_message_is_one_of_the_code(page: Path):
    rows = re.findall(r"^\| `(.+?)` \|", page.read_text(), re.MULTILINE)
    assert [row for row in rows if not is_said(row)] == []


def test_every_exit_code_has_a_page():
    pages = {path.stem for path in ROOT.glob("docs/errors/exit-*.md")}
    assert pages == {f"exit-{code}" for code in ExitCode if code is not ExitCode.DONE}


def test_every_route_is_named(tmp_path: Path):
    app = create_app(served(tmp_path, WeightStore(tmp_path, "r", 2)), TOKENS)
    named = set(re.findall(r"`(GET|POST) (/[^`]*)`", (ROOT / "docs/rest.md").read_text()))
    there = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    assert named == there | {("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json")}


def test_every_problem_of_health_has_a_row():
    code = (ROOT / "services/learner/volley/learner/health.py").read_text()
    page = (ROOT / "docs/errors/health.md").read_text()
    codes = re.findall(r'HealthProblem\(\s*"(\w+)"', code)
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(codes)


def test_every_document_is_in_an_index():
    index = (ROOT / "docs/README.md").read_text() + (ROOT / "docs/errors/README.md").read_text()
    documents = [path for path in ROOT.glob("docs/**/*.md") if path.name != "README.md"]
    assert [path.name for path in documents if f"{path.name})" not in index] == []


def test_every_function_of_the_tour_exists():
    code = "\n".join(path.read_text() for path in SOURCES)
    named = re.findall(r"`(?:([A-Z]\w+)\.)?(\w+)\(\)`", (ROOT / "docs/tour.md").read_text())
    assert named
    for owner, function in named:
        assert f"def {function}(" in code, function
        assert not owner or f"class {owner}" in code, owner


def test_every_target_of_make_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE)
        assert set(named) <= targets, document


def test_every_key_of_the_settings_is_described_as_it_is():
    text = PAGE.read_text()
    assert text == page_with_tables(text), "make docs"


def test_the_memory_of_models_is_what_the_code_says():
    for row in rows_of("sizing.md", num_cells=10):
        model = shape_of(row)
        trained = learner_bytes(model, "bfloat16")
        beside = 4096 * activation_bytes_per_token(model, "bfloat16", checkpointing=True)
        beside += LOGITS_BYTES + CONTEXT_BYTES
        worker = weight_bytes(model, "bfloat16") + VLLM_KV_BYTES + CONTEXT_BYTES
        adapted = learner_bytes(model, "bfloat16", lora_r=16)
        expected = [trained, trained + beside, adapted + beside, worker]
        assert row[5:9] == [f"{num_bytes / 2**30:.1f}" for num_bytes in expected], row
        assert row[9] == f"{VLLM_KV_BYTES // kv_bytes_per_token(model, 'bfloat16'):,}"


def test_the_disk_and_the_network_of_models_are_what_the_code_says():
    for row in rows_of("sizing.md", num_cells=7):
        model = shape_of(next(r for r in rows_of("sizing.md", num_cells=10) if r[0] == row[0]))
        version = weight_bytes(model, "bfloat16")
        whole, adapted = (
            disk_bytes(model, "bfloat16", num_versions=2, num_checkpoints=2, lora_r=rank)
            for rank in (None, 16)
        )
        expected = [f"{whole / 2**30:.1f}", f"{adapted / 2**30:.1f}", f"{version / 1e6:,.0f}"]
        expected += [f"{2 * 16 * model.linear_units / 1e6:.1f}", f"{version / 125e6:.0f}"]
        assert row[2:] == expected, row


def test_a_group_of_eight_thousand_tokens_takes_100_kb():
    one = Trajectory(
        token_bytes=pack_token_ids([70_000] * 1024),
        logprob_bytes=pack_logprobs([-1.0] * 1024),
        version_spans=(VersionSpan(1024, Version(1, 100)),),
        inserted_spans=(),
        stop_reason=StopReason.STOP,
        text="word" * 1024,
        rewards=(1.0,),
    )
    num_bytes = len(encode(make_group(trajectories=[one] * 8, prompt_ids=[70_000] * 200)))
    assert round(num_bytes, -3) == 100_000


def leads_somewhere(document: Path, link: str) -> bool:
    place, _, anchor = link.partition("#")
    target = (document.parent / place).resolve() if place else document
    return target.exists() and (not anchor or anchor in anchors_of(target))


def anchors_of(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Verb and options of every `volley ...` in code."""
    for line in lines_of_code(text):
        for verb, rest in re.findall(r"(?:^|[\s(=])volley ([a-z]+)([^#|;&)]*)", line):
            yield verb, re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", rest)


def lines_of_code(text: str) -> Iterator[str]:
    for block in CODE_BLOCK.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", text))


def options_of(verb: str) -> set[str]:
    command = VERBS[verb]
    commands = [command, *getattr(command, "commands", {}).values()]
    options = {option for one in commands for parameter in one.params for option in parameter.opts}
    return options | {"--help"}


def keys_in(text: str) -> Iterator[str]:
    """`section.key` in code, but for what has the name of a file."""
    for line in lines_of_code(text):
        for section, key in re.findall(rf"(?<![\w./-])({'|'.join(SECTIONS)})\.(\w+)", line):
            if key not in ("py", "json", "toml", "jsonl", "md"):
                yield f"{section}.{key}"


def is_key(name: str) -> bool:
    section, _, key = name.partition(".")
    return key in keys_of(section)


def is_said(message: str) -> bool:
    """Whether the code says every part between `...`; a message may be put together of several."""
    parts = filter(None, (part.strip(" :,()") for part in message.split("...")))
    return all(any(part in template for template in templates()) for part in parts)


@cache
def templates() -> tuple[str, ...]:
    """Every text in the code, without the values in it."""
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    return tuple({text for text in texts if isinstance(text, str)})


def rows_of(document: str, num_cells: int) -> list[list[str]]:
    """Of the tables of models with so many columns, stars left out."""
    lines = re.findall(r"^\| (?:Qwen|Llama).+ \|$", (ROOT / "docs" / document).read_text(), re.M)
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    assert rows
    return [row for row in rows if len(row) == num_cells]


def shape_of(row: list[str]) -> ModelShape:
    """Of a row with parameters, hidden size, layers, KV heads x size."""
    units = {name: units for name, units, *_ in rows_of("sizing.md", num_cells=7)}[row[0]]
    num_kv_heads, head_dim = row[4].split(" x ")
    return ModelShape(
        num_parameters=int(row[1].replace(",", "")),
        num_layers=int(row[3]),
        linear_units=int(units.replace(",", "")),
        hidden_size=int(row[2]),
        num_kv_heads=int(num_kv_heads),
        head_dim=int(head_dim),
    )
