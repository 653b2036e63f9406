import pytest
import torch

from volley.learner.loss_code import load_own_surrogate
from volley.learner.surrogates import ClipRules, Tokens
from volley.telemetry.stops import ExitCode, Stop

RULES = ClipRules(epsilon=0.2, epsilon_high=0.2)
TOKENS = Tokens(
    policy_logprobs_BT=torch.tensor([[-1.0, -2.0]]),
    anchor_logprobs_BT=torch.tensor([[-1.5, -2.0]]),
    advantages_B1=torch.tensor([[2.0]]),
    mask_BT=torch.tensor([[True, True]]),
)
REINFORCE = """
from volley.learner.surrogates import ClipRules, Surrogate, Tokens

def reinforce(tokens: Tokens, rules: ClipRules) -> Surrogate:
    loss_BT = -tokens.advantages_B1 * tokens.policy_logprobs_BT
    return Surrogate(loss_BT, tokens.mask_BT & False)
"""


def complaint(source: str, name: str = "mine:reinforce") -> str:
    with pytest.raises(Stop) as caught:
        load_own_surrogate(name, source)(TOKENS, RULES)
    assert caught.value.code is ExitCode.CONFIG
    return caught.value.message


def test_a_function_of_a_text_is_a_surrogate():
    found = load_own_surrogate("mine:reinforce", REINFORCE)(TOKENS, RULES)
    assert found.loss_BT.tolist() == [[2.0, 4.0]]


def test_dataclasses_of_ones_own_work():
    source = (
        REINFORCE + "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    a: 'int'\n"
    )
    assert load_own_surrogate("mine:reinforce", source)(TOKENS, RULES)


def test_two_texts_under_one_name_do_not_get_mixed_up():
    first = load_own_surrogate("mine:reinforce", REINFORCE)
    second = load_own_surrogate("mine:reinforce", REINFORCE.replace("-tokens", "-2 * tokens"))
    assert first(TOKENS, RULES).loss_BT.tolist() == [[2.0, 4.0]]
    assert second(TOKENS, RULES).loss_BT.tolist() == [[4.0, 8.0]]


def test_a_text_without_the_function_is_refused():
    assert "mine has no function 'other'" in complaint(REINFORCE, "mine:other")


def test_a_text_that_cannot_be_imported_is_refused_with_its_reason():
    assert "importing mine failed: ModuleNotFoundError" in complaint("import not_there_at_all")
    assert "importing mine failed: SyntaxError" in complaint("def")


def test_a_function_that_raises_stops_the_run_with_its_reason():
    source = "def reinforce(tokens, rules):\n    return 1 / 0\n"
    assert "mine:reinforce failed: ZeroDivisionError" in complaint(source)


def test_a_loss_of_another_shape_is_refused():
    source = REINFORCE.replace("policy_logprobs_BT", "policy_logprobs_BT.sum()")
    assert "with both fields of shape (1, 2)" in complaint(source)
    source = "def reinforce(tokens, rules):\n    return 0.0\n"
    assert "returned float: return a Surrogate" in complaint(source)
