"""One TFDS builder per corpus; its docstring says how to get the data, its licence, the command."""

from __future__ import annotations

import tensorflow_datasets as tfds

from data_pipelines.builders.manifest import Manifest
from data_pipelines.builders.text_corpus import TextCorpus
from data_pipelines.synthetic import SyntheticRetina

BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
    "manifest": Manifest,
    "synthetic_retina": SyntheticRetina,
    "text_corpus": TextCorpus,
}
