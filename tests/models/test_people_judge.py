from __future__ import annotations

import pytest
import torch
from model_families import CONTEXT, save_family

from rlhf_lessons.models import LanguagePolicy, PeopleJudge

TEXTS = [
    "the film was good .",
    "it",
    "the plot was bad and the people were dull . it made me smile",
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return LanguagePolicy.from_pretrained(save_family("llama", tmp_path_factory.mktemp("llama")))


def judge_of(policy, seed=0, **kw):
    judge = PeopleJudge(policy, **{"layers": (1, 2), "ending": " the film", **kw})
    generator = torch.Generator().manual_seed(seed)
    for weight in judge.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return judge


def read_by_hand(policy, text, layers, ending):
    """One text alone, all layers there, no padding; layer by layer from the model's own hooks."""
    states = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out, at=at: states.update({at: out[0] if isinstance(out, tuple) else out})
        )
        for at, layer in enumerate(policy.model.model.layers, start=1)
    ]
    ids = policy.tokenizer(text).input_ids
    end = policy.tokenizer(ending, add_special_tokens=False).input_ids
    with torch.no_grad():
        policy.model(torch.tensor([ids + end]))
    for hook in hooks:
        hook.remove()
    n = len(ids)
    parts = [[states[at][0, :n].mean(0), states[at][0, n - 1], states[at][0, -1]] for at in layers]
    return torch.cat([piece for part in parts for piece in part])


@pytest.mark.parametrize("layers", [(1, 2), (1,), (2,)])
def test_the_features_are_those_of_each_text_alone(policy, layers):
    judge = judge_of(policy, layers=layers)
    features = judge.features(TEXTS)
    assert features.shape == (3, 3 * len(layers) * 32)
    for row, text in zip(features, TEXTS, strict=True):
        expected = read_by_hand(policy, text, layers, " the film")
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


def test_neither_company_nor_order_nor_batches_matter(policy):
    judge, one_by_one = judge_of(policy), judge_of(policy, batch_size=1)
    scores = judge([""] * 3, TEXTS)
    assert scores.shape == (3,) and scores.dtype == torch.float32
    torch.testing.assert_close(judge([""] * 3, TEXTS[::-1]), scores.flip(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one_by_one([""] * 3, TEXTS), scores, rtol=1e-4, atol=1e-4)


def test_a_score_is_the_linear_map_of_the_features_of_both_together(policy):
    judge = judge_of(policy)
    features = judge.features(["the film was good ."]).double()
    expected = (features @ judge.head.weight[0] + judge.head.bias).detach()
    (score,) = judge(["the film"], [" was good ."])
    assert float(score) == pytest.approx(float(expected), rel=1e-5)
    assert PeopleJudge(policy, layers=(1,))(["a"], ["b"]).tolist() == [0.0]
    with pytest.raises(ValueError):
        judge(["a", "b"], ["c"])


def test_empty_and_endless_texts_have_a_score(policy):
    judge = judge_of(policy)
    assert torch.isfinite(judge(["", ""], ["", "the film " * CONTEXT])).all()
    assert judge([], []).shape == (0,)


def test_the_policy_stays_as_it_was(policy):
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    judge = judge_of(policy, layers=(1,))
    score = judge([""], TEXTS[:1])
    assert all(torch.equal(policy.model.state_dict()[name], before[name]) for name in before)
    assert all(weight.requires_grad for weight in policy.parameters())
    trained = policy.copy()
    judge = judge_of(trained, layers=(1,))
    for weight in trained.parameters():  # training the policy must not move its judge
        weight.data.add_(1)
    torch.testing.assert_close(judge([""], TEXTS[:1]), score, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded(policy, tmp_path):
    judge = judge_of(policy)
    judge.correlation, judge.deviation = 0.8, 1.1
    judge.save_pretrained(tmp_path / "judge")
    loaded = PeopleJudge.from_pretrained(tmp_path / "judge", policy)
    assert (loaded.layers, loaded.ending) == (judge.layers, judge.ending)
    assert (loaded.correlation, loaded.deviation) == (0.8, 1.1)
    # float32 on the disk
    torch.testing.assert_close(
        loaded([""] * 3, TEXTS), judge([""] * 3, TEXTS), rtol=1e-5, atol=1e-4
    )
    with pytest.raises(OSError):
        PeopleJudge.from_pretrained(tmp_path / "nothing", policy)
    config = tmp_path / "judge" / "config.json"
    config.write_text(config.read_text().replace("1,\n    2", "1"))
    with pytest.raises(ValueError, match="must be the one that the judge was fitted on, with 192"):
        PeopleJudge.from_pretrained(tmp_path / "judge", policy)


def test_what_cannot_be_read_is_refused(policy, tmp_path):
    for layers in ((), (0,), (3,)):
        with pytest.raises(ValueError, match="layers must be from 1 to 2"):
            PeopleJudge(policy, layers=layers)
    gpt2 = LanguagePolicy.from_pretrained(save_family("gpt2", tmp_path))
    with pytest.raises(ValueError, match="a body with layers and norm"):
        PeopleJudge(gpt2)
