"""Trains a SentencePiece model on your texts, or collects their words.

    python -m data_pipelines.text.train_tokenizer --output=OUT.model --text FILE_OR_FOLDER ...
    python -m data_pipelines.text.train_tokenizer --output=OUT.model --dataset=manifest/mine \\
        --field=caption,caption_zh --model_type=unigram --vocab_size=8000
    python -m data_pipelines.text.train_tokenizer --output=OUT.words --dataset=ffa_ir/images \\
        --field=caption --model_type=words --min_count=3

Without texts it writes what is shipped: the bilingual model, from reports of synthetic patients, or
the words of their angiograms' captions. Training is
deterministic: the same texts give the same bytes. A config uses the model with
``tokenizer={'name': 'sentencepiece', 'path': 'OUT.model'}``, and words, those of captions say, with
``tokenizer={'name': 'word_level', 'vocab': 'OUT.words'}``.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.records import sources
from data_pipelines.synthetic import causes, report
from data_pipelines.text import words
from data_pipelines.text.texts import listed
from data_pipelines.text.tokenizers import MASK

PATIENTS = 3000
MODEL_TYPES = ("bpe", "unigram", "words")
_PIECES = 2000
# The trainer leaves out, without a word, texts of more than 4192 bytes (a character has up to 4)
# and texts with one of these characters.
_LONGEST = 1000
# Special ids and bytes, which every model has.
_ALWAYS = 5 + 256
_PROTO: Any = sentencepiece_model_pb2  # protobuf makes its classes when it is imported
_REFUSED = {0x0: " ", 0x2585: " "}
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
# Latin letters, general punctuation, letter-like symbols, CJK punctuation, half and full widths.
_NORMALISED = ((0x09, 0x24F), (0x370, 0x3FF), (0x2000, 0x214F), (0x3000, 0x303F), (0xFF00, 0xFFEF))


def synthetic_texts(patients: int = PATIENTS) -> Iterator[str]:
    """Yields the reports of `patients` synthetic patients, each in both languages."""
    for index in range(patients):
        patient = causes.sample_patient(0, index)
        rng = np.random.default_rng([0, index])
        for language in report.LANGUAGES:
            yield report.patient_report(patient, language, rng)


def synthetic_captions(patients: int = PATIENTS) -> Iterator[str]:
    """Yields the English captions of the angiograms of `patients` synthetic patients."""
    for index in range(patients):
        patient = causes.sample_patient(0, index)
        rng = np.random.default_rng([0, index])
        for eye in patient.eyes:
            yield report.eye_caption(eye, "en", rng, "ffa")


def train(texts: Iterable[str], vocab_size: int, model_type: str = "bpe") -> bytes:
    """Returns the bytes of a SentencePiece model.

    Args:
        texts: sentences or reports, in English, Chinese or both.
        vocab_size: number of pieces, special ones and bytes included.
        model_type: 'bpe', byte-pair encoding, keeps the long words of a narrow vocabulary whole: on
            the synthetic reports it needs half the tokens of 'unigram', which has too few distinct
            words there to tell them from letters.

    Ids: pad 0, unk 1, bos 2, eos 3, the mask 4 (a control symbol: no text can produce it), then
    256 bytes, so that any character that the texts lack still has a spelling. Text is lower-cased
    and full-width forms become ASCII, by rules stored in the model.

    Raises:
        InputError: the texts are empty, or allow only fewer pieces or need more (it says how many).
    """
    if vocab_size <= _ALWAYS:
        raise InputError(
            f"A vocabulary of {vocab_size} has no room for words: {_ALWAYS} pieces are special "
            "ids and bytes."
        )
    model = io.BytesIO()
    sentences = [sentence for text in listed(texts, "texts") for sentence in _sentences(text)]
    if not sentences:
        raise InputError("The tokenizer has nothing to learn from: all its texts are empty.")
    with tempfile.TemporaryDirectory() as folder:
        rules = pathlib.Path(folder) / "rules.tsv"
        rules.write_text("".join(_normalisation_rules()), encoding="utf-8")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type=model_type,
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                byte_fallback=True,
                normalization_rule_tsv=str(rules),
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                control_symbols=[MASK],
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(_reason(str(error), vocab_size)) from error
    proto = _PROTO.ModelProto.FromString(model.getvalue())
    if len(proto.pieces) != vocab_size:
        raise InputError(
            f"A vocabulary of {vocab_size} is too large for these texts: they give at most "
            f"{len(proto.pieces)} pieces as {model_type}; lower --vocab_size or give more text."
        )
    return _without_paths(proto)


def _sentences(text: str) -> Iterator[str]:
    """Yields all of a text in stretches that the trainer accepts."""
    text = " ".join(text.translate(_REFUSED).split())
    for start in range(0, len(text), _LONGEST):
        yield text[start : start + _LONGEST]


def _reason(message: str, vocab_size: int) -> str:
    if needed := _TOO_SMALL.search(message):
        return (
            f"A vocabulary of {vocab_size} is too small for these texts: their characters alone "
            f"need {needed[1]} pieces; raise --vocab_size."
        )
    return f"The tokenizer could not be trained: {' '.join(message.split())}"


def _without_paths(proto: Any) -> bytes:
    """Forgets where the rules lay: they are compiled into the model, the path changes each time."""
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString(deterministic=True)


def _normalisation_rules() -> Iterator[str]:
    """Yields SentencePiece's rules "code points, tab, code points" for NFKC and lower case.

    Its built-in rules cover all of Unicode and would make the model twice as large as its pieces.
    """
    for first, last in _NORMALISED:
        for character in map(chr, range(first, last + 1)):
            result = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).lower())
            result = " " if unicodedata.category(character) == "Cc" else result
            if result != character:
                yield f"{ord(character):X}\t{' '.join(f'{ord(c):X}' for c in result)}\n"


def read_texts(paths: Sequence[str | pathlib.Path]) -> Iterator[str]:
    """Yields the non-empty lines of UTF-8 text files; of a folder, those of every .txt in it."""
    for path in _files([paths] if isinstance(paths, str) else paths):
        try:
            with open(path, encoding="utf-8-sig") as lines:
                yield from (line.strip() for line in lines if line.strip())
        except OSError as error:
            raise InputError(f"The text {path} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise InputError(f"The text {path} is not UTF-8: {error.reason}.") from error


def _files(paths: Sequence[str | pathlib.Path]) -> Iterator[pathlib.Path]:
    for path in paths:
        path = pathlib.Path(path)
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not found:
            raise InputError(f"There is no .txt file in the folder {path}.")
        for file in found:
            if not file.resolve().is_relative_to(path.resolve()):
                raise InputError(f"{file} is a link out of the folder {path}: remove the link.")
        yield from found


def read_dataset(
    dataset: str, fields: Sequence[str], split: str = "train", data_dir: str | None = None
) -> Iterator[str]:
    """Yields the non-empty texts in some fields of a built data set.

    Args:
        dataset: the address 'builder/config'.
        fields: names of fields that hold a text or a list of texts.
        split: a split or a part of it.
        data_dir: where data sets lie; see `sources.load`.

    Raises:
        InputError: there is no such data set, split or field, or a field is no text.
    """
    source = sources.load(dataset, split, data_dir)
    fields = listed(fields, "fields")
    for name in fields:
        if name not in source.fields:
            raise InputError(
                f"{dataset} has no field '{name}'; its fields are {', '.join(source.fields)}."
            )
    for index in range(len(source)):
        record = source[index]
        for name in fields:
            values = record[name] if isinstance(record[name], list) else [record[name]]
            if not all(isinstance(value, str) for value in values):
                raise InputError(f"The field '{name}' of {dataset} is not text.")
            yield from (value for value in values if value.strip())


def summary(model: bytes, texts: Sequence[str]) -> str:
    """Says how well a model fits the texts: tokens a text, share of unknown and of byte pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    encoded = [processor.encode(text) for text in listed(texts, "texts")]
    pieces = [piece for ids in encoded for piece in ids]
    lengths = [len(ids) for ids in encoded]
    counts = {
        "unknown": sum(map(processor.is_unknown, pieces)),
        "bytes": sum(map(processor.is_byte, pieces)),
    }
    shares = ", ".join(f"{n / max(len(pieces), 1):.2%} {name}" for name, n in counts.items())
    return (
        f"{processor.vocab_size()} pieces from {len(texts)} texts; {np.mean(lengths):.1f} tokens a "
        f"text, 95% have at most {np.quantile(lengths, 0.95, method='higher')}; {shares}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", required=True, type=places.argument, help="the file to write")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--text",
        nargs="+",
        type=places.argument,
        help="UTF-8 files, a text a line, or folders of .txt",
    )
    where.add_argument("--dataset", help="a built data set, builder/name")
    parser.add_argument("--field", default="text", help="its text fields, separated by commas")
    parser.add_argument("--split", default="train", help="its split, or a part of it")
    parser.add_argument("--data_dir", help="where data sets lie (default: TFDS's folder)")
    parser.add_argument("--vocab_size", type=int, help=f"number of pieces (default: {_PIECES})")
    parser.add_argument("--min_count", type=int, help="of words: how often at least (default: 3)")
    parser.add_argument("--model_type", choices=MODEL_TYPES, default=MODEL_TYPES[0])
    return parser


def _texts(options: argparse.Namespace) -> Iterator[str]:
    if options.dataset:
        fields = [name.strip() for name in options.field.split(",")]
        return read_dataset(options.dataset, fields, options.split, options.data_dir)
    if options.text:
        return read_texts(options.text)
    return synthetic_captions() if options.model_type == "words" else synthetic_texts()


def _trained(texts: list[str], options: argparse.Namespace) -> tuple[bytes, str]:
    """Returns what to write, and how well it fits the texts."""
    if options.model_type != "words":
        if options.min_count is not None:
            raise InputError("--min_count is for --model_type=words.")
        size = _PIECES if options.vocab_size is None else options.vocab_size
        model = train(texts, size, options.model_type)
        return model, summary(model, texts)
    if options.vocab_size is not None:
        raise InputError("--vocab_size is not for --model_type=words: use --min_count.")
    known = words.vocabulary(texts, 3 if options.min_count is None else options.min_count)
    found = [word for text in texts for word in words.clean(text).split()]
    unknown = 1 - sum(map(set(known).__contains__, found)) / len(found)
    fit = f"{len(known)} words from {len(texts)} texts; {unknown:.2%} of theirs are unknown"
    return "".join(f"{word}\n" for word in known).encode(), fit


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    output: pathlib.Path = options.output
    try:
        if output.is_dir() or not output.absolute().parent.is_dir():
            raise InputError(f"--output={output} has to be a file in a folder that exists.")
        texts = list(_texts(options))
        model, fit = _trained(texts, options)
        output.write_bytes(model)
    except OSError as error:
        print(f"train_tokenizer: {output} cannot be written ({error.strerror}).", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"train_tokenizer: {error}", file=sys.stderr)
        return 2
    print(f"{output}: {fit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
