"""The reward loop: its numbers by hand, its stops, and that it learns what can be learned."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from rlhf_lessons.models import LanguagePolicy, RewardModel
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.worlds import NoisyComparer, Preference, bayes_ceiling, label_pairs

WORDS = ("the", "film", "was", "good", "bad", "long", ".")
STRENGTH = {"good": 1.0, "bad": -1.0, "long": -0.5}


def gold(prompts, responses):
    return np.array([sum(STRENGTH.get(word, 0) for word in text.split()) for text in responses])


def texts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 6))) for _ in range(count)]


def preferences(count: int, seed: int, temperature: float = 0.5) -> list[Preference]:
    firsts, seconds = texts(count, 2 * seed), texts(count, 2 * seed + 1)
    labels = label_pairs(
        NoisyComparer(gold, temperature), ["the film ."] * count, firsts, seconds, seed
    )
    return [label for label in labels if label.chosen != label.rejected]


@pytest.fixture
def reward_model() -> RewardModel:
    tokenizer = word_tokenizer(WORDS)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=16, seed=1)
    return RewardModel.from_policy(LanguagePolicy(model, tokenizer))


def weights_of(model: RewardModel) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def changed(model: RewardModel, before: list[torch.Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_first_step_is_a_coin(reward_model):
    first = next(iter(train_reward_model(reward_model, preferences(40, 1))))
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    assert (first.step, first.total, first.accuracy, first.margin) == (1, 300, 0.5, 0.0)


def test_one_step_by_hand(reward_model):
    """AdamW's first step moves each weight by the rate, against the sign of its gradient."""
    torch.nn.init.normal_(reward_model.model.score.weight, std=0.1)
    twin = copy.deepcopy(reward_model.model)
    pairs = preferences(6, 2)
    settings = RewardSettings(
        steps=1, batch_size=6, weight_decay=0.0, warmup=0.0, learning_rate=1e-3
    )
    (record,) = train_reward_model(reward_model, pairs, settings)
    by_hand = RewardModel(twin, reward_model.tokenizer)
    losses, margins = [], []
    for pair in pairs:
        rewards = [
            by_hand.rewards_of(by_hand._text.encode([pair.prompt], [text])) for text in pair[1:]
        ]
        margins.append(rewards[0] - rewards[1])
        losses.append(torch.log1p(torch.exp(-margins[-1])))
    loss = torch.cat(losses).mean()
    loss.backward()
    assert record.loss == pytest.approx(loss.item(), abs=1e-6)
    assert record.margin == pytest.approx(torch.cat(margins).mean().item(), abs=1e-6)
    right = sum((margin.item() > 0) + 0.5 * (margin.item() == 0) for margin in margins)
    assert record.accuracy == pytest.approx(right / len(pairs))
    norm = math.sqrt(sum(w.grad.square().sum().item() for w in twin.parameters()))
    assert record.gradient_norm == pytest.approx(norm, rel=1e-4)
    for old, new in zip(twin.parameters(), reward_model.parameters(), strict=True):
        clear = old.grad.abs() > 1e-4  # where Adam's ε = 1e-8 does not matter
        moved = (new - old.detach())[clear]
        torch.testing.assert_close(moved, -1e-3 * old.grad[clear].sign(), atol=2e-6, rtol=1e-3)


def test_it_learns_up_to_the_noise(reward_model):
    train, held_out = preferences(1500, 3), preferences(500, 4, temperature=0.0)
    settings = RewardSettings(steps=250, learning_rate=5e-3)
    *_, last = train_reward_model(reward_model, train, settings, validation=held_out)
    # Untrained it is 0.5; the rater who labelled agrees with the gold order this often:
    firsts, seconds = (
        gold([], [getattr(p, side) for p in train]) for side in ("chosen", "rejected")
    )
    rater = bayes_ceiling(firsts, seconds, 0.5)
    ties = np.mean(
        gold([], [p.chosen for p in held_out]) == gold([], [p.rejected for p in held_out])
    )
    assert last.validation_accuracy > rater - ties / 2
    assert last.validation_accuracy > 0.85


def test_the_same_seed_gives_the_same_run(reward_model):
    twin = RewardModel(copy.deepcopy(reward_model.model), reward_model.tokenizer)
    pairs, settings = preferences(50, 5), RewardSettings(steps=5, batch_size=8)
    assert list(train_reward_model(reward_model, pairs, settings)) == list(
        train_reward_model(twin, pairs, settings)
    )


def test_every_pair_is_seen_once_before_any_again(reward_model):
    seen = []

    def loss(chosen, rejected):
        seen.extend(chosen.tolist())
        return 0 * (chosen - rejected)  # nothing is learned, so a reward names its text

    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(reward_model.model.score.weight, std=30, generator=generator)
    pairs = [Preference("the film .", word, "the " + word) for word in WORDS]
    settings = RewardSettings(steps=7, batch_size=3, weight_decay=0.0)
    list(train_reward_model(reward_model, pairs, settings, loss=loss))
    # Batches differ, so rewards of up to 300 do by some of float32's steps of 3e-5 there.
    one, other = np.sort(seen[:7]), np.sort(seen[7:14])
    assert np.diff(one).min() > 0.01 and one == pytest.approx(other, abs=1e-3)


def test_the_order_of_the_pairs_does_not_matter_to_a_whole_batch(reward_model):
    torch.nn.init.normal_(reward_model.model.score.weight)
    twin = RewardModel(copy.deepcopy(reward_model.model), reward_model.tokenizer)
    pairs, settings = preferences(12, 6), RewardSettings(steps=1, batch_size=12)
    (one,) = train_reward_model(reward_model, pairs, settings)
    (two,) = train_reward_model(twin, pairs[::-1], settings)
    assert one.loss == pytest.approx(two.loss, abs=1e-6)
    assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)


def test_a_loss_of_ones_own_is_used(reward_model):
    def hinge(chosen, rejected):
        return torch.relu(3 - (chosen - rejected))

    first = next(iter(train_reward_model(reward_model, preferences(40, 1), loss=hinge)))
    assert first.loss == 3.0


def test_stopping_between_steps_keeps_what_was_learned(reward_model):
    before = weights_of(reward_model)
    loop = train_reward_model(reward_model, preferences(40, 1))
    for _ in range(3):
        next(loop)
    loop.close()
    assert changed(reward_model, before)
    assert reward_model(["the film ."], ["good ."]).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(reward_model, bad):
    calls = []

    def loss(chosen, rejected):
        calls.append(None)
        return (chosen - rejected) + (bad if len(calls) == 3 else 0.0)

    loop = train_reward_model(reward_model, preferences(40, 1), loss=loss)
    next(loop), next(loop)
    before = weights_of(reward_model)
    with pytest.raises(FloatingPointError, match="at step 3 of 300; the weights are those before"):
        next(loop)
    assert not changed(reward_model, before)


def test_the_average_replaces_the_weights_at_the_end(reward_model):
    twin = RewardModel(copy.deepcopy(reward_model.model), reward_model.tokenizer)
    pairs = preferences(40, 7)
    trail = []
    for _ in train_reward_model(twin, pairs, RewardSettings(steps=4)):
        trail.append(weights_of(twin))
    list(train_reward_model(reward_model, pairs, RewardSettings(steps=4, average=0.6)))
    # The first step takes the weights whole, later ones with 1/2, then 0.4.
    expected = trail[0]
    for share, step in zip((0.5, 0.4, 0.4), trail[1:], strict=True):
        expected = [(1 - share) * a + share * b for a, b in zip(expected, step, strict=True)]
    for a, b in zip(expected, reward_model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach())


def test_frozen_embeddings_stay_and_the_rest_learns(reward_model):
    torch.nn.init.normal_(reward_model.model.score.weight)
    before = {name: w.detach().clone() for name, w in reward_model.model.named_parameters()}
    settings = RewardSettings(steps=2, freeze_embeddings=True)
    list(train_reward_model(reward_model, preferences(40, 7), settings))
    moved = {n for n, w in reward_model.model.named_parameters() if not torch.equal(w, before[n])}
    # The last bias shifts all rewards alike, so that its gradient is 0 up to rounding.
    still = set(before) - moved - {"transformer.ln_f.bias"}
    assert still == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert all(w.requires_grad for w in reward_model.parameters())


def test_validation_is_measured_when_asked(reward_model):
    settings = RewardSettings(steps=7, evaluate_every=3)
    records = list(
        train_reward_model(
            reward_model, preferences(40, 1), settings, validation=preferences(20, 2)
        )
    )
    assert [r.validation_loss is not None for r in records] == [False, False, True] * 2 + [True]
    held_out = preferences(20, 2)
    scores = [
        reward_model([p.prompt for p in held_out], [getattr(p, side) for p in held_out])
        for side in ("chosen", "rejected")
    ]
    share = ((scores[0] > scores[1]) + 0.5 * (scores[0] == scores[1])).mean().item()
    assert records[-1].validation_accuracy == pytest.approx(share)
    loss = torch.nn.functional.softplus(scores[1] - scores[0]).mean().item()
    assert records[-1].validation_loss == pytest.approx(loss, abs=1e-5)


SAME = Preference("the film .", "good .", "good .")
LONG = " ".join(["film"] * 14)
CUT = Preference("the film .", f"good . {LONG}", f"good . {LONG} bad")


def test_equal_pairs_are_reported_and_dropped_on_request(reward_model):
    pairs = [*preferences(10, 8), SAME]
    place = len(pairs) - 1
    with pytest.raises(ValueError, match=rf"got 1 equal pairs, at {place}; .*drop_equal=True"):
        train_reward_model(reward_model, pairs)
    settings = RewardSettings(steps=1, drop_equal=True)
    with pytest.warns(UserWarning, match=f"at {place}; they are left out"):
        loop = train_reward_model(reward_model, pairs, settings)
    assert len(list(loop)) == 1
    with pytest.raises(ValueError, match="no pair is left"):
        train_reward_model(reward_model, [SAME], settings)


def test_pairs_equal_after_cutting_are_reported(reward_model):
    with pytest.raises(ValueError, match="must fit into the context of 16 tokens, got 21 in row 0"):
        train_reward_model(reward_model, [CUT])
    with pytest.raises(ValueError, match="1 of them equal only after cutting to the context, at 0"):
        train_reward_model(reward_model, [CUT], RewardSettings(truncate=True))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "at least one pair, got none"), ([("p", "c")], r"got \('p', 'c'\) at 0")],
)
def test_bad_pairs_are_named(reward_model, pairs, message):
    with pytest.raises(ValueError, match=message):
        train_reward_model(reward_model, pairs)
    with pytest.raises(ValueError, match="validation must hold"):
        train_reward_model(reward_model, preferences(3, 1), validation=pairs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 1.5},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup": 1.0},
        {"average": -0.1},
        {"weight_decay": -1.0},
        {"max_gradient_norm": 0.0},
        {"evaluate_every": 0},
        {"length_groups": 0},
    ],
)
def test_settings_are_validated(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"RewardSettings: {name} must"):
        RewardSettings(**wrong)


def test_the_pairwise_loss_is_trls(reward_model, tmp_path):
    """TRL's own reward trainer, its collator and its loss, on the same model and batch."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    torch.nn.init.normal_(reward_model.model.score.weight)
    pairs = preferences(16, 9)
    rows = [{**p._asdict(), "prompt": p.prompt + " "} for p in pairs]
    trainer = trl.RewardTrainer(
        model=reward_model.model,
        args=trl.RewardConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=len(rows),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            eos_token="<end>",
            disable_dropout=True,
        ),
        processing_class=reward_model.tokenizer,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    with torch.no_grad():
        expected = trainer.compute_loss(trainer.model.eval(), batch).item()
    settings = RewardSettings(steps=1, batch_size=len(pairs))
    (record,) = train_reward_model(reward_model, pairs, settings)
    assert record.loss == pytest.approx(expected, abs=1e-6)
