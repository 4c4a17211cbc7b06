"""The KTO loop: its numbers by hand in float64, TRL's trainer, its stops, and that it learns."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, small_gpt2, word_tokenizer
from rlhf_lessons.training import KTOSettings, thumb_log_probs, train_kto
from rlhf_lessons.training.update import precision

WORDS = ["a", "b", "c", "d", "."]
THUMBS = [
    ("a", "b .", True),
    ("c a a", "c c c .", False),
    ("", "d", True),
    ("b b", "b b . a .", False),
    ("d", "d . . .", True),
]
PARTNERS = [3, 4, 0, 1, 2]  # two rows back, going round


def tiny(seed: int = 0, context: int = 12, words=WORDS) -> LanguagePolicy:
    tokenizer = word_tokenizer(words)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=context, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)  # clear preferences, so that a wrong token shows
    return LanguagePolicy(model, tokenizer)


def weights(policy: LanguagePolicy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()])


def quick(**changes) -> KTOSettings:
    values = {"steps": 4, "batch_size": 5, "learning_rate": 1e-3, "warmup": 0.0, **changes}
    return KTOSettings(**values)


def log_prob_by_hand(policy, prompt, response, longest=None) -> torch.Tensor:
    """One response through the plain model, with gradient, without padding."""
    ids = policy.tokenizer(prompt)["input_ids"]
    words = policy.tokenizer(response, add_special_tokens=False)["input_ids"]
    words = [*words, policy.end_token_id][:longest]
    logits = policy.model(torch.tensor([ids + words])).logits[0][len(ids) - 1 : -1]
    return -torch.nn.functional.cross_entropy(logits, torch.tensor(words), reduction="sum")


def by_hand(policy, reference, thumbs, partners, beta, weights=(1.0, 1.0)):
    """Mean loss, z and the r̂ of each response, in plain arithmetic on float64 numbers."""

    def ratio(prompt, response):
        own = log_prob_by_hand(policy, prompt, response)
        return own - log_prob_by_hand(reference, prompt, response).detach()

    mismatched = [
        ratio(thumb[0], thumbs[partner][1]).item()
        for thumb, partner in zip(thumbs, partners, strict=True)
    ]
    z = max(0.0, sum(mismatched) / len(mismatched))
    ratios = [ratio(prompt, response) for prompt, response, _ in thumbs]
    losses = [
        weights[0] * (1 - 1 / (1 + torch.exp(-beta * (r - z))))
        if up
        else weights[1] * (1 - 1 / (1 + torch.exp(-beta * (z - r))))
        for r, (_, _, up) in zip(ratios, thumbs, strict=True)
    ]
    return torch.stack(losses).mean(), z, [float(r.detach()) for r in ratios]


def in_float64(policy):
    return LanguagePolicy(copy.deepcopy(policy.model).double(), policy.tokenizer)


def pull(policy, times=10):
    """Make each response likelier after every prompt, so that z is above 0."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    prompts, responses, _ = zip(*THUMBS, strict=True)
    for _ in range(times):
        log_probs, _ = policy.log_probs(prompts * 5, [r for r in responses for _ in prompts])
        (-log_probs.sum() / 25).backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy


def test_the_first_step_is_at_the_reference():
    first = next(train_kto(tiny(), THUMBS, quick()))
    assert first.loss == pytest.approx(0.5, abs=1e-6)
    assert (first.step, first.total) == (1, 4)
    # Sums of some 10 nats, read in other batches, differ by a few of their last digits, 1e-6.
    for number in (
        first.reference_point, first.desirable_reward, first.undesirable_reward, first.kl,
    ):  # fmt: skip
        assert number == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("moved", [True, False], ids=["z above 0", "z at 0"])
def test_one_step_against_float64(moved):
    policy, reference = tiny(0), tiny(1)
    if moved:
        pull(policy)
    beta, sides = 0.3, (1.3, 0.7)
    twin = in_float64(policy)
    loss, z, ratios = by_hand(twin, in_float64(reference), THUMBS, PARTNERS, beta, sides)
    assert (z > 0.1) == moved
    loss.backward()
    settings = quick(
        steps=1, beta=beta, desirable_weight=1.3, undesirable_weight=0.7, max_gradient_norm=1e9
    )
    before = weights(policy).clone()
    (record,) = train_kto(policy, THUMBS, settings, reference=reference)
    assert record.loss == pytest.approx(loss.item(), abs=1e-5)
    assert record.reference_point == pytest.approx(z, abs=1e-5)
    good = [r for r, (_, _, up) in zip(ratios, THUMBS, strict=True) if up]
    bad = [r for r, (_, _, up) in zip(ratios, THUMBS, strict=True) if not up]
    assert record.desirable_reward == pytest.approx(beta * sum(good) / 3, abs=1e-5)
    assert record.undesirable_reward == pytest.approx(beta * sum(bad) / 2, abs=1e-5)
    assert record.kl == pytest.approx(-sum(ratios) / 5, abs=1e-5)
    gradient = torch.cat([w.grad.flatten() for w in twin.parameters()])
    assert record.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-4)
    # AdamW's first step moves each weight by the rate, against the sign of its gradient.
    clear = gradient.abs() > 1e-3 * gradient.norm()
    moved_by = (weights(policy) - before)[clear]
    torch.testing.assert_close(
        moved_by, -1e-3 * gradient[clear].sign().float(), atol=2e-6, rtol=1e-3
    )


def test_the_gradient_is_that_of_finite_differences_with_z_held_fixed():
    """Two of the weights in float64, the reference point a constant, as the formula says."""
    policy, reference = in_float64(pull(tiny(0))), in_float64(tiny(1))
    _, z, _ = by_hand(policy, reference, THUMBS, PARTNERS, 0.3)
    assert z > 0.1
    gradients = {}

    def caught(*given):
        losses = formulas.kto_loss(*given)
        gradients["z"] = float(given[3])
        return losses

    settings = quick(steps=1, beta=0.3, learning_rate=1e-300, max_gradient_norm=1e9)
    twin = in_float64(policy)

    def loss_at(place, value):
        weight = twin.model.transformer.h[0].mlp.c_fc.weight
        old = weight.data[place].clone()
        weight.data[place] += value
        ratios = [
            log_prob_by_hand(twin, p, r) - log_prob_by_hand(reference, p, r) for p, r, _ in THUMBS
        ]
        weight.data[place] = old
        signs = [1 if up else -1 for _, _, up in THUMBS]
        terms = [
            1 / (1 + math.exp(0.3 * s * (r.item() - z))) for r, s in zip(ratios, signs, strict=True)
        ]
        return sum(terms) / len(terms)

    # The loop's gradient: what clip_grad_norm_ sees just before the step.
    seen = {}
    hook = torch.nn.utils.clip_grad_norm_

    def spy(parameters, *rest):
        seen["gradient"] = policy.model.transformer.h[0].mlp.c_fc.weight.grad.clone()
        return hook(parameters, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
        next(train_kto(policy, THUMBS, settings, reference=reference, loss=caught))
    assert gradients["z"] == pytest.approx(z, rel=1e-10)
    for place in [(0, 0), (3, 7), (15, 40)]:
        slope = (loss_at(place, 1e-6) - loss_at(place, -1e-6)) / 2e-6
        assert float(seen["gradient"][place]) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_a_batch_in_parts_gives_the_same_update():
    """z is that of the whole batch, whichever part a response is in."""
    runs = []
    for parts in (1, 2, 5):
        policy = pull(tiny(0))
        settings = quick(accumulate=parts, beta=0.5)
        runs.append((list(train_kto(policy, THUMBS, settings, reference=tiny(1))), weights(policy)))
    for records, moved in runs[1:]:
        for one, other in zip(records, runs[0][0], strict=True):
            for name in ("loss", "reference_point", "desirable_reward", "kl", "gradient_norm"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4), name
        assert float((moved - runs[0][1]).abs().mean()) < 1e-5
    assert runs[0][0][0].reference_point > 0.1


def test_a_response_that_was_cut_is_taught_no_end():
    reference = tiny(1)
    given, mismatched = thumb_log_probs(reference, THUMBS, max_new_tokens=4)
    for row, (prompt, response, _) in enumerate(THUMBS):
        expected = log_prob_by_hand(reference, prompt, response, longest=4)
        assert float(given[row]) == pytest.approx(float(expected), abs=1e-5)
        other = THUMBS[PARTNERS[row]][1]
        expected = log_prob_by_hand(reference, prompt, other, longest=4)
        assert float(mismatched[row]) == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match="train_kto: max_new_tokens must be at least 1, got 0"):
        train_kto(tiny(), THUMBS, max_new_tokens=0)


def test_a_mismatched_response_belongs_to_another_prompt_and_fits():
    """Rows of one prompt stand side by side, and the longest prompt leaves room for two tokens."""
    long = "a " * 9
    thumbs = [("b", "b", True), (long, "c", False), (long, "d", True), (long, "b", True),
              (long, "a", False), ("b", "d d d d d", True)]  # fmt: skip
    reference = tiny(1, context=12)
    _, mismatched = thumb_log_probs(reference, thumbs)
    # Half of six is three back; where that is the same prompt, further back to the first other.
    partners = [3, 0, 5, 0, 0, 2]
    for row, partner in enumerate(partners):
        expected = log_prob_by_hand(
            reference,
            thumbs[row][0],
            thumbs[partner][1],
            longest=2 if len(thumbs[row][0]) > 1 else None,
        )
        assert float(mismatched[row]) == pytest.approx(float(expected), abs=1e-5), row


def test_one_prompt_alone_takes_its_own_other_responses():
    thumbs = [("b", "b", True), ("b", "c", False), ("b", "d", True), ("b", "c .", True)]
    own, mismatched = thumb_log_probs(tiny(1), thumbs)
    torch.testing.assert_close(mismatched, own.roll(2), atol=1e-5, rtol=0)


def test_the_reference_is_read_once_and_stays():
    policy, reference = tiny(0), tiny(1)
    before, calls = weights(reference).clone(), []
    reference.packed = False  # nobody asks it by a pass more whether it reads packed rows
    reference.model.register_forward_hook(lambda *_: calls.append(1))
    list(train_kto(policy, THUMBS, quick(steps=6, batch_size=2), reference=reference))
    assert len(calls) == 2  # the responses, and the mismatched pairs
    assert torch.equal(weights(reference), before)


def test_log_probs_of_the_reference_computed_before_serve_every_run():
    reference = tiny(1)
    given = thumb_log_probs(reference, THUMBS)
    for beta in (0.1, 0.5):
        settings = quick(beta=beta)
        read = list(train_kto(tiny(), THUMBS, settings, reference=reference))
        told = list(train_kto(tiny(), THUMBS, settings, reference_log_probs=given))
        assert [r.loss for r in told] == pytest.approx([r.loss for r in read], abs=1e-6)
    with pytest.raises(ValueError, match=r"two tensors of shape \(5,\).*got \[\(4,\), \(4,\)\]"):
        train_kto(tiny(), THUMBS, reference_log_probs=thumb_log_probs(reference, THUMBS[:4]))


def test_formulas_handed_in_are_those_used():
    seen = []

    def loss(log_probs, old, up, z, beta, desirable, undesirable):
        seen.append((float(z), beta, desirable, undesirable, up.dtype, old.requires_grad))
        return 2 * formulas.kto_loss(log_probs, old, up, z, beta, desirable, undesirable)

    settings = quick(beta=0.7, desirable_weight=1.5, undesirable_weight=0.5)
    first = next(
        train_kto(
            tiny(), THUMBS, settings, loss=loss,
            reference_point=lambda log_probs, old: torch.tensor(0.25),
        )
    )  # fmt: skip
    assert seen == [(0.25, 0.7, 1.5, 0.5, torch.bool, False)]
    good, bad = 1.5 / (1 + math.exp(-0.7 * 0.25)), 0.5 / (1 + math.exp(0.7 * 0.25))
    assert first.loss == pytest.approx(2 * (3 * good + 2 * bad) / 5, abs=1e-5)
    assert first.reference_point == 0.25


@pytest.mark.parametrize("adapted", [False, True])
def test_it_learns_what_the_thumbs_say(adapted):
    policy = tiny(3)
    reference = policy.copy()
    if adapted:
        pytest.importorskip("peft")
        policy = policy.with_adapter(4)
    settings = quick(steps=80, learning_rate=1e-2, beta=0.5)
    records = list(train_kto(policy, THUMBS, settings, validation=THUMBS))
    assert records[0].validation_loss is None
    assert records[-1].validation_loss < 0.2 < 0.5 == pytest.approx(records[0].loss, abs=1e-5)
    assert records[-1].desirable_reward > 0.5 > -1 > records[-1].undesirable_reward
    moved = [
        float(log_prob_by_hand(policy, p, r) - log_prob_by_hand(reference, p, r))
        for p, r, _ in THUMBS
    ]
    assert all((m > 0) == up for m, (_, _, up) in zip(moved, THUMBS, strict=True))


def test_the_validation_loss_is_that_of_the_thumbs_held_out():
    policy, reference = pull(tiny(0)), tiny(1)
    held_out = [*THUMBS[3:], *THUMBS[:3]]
    settings = quick(steps=1, beta=0.3)
    (record,) = train_kto(policy, THUMBS, settings, reference=reference, validation=held_out)
    expected, _, _ = by_hand(policy, reference, held_out, PARTNERS, 0.3)
    assert record.validation_loss == pytest.approx(expected.item(), abs=1e-5)


def test_in_bfloat16_it_is_the_same_to_three_digits():
    policy, reference = tiny(0), tiny(1)
    try:
        with precision(policy.device, True):
            policy.log_probs(["a"], ["b"])
    except RuntimeError:
        pytest.skip("no bfloat16 on this CPU")
    settings = quick(steps=1, beta=0.3)
    (single,) = train_kto(tiny(0), THUMBS, settings, reference=reference)
    (half,) = train_kto(policy, THUMBS, quick(steps=1, beta=0.3, bf16=True), reference=reference)
    assert half.loss == pytest.approx(single.loss, abs=0.02) and half.loss != single.loss


def test_a_batch_of_one_kind_has_no_mean_of_the_other():
    for record in train_kto(tiny(), THUMBS, quick(steps=5, batch_size=1)):
        assert (record.desirable_reward is None) != (record.undesirable_reward is None)


def test_every_thumb_is_seen_once_before_any_again():
    seen = []

    def loss(log_probs, old, *others):
        seen.extend(old.tolist())  # read once, so the same number each time
        return 0 * log_probs

    list(train_kto(tiny(), THUMBS, quick(steps=5, batch_size=2), loss=loss))
    assert len(set(seen[:5])) == 5 and sorted(seen[:5]) == sorted(seen[5:])


def test_same_seed_same_run():
    runs = []
    for seed in (0, 0, 1):
        policy = tiny()
        records = list(train_kto(policy, THUMBS, quick(batch_size=2, seed=seed)))
        runs.append((records, weights(policy)))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])


def test_a_number_that_is_not_finite_stops_before_the_weights_change():
    policy = tiny()
    before = weights(policy).clone()
    with pytest.raises(FloatingPointError, match="train_kto: .* at step 1 of 4"):
        list(train_kto(policy, THUMBS, quick(), loss=lambda lp, *others: lp * math.nan))
    with pytest.raises(FloatingPointError, match="train_kto: .* at step 1 of 4"):
        list(train_kto(policy, THUMBS, quick(), reference_point=lambda *_: torch.tensor(math.nan)))
    assert torch.equal(weights(policy), before)


@pytest.mark.parametrize(
    ("thumbs", "error", "message"),
    [
        ([], ValueError, "must hold at least one thumb, got none"),
        ("abc", TypeError, "must be a list of .prompt, response, up., got str"),
        ([("a", "b")], TypeError, "got .* at 0"),
        ([("a", "b", True), ("a", "b", 0.5)], TypeError, "True or False, got .* at 1"),
        ([("a", "b", True), ("a", "b", None)], TypeError, "True or False, got .* at 1"),
        ([("a", "b", True), ("a", 3, False)], TypeError, "two str .* at 1"),
        ([("a", "b", True), ("a", " ", False)], ValueError, "with words, got an empty one at 1"),
        ([("a", "b", True), ("a", "c", 1)], ValueError, "of both kinds, got 2 that are all up"),
        ([("a", "b", False)], ValueError, "of both kinds, got 1 that are all down"),
        ([("a " * 11, "b", 1), ("a", "b", 0)], ValueError, "must fit into the context of 12"),
    ],
)
def test_bad_thumbs_are_refused_before_anything_is_trained(thumbs, error, message):
    with pytest.raises(error, match=f"train_kto: thumbs .*{message}"):
        train_kto(tiny(), thumbs)
    with pytest.raises(error, match=f"train_kto: validation .*{message}"):
        train_kto(tiny(), THUMBS, validation=thumbs)


def test_zeros_and_ones_are_thumbs():
    as_numbers = [(prompt, response, int(up)) for prompt, response, up in THUMBS]
    assert next(train_kto(tiny(), as_numbers, quick())) == next(train_kto(tiny(), THUMBS, quick()))


def test_what_can_not_be_trained_is_refused():
    with pytest.raises(ValueError, match="train_kto: policy must have weights to train"):
        train_kto(tiny().copy(), THUMBS)
    with pytest.raises(ValueError, match="train_kto: reference must have the tokens of policy"):
        train_kto(tiny(), THUMBS, reference=tiny(words=["a", "b", "c", "e", "."]))
    with pytest.raises(ValueError, match=r"one value for each of the \(B,\) = \(5,\) thumbs"):
        next(train_kto(tiny(), THUMBS, quick(), loss=lambda log_probs, *others: log_probs.mean()))
    for wrong, got in ((lambda new, old: new - old, r"\(5,\)"), (lambda *_: 0.0, "float")):
        with pytest.raises(ValueError, match=f"reference_point must give one number.*got {got}"):
            next(train_kto(tiny(), THUMBS, quick(), reference_point=wrong))


@pytest.mark.parametrize(
    "bad",
    [
        {"beta": 0.0},
        {"beta": math.nan},
        {"desirable_weight": 0.0},
        {"undesirable_weight": -1.0},
        {"steps": 0},
        {"batch_size": 2.5},
        {"seed": -1},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"KTOSettings: {next(iter(bad))} must"):
        KTOSettings(**bad)


# --- beside TRL -----------------------------------------------------------------------------------


def test_loss_and_gradient_are_trls(tmp_path):
    """TRL's own KTO trainer, its collator and its loss, on the same two models and batch."""
    trl = pytest.importorskip("trl", minversion="1.16")
    datasets = pytest.importorskip("datasets")
    policy, reference, beta = pull(tiny(0)), tiny(1), 0.3
    thumbs = [thumb for thumb in THUMBS if thumb[0]][:3]  # TRL takes no empty prompt
    trainer = trl.KTOTrainer(
        model=copy.deepcopy(policy.model),
        ref_model=reference.model,
        args=trl.KTOConfig(
            output_dir=str(tmp_path),
            beta=beta,
            desirable_weight=1.3,
            undesirable_weight=0.7,
            per_device_train_batch_size=len(thumbs),
            train_sampling_strategy="sequential",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_dropout=True,
        ),
        processing_class=policy.tokenizer,
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": p + " ", "completion": r, "label": up} for p, r, up in thumbs]
        ),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(thumbs))])
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    norm = math.sqrt(sum(float(w.grad.square().sum()) for w in trainer.model.parameters()))
    settings = quick(
        steps=1, batch_size=len(thumbs), beta=beta, desirable_weight=1.3, undesirable_weight=0.7
    )
    (ours,) = train_kto(policy, thumbs, settings, reference=reference)
    assert ours.loss == pytest.approx(theirs.item(), abs=1e-5)
    assert ours.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert ours.reference_point > 0.1 and ours.loss != pytest.approx(0.5, abs=1e-2)
