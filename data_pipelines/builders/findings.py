"""Corpora of tables that tell more than one grade: RFMiD's findings, OCTDL's diseases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from data_pipelines.builders.entries import Unusable
from data_pipelines.builders.graded import Graded, Part, Tables
from data_pipelines.builders.labels import whole

# FLAIR's names (prepare_partitions.py), but for three: "exudates" where it has "edudates",
# "drusen" for "drusens", and the usual name of central serous chorioretinopathy. OTHER is a column
# of the RIADD challenge only.
FINDINGS = {"DR": "diabetic retinopathy", "ARMD": "age-related macular degeneration",
            "MH": "media haze", "DN": "drusen", "MYA": "myopia",
            "BRVO": "branch retinal vein occlusion", "TSLN": "tessellation",
            "ERM": "epiretinal membrane", "LS": "laser scar", "MS": "macular scar",
            "CSR": "central serous chorioretinopathy", "ODC": "optic disc cupping",
            "CRVO": "central retinal vein occlusion", "TV": "tortuous vessels",
            "AH": "asteroid hyalosis", "ODP": "optic disc pallor", "ODE": "optic disc edema",
            "ST": "shunt", "AION": "anterior ischemic optic neuropathy",
            "PT": "parafoveal telangiectasia", "RT": "retinal traction", "RS": "retinitis",
            "CRS": "chorioretinitis", "EDN": "exudates",
            "RPEC": "retinal pigment epithelium changes", "MHL": "macular hole",
            "RP": "retinitis pigmentosa", "CWS": "cotton wool spots", "CB": "colobomas",
            "ODPM": "optic disc pit maculopathy", "PRH": "preretinal haemorrhage",
            "MNF": "myelinated nerve fibers", "HR": "haemorrhagic retinopathy",
            "CRAO": "central retinal artery occlusion", "TD": "tilted disc",
            "CME": "cystoid macular edema", "PTCR": "post traumatic choroidal rupture",
            "CF": "choroidal folds", "VH": "vitreous haemorrhage", "MCA": "macroaneurysm",
            "VS": "vasculitis", "BRAO": "branch retinal artery occlusion", "PLQ": "plaque",
            "HPED": "haemorrhagic pigment epithelial detachment", "CL": "collaterals",
            "OTHER": "other disease"}  # fmt: skip


class Rfmid(Graded):
    """RFMiD, the Retinal Fundus Multi-disease Image Dataset.

    Get: IEEE DataPort, "Retinal Fundus Multi-Disease Image Dataset (RFMiD)". Licence: CC BY 4.0
    (recalled).

        python -m data_pipelines.build --dataset=rfmid --source=FOLDER

    Expected, at any depth: ``RFMiD_Training_Labels.csv``, ``RFMiD_Validation_Labels.csv`` and
    ``RFMiD_Testing_Labels.csv``, with or without ``a. ``, ``b. ``, ``c. `` before them, with the
    columns ``ID``, ``Disease_Risk`` and one of 0 and 1 for each finding: 45 of them in RFMiD, 28 in
    the table of the RIADD challenge. Pictures: ``a. Training Set/1.png``, or a mirror's
    ``Training/1.png``, ``Validation/1.png``, ``Test/1.png``. The numbers start anew in each part.

    Labels: "a disease" and the findings; or "no disease" and "healthy", as FLAIR has them.

    Statistics: 1,920 + 640 + 640 pictures, 45 findings. Patients are not named.
    """

    TABLES: ClassVar[Tables] = Tables(
        layout="RFMiD_Training_Labels.csv (ID, Disease_Risk, DR, ...), its pictures in "
        "'a. Training Set' or 'Training', and the same of the other parts",
        parts=(
            (
                Part(
                    ("a. RFMiD_Training_Labels.csv", "RFMiD_Training_Labels.csv"),
                    ("a. training set", "training", "training_set"),
                    "train",
                ),
                Part(
                    ("b. RFMiD_Validation_Labels.csv", "RFMiD_Validation_Labels.csv"),
                    ("b. validation set", "validation", "evaluation_set"),
                    "validation",
                ),
                Part(
                    ("c. RFMiD_Testing_Labels.csv", "RFMiD_Testing_Labels.csv"),
                    ("c. testing set", "test", "test_set"),
                    "test",
                ),
            ),
        ),
        columns={"image": ("id",), "labels": ("disease_risk",)},
    )

    def labels(self, row: Mapping[str, str], cells: Mapping[str, str]) -> list[str]:
        """Returns the findings of a row.

        Raises:
            Unusable: a cell that is neither 0 nor 1, or a finding that RFMiD does not have.
        """
        flags = {name: whole(cell) for name, cell in cells.items() if name.lower() != "id"}
        odd = [name for name, flag in flags.items() if flag not in ("0", "1")]
        if odd:
            detail = f"'{flags[odd[0]]}' in column {odd[0]} is neither 0 nor 1"
            raise Unusable("unknown grade", detail)
        if row["labels"] == "0":
            return ["no disease", "healthy"]
        found = [
            name for name, flag in flags.items() if flag == "1" and name.lower() != "disease_risk"
        ]
        unknown = [name for name in found if name not in FINDINGS]
        if unknown:
            raise Unusable("unknown finding", f"RFMiD has no finding {unknown[0]}")
        return ["a disease", *(FINDINGS[name] for name in found)]


class Octdl(Graded):
    """OCTDL, Optical Coherence Tomography Dataset for Image-Based Deep Learning Methods.

    Get: Mendeley Data, "OCTDL" (the paper is arXiv 2312.08255). Licence: CC BY 4.0.

        python -m data_pipelines.build --dataset=octdl --source=FOLDER

    Expected, at any depth: ``OCTDL_labels.csv`` with the columns ``file_name`` (without suffix),
    ``disease``, ``subcategory``, ``condition``, ``patient_id``, ``eye``, ``sex``, ``year`` (the
    last three recalled), and ``OCTDL/DISEASE/file_name.jpg``.

    Statistics: 2,064 B-scans of 821 patients: AMD 1,231, DME 147, ERM 155, normal (NO) 332,
    RAO 22, RVO 101, VID 76. A patient has several.
    """

    TABLES: ClassVar[Tables] = Tables(
        layout="'OCTDL_labels.csv' (file_name, disease, patient_id, ...) and a folder of pictures "
        "for each disease",
        parts=((Part(("OCTDL_labels.csv",)),),),
        columns={
            "image": ("file_name",),
            "labels": ("disease",),
            "patient": ("patient_id",),
            **{name: (name,) for name in ("eye", "subcategory", "condition", "sex", "year")},
        },
        names={
            "AMD": "age related macular degeneration",
            "DME": "diabetic macular edema",
            "ERM": "epiretinal membrane",
            "NO": "normal",
            "RAO": "retinal artery occlusion",
            "RVO": "retinal vein occlusion",
            "VID": "vitreomacular interface disease",
        },
        modality="oct",
    )
