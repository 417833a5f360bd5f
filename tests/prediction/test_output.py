"""What is said of what nobody judged."""

import json

from prediction import asked

from retina_jax.prediction import output


def test_what_was_not_judged_is_not_counted(model, photographs, tmp_path):
    for name, options, said in (
        ("usual", {}, "quality: 7 ok, 0 check, 1 ungradable\nout of distribution: not judged"),
        ("off", {"quality": "off"}, "quality: not judged\n"),
    ):
        made, entries, _ = asked.job(model, [photographs], **options)
        asked.run(made, entries, tmp_path / name)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["out_of_distribution"] is None and said in output.told(summary)
    assert summary["quality"] is None
