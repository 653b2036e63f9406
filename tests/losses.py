"""Rules of losses for tests: say what matters, the rest is filled in."""

from volley.learner.kl import KlEstimator
from volley.learner.loss import LOSS_FORMS, LossRules
from volley.learner.surrogates import ClipRules


def make_loss_rules(
    loss_type: str = "dapo",
    *,
    delta: float | None = None,
    beta: float = 0.0,
    kl_estimator: KlEstimator = "k3",
    use_bias_correction_kl: bool = True,
    entropy_coef: float = 0.0,
) -> LossRules:
    """Clipped to [0.8, 1.28]."""
    return LossRules(
        form=LOSS_FORMS[loss_type],
        clip=ClipRules(epsilon=0.2, epsilon_high=0.28, delta=delta),
        beta=beta,
        kl_estimator=kl_estimator,
        use_bias_correction_kl=use_bias_correction_kl,
        entropy_coef=entropy_coef,
    )
