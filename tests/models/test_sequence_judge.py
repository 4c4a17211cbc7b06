"""A saved classifier as a judge, against its own logits read one text at a time."""

from __future__ import annotations

import pytest
import torch

from rlhf_lessons.models import SequenceClassifierJudge, small_gpt2, word_tokenizer

WORDS = ("good", "bad", "film", "the", ".", "it", "was")
TEXTS = ["the film was good .", "it was bad .", "good", "the the film film film was bad bad bad ."]


def classifier(labels: dict[int, str], seed: int = 0):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(word_tokenizer(WORDS)), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=34,
        num_labels=len(labels), id2label=labels, label2id={v: k for k, v in labels.items()},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


def logits(model, text: str) -> torch.Tensor:
    ids = torch.tensor([word_tokenizer(WORDS)(text)["input_ids"]])
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        ({0: "NEGATIVE", 1: "POSITIVE"}, 1),
        ({0: "pos", 1: "neg"}, 0),
        ({0: "LABEL_0", 1: "LABEL_1"}, 1),
        ({0: "negative", 1: "neutral", 2: "positive"}, 2),
    ],
)
def test_scores_are_the_log_odds_of_the_positive_class(tmp_path, labels, positive):
    model = classifier(labels)
    model.save_pretrained(tmp_path)
    word_tokenizer(WORDS).save_pretrained(tmp_path)
    judge = SequenceClassifierJudge.from_pretrained(tmp_path, separator=" ", batch_size=3)
    assert judge.positive == positive
    halves = [text.split(" ", 1) for text in TEXTS if " " in text]
    scores = judge([a for a, _ in halves], [b for _, b in halves])
    for score, (a, b) in zip(scores, halves, strict=True):
        p = logits(model, f"{a} {b}").double().softmax(-1)[positive]
        # float32 rounding, and padding that the batch adds.
        assert score.item() == pytest.approx(float((p / (1 - p)).log()), abs=1e-4)
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert judge([], []).shape == (0,)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        judge(["a"], [])


def test_too_long_a_text_is_cut_and_bfloat16_is_near():
    model = classifier({0: "neg", 1: "pos"})
    judge = SequenceClassifierJudge(model, word_tokenizer(WORDS))
    long = " ".join(["film"] * 60)
    # 34 positions, of which 2 stay free for families that count from 2.
    kept = logits(model, " ".join(["film"] * 31))
    assert judge([""], [long]).item() == pytest.approx(float(kept[1] - kept[0]), abs=1e-4)
    coarse = SequenceClassifierJudge(model, word_tokenizer(WORDS), bf16=True)
    exact, near = judge([""] * 4, TEXTS), coarse([""] * 4, TEXTS)
    assert not torch.equal(exact, near)
    assert (exact - near).abs().max() < 0.1 * (exact.abs().max() + 1)  # 8 bits, a few layers


def test_what_cannot_judge_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got None for the classes a, b, c"):
        SequenceClassifierJudge(classifier({0: "a", 1: "b", 2: "c"}), word_tokenizer(WORDS))
    with pytest.raises(ValueError, match="a model of one score is a RewardModel"):
        SequenceClassifierJudge(classifier({0: "x"}), word_tokenizer(WORDS))
    with pytest.raises(ValueError, match="got 2 for the classes neg, pos"):
        SequenceClassifierJudge(classifier({0: "neg", 1: "pos"}), word_tokenizer(WORDS), positive=2)
    with pytest.raises(
        OSError, match="SequenceClassifierJudge.from_pretrained: there is no folder"
    ):
        SequenceClassifierJudge.from_pretrained(tmp_path / "none")
    small_gpt2(len(word_tokenizer(WORDS)), width=8, layers=1, heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds GPT2LMHeadModel, which has no head"):
        SequenceClassifierJudge.from_pretrained(tmp_path)


def test_a_decoder_without_padding_token_scores_a_batch_as_one_by_one():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = word_tokenizer(WORDS)
    tokenizer.pad_token = None
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=34, num_labels=2
    )
    model = GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    expected = []
    for text in TEXTS:  # one by one, read at the last token by hand
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            state = model.transformer(input_ids=ids).last_hidden_state[0, -1]
            negative, positive = model.score(state).tolist()
        expected.append(positive - negative)
    judge = SequenceClassifierJudge(model, tokenizer)
    assert judge([""] * len(TEXTS), TEXTS).tolist() == pytest.approx(expected, abs=1e-4)
    assert tokenizer.pad_token is None  # the caller's own stays as it was
    tokenizer.add_special_tokens({"pad_token": "<gap>"})  # which the model does not know
    judge = SequenceClassifierJudge(model, tokenizer)
    assert judge([""] * len(TEXTS), TEXTS).tolist() == pytest.approx(expected, abs=1e-4)
    assert tokenizer.pad_token == "<gap>"
    tokenizer.pad_token = None

    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="a padding or an end token, got neither"):
        SequenceClassifierJudge(model, tokenizer)
