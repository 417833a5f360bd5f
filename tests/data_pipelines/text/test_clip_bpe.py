"""CLIP's byte pairs: by hand over a small list, and against open_clip where it is installed."""

import gzip
import pathlib
import pickle
import random

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.text.clip_bpe import ClipBPE, clean, split_words
from data_pipelines.transforms.texts import MaskTokens

pytestmark = pytest.mark.fast

PAIRS = ["r e", "re t", "i n", "in a</w>", "e t", "t in"]
SIZE = 514 + len(PAIRS)
BOS, EOS = SIZE - 2, SIZE - 1
END = 256  # a byte at the end of a word


@pytest.fixture
def merges(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "merges.txt"
    path.write_text("#version: 0.2\n" + "\n".join([*PAIRS, "beyond it"]) + "\n")
    return path


def ids_of(tokenizer: ClipBPE, text: str, length: int = 24) -> list[int]:
    ids, mask = tokenizer.encode(text, length)
    assert ids.dtype == np.int32 and mask.dtype == bool and not ids[~mask].any()
    return ids[mask].tolist()


def test_pairs_of_the_lowest_rank_are_joined_first(merges: pathlib.Path) -> None:
    tokenizer = ClipBPE(merges, SIZE)
    # "r e t i n a": ret is known before "e t" and "t in" are asked for.
    assert ids_of(tokenizer, "Retina") == [BOS, 512 + 1, 512 + 3, EOS]
    letters = {letter: ord(letter) - 33 for letter in "abcdefghijklmnopqrstuvwxyz!"}
    assert ids_of(tokenizer, "ab! A") == [
        BOS, letters["a"], letters["b"] + END, letters["!"] + END, letters["a"] + END, EOS,
    ]  # fmt: skip
    assert ids_of(tokenizer, "retre") == [BOS, 513, letters["r"], letters["e"] + END, EOS]


def test_texts_are_cut_and_keep_their_end(merges: pathlib.Path) -> None:
    tokenizer = ClipBPE(merges, SIZE)
    assert ids_of(tokenizer, "retina retina retina", length=4) == [BOS, 513, 515, EOS]
    assert ids_of(tokenizer, "") == [BOS, EOS]
    with pytest.raises(InputError, match="no room"):
        tokenizer.encode("a", 1)


@pytest.mark.parametrize("text", ["ret in a", "naïve drusen (40µm)", "黄斑 oedema", "50% !"])
def test_round_trip(merges: pathlib.Path, text: str) -> None:
    tokenizer = ClipBPE(merges, SIZE)
    ids, _ = tokenizer.encode(text, 64)
    assert tokenizer.decode(ids) == " ".join(split_words(clean(text)))


def test_words_and_what_cleaning_makes_of_them() -> None:
    assert split_words("don't 12 o'clock a_b x²") == [
        "don", "'t", "1", "2", "o", "'", "clock", "a", "_", "b", "x", "²",
    ]  # fmt: skip
    assert clean(" Caf\u0065\u0301 \u201cX\u201d &amp;amp; \uff21\u0007 \n y") == 'café "x" & a y'


def test_word_starts(merges: pathlib.Path) -> None:
    tokenizer = ClipBPE(merges, SIZE)
    ids, mask = tokenizer.encode("retina ab", 8)
    starts = tokenizer.word_starts(ids)
    assert starts[mask].tolist() == [True, True, False, True, False, True]


def test_pickles_compares_and_reads_gzip(merges: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tokenizer = ClipBPE(merges, SIZE)
    tokenizer.encode("retina", 8)
    copy = pickle.loads(pickle.dumps(tokenizer))
    packed = tmp_path / "merges.txt.gz"
    packed.write_bytes(gzip.compress(merges.read_bytes()))
    assert copy == tokenizer == ClipBPE(packed, SIZE) and hash(copy) == hash(tokenizer)
    assert ClipBPE(merges, SIZE - 1) != tokenizer


def test_other_files_are_refused(merges: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="has 7 pairs after its first line, .* 49408 .* has 48894"):
        ClipBPE(merges)
    with pytest.raises(InputError, match="cannot be read"):
        ClipBPE(tmp_path / "absent")
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(merges.read_bytes())[:-12])
    with pytest.raises(InputError, match="cannot be read"):
        ClipBPE(broken, SIZE)
    with pytest.raises(InputError, match="at least 514"):
        ClipBPE(merges, 500)


def test_there_is_no_token_for_masks(merges: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no token for masks"):
        MaskTokens(tokenizer=ClipBPE(merges, SIZE))


HARD = [
    "A fundus photograph of moderate non-proliferative DR, OD.", "don't 'twas I'LL o'clock's",
    "cup-to-disc 0.65; naïve drusen (40µm) 黄斑 “quoted” ‘x’", "½ ² Ⅷ ٣ 3/4", "!!! wow!!! !",
    "&amp;lt; &quot;a&quot;", "ﬁne ＡＢＣ　ｶﾀｶﾅ", "右眼：糖尿病视网膜病变；左眼：黄斑水肿。", "",
    "\n\t",
    "emoji 😀👩‍⚕️ zero\u200bwidth", "İstanbul ß ẞ ΣΑΣ", "a_b __init__ x²+y²", "control\x07char\x00",
]  # fmt: skip


def test_ids_are_open_clips() -> None:
    from convert import parity

    parity.torch_or_skip()
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    theirs, ours = open_clip.tokenizer.SimpleTokenizer(), ClipBPE(open_clip.tokenizer.default_bpe())
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (49_408, 49_406, 49_407)
    words = pathlib.Path(__file__).parents[3].joinpath("README.md").read_text("utf-8").split()
    draw = random.Random(0)
    texts = HARD + [" ".join(draw.choices(words, k=20)) for _ in range(300)]
    for text in texts:
        assert ours.encode(text, 77)[0].tolist() == theirs([text])[0].tolist(), text
