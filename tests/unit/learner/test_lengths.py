from volley.learner.lengths import Completion, Fate, describe_lengths

COLUMNS = ("length", "trained_share", "stale_share", "failed_share", "truncated_share")


def completions(*lengths: int, fate: Fate = Fate.TRAINED, is_truncated: bool = False):
    return [Completion(length, is_truncated, fate) for length in lengths]


def test_each_tenth_has_its_mean_length_and_shares():
    # Twenty, two in each tenth: of the longest one is stale, and one failed and was truncated.
    found = describe_lengths(
        [
            *completions(*range(1, 19)),
            *completions(30, fate=Fate.STALE),
            *completions(40, fate=Fate.FAILED, is_truncated=True),
        ]
    )
    assert found["tenth_1/length"] == 1.5
    assert found["tenth_9/length"] == 17.5
    assert [found[f"tenth_{tenth}/trained_share"] for tenth in (1, 9, 10)] == [1, 1, 0]
    longest = {name: found[f"tenth_10/{name}"] for name in COLUMNS}
    assert longest == {
        "length": 35,
        "trained_share": 0,
        "stale_share": 0.5,
        "failed_share": 0.5,
        "truncated_share": 0.5,
    }


def test_what_was_filtered_is_neither_trained_nor_lost():
    found = describe_lengths(completions(*range(10), fate=Fate.FILTERED))
    assert [found[f"tenth_5/{name}"] for name in COLUMNS] == [4, 0, 0, 0, 0]


def test_the_order_of_delivery_does_not_matter():
    mixed = completions(3, 1, 2) + completions(5, 4, fate=Fate.STALE)
    assert describe_lengths(mixed) == describe_lengths(mixed[::-1])


def test_a_tenth_without_completions_has_no_values():
    found = describe_lengths(completions(7))
    assert found["tenth_10/length"] == 7
    assert found["tenth_9/length"] is None
    assert len(found) == 10 * len(COLUMNS)
