"""Rewards in TRL's shape: completions in, one number each out, None for "does not apply"."""


def right(completions, answer, **columns):
    """1 where the answer stands on the last line."""
    last_lines = [text.strip().rpartition("\n")[2] for text in completions]
    return [float(line == wanted) for line, wanted in zip(last_lines, answer, strict=True)]


def brief(completions, max_words=None, **columns):
    """1 down to 0 as words go beyond the row's limit; rows without one are not judged."""
    if max_words is None or max_words[0] is None:
        return [None] * len(completions)
    pairs = zip(completions, max_words, strict=True)
    return [max(0.0, 1.0 - max(0, len(text.split()) - limit) / limit) for text, limit in pairs]
