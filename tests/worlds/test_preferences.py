"""Preference files: nothing bad gets in unseen, nothing good gets lost."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_families import TOKENIZER, family_tokenizer, save_family

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.worlds import (
    Preference,
    PreferenceFileError,
    append_preferences,
    drop_equal_pairs,
    load_preferences,
    ranking_to_pairs,
    save_preferences,
)
from rlhf_lessons.worlds.rows import read_splits

GOOD = [Preference("p .", "good .", "bad ."), Preference("q .", "über “x” .", "mist\nline .")]
TEXT = st.text().map("x".__add__)  # any characters, line separators too, but never empty


@given(st.lists(st.tuples(TEXT, TEXT, TEXT.map("y".__add__))))
def test_what_is_saved_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("files") / "labels.jsonl"
    save_preferences(path, rows)
    assert load_preferences(path) == [Preference(*row) for row in rows]


def test_the_file_is_one_json_object_a_line_with_three_columns(tmp_path):
    save_preferences(tmp_path / "x.jsonl", GOOD)
    lines = (tmp_path / "x.jsonl").read_text().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [record._asdict() for record in GOOD]


def test_datasets_reads_the_file(tmp_path):
    datasets = pytest.importorskip("datasets")
    save_preferences(tmp_path / "x.jsonl", GOOD)
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "x.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert table.column_names == ["prompt", "chosen", "rejected"]
    assert table[1] == GOOD[1]._asdict()


BAD_LINES = [
    ("{", "no valid JSON"),
    ("[1, 2]", "expected an object"),
    ('{"prompt": "p", "chosen": "c"}', "the column 'rejected' is missing"),
    ('{"prompt": "p", "chosen": 3, "rejected": "r"}', "'chosen' must be text, got int"),
    ('{"prompt": "p", "chosen": " ", "rejected": "r"}', "'chosen' is empty"),
    ('{"prompt": "p", "chosen": "same", "rejected": "same"}', "chosen equals rejected"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, problem):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    path.write_text(path.read_text() + "\n" + line + "\n")  # an empty line counts, and is no fault
    with pytest.raises(PreferenceFileError, match="1 bad line") as caught:
        load_preferences(path)
    assert list(caught.value.problems) == [4]
    assert problem in caught.value.problems[4]
    assert "line 4: " in str(caught.value)


def test_the_rest_is_kept_only_when_asked(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("nonsense\n")
    append_preferences(path, GOOD)
    with pytest.raises(PreferenceFileError):
        load_preferences(path)
    with pytest.warns(UserWarning, match="line 1: no valid JSON(.|\n)*kept 2"):
        assert load_preferences(path, keep_good=True) == GOOD


def test_a_file_cut_in_the_middle_says_so_and_loses_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    cut = path.read_bytes()[:-12]
    path.write_bytes(cut)
    with pytest.raises(PreferenceFileError, match="line 2: cut off in the middle"):
        load_preferences(path)
    append_preferences(path, [Preference("r .", "a", "b")])
    assert path.read_bytes().startswith(cut + b"\n")
    with pytest.warns(UserWarning, match="kept 2"):
        assert load_preferences(path, keep_good=True) == [GOOD[0], Preference("r .", "a", "b")]


def test_a_file_of_another_world_is_noticed(tmp_path):
    path = tmp_path / "x.jsonl"
    save_preferences(path, [Preference("p .", "good", "bad"), Preference("p .", "aspirin", "bad")])
    with pytest.raises(PreferenceFileError, match="line 2: 'aspirin' is no word of this world"):
        load_preferences(path, vocabulary={"p", ".", "good", "bad"})


def test_equal_pairs_are_dropped_on_request(tmp_path):
    rows = [GOOD[0], Preference("p", "same", "same"), GOOD[1]]
    save_preferences(tmp_path / "x.jsonl", rows)
    assert load_preferences(tmp_path / "x.jsonl", drop_equal=True) == GOOD
    assert drop_equal_pairs(rows) == (GOOD, [1])


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    with pytest.raises(ValueError):
        save_preferences(path, [GOOD[0], ("only", "two")])
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_preferences(path, GOOD[:1])
    assert load_preferences(path) == GOOD
    assert os.listdir(tmp_path) == ["x.jsonl"]


@pytest.mark.parametrize("start", [b"[", codecs.BOM_UTF8 + b"\n [", b"PAR1", b"\x1f\x8b"])
def test_nothing_is_added_to_a_file_of_another_kind(tmp_path, start):
    path = tmp_path / "x.json"
    path.write_bytes(start + b"]")
    with pytest.raises(ValueError, match="must be a file of JSON Lines"):
        append_preferences(path, GOOD)
    assert path.read_bytes() == start + b"]"


def test_an_appended_bad_record_changes_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    with pytest.raises(ValueError):
        append_preferences(path, [GOOD[0], ("only", "two")])
    assert load_preferences(path) == GOOD


def test_a_ranking_becomes_all_its_pairs():
    assert ranking_to_pairs("p", ["a", "b", "c"]) == [
        ("p", "a", "b"),
        ("p", "a", "c"),
        ("p", "b", "c"),
    ]
    assert len(ranking_to_pairs("p", list("abcdefg"))) == 21


@pytest.mark.parametrize("ranked", [[], ["a"], "ab"])
def test_a_ranking_needs_two(ranked):
    with pytest.raises(ValueError, match="at least 2 responses"):
        ranking_to_pairs("p", ranked)


def test_a_ranking_with_a_repeat_is_refused():
    with pytest.raises(ValueError, match="must not repeat a response, got 'b' 2 times"):
        ranking_to_pairs("p", ["a", "b", "c", "b"])


# --- messages -------------------------------------------------------------------------------------

U, A, S = ({"role": role} for role in ("user", "assistant", "system"))
ASKED, GOOD_ONE, BAD_ONE = (
    {**U, "content": "why ?"}, {**A, "content": "so ."}, {**A, "content": "no ."},
)  # fmt: skip
CHATML_TEXTS = ("<|im_start|>user\nwhy ?<|im_end|>\n<|im_start|>assistant\n", "so .", "no .")
INST_TEXTS = ("<s>[INST] why ? [/INST]", " so . ", " no . ")


def chat_tokenizer(family: str, template: str | None = None):
    from transformers import PreTrainedTokenizerFast

    special = {key: TOKENIZER[family][key] for key in ("bos_token", "eos_token")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=family_tokenizer(family), **special)
    tokenizer.chat_template = template or TOKENIZER[family].get("chat_template")
    return tokenizer


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


LAYOUTS = {
    "three lists": {"prompt": [ASKED], "chosen": [GOOD_ONE], "rejected": [BAD_ONE]},
    "a text and two lists": {"prompt": "why ?", "chosen": [GOOD_ONE], "rejected": [BAD_ONE]},
    "a list and two texts": {"prompt": [ASKED], "chosen": "so .", "rejected": "no ."},
    "UltraFeedback: the user's turn again": {
        "prompt": "why ?",
        "prompt_id": "f0e3",
        "chosen": [ASKED, GOOD_ONE],
        "rejected": [ASKED, BAD_ONE],
        "messages": [ASKED, GOOD_ONE],
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    },
    "the user's turn again, white space apart": {
        "prompt": "why ?",
        "chosen": [{**U, "content": "why ?\n"}, GOOD_ONE],
        "rejected": [{**U, "content": " why ? "}, BAD_ONE],
    },
    "the prompt's list again": {
        "prompt": [ASKED],
        "chosen": [ASKED, GOOD_ONE],
        "rejected": [BAD_ONE],
    },
    "no prompt": {"chosen": [ASKED, GOOD_ONE], "rejected": [ASKED, BAD_ONE]},
    "an empty prompt": {"prompt": [], "chosen": [ASKED, GOOD_ONE], "rejected": [ASKED, BAD_ONE]},
    "parts": {
        "prompt": [{**U, "content": [{"type": "text", "text": "why"}, {"text": " ?"}]}],
        "chosen": [{**A, "content": [{"type": "text", "text": "so ."}], "tool_calls": None}],
        "rejected": [BAD_ONE],
    },
}


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("family", "texts"), [("qwen2", CHATML_TEXTS), ("llama", INST_TEXTS)])
def test_every_layout_of_messages_gives_the_same_texts(tmp_path, row, family, texts):
    path = written(tmp_path / "x.jsonl", row)
    assert load_preferences(path, tokenizer=chat_tokenizer(family)) == [Preference(*texts)]


CONTENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")).map("x".__add__)


@given(st.booleans(), st.lists(CONTENT, min_size=1, max_size=5), CONTENT, st.data())
def test_prompt_and_response_are_what_the_template_writes(
    tmp_path_factory, system, contents, content, data
):
    """The template of the whole dialogue is the oracle, wherever a row writes its turns."""
    contents = contents[: len(contents) - (len(contents) + 1) % 2]  # the user speaks last
    turns = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    turns = [{**S, "content": "be kind"}] * system + turns
    answers = [{**A, "content": content}, {**A, "content": content + "!"}]
    again = data.draw(st.integers(0, len(turns)))  # how many of the last turns stand again
    row = {
        "prompt": data.draw(
            st.sampled_from([turns, turns[:1], turns[-1:], turns[-1]["content"], None])
        ),
        "chosen": [*turns[again:], answers[0]],
        "rejected": [*turns[again:], answers[1]],
    }
    if row["prompt"] is not turns:
        row["chosen"], row["rejected"] = [*turns, answers[0]], [*turns, answers[1]]
    if row["prompt"] is None:
        del row["prompt"]
    path = written(tmp_path_factory.mktemp("files") / "x.jsonl", row)
    for family, after in (("qwen2", "<|im_end|>\n"), ("llama", "</s>")):
        tokenizer = TOKENIZERS.setdefault(family, chat_tokenizer(family))
        (pair,) = load_preferences(path, tokenizer=tokenizer)
        assert pair.prompt == tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        for response, answer in zip(pair[1:], answers, strict=True):
            whole = tokenizer.apply_chat_template([*turns, answer], tokenize=False)
            assert pair.prompt + response + after == whole


TOKENIZERS: dict = {}


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_policy_reads_one_start_and_one_end_token(tmp_path, family):
    policy = LanguagePolicy.from_pretrained(save_family(family, tmp_path / family))
    path = written(tmp_path / "x.jsonl", LAYOUTS["no prompt"])
    ((prompt, chosen, _),) = load_preferences(path, tokenizer=policy.tokenizer)
    batch = policy.encode([prompt], [chosen])
    plain = policy.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert batch.prompt_tokens[0].tolist() == plain
    end = policy.tokenizer.eos_token_id
    assert batch.response_tokens[0].tolist().count(end) == 1 and batch.response_tokens[0, -1] == end
    if family == "llama":
        assert plain.count(policy.tokenizer.bos_token_id) == 1 and plain[0] == 1
    else:
        tokens = [*batch.prompt_tokens[0], *batch.response_tokens[0]]
        whole = policy.tokenizer.apply_chat_template([ASKED, GOOD_ONE], tokenize=False)
        assert policy.tokenizer.decode(tokens) == whole.rstrip()


TURN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<turn>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<assistant>THINK{% endif %}"
THINKING = TURN.replace(">{{ m", ">{{ 'THINK' if m['role'] == 'assistant' and loop.last }}{{ m")


@pytest.mark.parametrize(
    ("template", "response"),
    [
        (TURN + OPEN.replace("THINK", ""), "so .<turn>"),  # as Gemma: no end token after a turn
        (THINKING + OPEN.replace("THINK", ""), "THINKso .<turn>"),  # as Qwen 3
        (TURN + OPEN.replace("THINK", "") + "{% if not add_generation_prompt %}<|im_end|>"
         "{% endif %}", "so .<turn>\n"),  # as Phi 3
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "so ."),
    ],
)  # fmt: skip
def test_what_a_template_writes_around_an_answer_is_kept(tmp_path, template, response):
    path = written(tmp_path / "x.jsonl", LAYOUTS["three lists"])
    (pair,) = load_preferences(path, tokenizer=chat_tokenizer("qwen2", template))
    assert pair.chosen == response


TOOLS = [
    ASKED,
    {**A, "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]},
    {"role": "tool", "name": "look", "content": "rain", "tool_calls": None},
]


def test_tools_are_the_template_s(tmp_path):
    template = (
        "{% for m in messages %}{{ m['role'] }}{% if m.tool_calls is defined %} calls "
        "{{ m.tool_calls[0].function.name }}{% endif %}{% if m.name is defined %} {{ m.name }}"
        "{% endif %}: {{ m['content'] }}{{ '' if loop.last and not "
        "add_generation_prompt else '\n' }}{% endfor %}"
    )
    row = {"chosen": [*TOOLS, GOOD_ONE], "rejected": [*TOOLS, BAD_ONE]}
    path = written(tmp_path / "x.jsonl", row)
    (pair,) = load_preferences(path, tokenizer=chat_tokenizer("qwen2", template))
    assert pair == (
        "user: why ?\nassistant calls look: \ntool look: rain\n",
        "assistant: so .",
        "assistant: no .",
    )
    call = {**TOOLS[1], "tool_calls": [{"function": {"name": "listen", "arguments": {}}}]}
    row["rejected"] = [ASKED, call, TOOLS[2], BAD_ONE]
    with pytest.raises(PreferenceFileError, match="differ before their last answers"):
        load_preferences(written(path, row), tokenizer=chat_tokenizer("qwen2", template))


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}"
    "{% endif %}{{ m['content'] }}<turn>{% endfor %}"
)
BAD_MESSAGES = [
    ({"chosen": []}, "'chosen' is empty"),
    ({"chosen": [{**A, "content": " "}]}, "'chosen' is empty"),
    ({"chosen": [ASKED]}, "'chosen' must end with a message of the assistant, got one of 'user'"),
    ({"chosen": ["so ."]}, "message 1 of the column 'chosen' must be an object, got str"),
    ({"prompt": [{"from": "human", "value": "why ?"}]}, "message 1 .* role and a content, got .*f"),
    ({"rejected": [ASKED, {**A}]}, "message 2 of the column 'rejected' must have a role and a"),
    ({"prompt": [{**U, "content": [{"type": "image", "url": "x"}]}]}, "a part of type 'image'"),
    ({"prompt": [{**U, "content": [{"type": "image", "text": "x"}]}]}, "a part of type 'image'"),
    ({"prompt": [{**U, "content": ["why ?"]}]}, "a part of type 'str'"),
    ({"prompt": None}, "'prompt' must be text, got NoneType; a list of messages is read, too"),
    ({"prompt": []}, "nothing stands before the answers"),
    ({"prompt": "who ?", "chosen": [ASKED, GOOD_ONE]}, "'chosen' repeats other turns than the"),
    ({"prompt": [], "chosen": [ASKED, GOOD_ONE]}, "differ before their last answers"),
    ({"rejected": [{**A, "content": "so ."}]}, "chosen equals rejected"),
    ({"prompt": [{**S, "content": "be kind"}, ASKED]}, "template refuses .*: no system here"),
]


@pytest.mark.parametrize(("change", "problem"), BAD_MESSAGES)
def test_bad_messages_are_named_by_their_line(tmp_path, change, problem):
    row = LAYOUTS["three lists"]
    path = written(tmp_path / "x.jsonl", row, {**row, **change}, row)
    tokenizer = chat_tokenizer("qwen2", NO_SYSTEM)
    with pytest.raises(PreferenceFileError, match=f"line 2: .*{problem}") as caught:
        load_preferences(path, tokenizer=tokenizer)
    assert list(caught.value.problems) == [2]
    with pytest.warns(UserWarning, match="kept 2"):
        assert len(load_preferences(path, tokenizer=tokenizer, keep_good=True)) == 2


def test_a_template_that_rewrites_what_it_began_is_refused(tmp_path):
    path = written(tmp_path / "x.jsonl", LAYOUTS["three lists"])
    with pytest.raises(PreferenceFileError, match="<assistant>THINK' before an answer is there"):
        load_preferences(path, tokenizer=chat_tokenizer("qwen2", TURN + OPEN))


@pytest.mark.parametrize("keep_good", [False, True])
def test_messages_without_a_template_say_what_to_do(tmp_path, keep_good):
    path = written(tmp_path / "x.jsonl", GOOD[0]._asdict(), LAYOUTS["no prompt"])
    for tokenizer, got in ((None, "no tokenizer"), (chat_tokenizer("gpt2"), "one without")):
        with pytest.raises(
            ValueError, match=rf"since line 2 of .* holds messages, got {got}\. Give"
        ):
            load_preferences(path, tokenizer=tokenizer, keep_good=keep_good)
    with pytest.raises(PreferenceFileError, match="message 1 .* must be an object, got str"):
        load_preferences(written(path, {**GOOD[0]._asdict(), "chosen": ["so ."]}))
    written(path, GOOD[0]._asdict())
    assert load_preferences(path, tokenizer=chat_tokenizer("gpt2")) == GOOD[:1]


# --- dialogues as text ----------------------------------------------------------------------------

TALK = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why ?"


def test_the_prompt_of_a_text_without_one_ends_at_its_last_answer(tmp_path):
    rows = [
        {"chosen": f"{TALK}\n\nAssistant: so .", "rejected": f"{TALK}\n\nAssistant: no ."},
        {"chosen": f"{TALK}\n\nAssistant: a\n\nb", "rejected": f"{TALK} \n\nAssistant:c"},
    ]
    prompt = TALK + "\n\nAssistant:"
    assert load_preferences(written(tmp_path / "x.jsonl", *rows)) == [
        Preference(prompt, " so .", " no ."),
        Preference(prompt, " a\n\nb", "c"),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"chosen": f"{TALK}\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"},
            "differ before their last answers",
        ),
        (
            {"chosen": f"{TALK}\n\nAssistant: a", "rejected": f"{TALK}\n\nAssistant: "},
            "'rejected' is empty",
        ),
        (
            {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
            r"'prompt' is missing, got \['chosen', 'question', 'rejected', 'system'\]",
        ),
        ({"chosen": f"{TALK}\n\nAssistant: a"}, "'rejected' is missing"),
    ],
)
def test_a_text_without_a_prompt_to_be_found_is_named(tmp_path, row, problem):
    with pytest.raises(PreferenceFileError, match=f"line 1: .*{problem}"):
        load_preferences(written(tmp_path / "x.jsonl", row))


# --- kinds of files -------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends_of_other_editors_change_nothing(tmp_path, mark, end):
    rows = [record._asdict() for record in GOOD]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    for text in (end.join(lines), end.join(["[", lines[0] + ",", lines[1], "]", ""])):
        (tmp_path / "x.json").write_bytes(mark + text.encode())
        assert load_preferences(tmp_path / "x.json") == GOOD


def test_rows_of_an_array_are_named_by_their_number(tmp_path):
    rows = [GOOD[0]._asdict(), 3, {"prompt": "p", "chosen": "c"}, GOOD[1]._asdict()]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows, indent=2))
    with pytest.raises(PreferenceFileError, match="x.json: 2 bad rows\n  row 2: exp") as caught:
        load_preferences(path)
    assert list(caught.value.problems) == [2, 3]
    with pytest.warns(UserWarning, match="kept 2"):
        assert load_preferences(path, keep_good=True) == GOOD


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'[{"prompt": "p",\n "chosen": "c"', "line 2: cut off in the middle: no valid JSON"),
        (b'[{"prompt": "p",\n "chosen": c}]', "line 2: no valid JSON .* at column 12"),
        (b'[{"prompt": "p",\n\n "chosen": "\xff"}]', "line 3: no valid UTF-8"),
        (b"[1, 2]\n[3]\n", "2 bad lines\n  line 1: expected an object .* got list"),
    ],
)
def test_a_broken_array_is_named_by_its_line(tmp_path, raw, problem):
    (tmp_path / "x.json").write_bytes(raw)
    with pytest.raises(PreferenceFileError, match=problem):
        load_preferences(tmp_path / "x.json")


def test_bad_lines_of_every_kind_are_named_in_their_order(tmp_path):
    path = written(tmp_path / "x.jsonl", 3, GOOD[0]._asdict())
    path.write_bytes(path.read_bytes() + b'"\xff"\n{\n4\n')
    with pytest.raises(PreferenceFileError) as caught:
        load_preferences(path)
    assert list(caught.value.problems) == [1, 3, 4, 5]


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets", exc_type=ImportError)
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return library


def test_what_datasets_saved_is_read_like_a_file(tmp_path, datasets):
    row = LAYOUTS["UltraFeedback: the user's turn again"]
    table = datasets.Dataset.from_list([row, {**row, "prompt": "who ?"}, row])
    one = table.select([0])
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test_prefs-00000-of-00001"):
        one.to_parquet(str(tmp_path / "hub" / "data" / f"{name}.parquet"))
    (tmp_path / "plain").mkdir()
    one.to_parquet(str(tmp_path / "plain" / "train.parquet"))
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": table}).save_to_disk(str(tmp_path / "splits"))
    table.to_parquet(str(tmp_path / "x.parquet"))

    tokenizer, texts = chat_tokenizer("qwen2"), Preference(*CHATML_TEXTS)
    for name in ("plain", "one", "splits", "plain/train.parquet"):
        assert load_preferences(tmp_path / name, tokenizer=tokenizer) == [texts]
    assert load_preferences(tmp_path / "hub", tokenizer=tokenizer) == [texts] * 2
    assert load_preferences(tmp_path / "hub", split="test_prefs", tokenizer=tokenizer) == [texts]
    with pytest.raises(PreferenceFileError, match="x.parquet: 1 bad row\n  row 2: .* other turns"):
        load_preferences(tmp_path / "x.parquet", tokenizer=tokenizer)
    with pytest.warns(UserWarning, match="row 2(.|\n)*kept 2"):
        found = load_preferences(tmp_path / "splits/test", tokenizer=tokenizer, keep_good=True)
    assert found == [texts] * 2
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\] .*got 'dev'"):
        load_preferences(tmp_path / "splits", split="dev")
    with pytest.raises(ValueError, match="since row 1 of .*x.parquet holds messages"):
        load_preferences(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        (["question", "chosen", "rejected"], "prompt"),
        (["a", "prompt"], "chosen"),
        (["a"], "chosen"),
    ],
)
def test_other_columns_of_a_data_set_are_listed(tmp_path, datasets, columns, missing):
    table = datasets.Dataset.from_list([dict.fromkeys(columns, "x")] * 2)
    table.to_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(PreferenceFileError, match="2 bad rows") as caught:
        load_preferences(tmp_path / "x.parquet")
    assert caught.value.problems[2] == f"the column {missing!r} is missing, got {sorted(columns)}"


def test_a_packed_file_is_read_like_a_file(tmp_path):
    """As hh-rlhf lies on the hub."""
    rows = [{"chosen": f"{TALK}\n\nAssistant: so .", "rejected": f"{TALK}\n\nAssistant: no ."}]
    packed = gzip.compress(written(tmp_path / "x.jsonl", *rows, 3).read_bytes())
    (tmp_path / "hub").mkdir()
    for path in (tmp_path / "hub" / "train.jsonl.gz", tmp_path / "train.gz"):
        path.write_bytes(packed)
        with pytest.warns(UserWarning, match="line 2(.|\n)*kept 1"):
            found = load_preferences(
                path.parent if path.parent.name == "hub" else path, keep_good=True
            )
        assert found == [Preference(TALK + "\n\nAssistant:", " so .", " no .")]
    for damaged in (packed[:-9], packed[:20] + b"nonsense" + packed[28:]):
        (tmp_path / "train.gz").write_bytes(damaged)
        with pytest.raises(OSError, match="train.gz is cut off or damaged"):
            load_preferences(tmp_path / "train.gz", keep_good=True)


def test_a_folder_of_json_files_has_splits_and_needs_no_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    save_preferences(tmp_path / "train.jsonl", GOOD)
    (tmp_path / "test.json").write_text(json.dumps([GOOD[1]._asdict()]))
    (tmp_path / "more.parquet").write_bytes(b"not looked at")
    assert load_preferences(tmp_path) == GOOD
    assert load_preferences(tmp_path, split="test") == GOOD[1:]


def test_columns_that_nobody_asked_for_are_not_decoded(tmp_path, datasets):
    datasets.Dataset.from_list([{"a": 1, "picture": 2}]).to_parquet(str(tmp_path / "x.parquet"))
    table = read_splits("test", tmp_path / "x.parquet", ["a"])["train"]
    assert list(table.rows) == [(1, {"a": 1})] and list(table.columns) == ["a", "picture"]


def test_a_file_that_is_rewritten_is_read_anew(tmp_path, datasets):
    for record in GOOD:
        table = datasets.Dataset.from_list([record._asdict()])
        table.to_parquet(str(tmp_path / "x.parquet"))
        assert load_preferences(tmp_path / "x.parquet") == [record]


def test_a_damaged_data_set_is_named(tmp_path, datasets):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(OSError, match="could not load .*x.parquet: .*footer"):
        load_preferences(tmp_path / "x.parquet")


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file or folder .*none"):
        load_preferences(tmp_path / "none")
    (tmp_path / "x.parquet").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match="x.parquet needs .* pip install datasets"):
        load_preferences(tmp_path / "x.parquet")
