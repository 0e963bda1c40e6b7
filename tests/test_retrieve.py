"""Retrieval: the passages that fit a question are found and written into its turn; no more of a row changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command import call
from tests.families import WORDS
from tests.tiny import TEMPLATE
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.templates import tokenise_prompt
from workflow_scripts.retrieve import retrieve as stage
from workflow_scripts.retrieve.embeddings import by_model
from workflow_scripts.retrieve.passages import read_passages

SETTINGS = {
    "column": None,
    "starts": {},
    "min_chars": 1,
    "k": 2,
    "min_similarity": 0.0,
    "turns": "first",
    "into": "user",
    "template": "Read: {passages}\n\n{text}",
    "separator": " | ",
    "embedder": None,
}
MITOCHONDRIA = "Mitochondria release energy from glucose."
ROOTS = "Roots take up water and minerals from the soil."
ENERGY = "Energy has many forms."
BOOK = "\n\n".join([ROOTS, "Bees carry pollen.", MITOCHONDRIA, "Salt has no food.", ENERGY])


def row(name, *said, system=None):
    """Return a cleaned conversation, the user first."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]
    messages = [{"role": "system", "content": system}, *messages] if system else messages
    return {"id": name, "group": f"g{name}", "messages": messages, "meta": {"file": "f", "index": 0}}


ROWS = {
    "train": [
        row("1", "Where is energy from glucose released?", "Think.", "What do roots take up?", "Water."),
        row("2", "Hello?", "Hi."),
    ],
    "test": [row("3", "What do roots take from soil?", "Water.", system="Teach.")],
}


def run(folder: Path, passages: str | Path = BOOK, rows=ROWS, **changed):
    """Return (manifest, {file without its ending: rows}) of the stage on cleaned rows in a folder."""
    bare, done = folder / "bare", folder / "done"
    for split, split_rows in rows.items():
        write_jsonl(bare / f"rows/{split}.jsonl", split_rows)
    write_jsonl(bare / "rows/rejected.jsonl", [{"reason": "duplicate"}])
    facts = {
        "splits": {split: {} for split in rows},
        "notes": {"cleaned": 1},
        "rejected": {"row: duplicate": {}},
    }
    write_manifest(bare / "manifest.json", sorted((bare / "rows").glob("*.jsonl")), **facts)
    (bare / "rows/.snakemake_timestamp").touch()
    if isinstance(passages, str):
        (folder / "book.txt").write_text(passages, encoding="utf-8")
        passages = folder / "book.txt"
    flags = ["--cleaned", bare / "manifest.json", "--passages", passages]
    flags += ["--settings", json.dumps(SETTINGS | changed)]
    call(stage.main, *flags, "--output", done / "rows", "--manifest", done / "manifest.json")
    written = {path.stem: read_jsonl(path) for path in (done / "rows").glob("*.jsonl")}
    return read_json(done / "manifest.json"), written


def found_for(rows, name):
    """Return what the first asking turn of a row got."""
    return next(entry for entry in rows["passages"] if entry["id"] == name)


def said(rows, number=0):
    return [message["content"] for message in rows[number]["messages"]]


def test_planted_passages_are_found_in_every_split_the_nearest_first(tmp_path):
    manifest, rows = run(tmp_path)
    question = ROWS["train"][0]["messages"][0]["content"]
    assert said(rows["train"])[0] == f"Read: {MITOCHONDRIA} | {ENERGY}\n\n{question}"
    assert said(rows["train"])[1:] == ["Think.", "What do roots take up?", "Water."]
    assert said(rows["test"])[1].startswith(f"Read: {ROOTS} | ")
    first = found_for(rows, "1")
    assert (first["id"], first["split"], first["message"]) == ("1", "train", 0)
    assert [hit["at"] for hit in first["passages"]] == [5, 9]  # lines of the file
    similar = [hit["similarity"] for hit in first["passages"]]
    assert 1 > similar[0] > similar[1] > 0
    assert manifest["retrieval"] == {"passages": 5, "used": 3, "turns": 3}


def test_nothing_else_of_the_rows_and_of_their_account_changes(tmp_path):
    manifest, rows = run(tmp_path)
    for split, before in ROWS.items():
        kept = [{key: value for key, value in each.items() if key != "messages"} for each in before]
        assert [{key: each[key] for key in kept[0]} for each in rows[split]] == kept
    assert rows["rejected"] == [{"reason": "duplicate"}]
    assert manifest["rejected"] == {"row: duplicate": {}} and manifest["notes"]["cleaned"] == 1
    names = {"train", "test", "rejected", "passages"}
    assert {path.name for path in (tmp_path / "done/rows").iterdir()} == {f"{name}.jsonl" for name in names}
    assert manifest["files"].keys() == {f"rows/{name}.jsonl" for name in names}
    assert said(ROWS["train"])[0].startswith("Where")  # what was handed over is as it was


def test_a_question_without_a_passage_stays_as_it_is_and_is_counted(tmp_path, capsys):
    manifest, rows = run(tmp_path, k=4)
    assert said(rows["train"], 1) == ["Hello?", "Hi."]
    notes = {stage.NONE: 1, stage.FEWER: 2, "cleaned": 1}
    assert manifest["notes"] == notes
    assert f"passages: 3 of 5 used in 3 turns; {stage.NONE} (1); {stage.FEWER} (2)" in capsys.readouterr().err


def test_a_threshold_leaves_out_what_is_not_near_enough(tmp_path):
    _, rows = run(tmp_path)
    first, second = (hit["similarity"] for hit in found_for(rows, "1")["passages"])
    _, rows = run(tmp_path, min_similarity=(first + second) / 2)
    assert said(rows["train"])[0].startswith(f"Read: {MITOCHONDRIA}\n\n")


def test_each_of_the_users_turns_gets_its_own_passages(tmp_path):
    manifest, rows = run(tmp_path, turns="each", k=1)
    texts = said(rows["train"])
    assert texts[0].startswith(f"Read: {MITOCHONDRIA}\n\nWhere")
    assert texts[2] == f"Read: {ROOTS}\n\nWhat do roots take up?"
    assert manifest["retrieval"]["turns"] == 4


def test_passages_go_into_the_system_message_or_make_one(tmp_path):
    _, rows = run(tmp_path, into="system", k=1, template="{text}\n\n{passages}")
    assert rows["test"][0]["messages"][0] == {"role": "system", "content": f"Teach.\n\n{ROOTS}"}
    assert said(rows["test"])[1:] == said(ROWS["test"])[1:]
    assert rows["train"][0]["messages"][0] == {"role": "system", "content": MITOCHONDRIA}
    assert said(rows["train"])[1:] == said(ROWS["train"])
    assert rows["train"][1]["messages"] == ROWS["train"][1]["messages"]  # none was found


def test_ties_are_in_the_order_of_the_file_and_every_run_is_the_same(tmp_path, monkeypatch):
    book = "\n\n".join(["roots grow", "soil stays", "grow roots", "roots grow not grow", "Roots, grow!"])
    asked = {"train": [row(str(number), "roots grow", "Yes.") for number in range(5)]}
    _, rows = run(tmp_path, book, asked, k=3)
    assert [hit["at"] for hit in rows["passages"][0]["passages"]] == [1, 5, 9]
    monkeypatch.setattr(stage, "SCORES", 1)  # a question at a time
    _, again = run(tmp_path, book, asked, k=3)
    assert again == rows


def test_blocks_of_questions_find_what_one_product_does(monkeypatch):
    draw = np.random.default_rng(0)
    passages, questions = draw.normal(size=(30, 4)), draw.normal(size=(17, 4))
    monkeypatch.setattr(stage, "SCORES", 100)
    found = [[hit.number for hit in hits] for hits in stage.nearest(passages, questions, 5, -100.0)]
    assert found == np.argsort(-(questions @ passages.T), axis=1)[:, :5].tolist()


def test_braces_and_blanks_in_texts_and_templates_stay_what_they_are(tmp_path):
    book = 'Roots say {text} and {"a": 1}.'
    rows = {"train": [row("1", "Do roots {passages}?", "Yes.")]}
    _, done = run(tmp_path, book, rows, template='{"p": {passages}} {text}')
    assert said(done["train"])[0] == f'{{"p": {book}}} Do roots {{passages}}?'


def test_special_tokens_that_a_passage_spells_are_what_the_user_says(tmp_path):
    _, rows = run(tmp_path, "Roots</s><s>grow.", {"train": [row("1", "Do roots grow?", "Yes.")]}, k=1)
    asked = rows["train"][0]["messages"][:1]
    ids = tokenise_prompt(asked, TEMPLATE, WORDS)
    plain = tokenise_prompt([{"role": "user", "content": "Read: Roots grow."}], TEMPLATE, WORDS)
    for token in (WORDS.bos_token_id, WORDS.eos_token_id):
        assert ids.count(token) == plain.count(token)
    assert "</s><s>" in asked[0]["content"] and len(ids) > len(plain)


# --- files of passages ------------------------------------------------------------------------------------------------


def test_a_table_gives_the_column_of_its_rows_and_counts_what_is_left_out(tmp_path):
    path = tmp_path / "book.csv"
    path.write_text(
        "p_id,text\nfs-1,Roots take it.\nsec-1,A heading\nfs-2,\nfs-3,Short\nfs-4,Roots take it.\nfs-5,Bees fly far.\n"
    )
    found = read_passages(path, "text", {"p_id": "fs-"}, 6)
    assert found.kept == [(1, "Roots take it."), (6, "Bees fly far.")]
    assert found.left_out == {
        "p_id does not begin with 'fs-'": 1,
        "no text": 1,
        "shorter than min_chars": 1,
        "repeated": 1,
    }
    manifest, rows = run(tmp_path, path, column="text", starts={"p_id": "fs-"}, min_chars=6, k=1)
    assert [hit["at"] for hit in found_for(rows, "3")["passages"]] == [1]
    assert manifest["notes"]["passages left out: repeated"] == 1


def test_paragraphs_have_blank_lines_between_them(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\nOne\n  line two \n \nThree\n", encoding="utf-8-sig")
    assert read_passages(path, None, {}, 1).kept == [(3, "One line two"), (6, "Three")]


def test_rows_of_json_are_read_by_their_column(tmp_path):
    write_jsonl(tmp_path / "book.jsonl", [{"t": "Roots"}, {"t": 3}, {"other": 1}, {"t": "Bees"}])
    found = read_passages(tmp_path / "book.jsonl", "t", {}, 1)
    assert found.kept == [(1, "Roots"), (4, "Bees")] and found.left_out == {"no text": 2}


@pytest.mark.parametrize(
    ("name", "text", "column", "told"),
    [
        ("a.txt", "\n \n", None, "holds no passage: it is empty"),
        ("a.txt", "Hi\n", None, r"holds no passage: shorter than min_chars \(1\)"),
        ("a.csv", "x,y\n1,2\n", None, "holds rows; say in retrieve.column"),
        ("a.jsonl", '{"x": "a"}\n', None, "holds rows; say in retrieve.column"),
        ("a.csv", "x,y\n1,2\n", "z", r"has no column 'z' \(it has x, y\)"),
    ],
)
def test_a_file_without_passages_is_refused_with_the_reason(tmp_path, name, text, column, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(PlumblineError, match=told):
        read_passages(tmp_path / name, column, {}, 3)


def test_passages_without_words_are_refused(tmp_path):
    with pytest.raises(PlumblineError, match="cannot be told apart by words"):
        run(tmp_path, "? !\n\n...")


# --- by a model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A tiny random BERT that reads 24 tokens, with a tokenizer of word pieces."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    WORDS.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, initializer_range=0.5, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_a_vector_is_the_mean_of_the_last_layer_over_a_texts_tokens_at_length_1(bert):
    from transformers import AutoModel

    texts = ["how do plants grow", "bees", "why is the sky blue and the grass green"]
    found = by_model(texts[:2], texts[2:], bert)
    model = AutoModel.from_pretrained(bert).eval()
    for text, vector in zip(texts, [*found.passages, *found.questions], strict=True):
        ids = torch.tensor([WORDS(text)["input_ids"]])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0).numpy()
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert found.cut == 0


def test_a_text_longer_than_the_model_reads_loses_its_end_and_is_counted(bert):
    long = "a " * 60
    found = by_model([long, "a " * 50, "a"], [], bert)
    assert found.cut == 2
    assert found.passages[0] == pytest.approx(found.passages[1], abs=1e-5)


def test_what_a_text_spells_of_special_tokens_is_text_to_the_model(bert):
    found = by_model(["a </s> b", "a b"], [], bert)
    assert len(WORDS("a </s> b", split_special_tokens=True)["input_ids"]) > 5
    assert abs(found.passages[0] @ found.passages[1]) < 0.9999


def test_a_model_finds_a_passage_by_its_own_words_again(tmp_path, bert):
    rows = {"train": [row("1", MITOCHONDRIA, "Yes.")], "test": [row("2", ROOTS, "Yes.")]}
    _, done = run(tmp_path, rows=rows, k=1, embedder=str(bert))
    assert said(done["train"])[0] == f"Read: {MITOCHONDRIA}\n\n{MITOCHONDRIA}"
    assert said(done["test"])[0] == f"Read: {ROOTS}\n\n{ROOTS}"
    assert [entry["passages"][0]["similarity"] for entry in done["passages"]] == [1.0, 1.0]


def test_pickled_weights_are_not_read(tmp_path, bert):
    import shutil

    folder = Path(shutil.copytree(bert, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PlumblineError, match="cannot be read as a model"):
        by_model(["a"], ["b"], folder)
