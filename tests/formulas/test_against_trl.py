"""TRL's own code for groups, thumbs and preferences, on random batches. Skipped without TRL 1.16.

Its losses stand inside the trainers' methods. These are called here with a stand-in for the
trainer and for the model, which hand out the log-probabilities; the advantages come from its
trainers as they are, with a model of one layer and rewards of our choice.
"""

from __future__ import annotations

import types
from unittest.mock import MagicMock

import pytest
import torch
from oracles import draw, right_padded_mask

from rlhf_lessons import formulas
from rlhf_lessons.models import small_gpt2, word_tokenizer

trl = pytest.importorskip("trl", minversion="1.16")

MASK = right_padded_mask([5, 2, 4, 3], 5)
BUDGET = 9  # the largest number of tokens


def stand_in(**settings):
    """A trainer of one process that writes down nothing."""
    trainer = MagicMock()
    trainer.accelerator.gather = trainer.accelerator.gather_for_metrics = lambda x: x
    trainer.accelerator.reduce = lambda x, reduction: x
    trainer.accelerator.device = torch.device("cpu")
    trainer.accelerator.num_processes = 1
    trainer.aux_loss_enabled = False
    trainer._tp_size = trainer._total_train_tokens = 1
    for name, value in settings.items():
        setattr(trainer, name, value)
    return trainer


def assert_same_value_and_gradient(ours, theirs, x):
    values, gradients = [], []
    for loss in (ours, theirs):
        leaf = x.detach().clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 1e-4


def trl_grpo_loss(log_probs, old_log_probs, advantages, loss_type, level, low, high):
    trainer = stand_in(
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=low,
        epsilon_high=high,
        beta=0.0,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=BUDGET,
    )
    trainer.args.delta = None
    trainer.args.steps_per_generation = 1
    trainer._get_per_token_logps_and_entropies.return_value = (log_probs, 0 * log_probs, None)
    tokens = MASK.long()
    inputs = {
        "prompt_ids": tokens[:, :1],
        "prompt_mask": tokens[:, :1],
        "completion_ids": tokens,
        "completion_mask": tokens,
        "advantages": advantages,
        "old_per_token_logps": old_log_probs,
        "num_items_in_batch": MASK.sum(),
    }
    return trl.GRPOTrainer._compute_loss(trainer, None, inputs)


POLICY_LOSSES = {
    "grpo": lambda p, old, a: formulas.mean_of_responses(
        formulas.ppo_policy_loss(p, old, a, 0.2), MASK
    ),
    "dapo": lambda p, old, a: formulas.masked_mean(
        formulas.dapo_policy_loss(p, old, a, 0.2, 0.28), MASK
    ),
    "dr_grpo": lambda p, old, a: formulas.mean_over_length(
        formulas.ppo_policy_loss(p, old, a, 0.2), MASK, BUDGET
    ),
    "cispo": lambda p, old, a: formulas.masked_mean(
        formulas.cispo_policy_loss(p, old, a, 0.5), MASK
    ),
    "gspo": lambda p, old, a: formulas.mean_of_responses(
        formulas.gspo_policy_loss(p, old, a, MASK, 0.1, 0.15), MASK
    ),
}
TRL_SETTINGS = {
    "grpo": ("grpo", "token", 0.2, 0.2),
    "dapo": ("dapo", "token", 0.2, 0.28),
    "dr_grpo": ("dr_grpo", "token", 0.2, 0.2),
    "cispo": ("cispo", "token", 0.2, 1.5),  # the largest weight, where ours is above 1
    "gspo": ("grpo", "sequence", 0.1, 0.15),
}


@pytest.mark.parametrize("method", POLICY_LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_policy_losses_and_their_means(method, seed):
    log_probs, advantages = draw(4, 5, seed=seed) - 2, draw(4, seed=seed + 20)
    old = log_probs + draw(4, 5, seed=seed + 10, scale=0.4)
    each = advantages.unsqueeze(1).expand(4, 5)
    assert_same_value_and_gradient(
        lambda x: POLICY_LOSSES[method](x, old, each),
        lambda x: trl_grpo_loss(x, old, advantages, *TRL_SETTINGS[method]),
        log_probs,
    )


def lm_outputs(log_probs):
    """What TRL's models hand out; only the log-probabilities matter."""
    return types.SimpleNamespace(
        log_probs=log_probs,
        entropy=0 * log_probs.detach(),
        mean_logits=0 * log_probs.detach(),
        is_top1=log_probs.detach() > 99,
    )


def trl_inputs(mask):
    tokens = torch.cat([torch.zeros_like(mask[:, :1]), mask], 1).long()
    return {"input_ids": tokens, "attention_mask": tokens, "completion_mask": tokens}


@pytest.mark.parametrize("loss_type", ["apo_zero", "apo_down"])
@pytest.mark.parametrize("seed", range(3))
def test_apo(loss_type, seed):
    ours = {"apo_zero": formulas.apo_zero_loss, "apo_down": formulas.apo_down_loss}[loss_type]
    reference = (draw(2, seed=seed + 10), draw(2, seed=seed + 20))

    def theirs(log_probs):
        trainer = stand_in(
            loss_types=[loss_type],
            loss_weights=[1.0],
            beta=0.3,
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type="reverse_kl",
            use_weighting=False,
        )
        inputs = trl_inputs(MASK)
        inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = reference
        model = MagicMock(return_value=lm_outputs(log_probs * MASK))
        return trl.DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)

    def loss(log_probs):
        chosen, rejected = formulas.sequence_log_prob(log_probs, MASK).chunk(2)
        return ours(chosen, rejected, *reference, 0.3).mean()

    assert_same_value_and_gradient(loss, theirs, draw(4, 5, seed=seed, scale=0.5))


@pytest.mark.parametrize("drift", [2.0, -2.0])  # the KL above 0, and clamped at 0
@pytest.mark.parametrize("seed", range(3))
def test_kto(seed, drift):
    desirable = torch.tensor([True, False, False, True])
    reference, mismatched_reference = draw(4, seed=seed + 10), draw(4, seed=seed + 20)
    mismatched = mismatched_reference + drift + draw(4, seed=seed + 30, scale=0.1)

    def theirs(log_probs):
        trainer = stand_in(
            loss_type="kto",
            beta=0.3,
            calculate_KL=True,
            precompute_ref_logps=True,
            desirable_weight=1.3,
            undesirable_weight=0.7,
        )
        trainer._compute_kl_logps.return_value = mismatched
        inputs = {
            **trl_inputs(MASK),
            "label": desirable,
            "ref_logps": reference,
            "ref_KL_logps": mismatched_reference,
        }
        model = MagicMock(return_value=lm_outputs(log_probs * MASK))
        return trl.KTOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)

    z = formulas.kto_reference_point(mismatched, mismatched_reference)
    assert (z > 0) == (drift > 0)

    def loss(log_probs):
        policy = formulas.sequence_log_prob(log_probs, MASK)
        return formulas.kto_loss(policy, reference, desirable, z, 0.3, 1.3, 0.7).mean()

    assert_same_value_and_gradient(loss, theirs, draw(4, 5, seed=seed, scale=0.5))


@pytest.mark.parametrize("seed", range(3))
def test_simpo_and_orpo(seed):
    cpo = pytest.importorskip("trl.experimental.cpo.cpo_trainer")
    orpo = pytest.importorskip("trl.experimental.orpo.orpo_trainer")
    chosen, rejected = -draw(4, seed=seed).exp(), -draw(4, seed=seed + 10).exp()
    trainer = stand_in(loss_type="simpo", alpha=0.0, simpo_gamma=0.5, beta=2.0, label_smoothing=0.0)
    assert_same_value_and_gradient(
        lambda x: formulas.simpo_loss(x, rejected, 2.0, 0.5).mean(),
        lambda x: cpo.CPOTrainer.cpo_loss(trainer, x, rejected)[0].mean(),
        chosen,
    )
    trainer = stand_in(beta=0.3)
    chosen, rejected = chosen.float(), rejected.float()  # TRL's odds are float32
    assert_same_value_and_gradient(
        lambda x: formulas.orpo_loss(x, rejected, 0.3).mean(),
        # Its fine-tuning term is a mean over the tokens of the batch; here each weighs the same.
        lambda x: (-x - orpo.ORPOTrainer.odds_ratio_loss(trainer, x, rejected)[0]).mean(),
        chosen,
    )


@pytest.mark.parametrize(
    ("name", "settings", "advantages"),
    [
        ("GRPO", {"scale_rewards": "group"}, formulas.grpo_advantages),
        ("GRPO", {"scale_rewards": "none"}, formulas.dr_grpo_advantages),
        ("RLOO", {"normalize_advantages": False}, formulas.rloo_advantages),
    ],
)
def test_advantages(name, settings, advantages, tmp_path):
    datasets = pytest.importorskip("datasets")
    tokenizer = word_tokenizer(["a", "b", "c"])
    rewards = torch.tensor([[0.0, 1.0, 1.0, 7.5], [0.1, 0.1, 0.1, 0.1]])
    trainer = getattr(trl, f"{name}Trainer")(
        model=small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=12),
        reward_funcs=lambda **given: rewards.flatten().tolist(),
        args=getattr(trl, f"{name}Config")(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=3,
            beta=0.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            **settings,
        ),
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}]),
    )
    batch = trainer._generate_and_score_completions([{"prompt": p} for p in "aaaabbbb"])
    # A group of 0.1 rounds to 1e-8 beside its mean, and to 1e-4 over TRL's own 1e-4.
    torch.testing.assert_close(
        batch["advantages"].view(2, 4), advantages(rewards), rtol=1e-5, atol=2e-4
    )
