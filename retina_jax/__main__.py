"""The command `retina-jax PROGRAM ...`, or `python -m retina_jax PROGRAM ...`.

Each program is the same as `python -m` of its module.
"""

from __future__ import annotations

import os
import runpy
import sys

PROGRAMS = {
    "train": ("retina_jax.main", "trains what a config describes"),
    "evaluate": ("retina_jax.evaluate", "scores a checkpoint"),
    "predict": ("retina_jax.predict", "what a model says of pictures, row by row"),
    "embed": ("retina_jax.embed", "features of pictures, row by row"),
    "saliency": ("retina_jax.saliency", "maps of a classifier, if they beat their controls"),
    "reproduce": ("retina_jax.reproduce", "published tables, and many models on your data"),
    "report": ("retina_jax.report", "one page for one run or several"),
    "convert": ("retina_jax.convert", "reads released weights, and hands on those of a run"),
    "aot": ("retina_jax.aot", "says what a step needs on devices that are not here"),
    "build": ("data_pipelines.build", "makes a data set"),
    "prepare": ("data_pipelines.prepare", "makes a data set of pictures cropped and resized once"),
}


# Those that compute with large arrays.
_LARGE = ("train", "evaluate", "predict", "embed")
# glibc reads it when a process begins. Without it XLA's arrays are asked of Linux in pages of
# 4 KiB, again in each step, a third of the time of a small convolutional step on processors.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def _with_huge_pages() -> None:
    """Begins this program again with huge pages, unless the variable is set, to whatever value."""
    if sys.platform == "linux" and not set(HUGE_PAGES) & set(os.environ):
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **HUGE_PAGES}
        )


def main() -> None:
    """Runs the program that the first argument names with the arguments after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in PROGRAMS:
        if name in _LARGE:
            _with_huge_pages()
        del sys.argv[1]
        runpy.run_module(PROGRAMS[name][0], run_name="__main__", alter_sys=True)
        return
    known = [f"  {program:9s} {says}" for program, (_, says) in PROGRAMS.items()]
    if name in ("--help", "-h"):
        print("\n".join(("retina-jax PROGRAM [--help] [OPTIONS], where PROGRAM is", *known)))
        return
    print(f"retina-jax has no program '{name}'; it has {', '.join(PROGRAMS)}.", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
