"""What the command-line programs share: one sentence instead of a traceback."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import re
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_dict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from data_pipelines import places, stores
from data_pipelines.errors import InputError
from retina_jax import config_files, distributed
from retina_jax.train.preemption import STOPPED_BY_SIGTERM, Preempted

_STOPPED_BY_KEYBOARD = 128 + 2
_logger = logging.getLogger("retina_jax")


def _fail(message: str, status: int = 2) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)


def _parse(arguments: Sequence[str], inputs: bool = False) -> list[str]:
    """absl's parser, but a misspelt config key is a sentence; `inputs`: words may be no options."""
    _show_in_help()
    try:
        rest = flags.FLAGS(arguments, known_only=False)
        for name in flags.FLAGS:
            flag = flags.FLAGS[name]
            if hasattr(flag, "config_filename"):
                getattr(flag.value, "items", None)  # of an unreadable file any use is an OSError
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        OSError,
        ValueError,
        ImportError,
    ) as error:
        _fail(f"Cannot read the command line or the config: {_reason(error)}")
        raise AssertionError("unreachable") from error
    if rest[1:] and not inputs:
        _fail(f"'{rest[1]}' is no option; the variant of a config is written --config=FILE:VARIANT")
    return rest


def _show_in_help() -> None:
    """Options that a program shares with others are in its --help, as its own are."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("retina_jax."):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _reason(error: Exception) -> str:
    """What the parsers of flags and configs mean: their messages hold tracebacks or bare keys."""
    cause = error.args[0] if error.args else error
    text = str(cause.args[0] if isinstance(cause, KeyError) else cause)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [repr(error)]
    if isinstance(error, ImportError):
        return f"{lines[0]}; a config imports its pieces from retina_jax, see docs/add_a_dataset.md"
    if isinstance(error, OSError) or "Traceback" in text:
        return lines[-1].removeprefix("ValueError: ")
    if isinstance(error, (AttributeError, KeyError)) and lines[0].startswith("'"):
        return f"the config has no key {'. '.join(lines)}"
    return " ".join(lines)


def config_dict_of(config: Mapping[str, Any]) -> ConfigDict:
    """A ConfigDict in the order as written, in which stages run.

    Parts that a config names twice become parts of their own: changing one leaves the other.
    """
    parts = {k: config_dict_of(v) if isinstance(v, Mapping) else v for k, v in config.items()}
    return ConfigDict(parts, sort_keys=False)


class _ConfigParser(ConfigFileFlagParser):
    """Reads a config that names only what differs from the defaults; anything can be overridden."""

    def parse(self, path: str) -> ConfigDict:
        """The config, with an empty group for each override of an option in a group it lacks."""
        config: Any = super().parse(config_files.find(path))
        if isinstance(config, Mapping) and not isinstance(config, ConfigDict):
            config = config_dict_of(config)
        pattern = re.compile(rf"--?{self.name}\.([^=\[\]]+)(=.*)?", re.DOTALL)
        for found in filter(None, map(pattern.fullmatch, sys.argv[1:])):
            *groups, option = found[1].split(".")
            group = config
            for key in groups:
                if not isinstance(group, ConfigDict):
                    break
                if group.get(key) is None:
                    group[key] = ConfigDict()
                group = group[key]
            if found[2] == "=None" and isinstance(group, ConfigDict):
                with group.ignore_type():  # an option with a value has a type, which None is not
                    group[option] = config_dict.placeholder(object)
        return config


def define_config(
    flag: str, help_text: str, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[ConfigDict]:
    """A flag that names a config its file; `--<flag>.option=value` sets any of its options.

    A misspelt option is refused where the options are used, with those that are accepted.
    """
    holder = config_flags.DEFINE_config_file(
        flag, None, help_text, flag_values, lock_config=False, accept_new_attributes=True
    )
    flag_values[flag].parser = _ConfigParser(flag, lock_config=False)
    return holder


class _List(flags.Flag):
    """Words with commas between them, in one option or in several."""

    def parse(self, argument: Any) -> None:
        """Adds what an option says to what those before it said."""
        before = self.value if self.present else None
        self.value = [*(before or ()), *(self._parse(argument) or ())]
        self.present += 1


def define_list(
    name: str,
    default: list[str] | None,
    help_text: str,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder[Any]:
    """A flag of several words: `--name=a,b` and `--name=a --name=b` are the same."""
    made = _List(flags.ListParser(), flags.CsvListSerializer(","), name, default, help_text)
    return flags.DEFINE_flag(made, flag_values)


def workdir(given: str | None) -> Path:
    """The directory of a run, to look at: as given, or the default of the flag 'config'."""
    return stores.near(_of_one(given) or default_workdir("config"), "--workdir")


def run_directory(given: str | None) -> contextlib.AbstractContextManager[Path]:
    """As `workdir`, to train in; at an address, what is written is copied there (`stores`)."""
    return stores.mirrored(_of_one(given) or default_workdir("config"), "--workdir")


def _of_one(given: str | None) -> str | None:
    """Raises InputError for an address in a job of several processes."""
    if stores.is_address(given) and jax.process_count() > 1:
        raise InputError(
            f"--workdir is {given}, but the {jax.process_count()} processes of this job share the "
            "files of a run: mount the bucket in all machines, and name the folder."
        )
    return given


def default_workdir(flag: str) -> Path:
    """workdir/<config>[-<variant>] for the value of a config flag."""
    path, _, variant = config_path(flag).partition(":")
    return Path("workdir") / "-".join(filter(None, (Path(path).stem, variant)))


def config_path(flag: str) -> str:
    """The file and argument a config flag was given, 'configs/flair.py:smoke' for instance."""
    given: Any = flags.FLAGS[flag]  # a flag of config_flags
    return given.config_filename


def _ours_to_tell(entry: logging.LogRecord) -> bool:
    """False for a traceback of a thread of Orbax: whoever waits for it makes it a sentence."""
    return not (entry.exc_info and (entry.name == "asyncio" or "orbax" in entry.pathname))


def _in_a_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread that could not write is a line, not a traceback."""
    why = places.reason(failed.exc_value) if failed.exc_value else ""
    if not why:
        threading.__excepthook__(failed)
    else:
        _logger.warning("A file of the run could not be written: %s.", why)


def _of_an_event_loop(trace: types.TracebackType | None) -> bool:
    """Whether it is what threads in C++ say of an event loop that Orbax ended, as its write failed.

    Depending on the version of what calls, it comes as an error or as one that nobody can catch.
    """
    frames = traceback.extract_tb(trace)
    return bool(frames) and all("asyncio" in frame.filename for frame in frames)


def _in_a_library(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Leaves out `_of_an_event_loop`."""
    if not _of_an_event_loop(trace):
        sys.__excepthook__(kind, error, trace)


def _given_up(ignored: sys.UnraisableHookArgs) -> None:
    """Leaves out the reads of a damaged checkpoint that Orbax gave up when one had failed, too."""
    if not inspect.iscoroutine(ignored.object) and not _of_an_event_loop(ignored.exc_traceback):
        sys.__unraisablehook__(ignored)


def _speak() -> None:
    """Our own messages on stderr; of the libraries' only warnings."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().addFilter(_ours_to_tell)
    threading.excepthook = _in_a_thread
    sys.excepthook = _in_a_library
    sys.unraisablehook = _given_up
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    told: set[str] = set()

    def is_new(entry: logging.LogRecord) -> bool:
        """False for what was said of the same records before: each evaluator opens its own."""
        known = entry.name.startswith("data_pipelines") and entry.getMessage() in told
        told.add(entry.getMessage())
        return not known

    handler.addFilter(is_new)
    for name in ("retina_jax", "data_pipelines"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


def _use_compilation_cache() -> None:
    """Keeps compiled programs, so that starting the same run again is quick."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            cache = places.local(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "The cache")
        except InputError:
            _logger.warning("There is no home folder, so compiled programs are not kept.")
            return
        jax.config.update("jax_compilation_cache_dir", str(cache / "retina_jax" / "xla"))


def run(main: Callable[[list[str]], int | None], inputs: bool = False) -> None:
    """Runs a program under absl.

    InputError, Preempted and what the system says of files end it with a sentence.

    Args:
      main: the program, a function of the words of the command line that are no options, after its
        name; what it returns is the exit status, None is 0.
      inputs: whether there may be such words.
    """

    def guarded(arguments: list[str]) -> int:
        _speak()
        _use_compilation_cache()
        try:
            with distributed.together():
                return main(arguments) or 0
        except KeyboardInterrupt:
            _fail("Stopped from the keyboard.", _STOPPED_BY_KEYBOARD)
        except InputError as error:
            _fail(str(error))
        except Preempted as stopped:
            _fail(str(stopped), STOPPED_BY_SIGTERM)
        except (OSError, RuntimeError, ValueError) as error:
            if not (why := places.reason(error)):
                raise
            where = getattr(error, "filename", None)
            _fail(f"{where}: {why}." if where else f"The system says: {why}.")
        raise AssertionError("unreachable")

    app.run(guarded, flags_parser=functools.partial(_parse, inputs=inputs))
