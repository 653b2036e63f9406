"""The built-in environment `search`: the model asks, retrieved passages are inserted.

    [environment]
    name = "search"
    [environment.options]
    corpus = "corpus.jsonl"        # or url = "http://127.0.0.1:8000/retrieve"

    <search>capital of France</search><information>Paris is ...</information><answer>Paris</answer>

A turn that has not searched ends the episode, be it with an answer or without one. A search that
finds nothing or fails is answered with `no result`. One too many is answered with `no search left`
and asks nobody; how often the model may insist is for `environment.max_turns`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from volley.rollout.environment import Transcript
from volley.rollout.environment_options import read_options
from volley.rollout.retrievers import (
    Bm25Retriever,
    CachedRetriever,
    HttpRetriever,
    RetrievalFailed,
    Retriever,
    read_corpus,
)
from volley.rollout.rewards import Prompt
from volley.rollout.tags import Tag, escape_tags, last_content

NO_RESULT = "no result"
NO_SEARCH_LEFT = "no search left"
BETWEEN_PASSAGES = "\n\n"


class SearchOptions(BaseModel):
    """What `[environment.options]` may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    corpus: Path | None = None
    """JSONL file with a passage a line, searched by BM25; from the folder of the run's code."""
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Of a retrieval server that speaks as Search-R1's does, instead of a corpus."""
    top_k: PositiveInt = 3
    """Passages for each search, at most."""
    max_passage_chars: PositiveInt = 1_000
    """Kept of each passage."""
    max_result_chars: PositiveInt = 3_000
    """Kept of all passages together."""
    timeout_s: PositiveFloat = 10.0
    """Seconds for an answer of the server; keep environment.timeout_s well above."""
    max_searches: PositiveInt = 4
    """Of one episode."""
    max_cached_queries: NonNegativeInt = 1_024
    """Queries whose passages each worker remembers."""
    search_tag: Tag = "search"
    """Around a query of the model."""
    information_tag: Tag = "information"
    """Around passages, and all else that is inserted."""
    answer_tag: Tag = "answer"
    """Around the model's answer; the built-in rewards look for the default one."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.corpus is None) == (self.url is None):
            raise ValueError("give either corpus or url")
        return self

    @model_validator(mode="after")
    def _tells_tags_apart(self) -> Self:
        if len({tag.lower() for tag in self.tags}) < len(self.tags):
            raise ValueError("search_tag, information_tag and answer_tag must differ")
        return self

    @property
    def tags(self) -> tuple[str, ...]:
        return (self.search_tag, self.information_tag, self.answer_tag)


class Search:
    """An episode's own searches, over what all episodes share."""

    def __init__(
        self,
        prompt: Prompt,
        columns: Mapping[str, object],
        *,
        options: SearchOptions,
        retriever: Retriever,
    ) -> None:
        self.stop_strings = (f"</{options.search_tag}>", f"</{options.answer_tag}>")
        self.metrics = {"searched": 0, "searches": 0, "errors": 0, "answered": 0}
        self._options = options
        self._retriever = retriever

    # Blocking, in a thread of its own: a coroutine would have to share one with all the others.
    def respond(self, transcript: Transcript) -> str | None:
        """What was found, where the turn is a search."""
        query = last_content(transcript.turn, self._options.search_tag)
        if query is None:
            answer = last_content(transcript.turn, self._options.answer_tag)
            self.metrics["answered"] = int(answer is not None)
            return None
        tag = self._options.information_tag
        return f"<{tag}>{self._find(query.strip())}</{tag}>"

    def _find(self, query: str) -> str:
        if self.metrics["searches"] == self._options.max_searches:
            return NO_SEARCH_LEFT
        self.metrics["searched"] = 1
        self.metrics["searches"] += 1
        try:
            passages = self._retriever.search(query, self._options.top_k)
        except RetrievalFailed:
            self.metrics["errors"] += 1
            passages = []
        return self._shown(passages) or NO_RESULT

    def _shown(self, passages: list[str]) -> str:
        """The passages as text that is valid, not too long, and without the tags of an episode."""
        shortened = (passage.strip()[: self._options.max_passage_chars] for passage in passages)
        text = BETWEEN_PASSAGES.join(shortened)[: self._options.max_result_chars]
        return escape_tags(text.encode(errors="replace").decode(), self._options.tags)


def load_search(
    options: Mapping[str, object], code_folder: Path
) -> Callable[[Prompt, Mapping[str, object]], Search]:
    """What begins an episode; returns when the corpus is indexed, raises Stop."""
    checked = read_options(SearchOptions, options)
    cached = CachedRetriever(_open_retriever(checked, code_folder), checked.max_cached_queries)
    return partial(Search, options=checked, retriever=cached)


def _open_retriever(options: SearchOptions, code_folder: Path) -> Retriever:
    if options.url is not None:
        return HttpRetriever(options.url, options.timeout_s)
    assert options.corpus is not None, "options name one of the two"
    return Bm25Retriever(read_corpus(code_folder / options.corpus))
