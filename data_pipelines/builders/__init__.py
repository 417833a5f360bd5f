"""One TFDS builder per corpus; its docstring says how to get the data, its licence, the command."""

from __future__ import annotations

import tensorflow_datasets as tfds

from data_pipelines.builders.ffa_ir import FfaIr
from data_pipelines.builders.findings import Octdl, Rfmid
from data_pipelines.builders.flair import Flair
from data_pipelines.builders.folders import Acrima, Fives, KermanyOct, Octid
from data_pipelines.builders.fundus_oct import FundusOct
from data_pipelines.builders.graded import Aptos, Idrid, Messidor
from data_pipelines.builders.image_folder import ImageFolder
from data_pipelines.builders.manifest import Manifest
from data_pipelines.builders.mm_retinal import MMRetinal
from data_pipelines.builders.odir import Odir
from data_pipelines.builders.refuge import Refuge
from data_pipelines.builders.ret_clip import RetClip
from data_pipelines.builders.synfundus import Synfundus
from data_pipelines.builders.text_corpus import TextCorpus
from data_pipelines.synthetic.synthetic_retina import SyntheticRetina

BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
    "acrima": Acrima,
    "aptos": Aptos,
    "ffa_ir": FfaIr,
    "fives": Fives,
    "flair": Flair,
    "folder": ImageFolder,
    "fundus_oct": FundusOct,
    "idrid": Idrid,
    "kermany_oct": KermanyOct,
    "manifest": Manifest,
    "messidor": Messidor,
    "mm_retinal": MMRetinal,
    "octdl": Octdl,
    "octid": Octid,
    "odir": Odir,
    "refuge": Refuge,
    "ret_clip": RetClip,
    "rfmid": Rfmid,
    "synfundus": Synfundus,
    "synthetic_retina": SyntheticRetina,
    "text_corpus": TextCorpus,
}
