"""What a policy was trained to speak is saved with it: `apply_chat_template` gives the ids that it learned from."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from tests.prepared import prepare
from tests.tiny import (
    ROOT,
    conversations,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    write_reference,
    write_tokens,
)
from tests.tiny_model import ANSWERS, QUESTIONS
from workflow_scripts.common.chat_template import FILE, jinja_of, save_chat_template, with_own_end
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.templates import encode, render, tokenise_prompt
from workflow_scripts.score.harness.run import load_model

TEMPLATES = yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text())
OWN = {  # a study's own, with all that could go wrong on the way into Jinja
    "start": '{bos}\\ "quoted" {{ bos_token }} {% if %} é 😀\t',
    "strip": True,
    "default_system": "  It's {bos}, \\n and {# no comment #} }} %}  ",
    "system": {"before": "<<", "lead": "\n", "after": ">>\n\n", "end": "{eos}"},
    "user": {"before": "{eos}{bos}U:\r\n", "lead": "{eos}", "after": ""},
    "assistant": {"before": "A:", "lead": " ", "after": "\\", "end": "<|im_end|>{eos}"},
}
SAID = [
    {"role": "system", "content": "Tutor 'the' student."},
    {"role": "user", "content": "  What is osmosis?\n"},
    {"role": "assistant", "content": 'Try {{ once }} more, {% with %} the word "water".\\n '},
    {"role": "user", "content": "Ça va 😀?"},
    {"role": "assistant", "content": " Yes"},
    {"role": "user", "content": "x < y && y > z"},
]
TALKS = {
    "one question": SAID[1:2],
    "with system": SAID[:2],
    "ends on a reply": SAID[:3],
    "several turns": SAID,
}
TALKS |= {"several turns without system": SAID[1:]}
BROKEN = {"role": "user", "content": "What is osmosis?\n"}, {"role": "assistant", "content": "Water."}
TALKS |= {"a break before the reply": list(BROKEN), "a break and a question": [*BROKEN, BROKEN[0]]}
TALKS |= {"a space begins the reply": [BROKEN[0] | {"content": "Why?"}, BROKEN[1] | {"content": " So."}]}


def words_of(kind: str) -> Tokenizer:
    """Return a small tokenizer: byte-level BPE, SentencePiece-like BPE, unigram with a prefix space, or word pieces."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    texts = [*QUESTIONS, *ANSWERS, *(message["content"] for message in SAID)] * 3
    if kind == "bytes":
        made = Tokenizer(models.BPE(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    elif kind == "llama":
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made


KINDS = ("bytes", "llama", "unigram", "pieces")
ADDED = {"nothing": None, "bos": "<s> $A", "bos and eos": "<s> $A </s>"}


@pytest.fixture(scope="module", params=[(kind, added) for kind in KINDS for added in ADDED], ids=str)
def folder(request, tmp_path_factory) -> Path:
    """A folder with a tokenizer of one of four families, whose post-processor adds special tokens or none."""
    kind, added = request.param
    made = words_of(kind)
    if ADDED[added]:
        tokens = [("<s>", made.token_to_id("<s>")), ("</s>", made.token_to_id("</s>"))]
        made.post_processor = processors.TemplateProcessing(single=ADDED[added], special_tokens=tokens)
    made.add_special_tokens([AddedToken("<|im_end|>", normalized=False, special=True)])
    path = tmp_path_factory.mktemp("tokenizer")
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(
        tokenizer_object=made, chat_template="{{ 'the parent' }}", **names
    ).save_pretrained(path)
    return path


@pytest.mark.parametrize("name", [*TEMPLATES, "own"])
def test_the_saved_template_gives_the_ids_of_our_own_rendering(folder, name):
    template = (TEMPLATES | {"own": OWN})[name]
    save_chat_template(folder, template)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for talk, messages in TALKS.items():
        for prompt in (True, False):
            ours = render(messages, template, tokenizer, prompt=prompt).text
            theirs = {"conversation": messages, "add_generation_prompt": prompt}
            assert tokenizer.apply_chat_template(**theirs, tokenize=False) == ours, talk
            ids = tokenizer.apply_chat_template(**theirs, tokenize=True, return_dict=False)
            assert ids == encode(ours, tokenizer)[0], talk
        assert tokenise_prompt(messages, template, tokenizer) == tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )


def test_without_bos_or_eos_a_template_writes_none():
    made = PreTrainedTokenizerFast(tokenizer_object=words_of("bytes"), unk_token="<unk>")
    for template in (*TEMPLATES.values(), OWN):
        made.chat_template = jinja_of(template)
        assert made.apply_chat_template(SAID, tokenize=False) == render(SAID, template, made).text


def test_a_role_that_the_template_lacks_is_refused(folder):
    save_chat_template(folder, TEMPLATES["tulu"])
    with pytest.raises(
        Exception, match="a message of the role tool; this template has system, user and assistant"
    ):
        AutoTokenizer.from_pretrained(folder).apply_chat_template([{"role": "tool", "content": "x"}])


def test_no_other_template_is_left_beside_it(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    write_json(folder / "chat_template.json", {"chat_template": "x"})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("x")
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", config | {"chat_template": "x"})
    save_chat_template(folder, TEMPLATES["hh"])
    assert read_json(folder / "tokenizer_config.json") == config
    assert sorted(path.name for path in folder.glob("*chat_template*")) == [FILE]
    assert AutoTokenizer.from_pretrained(folder).chat_template == jinja_of(TEMPLATES["hh"])


# --- policies ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chatty(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with a chat template of its maker's."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("chatty") / "model")
    (folder / FILE).write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}")
    return folder


def assert_speaks(folder: Path, template: dict) -> None:
    """Hold a saved policy, and the harness that asks it, to a template."""
    tokenizer = load_tokenizer(folder)
    asked = tokenizer.apply_chat_template(SAID, add_generation_prompt=True, return_dict=False)
    assert asked == tokenise_prompt(SAID, template, tokenizer)
    harness = load_model(folder, {"dtype": "float32", "batch_size": 2, "apply_chat_template": True})
    said = harness.apply_chat_template(SAID)
    assert harness.tok_encode(said) == asked
    assert harness.tok_batch_encode([said])[0].tolist() == [asked]


def test_a_policy_is_saved_with_the_template_it_learned_not_with_its_parents(chatty, tmp_path, monkeypatch):
    for name in ("tulu", "alpaca"):
        monkeypatch.setattr("tests.tiny.TEMPLATE", TEMPLATES[name])
        tokens = write_tokens(chatty, conversations(4), conversations(2), tmp_path / name / "tokens")
        settings = settings_of(max_steps=1, warmup=0.0, lora=None)
        assert_speaks(run_sft(chatty, tokens, settings, tmp_path / name), TEMPLATES[name])


def test_a_child_whose_template_differs_from_its_parents_has_its_own(chatty, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tiny.TEMPLATE", TEMPLATES["vicuna"])
    tokens = write_tokens(chatty, conversations(4), conversations(2), tmp_path / "tokens")
    parent = run_sft(chatty, tokens, settings_of(max_steps=1, warmup=0.0), tmp_path / "sft")
    monkeypatch.setattr("tests.tiny.TEMPLATE", TEMPLATES["tutor"])
    stored = write_reference(parent, pairs(4), tmp_path / "reference")
    child = run_align("dpo", parent, stored, preference_settings(max_steps=1, warmup=0.0), tmp_path / "dpo")
    assert_speaks(parent, TEMPLATES["vicuna"])
    assert_speaks(child, TEMPLATES["tutor"])


def test_an_adapter_has_its_template_beside_it(chatty, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tiny.TEMPLATE", TEMPLATES["tulu"])
    tokens = write_tokens(chatty, conversations(4), conversations(2), tmp_path / "tokens")
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "merge": False}
    folder = run_sft(chatty, tokens, settings_of(max_steps=1, warmup=0.0, lora=lora), tmp_path / "sft")
    assert (folder / "adapter_config.json").is_file()
    assert load_tokenizer(folder).chat_template == jinja_of(TEMPLATES["tulu"])


def test_a_prepared_model_has_the_template_that_the_study_gives_it_and_its_source_keeps_its_own(
    chatty, tmp_path
):
    prepare(chatty, tmp_path / "prepared", format="hf", template=TEMPLATES["hh"])
    folder = tmp_path / "prepared"
    assert load_tokenizer(folder).chat_template == jinja_of(TEMPLATES["hh"])
    assert load_tokenizer(chatty).chat_template.startswith("{% for m in messages %}")


def test_other_servers_stop_where_the_policy_learned_to_stop(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own, eos = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id
    assert with_own_end(TEMPLATES["chatml"], tokenizer, eos) == [eos, own]
    assert with_own_end(TEMPLATES["chatml"], tokenizer, [eos, own]) == [eos, own]
    assert with_own_end(TEMPLATES["tulu"], tokenizer, eos) == eos
    assert with_own_end(TEMPLATES["chatml"], tokenizer, None) == sorted([eos, own])
    assert with_own_end(OWN, tokenizer, eos) == [eos, own]  # the first of its two ends it


def test_a_trained_policys_generation_settings_know_its_templates_end(tiny_model, tmp_path, monkeypatch):
    parent = shutil.copytree(tiny_model, tmp_path / "parent")
    tokenizer = load_tokenizer(parent)
    ended = TEMPLATES["tutor"] | {"assistant": TEMPLATES["tutor"]["assistant"] | {"end": "<pad>"}}
    monkeypatch.setattr("tests.tiny.TEMPLATE", ended)
    tokens = write_tokens(parent, conversations(4), conversations(2), tmp_path / "tokens")
    folder = run_sft(parent, tokens, settings_of(max_steps=1, warmup=0.0), tmp_path / "sft")
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert ends == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<pad>")]
    assert load_policy(folder).generation_config.eos_token_id == ends
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == ends
