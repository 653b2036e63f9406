"""The model and the tokenizer that the demos begin with."""

import json

from safetensors.torch import load_file

from volley.learner.tiny_model import TAGS, make_tokenizer, save_model


def test_the_tokenizer_has_64_tokens_and_gives_back_what_it_took():
    tokenizer = make_tokenizer()
    assert len(tokenizer) == 64
    text = "sort qhzbtwea= 7?\n" + "".join(TAGS)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 18 + len(TAGS) == 26
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_the_model_has_as_many_parameters_as_the_demo_says(tmp_path):
    save_model(tmp_path, seed=0)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == 303_872
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vocab_size"], config["head_dim"]) == (64, 32)
