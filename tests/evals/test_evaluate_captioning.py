"""Captions of a model, beside the commonest and the nearest one."""

import dataclasses

import numpy as np
import pytest
from evaluated_runs import Rows
from grain.transforms import Map
from picture_files import encode
from PIL import Image

from data_pipelines import pipelines
from data_pipelines.errors import InputError
from data_pipelines.images import functional
from data_pipelines.text import words
from retina_jax.evals.captioning import Captioning
from retina_jax.metrics import captioning

CAPTIONS = ("Late leakage of the disc.", "Numerous drusen.", "Regular filling of the vessels.")
WRITTEN = ("late leakage of the disc .", "drusen .", "regular filling .")


class Fixed:
    """In place of an encoder: writes given ids, and sees colours as features."""

    def __init__(self, ids, flip=False):
        self.ids = ids
        self.flip = flip

    def encode_dataset(self, state, data, method, inputs, keep=()):
        assert inputs == ["image"] and not keep
        colours = [batch["image"][batch["_mask"]].mean((1, 2)) for batch in data.batches()]
        if method == "features":
            seen = np.concatenate(colours)
            return {"image": seen[:, [1, 2, 0]] if self.flip else seen}
        assert method == "generate"
        return {"generated": self.ids, "image": np.concatenate(colours)}


class Decoded(Map):
    def map(self, record):
        return {**record, "image": functional.decode_image(record["image"])}


def data(captions, colours):
    rows = [
        {
            "caption": caption,
            "image": encode(Image.new("RGB", (8, 8), colour)),
            "patient": str(i // 2),
        }
        for i, (caption, colour) in enumerate(zip(captions, colours, strict=True))
    ]
    return pipelines.evaluate(Rows(rows), (Decoded(),), batch_size=2)


def test_with_a_flip_pictures_are_compared_as_both_are_mirrored(tokenizer):
    plain = evaluator(tokenizer)
    flipped = dataclasses.replace(plain, encoder=Fixed(plain.encoder.ids, flip=True))
    assert flipped.run(None).scores == plain.run(None).scores


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "own.words"
    known = words.vocabulary([*CAPTIONS, *WRITTEN], 1)
    known.remove("numerous")
    path.write_text("".join(f"{word}\n" for word in known))
    return words.WordLevel(path)


def evaluator(tokenizer, **options):
    ids = np.stack([tokenizer.encode(text, 12)[0][1:] for text in WRITTEN])
    ids[0, 7:] = tokenizer.encode("drusen", 12)[0][1]  # after the end nothing counts
    train = data([CAPTIONS[1], "Something else.", CAPTIONS[1], "", CAPTIONS[2]],
                 [(9, 200, 9), (200, 9, 9), (9, 9, 200), (90, 90, 90), (200, 200, 9)])  # fmt: skip
    test = data(CAPTIONS, [(250, 0, 0), (0, 250, 0), (90, 90, 90)])
    return Captioning(Fixed(ids), tokenizer, test, train, **options)


def expected(captions, references=CAPTIONS):
    clean = [words.clean(text).split() for text in references]
    return captioning.score(
        [words.clean(text).split() for text in captions], [[text] for text in clean]
    )


def test_scores_of_the_model_and_of_both_baselines(tokenizer):
    results = evaluator(tokenizer).run(None)
    values = {name: score.value for name, score in results.scores.items()}
    # Of grey the nearest is the yellow picture: one without caption is no answer.
    answers = {"": WRITTEN, "commonest_": [CAPTIONS[1]] * 3,
               "nearest_": ["Something else.", CAPTIONS[1], CAPTIONS[2]]}  # fmt: skip
    for prefix, captions in answers.items():
        found = expected(captions)
        for order in range(1, 5):
            assert values[f"{prefix}bleu_{order}"] == captioning.bleu(found.bleu, order)
        for name in ("meteor", "rouge_l", "cider_d"):
            assert values[prefix + name] == pytest.approx(getattr(found, name).mean())
    assert values["cider_d_over_nearest"] == pytest.approx(
        values["cider_d"] - values["nearest_cider_d"]
    )
    score = results.scores["cider_d"]
    assert score.low <= score.value <= score.high and score.count == 3
    assert score.chance == values["commonest_cider_d"]
    assert results.scores["cider_d_over_nearest"].chance == 0.0


def test_tokens_as_references_are_what_the_vocabulary_spells(tokenizer):
    results = evaluator(tokenizer, length=5).run(None)
    references = ["late leakage of", "<unk> drusen .", "regular filling of"]
    found = captioning.score(
        [text.split() for text in WRITTEN], [[text.split()] for text in references]
    )
    assert results.scores["cider_d"].value == pytest.approx(found.cider_d.mean())
    commonest = [["<unk>", "drusen", "."]] * 3
    found = captioning.score(commonest, [[text.split()] for text in references])
    assert results.scores["commonest_cider_d"].value == pytest.approx(found.cider_d.mean())


def test_the_gallery_shows_what_each_says(tokenizer):
    gallery = evaluator(tokenizer, examples=2).run(None).gallery
    assert [query.text for query, _ in gallery] == [CAPTIONS[0], CAPTIONS[2]]
    query, answers = gallery[0]
    assert query.image.shape == (128, 128, 3) and query.image[64, 64].argmax() == 0
    assert [card.text.split(",")[0] for card in answers] == ["written", "commonest", "nearest"]
    assert answers[0].text.endswith(": late leakage of the disc .")
    assert answers[2].text.endswith(": something else .")
    assert all(card.score is None and card.correct is None for card in answers)


def test_records_without_a_caption_are_left_out_and_counted(tokenizer, caplog):
    made = evaluator(tokenizer)
    test = data([CAPTIONS[0], "...", CAPTIONS[2]], [(1, 1, 1)] * 3)
    made = Captioning(made.encoder, tokenizer, test, made.train)
    results = made.run(None)
    found = expected([WRITTEN[0], WRITTEN[2]], [CAPTIONS[0], CAPTIONS[2]])
    assert results.scores["cider_d"].value == pytest.approx(found.cider_d.mean())
    assert results.scores["cider_d"].count == 2
    assert [query.text for query, _ in results.gallery] == [CAPTIONS[0], CAPTIONS[2]]
    assert "1 of 3 records of" in caplog.text
    silent = Captioning(made.encoder, tokenizer, data([""], [(1, 1, 1)]))
    with pytest.raises(InputError, match="No record of .* has words in 'caption'"):
        silent.run(None)
    unread = Captioning(made.encoder, tokenizer, test, data(["", "?"], [(1, 1, 1)] * 2))
    with pytest.raises(InputError, match="No record of .* has words in 'caption'"):
        unread.run(None)


def test_without_training_records_there_are_no_baselines(tokenizer):
    made = evaluator(tokenizer)
    results = Captioning(made.encoder, tokenizer, made.test).run(None)
    names = {*(f"bleu_{order}" for order in range(1, 5)), "meteor", "rouge_l", "cider_d"}
    assert set(results.scores) == names
    assert results.scores["cider_d"].value == pytest.approx(expected(WRITTEN).cider_d.mean())
    assert results.scores["cider_d"].chance is None
    assert [len(answers) for _, answers in results.gallery] == [1, 1, 1]


def test_chinese_is_not_scored_word_by_word(tokenizer):
    made = evaluator(tokenizer)
    chinese = Captioning(made.encoder, tokenizer, data(["晚期渗漏"], [(1, 1, 1)]))
    with pytest.raises(InputError, match="are in Chinese.*name an English field"):
        chinese.run(None)
