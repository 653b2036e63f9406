"""A loss of the user's own, made of the text that the settings carry.

The text is part of what the step log names a step's settings by, so a step is always taken again
with the loss that it was taken with.
"""

import sys
from types import ModuleType

from volley.learner.surrogates import ClipRules, Surrogate, SurrogateFunction, Tokens
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes


def load_own_surrogate(name: str, source: str) -> SurrogateFunction:
    """The function `module:function` of a module's text; raises Stop, then and when called."""
    module_name, _, function_name = name.partition(":")
    module = _import_module(module_name, source)
    function: object = getattr(module, function_name, None)
    if not callable(function):
        raise Stop(
            ExitCode.CONFIG, f"loss.loss_type: {module_name} has no function {function_name!r}"
        )

    def own_surrogate(tokens: Tokens, rules: ClipRules) -> Surrogate:
        try:
            surrogate: object = function(tokens, rules)
        except Exception as error:
            raise Stop(
                ExitCode.CONFIG, f"loss.loss_type: {name} failed: {type(error).__name__}: {error}"
            ) from error
        return _checked(name, surrogate, tokens)

    return own_surrogate


def _import_module(name: str, source: str) -> ModuleType:
    module = ModuleType(f"loss_code.{name}_{hash_bytes(source.encode())[:16]}")
    # Dataclasses look their module up.
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    except Exception as error:
        raise Stop(
            ExitCode.CONFIG,
            f"loss.loss_type: importing {name} failed: {type(error).__name__}: {error}",
        ) from error
    return module


def _checked(name: str, surrogate: object, tokens: Tokens) -> Surrogate:
    shape = tokens.mask_BT.shape
    if isinstance(surrogate, Surrogate) and (
        surrogate.loss_BT.shape == surrogate.clipped_BT.shape == shape
    ):
        return surrogate
    raise Stop(
        ExitCode.CONFIG,
        f"loss.loss_type: {name} returned {type(surrogate).__name__}: return a Surrogate, "
        f"imported from volley.learner.surrogates, with both fields of shape {tuple(shape)}",
    )
