"""The DPO loop: its numbers by hand in float64, its stops, and that it learns what pairs say."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer
from rlhf_lessons.training.dpo import (
    DPOSettings,
    Pairs,
    _accuracy,
    _rounding,
    pair_log_probs,
    train_dpo,
)

WORDS = ["a", "b", "c", "d", "."]
PAIRS = [
    ("a", "b .", "c c c ."),
    ("c a a", "d", "b b ."),
    ("", "a b .", "d ."),
    ("b b", "c . . .", "a"),
]


def tiny(seed: int = 0, context: int = 12, words=WORDS) -> LanguagePolicy:
    tokenizer = word_tokenizer(words)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=context, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)  # clear preferences, so that a wrong token shows
    return LanguagePolicy(model, tokenizer)


def weights(policy: LanguagePolicy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()])


def quick(**changes) -> DPOSettings:
    values = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0.0, **changes}
    return DPOSettings(**values)


def log_prob_by_hand(policy: LanguagePolicy, prompt: str, response: str) -> torch.Tensor:
    """One response through the plain model in float64, with gradient, without padding."""
    prompt_ids = policy.tokenizer(prompt)["input_ids"]
    response_ids = policy.tokenizer(response, add_special_tokens=False)["input_ids"]
    response_ids = [*response_ids, policy.end_token_id]
    logits = policy.model(torch.tensor([prompt_ids + response_ids])).logits[0]
    predictions = logits[len(prompt_ids) - 1 : -1]
    return -torch.nn.functional.cross_entropy(
        predictions, torch.tensor(response_ids), reduction="sum"
    )


def by_hand(policy, reference, pairs, beta):
    """Rewards of chosen and rejected responses, and DPO's mean loss, written out in float64."""
    policy, reference = (
        LanguagePolicy(copy.deepcopy(p.model).double(), p.tokenizer) for p in (policy, reference)
    )
    rewards = [[], []]
    for prompt, *responses in pairs:
        for side, response in zip(rewards, responses, strict=True):
            ratio = log_prob_by_hand(policy, prompt, response)
            ratio = ratio - log_prob_by_hand(reference, prompt, response).detach()
            side.append(beta * ratio)
    chosen, rejected = map(torch.stack, rewards)
    loss = torch.log1p(torch.exp(rejected - chosen)).mean()
    return policy, chosen, rejected, loss


def test_the_first_step_is_a_coin():
    first = next(train_dpo(tiny(), PAIRS, quick()))
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    assert (first.step, first.total, first.accuracy) == (1, 4, 0.5)
    # Sums of some 10 nats, read in other batches, differ by a few of their last digits, 1e-6.
    for number in (first.margin, first.chosen_reward, first.rejected_reward, first.kl):
        assert number == pytest.approx(0, abs=1e-5)


def test_what_differs_by_rounding_alone_is_a_tie(monkeypatch):
    """The reference is read by kernels that round otherwise: each log π moves by last digits."""
    read = Pairs.all_log_probs
    noise = torch.Generator().manual_seed(0)

    def otherwise(*args):
        return tuple(
            side + 4e-6 * (2 * torch.rand(len(side), generator=noise) - 1) for side in read(*args)
        )

    monkeypatch.setattr(Pairs, "all_log_probs", otherwise)
    settings = quick(steps=1, learning_rate=1e-12)
    (record,) = train_dpo(tiny(), PAIRS, settings, validation=PAIRS)
    assert record.margin != 0 and (record.accuracy, record.validation_accuracy) == (0.5, 0.5)


def test_sure_answers_tie_where_their_logits_are_rounded():
    """Log-probabilities near 0 are differences of logits near 10, which are off by 1e-6."""
    sure = torch.tensor([[-1e-3], [-2e-3], [-1e-3 - 2e-6], [-2e-3 + 1e-6]]).double()
    assert _accuracy(sure, _rounding(tiny(), bf16=False)) == 0.5
    sure[0] += 1e-3
    assert _accuracy(sure, _rounding(tiny(), bf16=False)) == 1.0


def test_what_one_update_changed_is_no_tie():
    """A step at the usual rate moves log π by far more than rounding does."""
    policy = tiny()
    (record,) = train_dpo(policy, PAIRS, quick(steps=1), validation=PAIRS)
    assert record.accuracy == 0.5 and record.validation_accuracy == 1.0


def test_one_step_against_float64():
    policy, reference = tiny(0), tiny(1)
    beta = 0.3
    twin, chosen, rejected, loss = by_hand(policy, reference, PAIRS, beta)
    loss.backward()
    settings = quick(steps=1, beta=beta, max_gradient_norm=1e9)
    (record,) = train_dpo(policy, PAIRS, settings, reference=reference)
    assert record.loss == pytest.approx(loss.item(), abs=1e-5)
    assert record.chosen_reward == pytest.approx(chosen.mean().item(), abs=1e-5)
    assert record.rejected_reward == pytest.approx(rejected.mean().item(), abs=1e-5)
    assert record.margin == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)
    assert record.accuracy == (chosen > rejected).double().mean().item()
    assert 0 < record.accuracy < 1  # some pairs each way, so that a swap would show
    both = torch.cat([chosen, rejected])
    assert record.kl == pytest.approx(-both.mean().item() / beta, abs=1e-4)
    log_probs = [log_prob_by_hand(twin, prompt, text).item() for prompt, text, _ in PAIRS]
    assert record.chosen_log_prob == pytest.approx(sum(log_probs) / 4, abs=1e-4)
    log_probs = [log_prob_by_hand(twin, prompt, text).item() for prompt, _, text in PAIRS]
    assert record.rejected_log_prob == pytest.approx(sum(log_probs) / 4, abs=1e-4)
    norm = math.sqrt(sum(w.grad.square().sum().item() for w in twin.parameters()))
    assert record.gradient_norm == pytest.approx(norm, rel=1e-4)
    # AdamW's first step moves each weight by the rate, against the sign of its gradient.
    for old, new in zip(twin.parameters(), policy.parameters(), strict=True):
        clear = old.grad.abs() > 1e-3 * norm
        moved = (new - old.detach().float())[clear]
        torch.testing.assert_close(
            moved, -1e-3 * old.grad[clear].sign().float(), atol=2e-6, rtol=1e-3
        )


def test_a_response_that_was_cut_is_taught_no_end():
    policy, reference = tiny(0), tiny(1)
    first = next(train_dpo(policy, PAIRS, quick(), reference=reference, max_new_tokens=4))
    twin, total = tiny(0), 0.0
    for prompt, _, rejected in PAIRS:  # "c c c ." fills four tokens, the others end before
        prompt_ids = twin.tokenizer(prompt)["input_ids"]
        ids = [*twin.tokenizer(rejected, add_special_tokens=False)["input_ids"], twin.end_token_id]
        logits = twin.model(torch.tensor([prompt_ids + ids])).logits[0].log_softmax(-1)
        total += sum(
            logits[len(prompt_ids) - 1 + t, ids[t]].item() for t in range(min(len(ids), 4))
        )
    assert first.rejected_log_prob == pytest.approx(total / 4, abs=1e-4)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        train_dpo(policy, PAIRS, max_new_tokens=0)


def test_a_whole_run_against_float64():
    """Four steps of a loop written out by hand, the reference kept as it was at the start."""
    policy = tiny(2)
    reference = policy.copy()
    hand = LanguagePolicy(copy.deepcopy(policy.model).double(), policy.tokenizer)
    optimizer = torch.optim.AdamW(hand.model.parameters(), lr=1.0, weight_decay=0.0, eps=1e-8)
    settings = quick(beta=0.5, learning_rate=2e-3)
    for record in train_dpo(policy, PAIRS, settings):
        twin, _, _, loss = by_hand(hand, reference, PAIRS, 0.5)
        assert record.loss == pytest.approx(loss.item(), abs=2e-5)
        loss.backward()
        for weight, source in zip(hand.parameters(), twin.parameters(), strict=True):
            weight.grad = source.grad
        torch.nn.utils.clip_grad_norm_(hand.model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 + math.cos(math.pi * (record.step - 1) / 4)) / 2
        optimizer.step()
    gap = (weights(policy).double() - weights(hand)).abs()
    # Where a gradient is next to nothing, Adam still moves by its sign, which rounding decides.
    assert float((gap < 2e-5).double().mean()) > 0.99 and float(gap.max()) < 4 * 2e-3
    assert float(gap.norm() / (weights(reference) - weights(hand)).norm()) < 0.01


def test_padding_and_company_change_nothing():
    """A pair has the same numbers alone and beside longer prompts and responses."""
    beta, reference = 0.2, tiny(5)
    alone = []
    for pair in PAIRS:
        settings = quick(steps=1, batch_size=1, beta=beta)
        (record,) = train_dpo(tiny(4), [pair], settings, reference=reference)
        alone.append(record)
    (together,) = train_dpo(tiny(4), PAIRS, quick(steps=1, beta=beta), reference=reference)
    for name in ("loss", "margin", "chosen_log_prob", "rejected_log_prob", "kl"):
        mean = sum(getattr(record, name) for record in alone) / len(alone)
        assert getattr(together, name) == pytest.approx(mean, abs=1e-5), name


def test_long_prompts_beside_long_responses_fit_though_not_side_by_side():
    policy = tiny(6, context=12)
    pairs = [("a " * 9, "b", "c"), ("a", "b " * 8 + ".", "c " * 7)]  # 9 + 9 is beyond 12
    _, chosen, rejected, loss = by_hand(policy, tiny(7), pairs, 0.1)
    (record,) = train_dpo(policy, pairs, quick(steps=1, batch_size=2), reference=tiny(7))
    assert record.loss == pytest.approx(loss.item(), abs=1e-5)
    assert record.margin == pytest.approx((chosen - rejected).mean().item(), abs=1e-5)


def test_the_reference_is_read_once_and_stays():
    policy, reference = tiny(0), tiny(1)
    before, calls = weights(reference).clone(), []
    reference.packed = False  # nobody asks it by a pass more whether it reads packed rows
    reference.model.register_forward_hook(lambda *_: calls.append(1))
    list(train_dpo(policy, PAIRS, quick(steps=6, batch_size=2), reference=reference))
    assert len(calls) == 1
    assert torch.equal(weights(reference), before)


def test_log_probs_of_the_reference_computed_before_serve_every_run():
    reference = tiny(1)
    given = pair_log_probs(reference, PAIRS)
    for side, texts in zip(given, zip(*(pair[1:] for pair in PAIRS), strict=True), strict=True):
        by_hand = [
            log_prob_by_hand(reference, pair[0], text).item()
            for pair, text in zip(PAIRS, texts, strict=True)
        ]
        assert side.tolist() == pytest.approx(by_hand, abs=1e-5)
    for beta in (0.1, 0.5):
        settings = quick(beta=beta)
        read = list(train_dpo(tiny(), PAIRS, settings, reference=reference))
        told = list(train_dpo(tiny(), PAIRS, settings, reference_log_probs=given))
        assert [r.loss for r in told] == pytest.approx([r.loss for r in read], abs=1e-6)
    cut = pair_log_probs(reference, PAIRS, max_new_tokens=1)
    assert (cut[0] > given[0]).all() and (cut[1] > given[1]).all()  # fewer tokens, all below 0


def test_log_probs_of_other_pairs_are_refused():
    with pytest.raises(ValueError, match=r"two tensors of shape \(4,\).*got \[\(3,\), \(3,\)\]"):
        train_dpo(tiny(), PAIRS, reference_log_probs=pair_log_probs(tiny(1), PAIRS[:3]))
    with pytest.raises(ValueError, match="pair_log_probs: max_new_tokens must be at least 1"):
        pair_log_probs(tiny(), PAIRS, max_new_tokens=0)
    with pytest.raises(ValueError, match="pair_log_probs: pairs must hold at least one pair"):
        pair_log_probs(tiny(), [])


def test_one_forward_pass_a_step(monkeypatch):
    monkeypatch.setattr(LanguagePolicy, "packed", False)  # a text a row
    policy, calls, read = tiny(), [], []
    body, head = policy.model.base_model, policy.model.get_output_embeddings()
    body.register_forward_hook(lambda _, given, out: calls.append(out[0].shape[0]))
    head.register_forward_hook(lambda _, given, out: read.append(out.numel() // out.shape[-1]))
    list(train_dpo(policy, PAIRS, quick(steps=3)))
    assert calls == [8] * (1 + 3)  # the reference, then one a step
    # The head reads where a token of a response is predicted, padding and prompts left out.
    tokens = sum(len(text.split()) + 1 for _, *responses in PAIRS for text in responses)
    assert read == [tokens] * (1 + 3)


def test_the_loss_handed_in_is_the_one_minimised():
    seen = []

    def loss(chosen, rejected, reference_chosen, reference_rejected, beta):
        seen.append((reference_chosen.requires_grad, beta))
        return 2 * formulas.dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta)

    first = next(train_dpo(tiny(), PAIRS, quick(beta=0.7), loss=loss))
    assert first.loss == pytest.approx(2 * math.log(2), abs=1e-6)
    assert seen == [(False, 0.7)]


@pytest.mark.parametrize(
    "loss", [formulas.ipo_loss, formulas.hinge_preference_loss, formulas.dpo_loss]
)
def test_it_learns_what_the_pairs_say(loss):
    policy = tiny(3)
    settings = quick(steps=60, learning_rate=3e-3, beta=0.5)
    records = list(train_dpo(policy, PAIRS, settings, validation=PAIRS, loss=loss))
    assert records[-1].accuracy == 1.0 and records[-1].loss < 0.5 * records[0].loss
    assert records[-1].validation_accuracy == 1.0
    assert records[-1].validation_loss <= records[-1].loss
    assert records[0].validation_loss is None


def test_dpo_reaches_the_optimum_of_soft_preferences():
    """Two one-word responses, 3 of 4 raters for "b": π*(b)/π*(c) = ref(b)/ref(c) · 3^(1/β)."""
    pairs = [("a", "b", "c")] * 3 + [("a", "c", "b")]
    policy, beta = tiny(8), 1.0

    def log_odds(of: LanguagePolicy) -> float:
        with torch.no_grad():
            log_probs, mask = of.log_probs(["a", "a"], ["b", "c"])
        first, second = formulas.sequence_log_prob(log_probs, mask).tolist()
        return first - second

    before = log_odds(policy)
    list(train_dpo(policy, pairs, quick(steps=150, learning_rate=3e-3, beta=beta)))
    assert log_odds(policy) - before == pytest.approx(math.log(3) / beta, abs=0.02)


def test_every_pair_is_seen_once_before_any_again():
    seen = []

    def loss(chosen, rejected, reference_chosen, reference_rejected, beta):
        seen.extend(reference_chosen.tolist())  # read once, so the same number each time
        return 0 * (chosen - rejected)

    pairs = [("a", f"{first} {second}", ".") for first in "abcd" for second in "abc"][:7]
    list(train_dpo(tiny(), pairs, quick(steps=7, batch_size=3), loss=loss))
    assert len(set(seen[:7])) == 7
    assert sorted(seen[:7]) == sorted(seen[7:14])


def test_same_seed_same_run():
    runs = []
    for seed in (0, 0, 1):
        policy = tiny()
        records = list(train_dpo(policy, PAIRS, quick(batch_size=2, seed=seed)))
        runs.append((records, weights(policy)))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])


def test_a_number_that_is_not_finite_stops_before_the_weights_change():
    policy = tiny()
    before = weights(policy).clone()
    settings = quick()

    def loss(chosen, rejected, *others):
        return (chosen - rejected) * math.nan

    with pytest.raises(FloatingPointError, match="train_dpo: .* at step 1 of 4"):
        list(train_dpo(policy, PAIRS, settings, loss=loss))
    assert torch.equal(weights(policy), before)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, "pairs must hold at least one pair, got none"),
        ("abc", TypeError, "must be a list of .prompt, chosen, rejected., got str"),
        ([("a", "b")], TypeError, "got .* at 0"),
        ([("a", "b", "c"), ("a", "b", 3)], TypeError, "of str, got .* at 1"),
        ([("a", "b", "c"), ("a", " ", "c")], ValueError, "an empty chosen one at 1"),
        ([("a", "b", "")], ValueError, "an empty rejected one at 0"),
        ([("a", "b", "c"), ("a", "b", "b")], ValueError, "got 1 equal, the first at 1"),
        ([("a " * 11, "b", "c")], ValueError, "must fit into the context of 12 tokens"),
    ],
)
def test_bad_pairs_are_refused_before_anything_is_trained(pairs, error, message):
    with pytest.raises(error, match=f"train_dpo: .*{message}"):
        train_dpo(tiny(), pairs)
    with pytest.raises(error, match="train_dpo: validation"):
        train_dpo(tiny(), PAIRS, validation=pairs)


def test_a_reference_with_other_tokens_is_refused():
    with pytest.raises(ValueError, match="reference must have the tokens of policy"):
        train_dpo(tiny(), PAIRS, reference=tiny(words=["a", "b", "c", "e", "."]))


def test_a_frozen_policy_is_refused():
    with pytest.raises(ValueError, match="policy must have weights to train"):
        train_dpo(tiny().copy(), PAIRS)


def test_a_loss_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"one value for each of the \(B,\) = \(4,\) pairs"):
        next(train_dpo(tiny(), PAIRS, quick(), loss=lambda chosen, *others: chosen.mean()))


@pytest.mark.parametrize(
    "bad",
    [
        {"beta": 0.0},
        {"beta": -1.0},
        {"beta": math.nan},
        {"steps": 0},
        {"batch_size": 2.5},
        {"learning_rate": math.inf},
        {"warmup": 1.0},
        {"weight_decay": -0.1},
        {"max_gradient_norm": 0.0},
        {"evaluate_every": 0},
        {"seed": -1},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"DPOSettings: {next(iter(bad))} must"):
        DPOSettings(**bad)


# --- beside TRL -----------------------------------------------------------------------------------


def test_loss_and_implicit_rewards_are_trls(tmp_path):
    """TRL's own DPO trainer, its collator and its loss, on the same two models and batch."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    policy, reference, beta = tiny(0), tiny(1), 0.3
    pairs = [pair for pair in PAIRS if pair[0]]  # TRL takes no empty prompt
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy.model),
        ref_model=reference.model,
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
            beta=beta,
            per_device_train_batch_size=len(pairs),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_dropout=True,
        ),
        processing_class=policy.tokenizer,
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": p + " ", "chosen": c, "rejected": r} for p, c, r in pairs]
        ),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
    theirs = trainer.compute_loss(trainer.model, batch).item()
    # Filed under the mode of the model, which dropout-free policies keep in eval.
    logged = trainer._metrics["train"] or trainer._metrics["eval"]
    metrics = {name: values[-1] for name, values in logged.items()}
    settings = quick(steps=1, batch_size=len(pairs), beta=beta)
    (ours,) = train_dpo(policy, pairs, settings, reference=reference)
    assert ours.loss == pytest.approx(theirs, abs=1e-5)
    assert ours.chosen_reward == pytest.approx(float(metrics["rewards/chosen"]), abs=1e-5)
    assert ours.rejected_reward == pytest.approx(float(metrics["rewards/rejected"]), abs=1e-5)
    assert ours.margin == pytest.approx(float(metrics["rewards/margins"]), abs=1e-5)
    assert ours.accuracy == pytest.approx(float(metrics["rewards/accuracies"]), abs=1e-6)
    assert ours.loss != pytest.approx(math.log(2), abs=1e-3)  # policy and reference differ
