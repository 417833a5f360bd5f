"""Apache Beam in the place of processes of this machine: the same chunks and the same records.

Every worker has to see the folder of the data set, and that of the pictures, under the same paths.
What it is to do comes as lines of text files there, so that the graph of a pipeline stays small.
"""

from __future__ import annotations

import contextlib
import pathlib
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_pipelines.errors import InputError

# Beam's default fetches a program from the internet and runs that.
_LOCAL = "--runner=FnApiRunner"


def options(text: str) -> Any:
    """Returns the `PipelineOptions` of a text such as '--runner=FlinkRunner'; '' is this machine.

    Raises:
        InputError: Apache Beam is not installed, the text is none of options, or of no runner.
    """
    try:
        # An extra: most data sets are built on one machine.
        import apache_beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options import pipeline_options  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("--beam needs Apache Beam: pip install 'retina_jax[beam]'.") from None
    try:
        words = shlex.split(text)
        if not all(word.startswith("--") for word in words[:1]):
            raise ValueError(f"'{words[0]}' is no option")
        made = pipeline_options.PipelineOptions([_LOCAL, *words])
        apache_beam.Pipeline(options=made)  # which looks for the runner
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(
            "--beam takes options of a pipeline, as in --beam='--runner=FlinkRunner "
            f"--flink_master=HOST:8081': {' '.join(str(error).split())[:300].rstrip('.')}."
        ) from error
    return made


def calls(
    function: Callable[[str], Iterable[Any]], lines: Iterable[str], file: pathlib.Path
) -> Any:
    """Returns the transform of nothing into what a function returns of each line.

    Args:
        function: a function of a module, or a `functools.partial` of one.
        lines: texts without line ends.
        file: where they are written, and read by the workers.
    """
    import apache_beam  # pyright: ignore[reportMissingImports]

    with open(file, "w", encoding="ascii") as target:
        target.writelines(f"{line}\n" for line in lines)
    read = apache_beam.io.ReadFromText(str(file))
    return read | apache_beam.Reshuffle() | apache_beam.FlatMap(function)


def run(transform: Any, options: Any) -> None:
    """Runs a transform of nothing, whose results are dropped."""
    import apache_beam  # pyright: ignore[reportMissingImports]

    with apache_beam.Pipeline(options=options) as pipeline:
        _ = pipeline | transform


@contextlib.contextmanager
def sentences(options: Any | None) -> Iterator[None]:
    """Makes one sentence of the error of a pipeline; without one, errors stay as they are.

    Args:
        options: those of the pipeline, or None where there is none.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # runners raise what they like
        if options is None:
            raise
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        raise InputError(f"The pipeline of --beam failed: {reason.rstrip('.')}.") from error
