"""Stop strings over tokens that hold parts of them, and parts of characters."""

from volley.rollout.stop_strings import StopStrings

TEXTS = ["a", "</", "s>", ">", "s", "", "> so", "\N{EURO SIGN}"]


def text_of(token_ids):
    return "".join(TEXTS[token] for token in token_ids)


def test_the_token_that_completes_a_string_ends_the_turn():
    stops = StopStrings(["</s>"], text_of, len(TEXTS))
    assert not stops.is_hit([0, 1])
    assert not stops.is_hit([0, 1, 4])
    assert stops.is_hit([0, 1, 4, 3])
    assert stops.is_hit([0, 1, 2])


def test_a_string_may_end_inside_a_token():
    assert StopStrings(["</s>"], text_of, len(TEXTS)).is_hit([1, 4, 6])


def test_only_tokens_that_may_end_a_string_are_looked_at():
    decoded = []

    def watched(token_ids):
        decoded.append(list(token_ids))
        return text_of(token_ids)

    stops = StopStrings(["</s>"], watched, len(TEXTS))
    assert stops.ending_V.tolist() == [False, False, True, True, False, True, True, False]
    decoded.clear()
    assert not stops.is_hit([1, 4])
    assert decoded == []
    assert not stops.is_hit([0, 3])
    assert decoded == [[0, 3]]


def test_an_end_far_from_its_beginning_is_found():
    texts = list("abcdefghijklmnopqrstuvwxyz")
    stops = StopStrings(["".join(texts)], lambda ids: "".join(texts[i] for i in ids), 26)
    assert stops.is_hit([*([0] * 100), *range(26)])
    assert not stops.is_hit([*([0] * 100), *range(2, 26)])


def test_several_strings_end_turns():
    stops = StopStrings(["aa", "\N{EURO SIGN}"], text_of, len(TEXTS))
    assert stops.is_hit([0, 0])
    assert stops.is_hit([4, 7])
    assert not stops.is_hit([4, 0])


def test_the_bytes_of_one_character_may_come_in_several_tokens():
    pieces = ["\N{EURO SIGN}".encode()[i : i + 1] for i in range(3)]

    def decode(token_ids):
        return b"".join(pieces[i] for i in token_ids).decode(errors="replace")

    stops = StopStrings(["\N{EURO SIGN}"], decode, 3)
    assert not stops.is_hit([0, 1])
    assert stops.is_hit([0, 1, 2])
