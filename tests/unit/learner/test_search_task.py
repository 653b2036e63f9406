"""What the search demo starts from."""

import json
import random
import re
from pathlib import Path

import pytest

from volley.learner.demonstrations import read_demonstrations
from volley.learner.policy import Policy
from volley.learner.search_task import (
    NUM_DEMONSTRATIONS,
    NUM_HELD_OUT,
    NUM_SEARCHING,
    RELATIONS,
    make_facts,
    write_data,
)
from volley.learner.settings import ModelSettings
from volley.learner.tiny_model import make_tokenizer, save_model


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    write_data(folder, seed=0)
    return folder


def query_of(row):
    return row["prompt"].removeprefix("q: ").removesuffix("?").replace(" of ", " ")


def entities(path):
    return {query_of(row).split()[1] for row in rows(path)}


def test_no_held_out_entity_is_met_before_the_evaluation(data):
    held_out = entities(data / "held_out.jsonl")
    train = entities(data / "train.jsonl")
    demonstrated = entities(data / "demonstrations.jsonl")
    assert len(rows(data / "held_out.jsonl")) == NUM_HELD_OUT
    assert len(train) == 3_600
    assert demonstrated <= train
    assert not held_out & train
    for name in ("train", "demonstrations"):
        words = set(re.findall(r"\b[a-z]{3}\b", (data / f"{name}.jsonl").read_text()))
        assert not held_out & words


def test_the_corpus_answers_every_question_once(data):
    corpus = dict(row["text"].split(": ") for row in rows(data / "corpus.jsonl"))
    assert len(corpus) == len(rows(data / "corpus.jsonl")) == 4_000 * len(RELATIONS)
    asked = [*rows(data / "train.jsonl"), *rows(data / "held_out.jsonl")]
    for row in asked:
        assert corpus[query_of(row)] == row["answer"]


def test_no_entity_is_an_answer_so_that_its_own_passages_alone_are_found():
    facts = make_facts(random.Random(0))
    assert not {fact.entity for fact in facts} & {fact.answer for fact in facts}


def test_a_quarter_of_the_demonstrations_search_and_all_are_right(data):
    answers = {row["prompt"]: row["answer"] for row in rows(data / "train.jsonl")}
    shown = rows(data / "demonstrations.jsonl")
    searching = [row for row in shown if isinstance(row["completion"], list)]
    assert (len(shown), len(searching)) == (NUM_DEMONSTRATIONS, NUM_SEARCHING) == (3_000, 750)
    for row in shown:
        query, answer = query_of(row), answers[row["prompt"]]
        say = f"<answer>{answer}</answer>"
        search = [
            {"text": f"<search>{query}</search>"},
            {"inserted": f"<information>{query}: {answer}</information>"},
            {"text": say},
        ]
        assert row["completion"] in (say, search)


def test_what_is_inserted_into_a_demonstration_is_not_trained(data, tmp_path):
    save_model(tmp_path, seed=0)
    policy = Policy.load(ModelSettings(path=str(tmp_path), dtype="float32"), "cpu")
    first = rows(data / "demonstrations.jsonl")[0]
    one = read_demonstrations(data / "demonstrations.jsonl", policy)[0]
    trained = [token for token, mask in zip(one.completion_ids, one.trained, strict=True) if mask]
    said = "".join(piece.get("text", "") for piece in first["completion"])
    assert make_tokenizer().decode(trained, skip_special_tokens=True) == said


def test_a_seed_decides_the_data(data, tmp_path):
    write_data(tmp_path, seed=0)
    for name in ("corpus", "held_out", "demonstrations", "train"):
        assert (tmp_path / f"{name}.jsonl").read_text() == (data / f"{name}.jsonl").read_text()
    write_data(tmp_path, seed=1)
    assert (tmp_path / "corpus.jsonl").read_text() != (data / "corpus.jsonl").read_text()
