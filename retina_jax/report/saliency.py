"""What a study of `retina_jax.saliency` beside a run says, and its maps where it lets them show."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from data_pipelines.errors import InputError
from retina_jax.report.from_records import Pictures, inline
from retina_jax.report.records import Run
from retina_jax.report.tables import Cell, PageTable, figure, number, signed, words

FILE = "saliency.json"
_CONTROLS = {
    "random_weights": "the same model with random weights",
    "prior": "a spot in the middle",
    "edges": "edges of the picture",
    "mean_map": "mean map of other pictures",
}
_MOST, _SIDE = 6, 576  # maps, and pixels of a picture beside its map


@dataclasses.dataclass(frozen=True)
class SaliencyMap:
    """A picture beside its map: the number of the record, the class, its figures, the drawing."""

    name: str
    finding: str
    says: str
    image: str


@dataclasses.dataclass(frozen=True)
class SaliencyStudy:
    """A study: its sentence, the controls, and maps, none where the verdict does not pass."""

    says: str
    controls: PageTable
    maps: tuple[SaliencyMap, ...]


def studies(run: Run, pictures: Pictures) -> list[SaliencyStudy]:
    """Studies in folders of a run, such as RUN/saliency.

    Args:
      run: what it left.
      pictures: what is left of the page's; a map takes two.

    Raises:
      InputError: a file that no study has written.
    """
    files = [path for stage in run.stages for path in sorted(stage.folder.glob(f"*/{FILE}"))]
    return [_study(path, pictures) for path in files]


def _study(path: Path, pictures: Pictures) -> SaliencyStudy:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        told = found["verdict"]
        rows = (
            (Cell("maps"), figure({name: told[key] for name, key in (
                ("value", "lift"), ("low", "low"), ("high", "high"))}), Cell(""), Cell("")),
            *((Cell(_CONTROLS.get(name, words(name))), figure(mean), Cell(signed(difference)),
               figure(p)) for name, (mean, difference, p) in told["controls"].items()),
        )  # fmt: skip
        says = told["sentence"] or "The maps find the lesions better than each control does."
        says += f" {told['count']} pictures with marks; model {str(found['model_hash'])[:12]}."
        if found.get("method") == "rollout":
            says += " They say where the tower looks, whatever the class."
        caption = ("Lift: the share of a map inside the marks over the share that they cover of "
                   "what the model sees, 1 for a map that knows nothing; p after Holm")  # fmt: skip
        heads = ("maps and controls", "lift", "maps are better by", "p")
        shown = _maps(path.parent, found["rows"], pictures) if told["passes"] else ()
        return SaliencyStudy(says, PageTable(caption, heads, rows), shown)
    except (OSError, ValueError, KeyError, TypeError, UnidentifiedImageError) as error:
        raise InputError(f"{path} is no whole study of maps ({error!r}); make it again.") from None


def _maps(
    folder: Path, rows: list[Mapping[str, Any]], pictures: Pictures
) -> tuple[SaliencyMap, ...]:  # fmt: skip
    """Evenly spaced from the map that finds most to the one that finds least."""
    ranked = sorted(rows, key=lambda row: -float(row["lift"]))
    step = max(len(ranked) - 1, 1) / max(min(_MOST, len(ranked)) - 1, 1)
    made: list[SaliencyMap] = []
    for place, row in enumerate(ranked[round(step * k)] for k in range(min(_MOST, len(ranked)))):
        if pictures.left < 2:
            break
        pictures.left -= 2
        buffer = io.BytesIO()
        with Image.open(folder / f"{Path(str(row['picture'])).stem}.png") as drawn:
            image = drawn.convert("RGB")
        image.thumbnail((_SIDE, _SIDE))
        image.save(buffer, "JPEG", quality=80)
        height, width = row["cells"]
        says = (f"Lift {number(row['lift'])}; largest value {row['largest']:.3g}; "
                f"{height} × {width} cells.")  # fmt: skip
        made.append(SaliencyMap(f"map {place + 1}", str(row["predicted"]), says,
                                inline(buffer.getvalue())))  # fmt: skip
    return tuple(made)
