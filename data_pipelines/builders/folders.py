"""Corpora without a table: names of files tell the class, names of folders the split.

Pictures are found at any depth, capitals aside, so that the archive of the authors and the usual
mirrors are both read as they are unpacked. Docstrings say "recalled" where a licence, a layout or
a number could not be looked up.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import ClassVar

from data_pipelines.builders import corpus, tree
from data_pipelines.builders.entries import Entries, Listing, Numbered, Ref, Skipped
from data_pipelines.records import splits


@dataclasses.dataclass(frozen=True)
class Filing:
    """How the files of a corpus are named.

    Attributes:
        layout: the rest of the sentence "expected is ...".
        name: the regular expression that the name of a picture in lower case matches; its group
            'code' tells the class, and its group 'patient' the patient where there is one.
        labels: {code: label}.
        folders: the same as in `FileTree.pictures`.
        parts: whether folders named train, val or test are splits of the corpus; those that only
            a mirror has made are not.
        modality: the modality of all pictures.
    """

    layout: str
    name: re.Pattern[str]
    labels: Mapping[str, str]
    folders: tuple[str, ...] = ()
    parts: bool = False
    modality: str = "cfp"


class FolderCorpus(corpus.Corpus):
    """TFDS builder of a corpus without a table; one record is one picture."""

    FILING: ClassVar[Filing]

    def listing(self, config: corpus.CorpusConfig) -> Listing:
        """Returns an entry for every picture that is named as the corpus names them.

        Raises:
            InputError: there is no such picture.
        """
        filing = self.FILING
        files = tree.index(config.root, config.follow_links)
        rows = Numbered()
        seen: set[tuple[str, str]] = set()
        for path in files.pictures(filing.folders):
            name = path.rsplit("/", 1)[-1].lower()
            match = filing.name.fullmatch(name)
            split = tree.part(path) if filing.parts else ""
            if match is None:
                rows.skip(path, "name not of this corpus")
            elif (split, name) in seen:
                rows.skip(path, "another file of this name")
            else:
                seen.add((split, name))
                fields = {
                    "modality": filing.modality,
                    "dataset": self.name,
                    "split": split,
                    "labels": [filing.labels[match["code"]]],
                    "patient": match.groupdict().get("patient") or "",
                }
                rows.keep({"image": (Ref(path),)}, fields)
        if not rows.entries:
            raise files.missing(["picture of this corpus"], filing.layout)
        return Listing(rows.entries, tuple(rows.skipped))


def drop_shared_patients(rows: Listing) -> Listing:
    """Returns the listing without pictures of patients who are in a later part too.

    A patient of 'test' is in 'test' only, one of 'validation' not in 'train'.
    """
    home: dict[str, str] = {}
    for split in splits.SHARES:  # the last one that a patient is in counts
        home |= {
            entry.fields["patient"]: split
            for entry in rows.entries
            if entry.fields["split"] == split
        }
    kept, skipped = Entries(), list(rows.skipped)
    for entry in rows.entries:
        patient, split = entry.fields["patient"], entry.fields["split"]
        if split and home[patient] != split:
            reason = f"patient of '{home[patient]}' in '{split}'"
            skipped.append(Skipped(entry.number, entry.name, reason))
        else:
            kept.append(entry)
    return dataclasses.replace(rows, entries=kept, skipped=tuple(skipped))


class Fives(FolderCorpus):
    """FIVES, a Fundus Image Dataset for AI-based Vessel Segmentation.

    Get: figshare, "FIVES: A Fundus Image Dataset for AI-based Vessel Segmentation" (the paper is
    Scientific Data 9:475, 2022). Licence: CC BY 4.0 (recalled).

        python -m data_pipelines.build --dataset=fives --source=FOLDER

    Expected, at any depth: ``train/Original/1_A.png`` and ``test/Original/1_A.png``; the letter is
    the class, numbers start anew in each part. Vessel masks (``Ground truth``) and the table
    ``Quality Assessment.xlsx`` are not read.

    Statistics: 800 pictures of 2048 x 2048 pixels, 600 for training and 200 for testing, 200 each
    of normal (N), age related macular degeneration (A), diabetic retinopathy (D), glaucoma (G).
    Patients are not named.
    """

    FILING: ClassVar[Filing] = Filing(
        layout="'train/Original/1_A.png' and 'test/Original/1_A.png'",
        name=re.compile(r"\d+_(?P<code>[adgn])\.png"),
        labels={
            "n": "normal",
            "a": "age related macular degeneration",
            "d": "diabetic retinopathy",
            "g": "glaucoma",
        },
        folders=("original",),
        parts=True,
    )


class Acrima(FolderCorpus):
    """ACRIMA: photographs cropped to the optic disc.

    Get: figshare, "CNNs for Automatic Glaucoma Assessment using Fundus Images: An Extensive
    Validation". Licence: CC BY 4.0 (recalled).

        python -m data_pipelines.build --dataset=acrima --source=FOLDER

    Expected, at any depth: ``Im001_ACRIMA.jpg`` without and ``Im310_g_ACRIMA.jpg`` with glaucoma;
    two files end in ``.JPG``. Folders are not looked at.

    Statistics: 705 pictures, 309 without and 396 with glaucoma. FLAIR's list has 746 (379, 367).
    Patients are not named.
    """

    FILING: ClassVar[Filing] = Filing(
        layout="'Im001_ACRIMA.jpg' and 'Im310_g_ACRIMA.jpg'",
        name=re.compile(r"im\d+(?P<code>_g|)_acrima\.(jpe?g|png)"),
        labels={"": "no glaucoma", "_g": "glaucoma"},
    )


class KermanyOct(FolderCorpus):
    """OCT B-scans of Kermany and others (Cell 2018), "OCT2017".

    Get: Mendeley Data, "Large Dataset of Labeled Optical Coherence Tomography (OCT) and Chest
    X-Ray Images". Licence: CC BY 4.0 (recalled).

        python -m data_pipelines.build --dataset=kermany_oct --source=FOLDER

    Expected, at any depth: ``train/CNV/CNV-1016042-1.jpeg`` (class, patient, number of the
    picture), and the same in ``test`` and, in a mirror, ``val``.

    The same number in two classes may be another person; it is taken for the same one. Copies of
    the set in circulation have the same patient, even the same file, in ``train`` and ``test``:
    pictures of a patient who is in ``test`` are left out of the other parts, and those of one in
    ``val`` out of ``train``; the summary counts them.

    Statistics: 108,309 pictures for training and 1,000 for testing, of choroidal
    neovascularization, diabetic macular edema, drusen and normal eyes.
    """

    FILING: ClassVar[Filing] = Filing(
        layout="'train/CNV/CNV-1016042-1.jpeg' and so on",
        name=re.compile(r"(?P<code>cnv|dme|drusen|normal)-(?P<patient>\d+)-\d+\.jpe?g"),
        labels={
            "cnv": "choroidal neovascularization",
            "dme": "diabetic macular edema",
            "drusen": "drusen",
            "normal": "normal",
        },
        parts=True,
        modality="oct",
    )

    def listing(self, config: corpus.CorpusConfig) -> Listing:
        """Returns an entry for every picture, with each patient in one split only.

        Raises:
            InputError: see `FolderCorpus.listing`.
        """
        return drop_shared_patients(super().listing(config))


class Octid(FolderCorpus):
    """OCTID, Optical Coherence Tomography Image Database (arXiv 1812.07056).

    Get: Borealis (Scholars Portal Dataverse), "OCTID", one archive for each class. Licence: not
    stated with the files that could be read.

        python -m data_pipelines.build --dataset=octid --source=FOLDER

    Expected, at any depth: ``NORMAL1.jpeg``, ``AMRD1.jpeg`` (so spelled), ``CSR1.jpeg``,
    ``DR1.jpeg``, ``MH1.jpeg``, in folders of any name such as ``Normal-Retinal-OCT-images``; the
    numbering is recalled.

    Statistics: 572 B-scans: normal 206, central serous chorioretinopathy 102, age related macular
    degeneration 55, macular hole 102, diabetic retinopathy 107. Patients are not named.
    """

    FILING: ClassVar[Filing] = Filing(
        layout="'NORMAL1.jpeg', 'AMRD1.jpeg', 'CSR1.jpeg', 'DR1.jpeg', 'MH1.jpeg' and so on",
        name=re.compile(r"(?P<code>normal|amrd|amd|csr|dr|mh)[ _-]?\(?\d+\)?\.(jpe?g|png)"),
        labels={
            "normal": "normal",
            "csr": "central serous chorioretinopathy",
            "amrd": "age related macular degeneration",
            "amd": "age related macular degeneration",
            "mh": "macular hole",
            "dr": "diabetic retinopathy",
        },
        modality="oct",
    )
