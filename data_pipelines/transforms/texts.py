"""Sentences for pictures: prompts, captions, tokens, and masked tokens."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from grain.transforms import Map, RandomMap

from data_pipelines.errors import InputError
from data_pipelines.records.sources import Source
from data_pipelines.text import knowledge as shipped
from data_pipelines.text import masking, texts
from data_pipelines.text.tokenizers import Tokenizer
from data_pipelines.transforms.fields import Record, check_probability, field, names

log = logging.getLogger(__name__)
_load = functools.cache(shipped.load)
_MODES = ("replace", "append", "define")
_BETWEEN = {"append": ", ", "define": ": "}
_TEMPLATE = "A fundus photograph of {}"


@dataclasses.dataclass(frozen=True)
class Prompt(RandomMap):
    """Writes a sentence about one class of the record (FLAIR, "prompts and expert knowledge").

    One label is drawn uniformly and becomes the record's `category`, and one of its attributes
    where the template has a place for it. A record without labels gets an empty category, which
    matches other empty ones.

    Attributes:
        template: a sentence with one ``{}`` for the class and, if you like, one ``[ATR]`` for the
            attribute. None is that of `modality` or of a loaded `knowledge`, or else
            "A fundus photograph of {}".
        source: field of a label or a list of labels.
        target: field of the sentence.
        knowledge: {class name: descriptions}.
        category: field of the raw class name, for `Group`.
        attributes: field of a list of attributes, e.g. "low quality"; None for none.
        modality: field of the modality, 'cfp', 'ffa' or 'oct', whose shipped knowledge (and
            template, unless given) is used instead of `knowledge`.
        mode: what becomes of a class that has descriptions. 'replace': drawn among its name and
            its descriptions (FLAIR); 'append': "name, description" (RetiXfer); 'define':
            "name: description" (SKKU).
        excluded: values of the field `dataset` whose records keep the plain name, for sets
            labelled in free text; FLAIR: 06_EYENET, 11_STARE, 08_ODIR-5K, 31_JICHI.
    """

    template: str | None = None
    source: str = "labels"
    target: str = "prompt"
    knowledge: Mapping[str, Sequence[str]] | None = None
    category: str = "category"
    attributes: str | None = None
    modality: str | None = None
    mode: str = "replace"
    excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts.listed(self.excluded, "excluded")
        template = self.template
        if template is not None and (template.count("{}") != 1 or template.count("[ATR]") > 1):
            raise InputError(
                f"prompt: the template needs one {{}} and at most one [ATR], got '{template}'."
            )
        if template is not None and "[ATR]" in template and self.attributes is None:
            raise InputError("prompt: the template has [ATR]; name the field of 'attributes'.")
        if self.mode not in _MODES:
            raise InputError(f"prompt: 'mode' is one of {', '.join(_MODES)}, got '{self.mode}'.")
        if self.modality is not None and self.knowledge is not None:
            raise InputError("prompt: 'modality' chooses the knowledge; leave 'knowledge' out.")

    def check_source(self, source: Source) -> None:
        """Refuses records whose prompts would say nothing: of no class, of one, or of codes.

        Raises:
            InputError: fewer than two classes, or one that is a number.
        """
        if self.source not in source.fields:
            return  # another transform makes it
        found = [names(value) for value in source.column(self.source)]
        classes = {texts.plain(name) for labels in found for name in labels if name.strip()}
        empty = sum(not any(map(str.strip, labels)) for labels in found)
        told = f"{empty} of the {len(found)} records of {source} have an empty '{self.source}'"
        codes = sorted(name for name in classes if name.replace(".", "", 1).isdigit())
        how = "build the data set with --column labels=NAME of the column that tells classes"
        if codes:
            raise InputError(
                f"prompt: '{codes[0]}' in '{self.source}' of {source} is a code, no name of a "
                "class: build the data set with --label_names=0:normal,1:mild,... or icdr5."
            )
        if len(classes) < 2:
            only = next(iter(classes), "")
            rest = f" and the others have '{only}'" if classes else ""
            same = f"all {len(found)} records of {source} have the '{self.source}' '{only}'"
            raise InputError(
                f"prompt: {told + rest if empty else same}, so every prompt says the same: {how}, "
                "or train on captions."
            )
        if empty:
            log.warning("%s; their prompts name no class and match each other", told)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `target` and `category`."""
        labels = names(field(record, self.source))
        category = labels[rng.integers(len(labels))] if labels else ""
        wordings = self._wordings(record, category)
        chosen = wordings[rng.integers(len(wordings))]
        attributes = names(field(record, self.attributes)) if self.attributes else []
        attribute = attributes[rng.integers(len(attributes))] if attributes else ""
        template = self._template(record, attribute).replace("[ATR]", attribute)
        prompt = " ".join(template.replace("{}", chosen).split())
        return {**record, self.target: prompt, self.category: category}

    def _knowledge(self, record: Record) -> Mapping[str, Sequence[str]]:
        if self.modality is None:
            return self.knowledge or {}
        modality = field(record, self.modality)
        if modality not in shipped.MODALITIES:
            raise InputError(
                f"prompt: field '{self.modality}' is '{modality}', for which no knowledge ships; "
                f"it can be {', '.join(shipped.MODALITIES)}."
            )
        return _load(modality)

    def _wordings(self, record: Record, category: str) -> list[str]:
        """What may stand for a class; only its name where nothing describes it."""
        if self.excluded and field(record, "dataset") in self.excluded:
            return [category]
        descriptions = self._knowledge(record).get(category, ())
        if self.mode == "replace" or not descriptions:
            return [category, *descriptions]
        return [f"{category}{_BETWEEN[self.mode]}{words}" for words in descriptions]

    def _template(self, record: Record, attribute: str) -> str:
        """The template, with {} for the class; without attribute the one with the right article."""
        known = self._knowledge(record)
        if self.template is not None or not isinstance(known, shipped.Knowledge):
            return self.template or _TEMPLATE
        train = known.templates["train"].replace("[CLS]", "{}")
        return train if attribute else known.templates["inference"]


@dataclasses.dataclass(frozen=True)
class ComposeCaption(RandomMap):
    """Chooses one text among fields that are not empty, e.g. the English or the Chinese report."""

    sources: tuple[str, ...] = ("caption", "caption_zh")
    target: str = "caption"

    def __post_init__(self) -> None:
        texts.listed(self.sources, "sources")

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `target`; '' where all sources are empty."""
        texts = [text for name in self.sources if (text := field(record, name))]
        return {**record, self.target: texts[rng.integers(len(texts))] if texts else ""}


@dataclasses.dataclass(frozen=True)
class Sentences(RandomMap):
    """Changes the order of the sentences of a text and drops some; words are never changed.

    Sentences that say of which eye they speak keep those that follow them, and come after those
    that do not, so that what is said of the right eye stays with it. An id of equal texts
    (`Group`) is to be made of the unchanged text: before this, or with another `target`.

    Attributes:
        shuffle: draw a new order.
        drop: probability of leaving out each part; one drawn part always stays.
        source, target: fields of the text and of the result.
    """

    shuffle: bool = True
    drop: float = 0.0
    source: str = "caption"
    target: str = "caption"

    def __post_init__(self) -> None:
        check_probability(self.drop)

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `target`."""
        text = field(record, self.source)
        if not isinstance(text, str):
            raise InputError(
                f"sentences: field '{self.source}' must be one text, got {type(text).__name__}."
            )
        parts = texts.passages(text)
        if len(parts) < 2:
            return {**record, self.target: text}
        order = rng.permutation(len(parts)) if self.shuffle else np.arange(len(parts))
        order = sorted(order, key=lambda i: texts.names_side(parts[i]))
        stays = rng.random(len(parts)) >= self.drop
        stays[rng.integers(len(parts))] = True
        kept = [parts[i] for i in order if stays[i]]
        return {**record, self.target: texts.join(kept)}


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
    """Gives equal texts of a field equal int32 ids: targets that know of equal classes.

    Attributes:
        source: the field, or several, all of which have to be equal, such as
            ('modality', 'category') where 'normal' is a class of photographs and another of OCT.
        target: field of the id.
    """

    source: str | tuple[str, ...] = "category"
    target: str = "group"

    def map(self, record: Record) -> Record:
        """Returns the record with `target`."""
        values = [field(record, one) for one in names(self.source)]
        if other := [one for one in values if not isinstance(one, str)]:
            raise InputError(f"group: {self.source} has to be of texts, not {other[0]!r}.")
        return {**record, self.target: texts.text_group("\n".join(values))}


@dataclasses.dataclass(frozen=True)
class MaskTokens(RandomMap):
    """Masks tokens for language modelling: fields masked_text int32 [L] and masked bool [L].

    Attributes:
        tokenizer: the one that made the text.
        probability: share of the tokens (or words) to predict.
        whole_words: choose words instead of pieces.
        source: field of the token ids; special tokens are never chosen.
        mask_token_share: share of the chosen tokens that become the mask.
        random_token_share: share that becomes a random token; the others stay. The defaults are
            BERT's 80 / 10 / 10; SKKU has 1 and 0, with probability 0.3 of single tokens.
    """

    tokenizer: Tokenizer
    probability: float = 0.15
    whole_words: bool = True
    source: str = "text"
    mask_token_share: float = 0.8
    random_token_share: float = 0.1

    def __post_init__(self) -> None:
        check_probability(self.probability)
        if self.tokenizer.mask_id < 0:
            raise InputError("mask_tokens: this tokenizer has no token for masks; choose another.")
        shares = (self.mask_token_share, self.random_token_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise InputError(
                "mask_tokens: mask_token_share and random_token_share are at least 0 and sum to at "
                f"most 1, got {shares}."
            )
        if self.tokenizer.mask_id == self.tokenizer.pad_id:
            raise InputError(
                "mask_tokens: this tokenizer has no id for the mask; of a word_level one set "
                "shared_ends to False, or choose another tokenizer."
            )

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record with `masked_text` and `masked`."""
        ids, tokenizer = field(record, self.source), self.tokenizer
        special = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id)
        corrupted, chosen = masking.mask_tokens(
            ids,
            ~np.isin(ids, special),
            rng,
            probability=self.probability,
            mask_id=tokenizer.mask_id,
            random_ids=(
                1 + max(*special, tokenizer.unk_id, tokenizer.mask_id),
                tokenizer.vocab_size,
            ),
            starts=tokenizer.word_starts(ids) if self.whole_words else None,
            mask_token_share=self.mask_token_share,
            random_token_share=self.random_token_share,
        )
        return {**record, "masked_text": corrupted, "masked": chosen}
