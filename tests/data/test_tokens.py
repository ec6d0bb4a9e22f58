"""Words and their tags: a vocabulary or a tokenizer, labels at the positions of the words."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import tokenizers
import torch

from limbeck.data.label import UNLABELLED
from limbeck.data.modalities.tokens._preprocess import (
    TokensPreprocess,
    affixes,
    divide,
    with_prefix_space,
)
from limbeck.data.preprocess import load as load_preprocess
from limbeck.errors import InputError

WORDS = [
    ["Ana", "vive", "en", "Madrid", "."],
    ["La", "EFE", "informa"],
    ["Juan", "Pablo", "II", "vive", "en", "Roma"],
    ["Ana", "informa", "desde", "Roma"],
]
TAGS = [
    ["B-PER", "O", "O", "B-LOC", "O"],
    ["O", "B-ORG", "O"],
    ["B-PER", "I-PER", "I-PER", "O", "O", "B-LOC"],
    ["B-PER", "O", "O", "B-LOC"],
]
CLASSES = ("O", "B-LOC", "B-ORG", "B-PER", "I-PER")
PARTS = ["train", "train", "train", "val", "test"]
SMALL = {"vocabulary": {"min_count": 1, "buckets": 0}}


@pytest.fixture
def loaded(tmp_path, read):
    def loaded_(words=None, cells=None, *, tokens=None, features=None, **settings):
        rows = {
            "tokens": [*WORDS, ["Roma"]] if words is None else words,
            "ner_tags": [*TAGS, ["B-LOC"]] if cells is None else cells,
            "part": PARTS,
        }
        found = datasets.Dataset.from_dict(rows, features=features)
        found.to_parquet(tmp_path / "rows.parquet")
        return read(
            source="parquet",
            files={"train": "rows.parquet"},
            split_column="part",
            tokens=SMALL if tokens is None else tokens,
            **{"tags": {}, **settings},
        )

    return loaded_


def test_words_are_numbers_of_the_training_vocabulary(loaded):
    data = loaded()
    assert data.classes == CLASSES
    assert (data.facts.modality, data.label_kind) == ("tokens", "tags")
    vocabulary = data.preprocess.vocabulary
    assert vocabulary[:2] == ("en", "vive")  # the only ones that occur twice in train
    assert set(vocabulary) == {word.lower() for row in WORDS[:3] for word in row}
    batch = data.train.__getitems__([0, 1])
    expected = [[2 + vocabulary.index(word.lower()) for word in row] for row in WORDS[:2]]
    assert batch["input_ids"].tolist() == [expected[0], [*expected[1], 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[3, 0, 0, 1, 0], [0, 2, 0, UNLABELLED, UNLABELLED]]
    assert data.validation.__getitems__([0])["input_ids"][0, 2] == 1  # "desde" is unknown
    assert data.train.class_counts(5) == [7, 2, 1, 2, 2]
    assert data.train.raw(1) == {"text": "La EFE informa"}
    assert "unknown words: 0.0% in train, 25.0% in validation" in " ".join(data.facts.notes)


def test_affixes_are_hashed_after_the_words(loaded):
    data = loaded(tokens={"vocabulary": {"size": 3, "buckets": 50}})
    words = len(data.preprocess.vocabulary)
    assert words == 2  # two words occur twice
    assert data.preprocess.vocab_size == 2 + words + 50
    ids = data.train.__getitems__([0, 2])["input_ids"]
    assert ids.shape == (2, 6, 6)
    assert ids[0, :5, 1:].min() >= 2 + words
    assert ids.max() < data.preprocess.vocab_size
    assert (ids[0, 5] == 0).all()
    # "Ana" and "Roma" have the same suffix of one letter only, and the same shape.
    assert affixes("Ana")[-1] == affixes("Roma")[-1] == "Xxx"
    assert affixes("II-2002")[-1] == "XX-00"
    assert ids[0, 0, 5] == ids[1, 5, 5]


def test_what_is_cut_has_no_label_and_is_noted_once(loaded):
    data = loaded(tokens={**SMALL, "max_length": 4})
    batch = data.train.__getitems__([0, 2])
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 4)
    assert batch["labels"].tolist() == [[3, 0, 0, 1], [3, 4, 4, 0]]
    cut = [note for note in data.facts.notes if "cut at" in note]
    assert len(cut) == 1
    assert "max_length, 4 words" in cut[0]
    assert "3 of 14 in train" in cut[0]
    assert "validation" not in cut[0]


TRAINED = {"tokenizer": {"train": {"vocab_size": 40}}}


def test_a_tokenizer_has_the_label_at_the_first_piece(loaded, tmp_path):
    data = loaded(tokens=TRAINED)
    data.preprocess.save(tmp_path / "student")
    alone = tokenizers.Tokenizer.from_file(str(tmp_path / "student" / "tokenizer.json"))
    batch = data.train.__getitems__([2, 1])
    for row, (words, tags) in enumerate([(WORDS[2], TAGS[2]), (WORDS[1], TAGS[1])]):
        encoded = alone.encode(words, is_pretokenized=True)
        length = len(encoded.ids)
        assert batch["input_ids"][row, :length].tolist() == encoded.ids
        expected, before = [], None
        for word in encoded.word_ids:
            new = word is not None and word != before
            expected.append(CLASSES.index(tags[word]) if new else UNLABELLED)
            before = word
        assert batch["labels"][row, :length].tolist() == expected
        assert batch["attention_mask"][row].sum() == length
        assert (batch["labels"][row, length:] == UNLABELLED).all()
    assert len(batch["labels"][0]) > len(WORDS[2]) + 2  # some words have several pieces


def test_labels_are_those_of_the_token_classification_example_of_transformers(loaded, tmp_path):
    transformers = pytest.importorskip("transformers")
    data = loaded(tokens={**TRAINED, "max_length": 8})
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(data.preprocess.tokenizer)
    )
    found = fast(WORDS[:3], is_split_into_words=True, truncation=True, max_length=8)
    batch = data.train.__getitems__([0, 1, 2])
    for row, ids in enumerate(found["input_ids"]):
        labels, before = [], None
        for word in found.word_ids(row):  # run_ner.py, with label_all_tokens False
            if word is None or word == before:
                labels.append(-100)
            else:
                labels.append(CLASSES.index(TAGS[row][word]))
            before = word
        assert batch["input_ids"][row, : len(ids)].tolist() == ids
        assert batch["labels"][row, : len(ids)].tolist() == labels


def test_a_byte_level_tokenizer_adds_a_space_before_each_word():
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["ab cd ab cd"], vocab_size=270, show_progress=False)
    text = with_prefix_space(tokenizer._tokenizer.to_str())
    prepare = TokensPreprocess(8, vocab_size=270, tokenizer=text)
    [one] = prepare.encode([["ab", "cd"]])
    assert one.ids.tolist() == tokenizer.encode(" ab cd").ids
    assert with_prefix_space(text) == text


def test_labels_are_names_numbers_or_missing(loaded):
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER", "B-LOC", "B-ORG"])
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(names),
            "part": datasets.Value("string"),
        }
    )
    numbers = [[names.str2int(tag) for tag in row] for row in [*TAGS, ["B-LOC"]]]
    numbers[0][1] = None
    data = loaded(cells=numbers, features=features)
    assert data.classes == tuple(names.names)
    batch = data.train.__getitems__([0, 1])
    assert batch["labels"].tolist() == [[1, -100, 0, 3, 0], [0, 4, 0, -100, -100]]
    by_text = loaded(
        words=[" ".join(row) for row in [*WORDS, ["Roma"]]],
        cells=[" ".join(row) for row in [*TAGS, ["B-LOC"]]],
    )
    assert by_text.train.__getitems__([0])["labels"].tolist() == [[3, 0, 0, 1, 0]]


def test_words_without_a_tag_are_told_from_further_pieces(loaded):
    cells = [*TAGS[:1], [None] * 3, ["B-PER", *TAGS[2][1:5], None], ["B-PER", "O", "O", "B-LOC"]]
    data = loaded(
        cells=[*cells, ["B-LOC"]], tokens=TRAINED, tags={"classes": CLASSES[:2] + CLASSES[3:]}
    )
    batch, whole = (one.train.__getitems__([0, 1, 2]) for one in (data, loaded(tokens=TRAINED)))
    assert torch.equal(batch["words"], whole["labels"] != UNLABELLED)
    assert batch["words"].sum(1).tolist() == [5, 3, 6]
    assert (batch["labels"] != UNLABELLED).sum(1).tolist() == [5, 0, 5]
    assert not batch["words"][batch["labels"] != UNLABELLED].logical_not().any()
    assert "words" not in whole
    assert "words" not in data.test.__getitems__([0])
    assert data.train.strata.tolist()[1] == UNLABELLED
    assert any("1 of 3 training rows have no label" in note for note in data.facts.notes)


def test_some_training_rows_keep_their_tags(tmp_path, read):
    rows = {"tokens": WORDS[::2] * 20, "ner_tags": TAGS[::2] * 20, "part": ["train"] * 40}
    rows = {name: [*one, *one[:4]] for name, one in rows.items()}
    rows["part"][40:] = ["val", "val", "test", "test"]
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    given = {"source": "parquet", "files": {"train": "rows.parquet"}, "split_column": "part"}
    given |= {"tokens": SMALL, "max_overlap": 1}
    whole, few = (read(**given, tags=one) for one in ({}, {"labelled": 10}))
    known = few.train.strata != UNLABELLED
    assert (
        few.train.strata[known].bincount().tolist()
        == whole.train.strata.bincount()[:5].div(4).tolist()
    )
    batch = few.train.__getitems__(list(range(40)))
    assert torch.equal((batch["labels"] != UNLABELLED).any(1), known)
    labels = whole.train.__getitems__(list(range(40)))["labels"]
    assert torch.equal(batch["words"], labels != UNLABELLED)
    assert torch.equal(batch["labels"][known], labels[known])
    assert set(few.train.labelled().__getitems__(list(range(40)))["index"].tolist()) == set(
        known.nonzero().flatten().tolist()
    )
    assert few.facts.fingerprint != whole.facts.fingerprint
    assert any("10 of 40 training rows keep their label" in note for note in few.facts.notes)
    with pytest.raises(InputError, match=r"data\.tags\.labelled: got 41; allowed: 2 to 40"):
        read(**given, tags={"labelled": 41})


def test_other_tags_need_no_scheme(loaded):
    tags = [["N" if word[0].isupper() else "X" for word in row] for row in [*WORDS, ["Roma"]]]
    data = loaded(cells=tags, tags={"scheme": "none"})
    assert data.classes == ("N", "X")


def test_an_inner_tag_without_a_beginning_is_noted(loaded):
    tags = [["I-PER", "O", "O", "B-LOC", "O"], *TAGS[1:], ["B-LOC"]]
    notes = " ".join(loaded(cells=tags).facts.notes)
    assert "train: 1 I- tags without an entity before begin one" in notes
    assert "validation: " not in notes.replace("in validation", "").split("I- tags")[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"words": [WORDS[0], [], *WORDS[2:], ["Roma"]]},
            r"data\.tokens\.column \('tokens' in train\), row 1: got 'an empty list'.*Remove the",
        ),
        (
            {"cells": [TAGS[0][:4], *TAGS[1:], ["B-LOC"]]},
            r"data\.tags\.column \(row 0 of train\): got '4 tags'; allowed: 5, one for each word",
        ),
        (
            {"cells": [*TAGS[:3], ["B-PER", "O", "O", "B-LOK"], ["B-LOC"]]},
            r"'ner_tags' in validation\): got .*B-LOK.*did you mean \"B-LOC\"",
        ),
        (
            {"cells": [*TAGS, [None]]},
            r"data\.tags \(test\): got 'no tag'; allowed: words with tags",
        ),
        (
            {"cells": [*TAGS, None]},
            r"data\.tags\.column \('ner_tags' in test\), row 0: got 'null'",
        ),
        (
            {"words": [["Ana", "", "en", "Madrid", "."], *WORDS[1:], ["Roma"]]},
            r"'tokens' in train\), row 0: got \"'' as word 1\"",
        ),
        (
            {"cells": [["PER", "O", "O", "B-LOC", "O"], *TAGS[1:], ["B-LOC"]]},
            r"data\.tags: got .*allowed: O, and B-TYPE and I-TYPE.*Not so: PER.*scheme: none",
        ),
        (
            {"settings": {"tags": {"scheme": "none"}}},
            r"allowed: names that are no BIO tags, for scheme: none.*Set tags\.scheme: BIO",
        ),
        (
            {"settings": {"tags": {"column": "ner_tag"}}},
            r"data\.tags\.column.*did you mean \"ner_tags\"",
        ),
        (
            {"tokens": {"vocabulary": {}, "tokenizer": "x"}},
            "vocabulary and tokenizer are given; allowed: one of them",
        ),
        (
            {"settings": {"tags": {"classes": ["O", "PER"]}}},
            "tags.classes: O, and B-TYPE and I-TYPE",
        ),
    ],
)
def test_invalid_rows_are_refused_with_their_place(loaded, given, message):
    settings = given.get("settings", {})
    given = {name: one for name, one in given.items() if name != "settings"}
    with pytest.raises((InputError, ValueError), match=message):
        loaded(**given, **settings)


def test_a_damaged_tokenizer_is_refused_with_its_key(loaded, tmp_path):
    (tmp_path / "damaged.json").write_text("{}")
    with pytest.raises(InputError, match=r"data\.tokens\.tokenizer: got .*damaged\.json"):
        loaded(tokens={"tokenizer": str(tmp_path / "damaged.json")})


def test_a_class_that_no_split_has_is_noted(loaded):
    found = loaded(tags={"classes": [*CLASSES, "B-MISC"]})
    assert found.classes == (*CLASSES, "B-MISC")
    assert "train: no tag B-MISC" in " ".join(found.facts.notes)


def test_every_wrong_row_is_listed(loaded):
    tags = [row[1:] for row in TAGS] + [["B-LOC"]]
    with pytest.raises(InputError) as caught:
        loaded(cells=tags)
    assert [one.where for one in caught.value.problems] == [
        f"data.tags.column (row {row} of train)" for row in range(3)
    ]


def test_texts_are_divided_into_words_and_punctuation_marks():
    found = divide("Aznar, de EE.UU. (EFE): 19.30 o 1_2…")
    assert found.words == (
        *("Aznar", ",", "de", "EE.UU", ".", "(", "EFE", ")", ":", "19.30", "o"),
        *("1", "_", "2", "…"),
    )
    assert [found.text[a:b] for a, b in found.offsets] == list(found.words)


def test_a_user_gives_a_text_words_or_a_row(loaded):
    prepare = loaded().preprocess
    expected = prepare([prepare.read(WORDS[0], where="input")])
    for value in (" ".join(WORDS[0]), tuple(WORDS[0]), {"tokens": WORDS[0]}, np.array(WORDS[0])):
        found = prepare([prepare.read(value, where="input")])
        np.testing.assert_array_equal(found["input_ids"], expected["input_ids"])
    assert prepare.of_line('["Ana", "vive"]') == ["Ana", "vive"]
    assert prepare.of_line("Ana vive") == "Ana vive"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("   ", "a text, or a list of words, with at least one word"),
        ([], "with at least one word"),
        (["Ana", ""], "an empty word"),
        (["Ana", 3], "a text, or a list of words"),
        (3, "a text, or a list of words"),
    ],
)
def test_an_input_without_words_is_refused(loaded, value, message):
    with pytest.raises(InputError, match=message):
        loaded().preprocess.read(value, where="input")


@pytest.mark.parametrize("tokens", [SMALL, {"vocabulary": {"buckets": 20}}, TRAINED])
def test_a_word_of_any_length_and_any_letters(loaded, tokens):
    prepare = loaded(tokens=tokens).preprocess
    odd = ["x" * 100_000, "\ud800"] if "tokenizer" not in tokens else ["x" * 100_000]
    words = ["Ana", *odd, "日本", "🙂", "Roma"]
    found = prepare([prepare.read(words, where="input")])
    assert found["input_ids"].max() < prepare.vocab_size
    [places] = prepare.places([prepare.read(words, where="input")])
    assert len(places) == len(words)
    assert (np.diff(places) > 0).all()


@pytest.mark.parametrize("tokens", [{"vocabulary": {"buckets": 20}}, TRAINED])
def test_the_preprocessing_is_loaded_again(loaded, tokens, tmp_path):
    data = loaded(tokens=tokens)
    data.preprocess.save(tmp_path / "student")
    prepare = load_preprocess(tmp_path / "student")
    assert prepare == data.preprocess
    found = prepare([prepare.read(row, where="input") for row in WORDS[:2]])
    batch = data.train.__getitems__([0, 1])
    for name, values in found.items():
        np.testing.assert_array_equal(values, batch[name].numpy())
    stored = json.loads((tmp_path / "student" / "preprocess.json").read_text())
    assert ("vocabulary" in stored) is ("vocabulary" in tokens)
    assert stored["classes"] == list(CLASSES)


@pytest.mark.parametrize(
    "tokens", [{"vocabulary": {"buckets": 20}}, SMALL, TRAINED], ids=["hashed", "words", "pieces"]
)
def test_the_code_of_the_card_prepares_the_same_numbers(loaded, tokens, tmp_path, monkeypatch):
    import re
    import zlib

    from limbeck.data.modalities.tokens import CODE

    data = loaded(tokens=tokens)
    data.preprocess.save(tmp_path / "student")
    monkeypatch.chdir(tmp_path / "student")
    words = ["Ana", "informa", "desde", "La", "EFE-2002", "Roma"]
    prepare = json.loads((tmp_path / "student" / "preprocess.json").read_text())
    code = re.sub(r"^words = .*", f"words = {words!r}", CODE.strip())
    scope = {"np": np, "prepare": prepare, "re": re, "zlib": zlib}
    exec(code, scope)
    expected = data.preprocess([data.preprocess.read(words, where="input")])
    for name, values in expected.items():
        np.testing.assert_array_equal(scope[name], values)


@pytest.mark.slow
def test_words_are_prepared_without_torch_and_tokenizers(loaded, tmp_path):
    data = loaded(tokens={"vocabulary": {"buckets": 20}})
    data.preprocess.save(tmp_path / "student")
    code = (
        "import sys; from pathlib import Path; from limbeck.data.preprocess import load\n"
        f"prepare = load(Path({str(tmp_path / 'student')!r}))\n"
        "print(prepare([prepare.read('Ana vive en Roma', where='x')])['input_ids'].shape)\n"
        "assert not {'torch', 'datasets', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 4, 6)"


def test_batches_are_padded_to_their_own_longest(loaded):
    train = loaded().train
    assert train.__getitems__([1])["labels"].shape == (1, 3)
    assert train.spread(2) == [1, 2]
    whole = train.__getitems__([0, 1, 2])
    assert torch.equal(whole["attention_mask"].sum(1), torch.tensor([5, 3, 6]))


class Stated:
    """The comparison with a model whose folder has a tokenizer."""

    def __init__(self, folder):
        self.where, self.refused, self.notes, self.section = "teacher", [], [], None
        self.found = SimpleNamespace(
            tokenizer=folder, origin=str(folder), max_length=10, vocab_size=None, pad=None
        )

    def texts(self, count):
        return [" ".join(row) for row in WORDS[:count]]

    def note(self, text):
        self.notes.append(text)

    def refuse(self, where, given, allowed, fix=""):
        self.refused.append((where, fix))


def test_the_tokenizer_is_compared_with_that_of_a_trained_model(loaded, tmp_path):
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    words = [" ".join(row) for row in WORDS]
    tokenizer.train_from_iterator(words, 280, special_tokens=["<pad>"], show_progress=False)
    tokenizer._tokenizer.save(str(tmp_path / "tokenizer.json"))
    own = {"tokenizer": str(tmp_path), "max_length": 10}
    same, stated = loaded(tokens=own).preprocess, Stated(tmp_path)
    same.compare(stated)
    assert stated.refused == []
    for tokens, where in (
        ({**own, "max_length": 11}, "data.tokens.max_length"),
        ({**TRAINED, "max_length": 10}, "data.tokens.tokenizer"),
        ({**SMALL, "max_length": 10}, "data.tokens"),
    ):
        stated = Stated(tmp_path)
        loaded(tokens=tokens).preprocess.compare(stated)
        assert [one[0] for one in stated.refused] == [where]
    assert stated.refused[0][1] == f"Set data.tokens.tokenizer: {tmp_path}"
