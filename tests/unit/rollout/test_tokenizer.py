from volley.learner.tiny_model import make_tokenizer
from volley.rollout.tokenizer import Tokenizer


def test_tags_that_are_only_added_keep_their_ids_and_end_tokens_become_text(tmp_path):
    whole = make_tokenizer()
    whole.save_pretrained(tmp_path)
    ids = Tokenizer(tmp_path).inserted_ids("<information>a<eos>b</information>")
    assert whole.convert_tokens_to_ids(["<information>", "</information>"]) == [ids[0], ids[-1]]
    assert whole.eos_token_id not in ids
    # Neither `<` nor `>` has a token of its own.
    assert whole.decode(list(ids[1:-1])) == "a<unk>eos<unk>b"
