"""Records in, records out: frozen, picklable wrappers around pure functions of arrays and texts.

A record is a dict of one photograph's, eye's or patient's fields. A transform reads the fields it
is told to, and returns a new dict; it never changes the one it was handed. Random ones are `grain`
random maps: they draw from the generator of their record only, so a batch does not depend on who
makes it.
"""

from __future__ import annotations

from grain.transforms import Map, RandomMap

from data_pipelines.transforms.acquisition import ColorCast, GaussianBlur, RandomGamma, SpeckleNoise
from data_pipelines.transforms.geometry import (
    CanonicalLaterality,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
)
from data_pipelines.transforms.pictures import (
    CasePictures,
    ColorJitter,
    Decode,
    Eyes,
    ForegroundCrop,
    GaussianNoise,
    RandomErasing,
)
from data_pipelines.transforms.selection import Where as Where
from data_pipelines.transforms.targets import Label, MaskPatches, MultiLabel, Quantity
from data_pipelines.transforms.texts import (
    ComposeCaption,
    Group,
    MaskTokens,
    Prompt,
    Sentences,
    Tokenize,
)
from data_pipelines.transforms.volumes import Standardize, Volume

TRANSFORMS: dict[str, type[Map] | type[RandomMap]] = {
    "decode": Decode,
    "eyes": Eyes,
    "case_pictures": CasePictures,
    "volume": Volume,
    "foreground_crop": ForegroundCrop,
    "canonical_laterality": CanonicalLaterality,
    "random_crop": RandomCrop,
    "random_resized_crop": RandomResizedCrop,
    "random_flip": RandomFlip,
    "random_affine": RandomAffine,
    "color_jitter": ColorJitter,
    "color_cast": ColorCast,
    "random_gamma": RandomGamma,
    "gaussian_blur": GaussianBlur,
    "gaussian_noise": GaussianNoise,
    "speckle_noise": SpeckleNoise,
    "random_erasing": RandomErasing,
    "standardize": Standardize,
    "mask_patches": MaskPatches,
    "prompt": Prompt,
    "caption": ComposeCaption,
    "sentences": Sentences,
    "tokenize": Tokenize,
    "group": Group,
    "mask_tokens": MaskTokens,
    "label": Label,
    "multi_label": MultiLabel,
    "quantity": Quantity,
}
