"""The configs `real`: what they name is in the tables of the real data."""

from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict
from runs import whole_config

from data_pipelines.builders import table

STAGES = {"flair": whole_config("real", "flair"),
          "skku": whole_config("real", "contrastive_generative"),
          "v2": whole_config("real", "mmretinal_v2").stages.knowledge}  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the four tables as the builder of manifests reads them."""
    found = []
    for name in ("odir", "idrid", "kermany_oct", "ffa"):
        read = table.read(folder / name / "manifest.csv", {})
        for entry in table.listing(read, dataset=name, modality="cfp").entries:
            found.append({"caption_origin": "", **entry.fields})
    return found


def selected(found: list[dict[str, Any]], where: ConfigDict) -> list[dict[str, Any]]:
    """The rows that fulfil every condition, as `Source.select` reads them."""

    def fits(row: dict[str, Any], name: str, wanted: Any) -> bool:
        wanted = {wanted} if isinstance(wanted, str) else set(wanted)
        have = row[name] if isinstance(row[name], list) else [row[name]]
        return not wanted.isdisjoint(have)

    return [row for row in found if all(fits(row, n, wanted) for n, wanted in where.items())]


@pytest.mark.parametrize("name", STAGES)
def test_every_class_that_is_probed_is_in_the_tables(name: str, retina_data: Path) -> None:
    found = rows(retina_data)
    probes = [e for e in STAGES[name].evaluators.values() if e.name == "linear_probe"]
    assert len(probes) == 4
    for probe in probes:
        assert probe.train.where == probe.test.where and probe.train.split != probe.test.split
        chosen = selected(found, probe.test.where)
        classes = probe.test.transforms[-1]["classes"]
        assert len(classes) == len(probe.classes)
        for synonyms in classes:
            names = (synonyms,) if isinstance(synonyms, str) else synonyms
            for label in names:
                assert any(label in row["labels"] for row in chosen), label


def test_public_and_expert_texts_of_keepfit_v2_are_there(retina_data: Path) -> None:
    found = rows(retina_data)
    streams = STAGES["v2"].streams
    public = selected(found, streams.public.where)
    assert {row["dataset"] for row in public} == {"odir", "idrid", "kermany_oct", "ffa"}
    expert = selected(found, streams.expert.where)
    assert expert and {row["dataset"] for row in expert} == {"odir"}
    assert all(row["caption"] for row in expert)


def test_all_three_see_as_many_images() -> None:
    seen = {
        name: (stage.total.steps, sum(stream.batch_size for stream in stage.streams.values()))
        for name, stage in STAGES.items()
    }
    assert set(seen.values()) == {(400, 48)}
