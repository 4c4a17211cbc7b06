"""Packed rows against each text read alone by plain transformers, and the tree against prefixes."""

from __future__ import annotations

import copy
import types

import pytest
import torch
import transformers
from model_families import SETTINGS, WORDS, random_policy
from pretend_device import DEVICE

from rlhf_lessons.models import LanguagePolicy, RewardModel, gpt2_body, packing
from rlhf_lessons.models.packing import distinct_tokens, packed_tree

# Two answers each; "" and one word among them, and two texts that are equal.
PROMPTS = ["the film was good and", "the film was good and", "it", "it", "the film", "the film"] * 2
RESPONSES = [
    *("it made me smile . it made me smile .", "it made me smile and", "was bad", "", "was", "was"),
    *("plot people dull bad", "bad bad bad", "me", "was bad and dull", "plot", "made me"),
]


@pytest.fixture(autouse=True)
def always_pack(monkeypatch):
    """Pack whether it saves work or not; GPT-2 too, by transformers' own forward pass."""
    monkeypatch.setattr(packing, "GAIN", 1e9)
    monkeypatch.setattr(gpt2_body, "is_plain", lambda model: False)
    suits = packing._suits
    monkeypatch.setattr(
        packing, "_suits", lambda m: isinstance(m, types.SimpleNamespace) or suits(m)
    )


def random_rows(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows over two words, so that many begin alike."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, (20, 9), generator=generator)
    return tokens, torch.randint(1, 10, (20,), generator=generator)


def policy_of(family: str = "llama", dtype: torch.dtype = torch.float64, **changes):
    policy = random_policy(family, WORDS, {**SETTINGS[family], **changes})
    policy.model.to(dtype)
    return policy


def wide(features: int):
    """What is asked of a model before it is asked to read: its device and its width."""
    weight = types.SimpleNamespace(shape=(1, features), device=torch.device("cpu"))
    return types.SimpleNamespace(
        get_input_embeddings=lambda: types.SimpleNamespace(weight=weight),
        config=types.SimpleNamespace(),
    )


def gradients_of(policy, value: torch.Tensor) -> list[torch.Tensor]:
    weights = [w for w in policy.model.parameters() if w.requires_grad]
    return list(torch.autograd.grad(value, weights, allow_unused=True))


@pytest.fixture
def seen(monkeypatch) -> list[dict]:
    """Keep what models are called with."""
    kept: list[dict] = []
    inputs = packing.model_inputs

    def spy(*arguments):
        result = inputs(*arguments)
        kept.append(result[0])
        return result

    monkeypatch.setattr(packing, "model_inputs", spy)
    return kept


# --- the tree -------------------------------------------------------------------------------------


def test_a_tree_by_hand():
    # "a b c" and "a b d e" begin alike, whatever stands between them; "a" is the beginning of both.
    rows = [[1, 2, 3, 0], [9, 2, 0, 0], [1, 2, 4, 5], [1, 0, 0, 0]]
    tree = distinct_tokens(torch.tensor(rows), torch.tensor([3, 2, 4, 1]))
    read = [rows[row][column] for row, column in zip(tree.rows, tree.columns, strict=True)]
    assert read == [1, 2, 3, 4, 5, 9, 2]
    assert tree.columns.tolist() == [0, 1, 2, 2, 3, 0, 1]
    assert tree.counts == [7]
    assert tree.index[0, :3].tolist() == [0, 1, 2]
    assert tree.index[1, :2].tolist() == [5, 6]
    assert tree.index[2].tolist() == [0, 1, 3, 4]
    assert tree.index[3, 0] == 0


def test_a_packed_row_is_filled_to_the_last_place():
    tokens, lengths = torch.arange(12).view(3, 4), torch.tensor([4, 4, 4])
    assert packing._SideBySide(tokens, lengths).tree(8).counts == [8, 4]


@pytest.mark.parametrize("seed", range(20))
def test_each_prefix_is_there_once_and_stands_for_all_its_rows(seed):
    tokens, lengths = random_rows(seed)
    texts = [tuple(row[:n]) for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    prefixes = {text[:n] for text in texts for n in range(1, len(text) + 1)}
    tree = distinct_tokens(tokens, lengths)
    here = [texts[r][: c + 1] for r, c in zip(tree.rows, tree.columns, strict=True)]
    assert len(here) == len(prefixes) == sum(tree.counts) and set(here) == prefixes
    for row, text in enumerate(texts):
        for column in range(len(text)):
            assert here[tree.index[row, column]] == text[: column + 1]


@pytest.mark.parametrize("width", [9, 16, 40])
@pytest.mark.parametrize("seed", range(5))
def test_each_token_of_a_packed_row_looks_at_its_own_text_alone(width, seed, monkeypatch):
    monkeypatch.setattr(packing, "WIDTHS", (width,))
    monkeypatch.setattr(packing, "TIMES_LONGEST", ())
    tokens, lengths = random_rows(seed)
    tree = packed_tree(wide(10**9), tokens, lengths, True)
    read = torch.arange(9) < lengths.unsqueeze(1)
    chosen = tree.index[read]
    packed, (cells,) = packing._packed(tree, tokens, chosen, torch.zeros(1))
    ids, positions = packed["input_ids"], packed["position_ids"]
    looks = packed["attention_mask"].squeeze(1) == 0
    assert ids.shape[1] == max(tree.counts) <= max(width, int(lengths.max()))
    assert looks.shape == (*ids.shape, ids.shape[1])
    places = iter(cells.tolist())
    for row, length in enumerate(lengths.tolist()):
        for column in range(length):
            k, slot = divmod(next(places), ids.shape[1])
            before = looks[k, slot].nonzero().squeeze(1)
            before = before[positions[k, before].argsort()]
            assert positions[k, before].tolist() == list(range(column + 1))
            assert ids[k, before].tolist() == tokens[row, : column + 1].tolist()
            assert before[-1] == slot


def test_the_cheapest_width_is_taken_and_none_where_nothing_is_saved(monkeypatch):
    monkeypatch.setattr(packing, "GAIN", 0.9)
    equal = torch.arange(160).view(4, 40)
    assert packed_tree(wide(576), equal, torch.full((4,), 40), True) is None
    # 10 texts of 40 tokens begin with 39 alike: 49 tokens are left, in one row.
    alike = torch.cat([torch.arange(39).expand(10, 39), torch.arange(10)[:, None]], dim=1)
    assert packed_tree(wide(576), alike, torch.full((10,), 40), True).counts == [49]
    assert packed_tree(wide(576), alike, torch.full((10,), 40), True, cells=50) is None
    # 2 long and 20 short ones: rows of the longest text waste less than one of them all.
    lengths = torch.tensor([40, 40] + [4] * 20)
    tokens = torch.randint(10**6, (22, 40), generator=torch.Generator().manual_seed(0))
    counts = packed_tree(wide(64), tokens, lengths, True).counts
    assert sum(counts) == 160 and max(counts) <= 128
    # Three begin alike: attention to all of one row costs less than to half of each, three times.
    alike = torch.arange(400).repeat(3, 1)
    alike[:, -1] = torch.tensor([1, 2, 3])
    assert packed_tree(wide(4), alike, torch.full((3,), 400), True).counts == [402]
    # With few features attention to others costs more than padding.
    assert packed_tree(wide(4), tokens[:2], lengths[:2] - torch.tensor([0, 8]), True) is None


# --- models ---------------------------------------------------------------------------------------

# Before, a few more families take no mask of our own.
TODAYS = int(transformers.__version__.split(".")[0]) >= 5
READ_NO_PACKED_ROWS = {
    "bloom",  # takes no positions
    "lfm2",  # mixes neighbours by a convolution
    "mamba",  # reads one token after another
    "mpt",  # takes no positions
}


@pytest.mark.parametrize("family", SETTINGS)
def test_families_give_packed_texts_what_they_give_them_alone(family, seen):
    policy = random_policy(family, WORDS, SETTINGS[family])
    batch = policy.encode(PROMPTS, RESPONSES)
    together = policy.log_probs_of(batch)
    packs = "attention_mask" in seen[0]
    if TODAYS:
        assert packs == (family not in READ_NO_PACKED_ROWS)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        policy.packed = False
        (alone,), _ = policy.log_probs([prompt], [response])
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=2e-6, rtol=1e-6)
    assert "attention_mask" not in seen[-1]
    if not packs:
        return
    policy.packed = True
    again = gradients_of(policy, policy.log_probs_of(batch).sin().sum())
    policy.packed = False
    plain = gradients_of(policy, policy.log_probs_of(batch).sin().sum())
    torch.testing.assert_close(again, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "family, attention", [("gpt2", "sdpa"), ("gpt2", "eager"), ("phi", "sdpa")]
)
def test_values_and_gradients_in_float64(family, attention, seen, monkeypatch):
    monkeypatch.setattr(packing, "WIDTHS", (20,))  # several packed rows
    monkeypatch.setattr(packing, "TIMES_LONGEST", ())
    policy = policy_of(family, attn_implementation=attention)
    batch = policy.encode(PROMPTS, RESPONSES)

    def both():
        log_probs = policy.log_probs_of(batch)
        return log_probs.detach(), gradients_of(policy, log_probs.sin().sum())

    own = both()
    if not TODAYS and "attention_mask" not in seen[0]:
        pytest.skip(f"in this version {family} takes no mask of our own")
    assert "attention_mask" in seen[0] and seen[0]["input_ids"].shape[0] > 1
    policy.packed = False
    torch.testing.assert_close(own, both(), atol=1e-12, rtol=1e-10)


def test_a_reward_model_reads_packed_rows(seen):
    model = RewardModel.from_policy(policy_of("phi"))
    with torch.no_grad():
        model.model.score.weight.normal_(generator=torch.Generator().manual_seed(0))

    def both(**how):
        rewards = model.read_rows(*model.rows_of(PROMPTS, RESPONSES), **how)
        return rewards.detach(), gradients_of(model, rewards.sin().sum())

    own = both(groups=4)
    assert len(seen) == 1 and "attention_mask" in seen[0]  # in one pass: there is no padding
    model.packed = False
    torch.testing.assert_close(own, both(), atol=1e-12, rtol=1e-10)


def test_adapters_learn_from_packed_rows(seen):
    pytest.importorskip("peft")
    policy = policy_of(dtype=torch.float32).with_adapter(rank=2)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    batch = policy.encode(PROMPTS, RESPONSES)
    own = gradients_of(policy, policy.log_probs_of(batch).sum())
    assert "attention_mask" in seen[0]
    policy.packed = False
    plain = gradients_of(policy, policy.log_probs_of(batch).sum())
    torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)


def test_in_bfloat16_packed_rows_are_as_near_to_float32_as_plain_ones(seen):
    policy = policy_of(dtype=torch.float32)
    batch = policy.encode(PROMPTS, RESPONSES)
    with torch.no_grad():
        exact = policy.log_probs_of(batch)
        errors = []
        for packed in (True, False):
            other = policy.copy()  # which is asked in here whether it reads packed rows
            other.packed = packed
            with torch.autocast("cpu", torch.bfloat16):
                errors.append(float((other.log_probs_of(batch) - exact).abs().mean()))
    assert "attention_mask" in seen[1] and "attention_mask" not in seen[2]
    assert 0 < errors[0] < 2 * errors[1]


# --- where rows stay as they are ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_plain_rows(dtype, seen):
    # Where a few tokens round alike.
    policy = policy_of(dtype=dtype, attn_implementation="eager")
    policy.log_probs(PROMPTS, RESPONSES)
    policy.model.float()
    policy.log_probs(PROMPTS, RESPONSES)
    policy.model.to(dtype)
    policy.log_probs(PROMPTS, RESPONSES)
    assert ["attention_mask" in inputs for inputs in seen] == [False, True, False]


def test_a_model_in_another_ones_place_is_asked_itself(seen):
    policy = policy_of(dtype=torch.float32)
    policy.log_probs(PROMPTS, RESPONSES)
    policy.model = policy_of("mpt", torch.float32).model
    policy.log_probs(PROMPTS, RESPONSES)
    policy.model = policy_of("phi", torch.float32).model
    policy.log_probs(PROMPTS, RESPONSES)
    assert ["attention_mask" in inputs for inputs in seen] == [True, False, True]


def test_weights_that_were_not_finite_are_asked_again(seen):
    policy = policy_of()
    weight = policy.model.get_input_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
        policy.log_probs_of(policy.encode(PROMPTS, RESPONSES))
        weight.copy_(kept)
    policy.log_probs(PROMPTS, RESPONSES)
    assert ["attention_mask" in inputs for inputs in seen] == [False, True]


def test_a_text_that_is_not_finite_is_named_itself():
    policy = policy_of()
    scores = RewardModel.from_policy(policy)
    prompts, responses = ["the", "the", "it"], ["film was", "film bad", "was dull"]
    assert policy.log_probs(prompts, responses)[0].isfinite().all()  # asked, and packed
    dull = policy.tokenizer.convert_tokens_to_ids("dull")
    for model in (policy, scores):
        with torch.no_grad():
            model.model.get_input_embeddings().weight[dull] = torch.nan
    with pytest.raises(FloatingPointError, match="row 2"):
        policy.log_probs(prompts, responses)
    with pytest.raises(FloatingPointError, match="response 2, 'was dull'"):
        scores.score(prompts, responses)


def test_a_model_in_training_is_not_asked(seen):
    policy = policy_of()
    policy.model.train()
    policy.log_probs(PROMPTS, RESPONSES)
    policy.model.eval()
    policy.log_probs(PROMPTS, RESPONSES)
    assert ["attention_mask" in inputs for inputs in seen] == [False, True]


def test_nobody_is_asked_where_nothing_is_saved(monkeypatch):
    monkeypatch.setattr(packing, "GAIN", 0)
    monkeypatch.setattr(packing, "_suits", lambda model: pytest.fail("asked"))
    policy_of().log_probs(PROMPTS, RESPONSES)


@pytest.mark.parametrize("bound", packing.BOUNDS)
def test_rows_never_reach_beyond_a_window_or_the_context(bound, seen):
    policy = policy_of()
    for bounded in (64, 32, 15):
        setattr(policy.model.config, bound, bounded)
        policy.log_probs_of(policy.encode(PROMPTS, RESPONSES))  # at most 16, 33 different ones
    all_in_one, two, plain = seen
    assert all_in_one["input_ids"].shape == (1, 33)
    assert two["input_ids"].shape[1] == 16 and "attention_mask" in two
    assert plain["input_ids"].shape == (12, 16) and "attention_mask" not in plain


def test_on_a_gpu_only_when_told():
    model, rows = wide(8), (torch.ones(2, 5, dtype=torch.long), torch.tensor([5, 5]))
    assert packed_tree(model, *rows, None) and packed_tree(model, *rows, True)
    assert packed_tree(model, *rows, False) is None
    model.get_input_embeddings().weight.device = DEVICE
    assert packed_tree(model, *rows, None) is None and packed_tree(model, *rows, True)


@pytest.mark.parametrize("ignored", ["position_ids", "attention_mask"])
def test_a_model_that_ignores_what_it_is_given_is_found_out(ignored, seen):
    policy = policy_of()
    forward = policy.model.forward

    def deaf(input_ids=None, attention_mask=None, position_ids=None, **others):
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        given[ignored] = None
        return forward(input_ids=input_ids, **given, **others)

    policy.model.forward = deaf
    plain, _ = policy.log_probs(PROMPTS, RESPONSES)
    del policy.model.forward
    assert "attention_mask" not in seen[0]
    policy.packed = False
    torch.testing.assert_close(plain, policy.log_probs(PROMPTS, RESPONSES)[0])


@pytest.mark.parametrize(
    "family, silent",
    [
        ("gpt2", "attn.c_proj"),  # no token reaches another, masked or not
        ("llama", "self_attn.q_proj"),  # all look everywhere alike, wherever they are
    ],
)
def test_a_model_that_can_not_be_told_apart_reads_plain_rows(family, silent):
    policy = policy_of(family)
    if not TODAYS and not packing._reads_packed_rows(policy.model):
        pytest.skip(f"in this version {family} takes no mask of our own")
    assert packing._reads_packed_rows(policy.model)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if silent in name:
                weight.zero_()
    assert packing._reads_packed_rows(policy.model) is False


def test_asking_leaves_no_trace():
    policy = policy_of()
    before = copy.deepcopy(policy.model.state_dict())
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert packing._reads_packed_rows(policy.model)
    assert torch.rand(1) == expected
    torch.testing.assert_close(policy.model.state_dict(), before, atol=0, rtol=0)
    assert all(weight.grad is None for weight in policy.model.parameters())


def test_the_class_decides_for_copies_too(monkeypatch, seen):
    monkeypatch.setattr(LanguagePolicy, "packed", False)
    policy_of().copy().log_probs(PROMPTS, RESPONSES)
    assert "attention_mask" not in seen[0]
