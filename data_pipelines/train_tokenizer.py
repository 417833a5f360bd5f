"""Trains the bilingual SentencePiece model.

    python -m data_pipelines.train_tokenizer --output=data_pipelines/assets/bilingual.model

writes the shipped model, from reports of synthetic patients; ``--text`` trains on your own files
instead. Training is deterministic: the same texts give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.errors import InputError
from data_pipelines.retina import causes, report
from data_pipelines.tokenizers import MASK, SentencePiece

PATIENTS = 3000
# Latin letters, general punctuation, letter-like symbols, CJK punctuation, half and full widths.
_NORMALISED = ((0x09, 0x24F), (0x370, 0x3FF), (0x2000, 0x214F), (0x3000, 0x303F), (0xFF00, 0xFFEF))


def synthetic_texts(patients: int = PATIENTS) -> Iterator[str]:
    """Yields the reports of `patients` synthetic patients, each in both languages."""
    for index in range(patients):
        patient = causes.sample_patient(0, index)
        rng = np.random.default_rng([0, index])
        for language in report.LANGUAGES:
            yield report.patient_report(patient, language, rng)


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """Returns the bytes of a SentencePiece model (byte-pair encoding).

    Args:
        texts: sentences or reports, in English, Chinese or both.
        vocab_size: number of pieces.

    Byte-pair encoding keeps the long words of a narrow vocabulary whole: on these reports it needs
    half the tokens of a unigram model, which has too few distinct words to tell them from letters.

    Ids: pad 0, unk 1, bos 2, eos 3, the mask 4 (a control symbol: no text can produce it), then
    256 bytes, so that any character that the texts lack still has a spelling. Text is lower-cased
    and full-width forms become ASCII, by rules stored in the model.
    """
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = pathlib.Path(folder) / "rules.tsv"
        rules.write_text("".join(_normalisation_rules()), encoding="utf-8")
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=model, model_type="bpe",
                vocab_size=vocab_size, hard_vocab_limit=False, character_coverage=1.0,
                byte_fallback=True, normalization_rule_tsv=str(rules),
                pad_id=0, unk_id=1, bos_id=2, eos_id=3, control_symbols=[MASK],
                num_threads=1, minloglevel=2,
            )
        except RuntimeError as error:
            raise InputError(f"The tokenizer could not be trained: {error}") from error
    return _without_paths(model.getvalue())


def _without_paths(model: bytes) -> bytes:
    """Forgets where the rules lay: they are compiled into the model, the path changes each time."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
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


def read_texts(paths: Sequence[str]) -> Iterator[str]:
    """Yields the non-empty lines of UTF-8 text files."""
    for path in paths:
        try:
            with open(path, encoding="utf-8-sig") as lines:
                yield from (line.strip() for line in lines if line.strip())
        except OSError as error:
            raise InputError(f"The text {path} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise InputError(f"The text {path} is not UTF-8: {error.reason}.") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True, help="the .model file to write")
    parser.add_argument("--text", nargs="+", help="UTF-8 files, a sentence or report a line")
    parser.add_argument("--vocab_size", type=int, default=2000)
    options = parser.parse_args(arguments)
    try:
        texts = read_texts(options.text) if options.text else synthetic_texts()
        pathlib.Path(options.output).write_bytes(train(texts, options.vocab_size))
        tokenizer = SentencePiece(options.output)
    except (InputError, OSError) as error:
        print(f"train_tokenizer: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {tokenizer.vocab_size} pieces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
