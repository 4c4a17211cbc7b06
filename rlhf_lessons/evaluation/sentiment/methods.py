"""What is done by sft, rm, dpo, ppo and best-of-n, once what they share is there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlhf_lessons import formulas
from rlhf_lessons.evaluation.best_of_n import best_of_n_curve
from rlhf_lessons.evaluation.preferences import preference_accuracy
from rlhf_lessons.evaluation.sentiment.stages import KEPT_TEXTS, Stages
from rlhf_lessons.models import RewardModel, ValueHead
from rlhf_lessons.training import DPOSettings, PPOSettings, held_out_nll, train_dpo, train_ppo

__all__ = ["METHODS"]


def _sft(run: Stages) -> None:
    policy, held_out = run.start, run.examples[1][:512]
    loss = lambda: held_out_nll(policy, held_out)  # noqa: E731
    run.train(policy, policy.copy(), run.fine_tuning(policy), held_out_loss=loss)


def _rm(run: Stages) -> None:
    model, held_out = RewardModel.from_policy(run.reference), run.held_out_pairs

    def measure(step: int) -> dict[str, float]:
        prompts, chosen, rejected = zip(*held_out, strict=True)
        won, lost = model.score(prompts, chosen), model.score(prompts, rejected)
        loss = float(formulas.bradley_terry_loss(won, lost).mean())
        return {
            "step": step,
            "held_out_loss": loss,
            "held_out_accuracy": preference_accuracy(won, lost),
        }

    run.follow(run.reward_learning(model), "rm", measure)
    model.save_pretrained(run.folder / "model")


def _dpo(run: Stages) -> None:
    policy = run.tuned()
    settings = DPOSettings(beta=run.settings.beta, **run.stage("dpo"))
    loop = train_dpo(
        policy, run.pairs, settings, reference=run.reference,
        reference_log_probs=run.reference_log_probs, checkpoint=run.checkpoints,
        max_new_tokens=run.settings.max_new_tokens,
    )  # fmt: skip
    run.train(policy, run.reference, loop)


def _ppo(run: Stages) -> None:
    policy, s, values = run.tuned(), run.settings, run.stage("ppo")
    settings = PPOSettings(
        beta=s.beta, cycles=values.pop("steps"), minibatch_size=min(64, s.batch_size),
        final_learning_rate=s.learning_rate / 10, max_new_tokens=s.max_new_tokens, **values,
    )  # fmt: skip
    # Values on the policy's own body pull it about; they get one of their own, unless its weights
    # are frozen and a second one would double the time.
    loop = train_ppo(
        policy, run.prompts, run.reward, settings, reference=run.reference,
        value_head=ValueHead(policy if policy.adapted else run.tuned()),
        checkpoint=run.checkpoints,
    )  # fmt: skip
    run.train(policy, run.reference, loop)


def _bon(run: Stages) -> None:
    s, prompts = run.settings, run.measured_prompts
    texts, proxy = run.drawn(prompts, run.reward, s.n, s.seed)
    repeated = np.repeat(prompts, s.n).tolist()
    responses = texts.ravel().tolist()
    gold = proxy  # which is the judge's own where it is optimised itself
    if s.reward != "judge":
        gold = np.asarray(run.judge(repeated, responses), np.float64).reshape(proxy.shape)
    values = sorted({1 << k for k in range(s.n.bit_length())} | {s.n})
    curve = best_of_n_curve(proxy, gold, values)
    # The bound log n − (n − 1)/n is the KL itself where no two scores are equal.
    columns = zip(values, curve.gold.tolist(), curve.gold_error, curve.kl_bound, strict=True)
    points = [
        {"step": n, "reward": r, "reward_error": float(e), "kl": float(kl)}
        for n, r, e, kl in columns
    ]
    if s.data == "snippets":
        vader = run.vader(repeated, responses).reshape(proxy.shape)
        for point, value in zip(points, best_of_n_curve(proxy, vader, values).gold, strict=True):
            point["vader"] = float(value)
    best = [(i, int(proxy[i].argmax())) for i in range(min(KEPT_TEXTS, len(prompts)))]
    kept = tuple((prompts[i], texts[i, k], round(float(gold[i, k]), 3)) for i, k in best)
    run.record(points=tuple(points), texts=kept)


METHODS: dict[str, Callable[[Stages], None]] = {
    "sft": _sft, "rm": _rm, "dpo": _dpo, "ppo": _ppo, "bon": _bon,
}  # fmt: skip
