"""Records in, records out: frozen, picklable wrappers around the functions of `functional`.

A record is a dict of one photograph's fields. A transform reads the fields it is told to, and
returns a new dict; it never changes the one it was handed. Random ones are `grain` random maps:
they draw from the generator of their record only, so a batch does not depend on who makes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from grain.transforms import Map, RandomMap

from data_pipelines import functional
from data_pipelines.errors import InputError
from data_pipelines.tokenizers import Tokenizer

Record = dict[str, Any]


def field(record: Record, name: str) -> Any:
    """Returns a field, or raises `InputError` with the names of those that exist."""
    if name not in record:
        raise InputError(f"There is no field '{name}'; the record has {', '.join(sorted(record))}.")
    return record[name]


def _picture(record: Record, name: str) -> np.ndarray:
    value = field(record, name)
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype != np.uint8:
        kind = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value)
        raise InputError(
            f"Field '{name}' must be a decoded picture, uint8 [H W 3], but is {kind}: "
            "put the transform 'decode' before this one."
        )
    return value


def _check_probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"A probability must lie in 0..1, got {value}.")


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


@dataclasses.dataclass(frozen=True)
class Decode(Map):
    """Decodes an encoded picture to uint8 [size size 3].

    Attributes:
        size: side in pixels.
        source, target: fields of the bytes and of the picture.
        fit: 'canvas' keeps proportions and pads right or below (FLAIR), 'squash' stretches,
            'crop' scales the short side and cuts the middle.
    """

    size: int
    source: str = "image"
    target: str = "image"
    fit: str = "canvas"

    def __post_init__(self) -> None:
        if self.fit not in ("canvas", "squash", "crop") or self.size < 1:
            raise InputError(
                f"decode: 'fit' is canvas, squash or crop and 'size' at least 1 pixel, "
                f"got '{self.fit}' and {self.size}."
            )

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        data = field(record, self.source)
        if not isinstance(data, bytes):
            raise InputError(
                f"decode: field '{self.source}' must hold the bytes of a picture file, "
                f"got {type(data).__name__}."
            )
        image = functional.decode_image(data, self._enough(data))
        if self.fit == "canvas":
            image = functional.canvas(image, self.size)
        elif self.fit == "crop":
            image = functional.centre_crop(image, self.size)
        else:
            image = functional.resize(image, self.size, self.size)
        return {**record, self.target: image}

    def _enough(self, data: bytes) -> tuple[int, int]:
        """Twice the wanted size: half of the gain of scaled decoding, nearly all the quality."""
        double = 2 * self.size
        if self.fit != "canvas":
            return double, double
        height, width = functional.image_size(data)
        return (double, 0) if height >= width else (0, double)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(RandomMap):
    """Cuts a random box and resizes it to uint8 [size size 3].

    Attributes:
        size: side in pixels.
        area: least and greatest share of the picture's area.
        ratio: least and greatest width / height, drawn on a log scale.
        source: field of the decoded picture.
    """

    size: int
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    source: str = "image"

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with the picture cut."""
        image = _picture(record, self.source)
        area = rng.uniform(*self.area)
        ratio = float(np.exp(rng.uniform(*np.log(self.ratio))))
        top, left = rng.random(2)
        cut = functional.random_resized_crop(image, self.size, area, ratio, top, left)
        return {**record, self.source: cut}


@dataclasses.dataclass(frozen=True)
class RandomFlip(RandomMap):
    """Mirrors a picture left to right with a probability.

    A mirrored right eye looks like a left one: leave this out where laterality is the target.
    """

    probability: float = 0.5
    source: str = "image"

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its picture mirrored or not."""
        if rng.random() >= self.probability:
            return record
        return {**record, self.source: functional.flip(_picture(record, self.source))}


@dataclasses.dataclass(frozen=True)
class RandomAffine(RandomMap):
    """Rotates and scales a picture with a probability, black outside (FLAIR's defaults).

    Attributes:
        probability: of changing the picture at all.
        degrees: largest rotation to either side.
        scale: least and greatest isotropic scale.
        source: field of the decoded picture.
    """

    probability: float = 0.25
    degrees: float = 5.0
    scale: tuple[float, float] = (0.9, 1.0)
    source: str = "image"

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, its picture turned and scaled or not."""
        if rng.random() >= self.probability:
            return record
        degrees, scale = rng.uniform(-self.degrees, self.degrees), rng.uniform(*self.scale)
        turned = functional.affine(_picture(record, self.source), degrees, scale)
        return {**record, self.source: turned}


@dataclasses.dataclass(frozen=True)
class ColorJitter(RandomMap):
    """Changes brightness, contrast and saturation, in random order, with a probability.

    Attributes:
        probability: of changing the picture at all.
        brightness, contrast, saturation: a factor is drawn from 1 - x .. 1 + x; 0 leaves it out.
        source: field of the decoded picture.
    """

    probability: float = 0.25
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.0
    source: str = "image"

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, the colours of its picture changed or not."""
        if rng.random() >= self.probability:
            return record
        ranges = {name: getattr(self, name) for name in functional.ENHANCERS}
        names = [name for name, reach in ranges.items() if reach]
        order = [names[i] for i in rng.permutation(len(names))]
        factors = {name: rng.uniform(1 - ranges[name], 1 + ranges[name]) for name in order}
        jittered = functional.colour_jitter(_picture(record, self.source), factors)
        return {**record, self.source: jittered}


@dataclasses.dataclass(frozen=True)
class Prompt(RandomMap):
    """Writes a sentence about one class of the record (FLAIR, "prompts and expert knowledge").

    One label is drawn uniformly and becomes the record's `category`; where `knowledge` describes
    it, the words in the sentence are drawn from the name and its descriptions. A record without
    labels gets an empty category, which matches other empty ones.

    Attributes:
        template: a sentence with one ``{}``.
        source: field of a label or a list of labels.
        target: field of the sentence.
        knowledge: {class name: descriptions}.
        category: field of the raw class name, for `Group`.
    """

    template: str = "A fundus photograph of {}"
    source: str = "labels"
    target: str = "prompt"
    knowledge: Mapping[str, Sequence[str]] | None = None
    category: str = "category"

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise InputError(f"prompt: the template needs one {{}}, got '{self.template}'.")

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `target` and `category`."""
        labels = _names(field(record, self.source))
        category = labels[rng.integers(len(labels))] if labels else ""
        words = [category, *(self.knowledge or {}).get(category, ())]
        chosen = words[rng.integers(len(words))]
        prompt = " ".join(self.template.replace("{}", chosen).split())
        return {**record, self.target: prompt, self.category: category}


@dataclasses.dataclass(frozen=True)
class Caption(RandomMap):
    """Chooses one text among fields that are not empty, e.g. the English or the Chinese report."""

    sources: tuple[str, ...] = ("caption", "caption_zh")
    target: str = "caption"

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `target`; '' where all sources are empty."""
        texts = [text for name in self.sources if (text := field(record, name))]
        return {**record, self.target: texts[rng.integers(len(texts))] if texts else ""}


@dataclasses.dataclass(frozen=True)
class Tokenize(Map):
    """Turns a text into ids int32 [length] and their mask bool [length].

    Attributes:
        tokenizer: a built tokenizer.
        length: tokens per text, special ones included.
        source: field of the text.
        text, text_mask: fields of the ids and of the mask.
    """

    tokenizer: Tokenizer
    length: int
    source: str = "caption"
    text: str = "text"
    text_mask: str = "text_mask"

    def map(self, record: Record) -> Record:
        """Returns the record with `text` and `text_mask`."""
        value = field(record, self.source)
        if not isinstance(value, str):
            raise InputError(
                f"tokenize: field '{self.source}' must be one text, got {type(value).__name__}."
            )
        ids, mask = self.tokenizer.encode(value, self.length)
        return {**record, self.text: ids, self.text_mask: mask}


@dataclasses.dataclass(frozen=True)
class Group(Map):
    """Gives equal texts of a field equal int32 ids: targets that know of equal classes."""

    source: str = "category"
    target: str = "group"

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        return {**record, self.target: functional.text_group(field(record, self.source))}


@dataclasses.dataclass(frozen=True)
class MaskTokens(RandomMap):
    """Masks tokens for language modelling: fields masked_text int32 [L] and masked bool [L].

    Attributes:
        tokenizer: the one that made the text.
        probability: share of the tokens (or words) to predict.
        whole_words: choose words instead of pieces.
        source: field of the token ids; special tokens are never chosen.
    """

    tokenizer: Tokenizer
    probability: float = 0.15
    whole_words: bool = True
    source: str = "text"

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `masked_text` and `masked`."""
        ids, tokenizer = field(record, self.source), self.tokenizer
        special = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)
        corrupted, chosen = functional.mask_tokens(
            ids, ~np.isin(ids, special), rng,
            probability=self.probability, mask_id=tokenizer.mask_id,
            random_ids=(1 + max(*special, tokenizer.unk_id, tokenizer.mask_id),
                        tokenizer.vocab_size),
            starts=tokenizer.word_starts(ids) if self.whole_words else None,
        )
        return {**record, "masked_text": corrupted, "masked": chosen}


def _class_index(classes: Sequence[str | Sequence[str]]) -> dict[str, int]:
    return {name.lower(): i for i, names in enumerate(classes) for name in _names(names)}


@dataclasses.dataclass(frozen=True)
class Label(Map):
    """The index of a record's class, int32 [].

    Attributes:
        classes: names, or tuples of synonyms, in the order of the indices; case does not count.
        source: field of a label or a list; the first one that is a class counts.
        target: field of the index.
    """

    classes: tuple[str | tuple[str, ...], ...]
    source: str = "labels"
    target: str = "label"

    def map(self, record: Record) -> Record:
        """Returns the record with `target`, or raises `InputError` where no label is a class."""
        names = _names(field(record, self.source))
        index = _class_index(self.classes)
        found = [index[name.lower()] for name in names if name.lower() in index]
        if not found:
            raise InputError(
                f"label: none of {names} in field '{self.source}' is one of the classes "
                f"{list(self.classes)}: add it as a synonym, or select the records by 'where'."
            )
        return {**record, self.target: np.int32(found[0])}


@dataclasses.dataclass(frozen=True)
class MultiLabel(Map):
    """One 0 / 1 target per class, float32 [C]: 1 where a label of the record is that class.

    Attributes:
        classes: names, or tuples of synonyms; case does not count.
        source: field of a label or a list.
        target: field of the targets.
    """

    classes: tuple[str | tuple[str, ...], ...]
    source: str = "labels"
    target: str = "labels"

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        index = _class_index(self.classes)
        targets = np.zeros(len(self.classes), np.float32)
        for name in _names(field(record, self.source)):
            if name.lower() in index:
                targets[index[name.lower()]] = 1
        return {**record, self.target: targets}


TRANSFORMS: dict[str, type[Map] | type[RandomMap]] = {
    "decode": Decode,
    "random_resized_crop": RandomResizedCrop,
    "random_flip": RandomFlip,
    "random_affine": RandomAffine,
    "color_jitter": ColorJitter,
    "prompt": Prompt,
    "caption": Caption,
    "tokenize": Tokenize,
    "group": Group,
    "mask_tokens": MaskTokens,
    "label": Label,
    "multi_label": MultiLabel,
}
