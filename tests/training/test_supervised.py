from __future__ import annotations

import math

import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer
from rlhf_lessons.training import supervised
from rlhf_lessons.training.supervised import (
    SupervisedSettings,
    held_out_nll,
    train_distillation,
    train_sft,
)

WORDS = ["a", "b", "c", "d", "."]
# After "a" comes "b", after "c" comes "d"; the number of them varies.
EXAMPLES = [("a", "b b ."), ("c", "d ."), ("a", "b ."), ("c", "d d d ."), ("", "a b ."), ("a", "")]


def tiny(seed: int = 0, context: int = 12, words=WORDS) -> LanguagePolicy:
    tokenizer = word_tokenizer(words)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=context, seed=seed)
    return LanguagePolicy(model, tokenizer)


def weights(policy: LanguagePolicy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()])


def quick(**changes) -> SupervisedSettings:
    values = {"steps": 5, "batch_size": 4, "warmup": 0.2, "learning_rate": 1e-2, **changes}
    return SupervisedSettings(**values)


def nll_by_hand(policy: LanguagePolicy, examples) -> float:
    """One sequence at a time through the plain model, without padding."""
    total, count = 0.0, 0
    for prompt, response in examples:
        prompt_ids = policy.tokenizer(prompt)["input_ids"]
        response_ids = policy.tokenizer(response, add_special_tokens=False)["input_ids"]
        response_ids = [*response_ids, policy.end_token_id]
        tokens = torch.tensor([prompt_ids + response_ids])
        with torch.no_grad():
            logits = policy.model(tokens).logits[0]
        predictions = logits[len(prompt_ids) - 1 : -1]
        losses = torch.nn.functional.cross_entropy(
            predictions, torch.tensor(response_ids), reduction="sum"
        )
        total, count = total + float(losses), count + len(response_ids)
    return total / count


def test_held_out_nll_is_the_cross_entropy_of_each_text_alone():
    policy = tiny()
    expected = nll_by_hand(policy, EXAMPLES)
    for batch_size in (1, 2, 100):
        assert held_out_nll(policy, EXAMPLES, batch_size) == pytest.approx(expected, abs=1e-6)


def test_first_loss_is_the_cross_entropy_before_the_update():
    policy = tiny()
    expected = nll_by_hand(policy, EXAMPLES)
    record = next(train_sft(policy, EXAMPLES, quick(batch_size=len(EXAMPLES))))
    assert record.loss == pytest.approx(expected, abs=1e-6)
    assert record.tokens == sum(len(response.split()) + 1 for _, response in EXAMPLES)
    assert (record.step, record.total) == (1, 5)


def test_learning_approaches_the_entropy_of_the_data():
    # "a" is followed by "b ." or "b b .", each half of the time: one bit a text of 3 or 4 tokens.
    examples = [("a", "b ."), ("a", "b b .")]
    entropy = 2 * math.log(2) / (3 + 4)
    policy = tiny()
    records = list(train_sft(policy, examples, quick(steps=150, batch_size=2, learning_rate=2e-2)))
    assert records[0].loss > 1.5
    assert records[-1].loss == pytest.approx(entropy, abs=0.02)
    assert records[-1].loss > entropy - 1e-4  # nothing can be below it
    assert held_out_nll(policy, examples) == pytest.approx(entropy, abs=0.02)


def test_same_seed_same_weights():
    runs = []
    for seed in (0, 0, 1):
        policy = tiny()
        list(train_sft(policy, EXAMPLES, quick(batch_size=2, seed=seed)))
        runs.append(weights(policy))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_prompt_tokens_are_not_learned():
    seen = []

    def spy(logits, tokens, mask):
        seen.append((tokens.clone(), mask.clone(), logits.shape))
        return formulas.nll(logits, tokens, mask)

    policy = tiny()
    next(train_sft(policy, [("a b c", "d .")], quick(batch_size=1), loss=spy))
    tokens, mask, shape = seen[0]
    ids = policy.tokenizer("c d .", add_special_tokens=False)["input_ids"]
    assert tokens.tolist() == [[*ids, policy.end_token_id]]
    assert mask.tolist() == [[False, True, True, True]]
    assert shape == (1, 4, len(policy.tokenizer))


def test_own_loss_is_the_one_that_is_minimised():
    def doubled(logits, tokens, mask):
        return 2 * formulas.nll(logits, tokens, mask)

    first = next(train_sft(tiny(), EXAMPLES, quick()))
    second = next(train_sft(tiny(), EXAMPLES, quick(), loss=doubled))
    assert second.loss == pytest.approx(2 * first.loss, rel=1e-6)


def test_step_size_rises_and_falls():
    settings = quick(steps=6, warmup=0.3, learning_rate=0.1)
    rates = [record.learning_rate for record in train_sft(tiny(), EXAMPLES, settings)]
    cosine = [0.05 * (1 + math.cos(math.pi * done)) for done in (0, 0.25, 0.5, 0.75)]
    assert rates == pytest.approx([0.05, 0.1, *cosine])


def test_the_step_size_is_the_one_that_is_used():
    # The first step of Adam moves each weight by its step size, whatever the gradient: m/√v = ±1.
    settings = quick(steps=6, warmup=0.8, learning_rate=0.1, weight_decay=0.0)
    policy = tiny()
    before = weights(policy)
    record = next(train_sft(policy, EXAMPLES, settings))
    moved = (weights(policy) - before).abs().max()
    assert record.learning_rate == pytest.approx(0.02)
    assert float(moved) == pytest.approx(0.02, rel=1e-3)


def test_long_gradients_are_shortened(monkeypatch):
    policy = tiny()
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments):
        gradients = [weight.grad for group in self.param_groups for weight in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    record = next(train_sft(policy, EXAMPLES, quick(max_gradient_norm=0.01)))
    assert record.gradient_norm > 0.1
    assert norms[0] == pytest.approx(0.01, rel=1e-3)


def test_validation_loss_is_measured_when_asked():
    policy = tiny()
    settings = quick(steps=5, evaluate_every=2)
    records = list(train_sft(policy, EXAMPLES, settings, validation=[("a", "b .")]))
    assert [r.validation_loss is not None for r in records] == [False, True, False, True, True]
    assert records[-1].validation_loss == pytest.approx(
        nll_by_hand(policy, [("a", "b .")]), abs=1e-6
    )
    assert all(r.validation_loss is None for r in train_sft(tiny(), EXAMPLES, settings))


def test_stopping_keeps_the_model():
    settings = quick(steps=5)
    policy = tiny()
    loop = train_sft(policy, EXAMPLES, settings)
    before = weights(policy)
    next(loop)
    next(loop)
    loop.close()
    stopped = weights(policy)
    assert not torch.equal(before, stopped)
    assert all(weight.grad is None for weight in policy.parameters())
    whole = tiny()
    states = [weights(whole) for _ in train_sft(whole, EXAMPLES, settings)]
    assert torch.equal(stopped, states[1])
    policy.sample(["a"], 3)


def test_nan_stops_before_the_weights_change():
    calls = 0

    def breaks(logits, tokens, mask):
        nonlocal calls
        calls += 1
        return formulas.nll(logits, tokens, mask) * (math.nan if calls == 3 else 1)

    policy = tiny()
    loop = train_sft(policy, EXAMPLES, quick(), loss=breaks)
    next(loop)
    next(loop)
    before = weights(policy)
    with pytest.raises(FloatingPointError, match=r"train_sft: .* loss of nan .* at step 3 of 5"):
        next(loop)
    assert torch.equal(weights(policy), before)
    assert all(weight.grad is None for weight in policy.parameters())


def test_an_infinite_gradient_stops_too():
    # √(loss − loss) is 0 with an infinite slope.
    def cliff(logits, tokens, mask):
        losses = formulas.nll(logits, tokens, mask)
        return (losses - losses.detach()).sqrt()

    policy = tiny()
    before = weights(policy)
    with pytest.raises(FloatingPointError, match="at step 1 of 5"):
        next(train_sft(policy, EXAMPLES, quick(), loss=cliff))
    assert torch.equal(weights(policy), before)


def test_batches_hold_each_example_once_a_round():
    lengths = [3, 1, 2, 5, 4, 9, 8]
    batches = supervised.dealt_batches(lengths, 3, seed=0)
    rounds = [sorted(i for _ in range(3) for i in next(batches).tolist()) for _ in range(4)]
    assert rounds == [list(range(7))] * 4


def test_student_learns_the_teachers_probabilities():
    teacher, student = tiny(seed=1), tiny(seed=2)
    with torch.no_grad():
        teacher.model.transformer.wte.weight.mul_(20)  # opinions strong enough to be worth learning
    texts = [("a", "b c ."), ("c", "d a b"), ("", "a . d")]
    batch = teacher.encode([p for p, _ in texts], [r for _, r in texts])

    def divergence() -> float:
        with torch.no_grad():
            p = teacher.logits_of(batch).log_softmax(-1)
            q = student.logits_of(batch).log_softmax(-1)
        return float((p.exp() * (p - q)).sum(-1)[batch.response_mask].mean())

    before, unchanged = divergence(), weights(teacher)
    settings = quick(steps=200, batch_size=3, learning_rate=1e-2)
    records = list(train_distillation(student, teacher, texts, settings))
    assert divergence() < 0.02 * before
    assert torch.equal(weights(teacher), unchanged)
    with torch.no_grad():
        p = teacher.logits_of(batch).softmax(-1)
    entropy = float(-(p * p.log()).sum(-1)[batch.response_mask].mean())
    # The loss is KL + the teacher's entropy: its floor is that entropy.
    assert records[-1].loss == pytest.approx(entropy, abs=0.05)
    assert records[-1].loss >= entropy - 1e-4


def test_distillation_refuses_other_vocabularies_and_itself():
    student = tiny()
    with pytest.raises(ValueError, match="teacher must have the vocabulary of policy"):
        train_distillation(student, tiny(words=["x", "y"]), EXAMPLES)
    with pytest.raises(ValueError, match="teacher must be another model"):
        train_distillation(student, student, EXAMPLES)


@pytest.mark.parametrize("examples, error, message", [
    ([], ValueError, "examples must hold at least one pair, got none"),
    (["a b"], TypeError, r"examples must be pairs \(prompt, response\) of str, got 'a b' at 0"),
    ([("a", "b"), ("a", None)], TypeError, r"got \('a', None\) at 1"),
    ([("a", "b"), ("a " * 6, "b " * 6)], ValueError, "context of 12 .* prompt 1 .* together 14"),
    ("text", TypeError, "examples must be a list of pairs, got str"),
    (3, TypeError, "examples must be a list of pairs, got int"),
])  # fmt: skip
def test_refuses_examples_before_the_first_step(examples, error, message):
    with pytest.raises(error, match=f"train_sft: .*{message}"):
        train_sft(tiny(), examples)
    with pytest.raises(error, match="held_out_nll: "):
        held_out_nll(tiny(), examples)


def test_the_longest_text_that_fits():
    # start + 5 + 5 + end = 12, and a start token that the prompt brings along is the same one
    for start in ("", "<start> "):
        next(train_sft(tiny(context=12), [(start + "a " * 5, "b " * 5)], quick()))
        with pytest.raises(ValueError, match="together 13"):
            train_sft(tiny(context=12), [(start + "a " * 5, "b " * 6)], quick())


def test_refuses_bad_validation_and_frozen_policies():
    with pytest.raises(ValueError, match="validation must hold at least one pair"):
        train_sft(tiny(), EXAMPLES, validation=[])
    with pytest.raises(ValueError, match="policy must have weights to train, got a frozen one"):
        train_sft(tiny().copy(), EXAMPLES)


def test_refuses_a_loss_that_is_averaged_already():
    def mean(logits, tokens, mask):
        return formulas.nll(logits, tokens, mask).mean()

    with pytest.raises(ValueError, match=r"one value for each of the \(B, T\) = .* got \(\)"):
        next(train_sft(tiny(), EXAMPLES, quick(), loss=mean))


@pytest.mark.parametrize("name, value", [
    ("steps", 0), ("steps", 1.5), ("steps", True), ("batch_size", 0), ("warmup", -1),
    ("warmup", 1.0), ("learning_rate", 0), ("learning_rate", math.nan), ("learning_rate", -1.0),
    ("weight_decay", -0.1), ("max_gradient_norm", 0.0), ("max_gradient_norm", math.inf),
    ("evaluate_every", 0), ("seed", -1), ("learning_rate", "fast"),
])  # fmt: skip
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"SupervisedSettings: {name} must be"):
        quick(**{name: value})
