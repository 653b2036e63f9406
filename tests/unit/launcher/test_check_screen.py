import io

from rich.console import Console

from volley.launcher.check_screen import (
    SHOWN_CHARACTERS,
    SHOWN_TOKENS,
    Shown,
    Token,
    demonstration_text,
    show_all,
    tokens_text,
    verdict,
)
from volley.launcher.findings import bad, ok, warn


def test_tokens_are_shown_with_their_pieces():
    assert tokens_text([Token(5, "a\n"), Token(1, "<eos>")]).plain == "5 'a\\n'  1 '<eos>'"


def test_many_tokens_are_counted_only():
    text = tokens_text([Token(1, "a")] * (SHOWN_TOKENS + 3)).plain
    assert text.endswith("1 'a'  ... and 3 more")


def test_what_is_trained_of_a_demonstration_is_marked_where_there_are_no_colours():
    tokens = [Token(1, "q"), Token(2, "x", True), Token(3, "y", True), Token(4, "i"), Token(5, "z")]
    assert demonstration_text(tokens, has_marks=True).plain == "q[trained]xy[not trained]iz"
    coloured = demonstration_text(tokens, has_marks=False)
    assert coloured.plain == "qxyiz"
    assert [span.style for span in coloured.spans] == ["green", "green"]


def test_a_long_prompt_is_cut_and_cannot_touch_the_terminal(capsys):
    console = Console(file=io.StringIO(), width=80)
    prompt = "a\x1b[2J" + "b" * SHOWN_CHARACTERS
    show_all(Shown(prompt=prompt), [ok("model", "fine")], console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b" not in shown
    assert "... and 5 characters more" in shown
    assert capsys.readouterr().out == "ok    model: fine\n"


def test_the_last_line_says_whether_to_go_on():
    fine, doubtful = ok("model", "here"), warn("rewards", "equal", "look")
    assert verdict([fine]) == "A run would start."
    assert verdict([fine, doubtful]) == "A run would start; 1 to look at first."
    assert (
        verdict([doubtful, bad("redis", "away", "start it")]) == "1 to be put right before a run."
    )
