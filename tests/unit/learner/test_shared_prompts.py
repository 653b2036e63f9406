from volley.learner.shared_prompts import SharedPrompt


def test_completions_go_on_where_the_prompt_ends():
    one = SharedPrompt.of_lengths(num_prompt_tokens=2, lengths_G=[3, 1])
    assert (one.num_completion_tokens, one.num_tokens) == (4, 6)
    assert one.positions.tolist() == [0, 1, 2, 3, 4, 2]


def test_tokens_find_their_row_and_back():
    one = SharedPrompt.of_lengths(num_prompt_tokens=2, lengths_G=[1, 3, 2])
    assert one.token_at_GT.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 0]]
    assert one.token_at_GT.flatten()[one.place_of_N].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_token_is_predicted_by_the_one_before_it_and_the_first_by_the_prompt():
    one = SharedPrompt.of_lengths(num_prompt_tokens=2, lengths_G=[3, 1])
    # Of the stretch p p a a a b: a's are at 2 to 4, b at 5.
    assert one.sources_GT(num_columns=3)[0].tolist() == [1, 2, 3]
    assert one.sources_GT(num_columns=3)[1, :1].tolist() == [1]
