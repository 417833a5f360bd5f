"""Training a tokenizer is deterministic, on synthetic reports, on files and on data sets."""

import pathlib
import re

import pytest
import sentencepiece

from data_pipelines.errors import InputError
from data_pipelines.text import tokenizers, train_tokenizer


def test_training_is_deterministic_and_bilingual() -> None:
    texts = list(train_tokenizer.synthetic_texts(150))
    assert len(texts) == 300 and any("眼" in text for text in texts)
    first = train_tokenizer.train(iter(texts), 1000)
    assert first == train_tokenizer.train(iter(texts), 1000)
    assert b"/tmp" not in first and b"rules.tsv" not in first


def test_the_shipped_model_is_what_the_command_writes(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bilingual.model"
    assert train_tokenizer.main([f"--output={output}"]) == 0
    assert output.read_bytes() == tokenizers.BILINGUAL.read_bytes()
    assert "2000 pieces from 6000 texts" in capsys.readouterr().out


TEXTS = ["normal fundus of the left eye", "正常眼底", "a macula with drusen, 黄斑玻璃膜疣"] * 20


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sizes_that_texts_do_not_allow_are_told(model_type: str) -> None:
    with pytest.raises(InputError, match="too large") as caught:
        train_tokenizer.train(TEXTS, 8000, model_type)
    greatest = int(re.search(r"at most (\d+) pieces", str(caught.value))[1])
    first = train_tokenizer.train(TEXTS, greatest, model_type)
    assert first == train_tokenizer.train(TEXTS, greatest, model_type)
    with pytest.raises(InputError, match=f"at most {greatest} "):
        train_tokenizer.train(TEXTS, greatest + 1, model_type)
    with pytest.raises(InputError, match=r"too small .* need \d+ pieces") as caught:
        train_tokenizer.train(TEXTS, 262, model_type)
    least = int(re.search(r"need (\d+) pieces", str(caught.value))[1])
    train_tokenizer.train(TEXTS, least + 1, model_type)
    for size in (-1, 261):
        with pytest.raises(InputError, match="no room"):
            train_tokenizer.train(TEXTS, size, model_type)
    with pytest.raises(InputError, match="could not be trained") as caught:
        train_tokenizer.train(TEXTS, 10**12, model_type)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_ids_are_in_the_order_of_the_recipes(tmp_path: pathlib.Path, model_type: str) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(train_tokenizer.train(TEXTS, 290, model_type))
    own = tokenizers.SentencePiece(path)
    assert [own.pad_id, own.unk_id, own.bos_id, own.eos_id, own.mask_id] == [0, 1, 2, 3, 4]
    assert own.vocab_size == 290
    ids, mask = own.encode("Normal 眼底 \u9f98", 32)
    assert own.decode(ids) == "normal 眼底 \u9f98" and own.unk_id not in ids


def test_the_two_kinds_of_model_differ() -> None:
    assert train_tokenizer.train(TEXTS, 290) == train_tokenizer.train(TEXTS, 290, "bpe")
    assert train_tokenizer.train(TEXTS, 290) != train_tokenizer.train(TEXTS, 290, "unigram")


@pytest.mark.parametrize("texts", [[], ["", " \n"], ["\x00"]])
def test_empty_texts_are_told(texts: list[str]) -> None:
    with pytest.raises(InputError, match="nothing to learn from"):
        train_tokenizer.train(texts, 300)


@pytest.mark.parametrize(
    "text", ["x" * 5000 + "zq", "zq\x00", "zq \u2585", "一" * 3000 + "zq"], ids=len
)
def test_no_text_is_left_out(text: str) -> None:
    """The trainer itself drops long texts and some characters without a word."""
    model = train_tokenizer.train([*TEXTS, *[text] * 30], 320)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert not any(map(pieces.is_byte, pieces.encode("zq")))


def test_own_texts(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "corpus"
    (folder / "part").mkdir(parents=True)
    (folder / "one.txt").write_text("\ufeff" + "normal fundus of the left eye\n\n" * 20, "utf-8")
    (folder / "part" / "two.txt").write_bytes("正常眼底\r\n".encode() * 20)
    (folder / "part" / "notes.md").write_bytes(b"caf\xe9")
    output = tmp_path / "own.model"
    arguments = [f"--output={output}", f"--text={folder}", "--vocab_size=310"]
    assert train_tokenizer.main(arguments) == 0
    assert re.search(
        r"310 pieces from 40 texts; [\d.]+ tokens a text, 95% have at most \d+; "
        r"0.00% unknown, 0.00% bytes",
        capsys.readouterr().out,
    )
    first = output.read_bytes()
    assert next(train_tokenizer.read_texts([str(folder)])) == "normal fundus of the left eye"
    files = [str(folder / "one.txt"), str(folder / "part" / "two.txt")]
    assert train_tokenizer.main([arguments[0], "--text", *files, arguments[2]]) == 0
    assert output.read_bytes() == first


def test_summary_counts_what_the_model_lacks() -> None:
    model = train_tokenizer.train(TEXTS, 318)
    assert "from 1 texts; 4.0 tokens a text, 95% have at most 4; 0.00% unknown, 75.00% bytes" in (
        train_tokenizer.summary(model, ["\u9f98"])
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9\n", "not UTF-8"), (b"\n \n", "nothing to learn"), (None, "no .txt file")],
)
def test_bad_texts_are_one_sentence(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    if content is not None:
        (folder / "x.txt").write_bytes(content)
    assert train_tokenizer.main([f"--output={tmp_path / 'x.model'}", f"--text={folder}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "x.model").exists()


def test_links_out_of_the_folder_are_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.txt").write_text("secret\n")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "x.txt").symlink_to(tmp_path / "secret.txt")
    arguments = [f"--output={tmp_path / 'x.model'}", f"--text={tmp_path / 'corpus'}"]
    assert train_tokenizer.main(arguments) == 2
    assert "link out of the folder" in capsys.readouterr().err


def test_texts_of_a_data_set(
    tmp_path: pathlib.Path, data_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "set.model"
    arguments = [f"--output={output}", f"--data_dir={data_dir}", "--vocab_size=600"]
    arguments += ["--dataset=synthetic_retina/smoke", "--split=expert"]
    assert train_tokenizer.main([*arguments, "--field=caption,caption_zh"]) == 0
    assert "600 pieces from 64 texts" in capsys.readouterr().out
    for field, message in (("image", "not text"), ("absent", "no field 'absent'")):
        assert train_tokenizer.main([*arguments, f"--field={field}"]) == 2
        assert message in capsys.readouterr().err


def test_an_output_that_cannot_be_is_told_before_training(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in (tmp_path / "absent" / "x.model", tmp_path):
        assert train_tokenizer.main([f"--output={output}", "--text=absent.txt"]) == 2
        error = capsys.readouterr().err
        assert "--output" in error and error.count("\n") == 1
