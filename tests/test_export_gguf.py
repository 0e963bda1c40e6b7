"""model.gguf holds the weights and the tokenizer as they are, or is refused; the Modelfile renders our templates."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tests.export_study import ENDLESS, found_in
from tests.families import FAMILIES, byte_level, sentencepiece
from tests.tiny import ROOT, TEMPLATE
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.templates import content_of, render
from workflow_scripts.download.prepare_model import merges_of
from workflow_scripts.export.checks import AWKWARD
from workflow_scripts.export.folder import tensors_of, write_folder
from workflow_scripts.export.gguf_file import write_gguf
from workflow_scripts.export.gguf_tokens import joined, tokens_of
from workflow_scripts.export.ollama import go_template, modelfile

TEMPLATES = yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text()) | {
    "endless": ENDLESS
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


def model_in(folder: Path, kind: type = LlamaConfig, tokenizer: object = None, **more: object) -> Path:
    """Write a random model with more rows of embeddings than its tokenizer has tokens."""
    tokenizer = tokenizer or byte_level()
    torch.manual_seed(0)
    ends = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": None,
    }
    model = AutoModelForCausalLM.from_config(
        kind(**(SIZES | ends | {"vocab_size": len(tokenizer) + 3} | more))
    )
    with torch.no_grad():  # norms that are not all ones, so that no two can be exchanged unseen
        for name, value in model.named_parameters():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def written(folder: Path, out: Path, asked: str = "1", template: dict | None = None) -> dict:
    """Export a model's folder with model.gguf; return what is known of it."""
    out.mkdir()
    found = found_in(folder, template)
    write_folder(found, out, None)
    return write_gguf(found, out, asked)


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_read_back_bit_by_bit(tmp_path, kind, tied):
    folder = model_in(tmp_path / "model", kind, tie_word_embeddings=tied)
    facts = written(folder, tmp_path / "out")
    assert facts["format"] == "f32"
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32
    ).state_dict()
    own = dict(tensors_of(folder))
    assert facts["weights"] == len(own)
    for name, tensor in own.items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize(("form", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_matrices_are_rounded_as_asked_and_vectors_are_whole(tmp_path, form, dtype):
    folder = model_in(tmp_path / "model")
    assert written(folder, tmp_path / "out", form)["format"] == form
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32
    ).state_dict()
    for name, tensor in tensors_of(folder):
        kept = tensor.to(dtype).float() if tensor.dim() > 1 else tensor
        assert torch.equal(again[name], kept), name


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_awkward_texts_have_the_tokenizer_s_ids_by_transformers_own_reader(tmp_path, make):
    tokenizer = make()
    folder = model_in(tmp_path / "model", tokenizer=tokenizer)
    written(folder, tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    for text in AWKWARD:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert again(text, add_special_tokens=False)["input_ids"] == ids, text


def test_what_llama_cpp_would_split_or_join_otherwise_is_refused():
    reasons = {
        "byte level across borders": "has no name for",
        "unigram": "kind Unigram",
        "word piece": "kind WordPiece",
    }
    for name, reason in reasons.items():
        with pytest.raises(PlumblineError, match=reason):
            tokens_of(FAMILIES[name], len(FAMILIES[name]))
    first = FAMILIES["a space before the first"]
    assert "behind special tokens" in tokens_of(first, len(first)).said[0]


def test_a_tokenizer_that_lacks_bytes_is_refused(tmp_path, tiny_model):
    with pytest.raises(PlumblineError, match=r"of the 256 bytes, and llama\.cpp would leave them out"):
        written(tiny_model, tmp_path / "out")


def test_merges_that_no_scores_stand_for_are_refused():
    tokenizer = sentencepiece()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["merges"] = state["model"]["merges"][:-1]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    with pytest.raises(PlumblineError, match="in ways that are no merges of the tokenizer's"):
        tokens_of(tokenizer, len(tokenizer))


def of_pieces(*pieces: str, runs: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer as Llama 2's is: bytes, pieces best first, characters, and runs of spaces at one score."""
    characters = sorted({character for piece in pieces for character in piece} | {"▁", "x"})
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    scored = [(name, 0.0) for name in names] + [(piece, -float(at)) for at, piece in enumerate(pieces)]
    scored += [("▁" * count, -1e9) for count in range(2, runs + 1)]
    scored += [(name, -1e9) for name in characters]
    fast = Tokenizer(
        BPE(
            {name: at for at, (name, _) in enumerate(scored)},
            merges_of(scored),
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_runs_of_spaces_at_one_score_are_joined_as_the_tokenizer_joins_them():
    tokenizer = of_pieces("▁a", "ab", "▁ab", runs=16)
    found = tokens_of(tokenizer, len(tokenizer))
    for count in range(1, 100):
        for text in (" " * count, f"x{' ' * count}ab{' ' * (count // 2)}a"):
            assert joined(text, found) == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_other_merges_that_stand_apart_are_refused():
    tokenizer = sentencepiece()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = state["model"]["merges"]
    double = next(at for at in range(1, len(merges)) if "".join(merges[at]) == "".join(merges[at - 1]))
    merges.append(merges.pop(double))
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    with pytest.raises(PlumblineError, match="stand apart, so no score"):
        tokens_of(tokenizer, len(tokenizer))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model_type": "gpt2"}, "it is a gpt2"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
            "positions are stretched",
        ),
        ({"attention_bias": True}, "its layers have biases"),
        ({"hidden_act": "gelu"}, "its activation is gelu"),
    ],
)
def test_models_that_would_compute_otherwise_are_refused(tmp_path, changed, reason):
    folder = model_in(tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    found = found_in(folder)
    write_folder(found, out, None)
    write_json(out / "config.json", read_json(out / "config.json") | changed)
    with pytest.raises(PlumblineError, match=f"no GGUF of this model: .*{reason}"):
        write_gguf(found, out, "1")


def test_a_format_that_there_is_not_is_refused(tmp_path):
    folder = model_in(tmp_path / "model")
    with pytest.raises(PlumblineError, match="GGUF=q4: give 1"):
        written(folder, tmp_path / "out", "q4")


def test_the_file_begins_texts_where_the_template_does(tmp_path):
    import gguf

    folder = model_in(tmp_path / "model", tokenizer=sentencepiece())
    for name, template in (("with", TEMPLATE), ("without", ENDLESS)):
        written(folder, tmp_path / name, template=template)
        fields = gguf.GGUFReader(tmp_path / name / "model.gguf").fields
        assert bool(fields["tokenizer.ggml.add_bos_token"].contents()) == (name == "with")
        assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


def test_the_modelfile_has_every_end_the_context_and_no_draws(tmp_path):
    text = modelfile(TEMPLATE, sentencepiece(), ["</s>", 'a "quote"\n'], 512)
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """')
    lines = text.splitlines()
    assert r'PARAMETER stop "a \"quote\"\n"' in lines and 'PARAMETER stop "</s>"' in lines
    assert {"PARAMETER num_ctx 512", "PARAMETER temperature 0", "PARAMETER repeat_penalty 1"} <= set(lines)
    assert text.count('"""') == 2


SAID = [
    {"role": "system", "content": "Tutor 'the' \"student\"."},
    {"role": "user", "content": "What is osmosis?"},
    {"role": "assistant", "content": "Try {{ once }} more\\n"},
    {"role": "user", "content": "Ça va 😀? <b>&"},
    {"role": "assistant", "content": " Yes"},
    {"role": "user", "content": "x < y && y > z"},
]
TALKS = [SAID[1:2], SAID[:2], SAID[:4], SAID, SAID[1:]]


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go to render templates as Ollama does")
def test_go_renders_every_template_to_our_text(tmp_path):
    tokenizer = sentencepiece()
    asked = [
        {
            "Template": go_template(template, tokenizer),
            "Talks": [
                [
                    {
                        "Role": each["role"],
                        "Content": content_of(each, template),
                    }
                    for each in talk
                ]
                for talk in TALKS
            ],
        }
        for template in TEMPLATES.values()
    ]
    command = ["go", "run", str(ROOT / "tests/ollama_template.go")]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (name, template), texts in zip(TEMPLATES.items(), json.loads(done.stdout), strict=True):
        for talk, text in zip(TALKS, texts, strict=True):
            ours = render(talk, template, tokenizer, prompt=True).text
            if template["start"].startswith("{bos}"):
                ours = ours.removeprefix(tokenizer.bos_token)
            assert text == ours, name
