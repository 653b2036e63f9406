"""All results as one table: what was measured, ours, what it is compared with, and the ratio."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from rich.console import JustifyMethod
from rich.table import Table

COLUMNS = ("bench", "what", "unit", "Volley", "reference", "", "ratio")
NUMERIC_COLUMNS = ("Volley", "reference", "ratio")


class Comparison(Struct, frozen=True):
    """A figure of ours beside one that the same process took at the same time."""

    what: str
    unit: str
    ours: float
    against: str
    """What the reference is."""
    reference: float

    @property
    def ratio(self) -> float:
        return self.ours / self.reference


class Result(Struct, frozen=True):
    """What one bench has found, or why it has found nothing."""

    bench: str
    comparisons: tuple[Comparison, ...] = ()
    failure: str | None = None
    """The last words of a bench that failed."""
    date: str = ""
    machine: str = ""
    commit: str = ""
    busy_cores_beside: float | None = None
    """How many cores other processes kept busy meanwhile."""


def as_table(results: Sequence[Result]) -> Table:
    """For a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        justify: JustifyMethod = "right" if column in NUMERIC_COLUMNS else "left"
        is_figure = column in NUMERIC_COLUMNS or column == "unit"
        table.add_column(column, justify=justify, no_wrap=is_figure, overflow="fold")
    for row in rows(results):
        table.add_row(*row)
    return table


def as_markdown(results: Sequence[Result]) -> str:
    """For a file, with where the figures come from."""
    figures = _markdown(COLUMNS, rows(results))
    origins = _markdown(
        ("bench", "measured", "on", "commit", "cores that others kept busy"),
        (
            (one.bench, one.date, one.machine, one.commit, _busy(one.busy_cores_beside))
            for one in results
        ),
    )
    return f"# The last results of `make bench`\n\n{figures}\n{origins}"


def _markdown(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    ruler = ["--:" if column in NUMERIC_COLUMNS else "---" for column in columns]
    return "".join(f"| {' | '.join(row)} |\n" for row in (columns, ruler, *cells))


def _busy(cores: float | None) -> str:
    return "not known" if cores is None else f"{cores:g}"


def rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """The cells, each bench's name in its first row alone."""
    for result in results:
        name = result.bench
        if result.failure is not None:
            yield (name, f"failed: {result.failure}", "", "", "", "", "")
        for one in result.comparisons:
            yield (
                *(name, one.what, one.unit, _shown(one.ours)),
                *(_shown(one.reference), one.against, f"{one.ratio:.2f}"),
            )
            name = ""


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
