"""Budgets and habits that keep the code readable, checked on the whole tree."""

import ast
import collections
import functools
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("retina_jax", "data_pipelines")
MOST_LINES, MOST_FUNCTION_LINES, MOST_COLUMNS = 400, 60, 100
# A config is read from top to bottom; that of three modalities with all its ablations is longer.
MOST_CONFIG_LINES = 100
# KeepFIT V2, and our studies.
LONGER_CONFIGS = {"configs/mmretinal_v2.py": 180, "configs/real.py": 195}

BANNED_MODULES = {
    "pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib",  # run code on load
    "torch", "torchvision", "tensorflow", "cv2", "pandas",  # not what this library is built on
}  # fmt: skip
# The one file that derives an unpickler, which knows a fixed table of names and calls nothing else.
RESTRICTED_PICKLE = ("retina_jax/convert/unpickling.py", "pickle")
# Of it: the class that is derived, its error, and three codes of operations.
OF_PICKLE = ("_Unpickler", "UnpicklingError", "BUILD", "BYTEARRAY8", "NEXT_BUFFER")
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "import_module"}

# Written in pieces, so that this file does not find itself.
_MACHINE_PATH = re.compile(
    r"(?<![\w./<>{}])/(?:" + "|".join(("home", "root", "work", "Users", "mnt", "scratch")) + r")/\w"
)
_LEFT_OVER = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file that is, or is about to be, part of the project."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode == 0 and listing.stdout:
        found = [ROOT / line for line in listing.stdout.splitlines()]
    else:  # a copy without its history
        found = [path for path in ROOT.rglob("*") if not any(p.startswith(".") for p in path.parts)]
    return tuple(sorted(path for path in found if path.is_file()))


def python_files(*below: str) -> Iterator[tuple[str, str]]:
    """Relative path and text of the Python files, of some top folders only if they are named."""
    for path in files():
        relative = path.relative_to(ROOT)
        if path.suffix == ".py" and (not below or relative.parts[0] in below):
            yield str(relative), path.read_text(encoding="utf-8")


def too_long(path: str, text: str) -> Iterator[str]:
    """Files, functions and lines over their budget."""
    lines = text.splitlines()
    config = LONGER_CONFIGS.get(path, MOST_CONFIG_LINES)
    most = config if path.startswith("configs/") else MOST_LINES
    if len(lines) > most:
        yield f"{path}: {len(lines)} lines, more than {most}"
    for number, line in enumerate(lines, 1):
        if len(line) > MOST_COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, more than {MOST_COLUMNS}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > MOST_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines"


def too_long_config(path: str, text: str) -> Iterator[str]:
    """As `too_long`, for a file among the configs."""
    return too_long(f"configs/{path}", text)


def undocumented(path: str, text: str) -> Iterator[str]:
    """Public modules, classes and functions without docstring or annotations."""
    tree = ast.parse(text)
    if tree.body and not ast.get_docstring(tree):
        yield f"{path}: no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield f"{path}:{node.lineno}: class {node.name} has no docstring"
            for child in node.body:
                if isinstance(child, ast.FunctionDef):
                    yield from _undocumented_function(path, child, node.name)
        elif isinstance(node, ast.FunctionDef):
            yield from _undocumented_function(path, node, "")


def _undocumented_function(path: str, node: ast.FunctionDef, owner: str) -> Iterator[str]:
    special = node.name.startswith("__") and node.name.endswith("__")
    if node.name.startswith("_") and not special:
        return
    name = f"{path}:{node.lineno}: {owner}{'.' if owner else ''}{node.name}"
    # `setup` is Flax's constructor; special methods say nothing that the class does not.
    if not special and node.name != "setup" and not ast.get_docstring(node):
        yield f"{name} has no docstring"
    static = any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list)
    arguments = node.args.posonlyargs + node.args.args
    arguments = arguments[1 if owner and not static else 0 :] + node.args.kwonlyargs
    arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
    for argument in arguments:
        if argument.annotation is None:
            yield f"{name}: argument {argument.arg} has no annotation"
    if node.returns is None and not special and node.name != "setup":
        yield f"{name} has no return annotation"


_ARGUMENT = re.compile(r"\s+\*{0,2}\w+(?:, \*{0,2}\w+)*: (?:of|see|by|from|as (?:in|for)) ")


def telegraphic(path: str, text: str) -> Iterator[str]:
    """Lines on arguments and attributes that name no thing: 'of the batch', 'see there'."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() in ("Args:", "Attributes:"):
            inside = True
        elif line.strip() in ("Returns:", "Raises:", "Yields:") or '"""' in line:
            inside = False
        elif inside and _ARGUMENT.match(line):
            yield f"{path}:{number}: say what it is: {line.strip()[:60]}"


def dangerous(path: str, text: str) -> Iterator[str]:
    """Imports and calls that run code found in data, or need another framework."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pickle":
            if node.attr not in OF_PICKLE:
                yield f"{path}:{node.lineno}: uses pickle.{node.attr}"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS:
                yield f"{path}:{node.lineno}: calls {node.func.id}"
            if isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
                yield f"{path}:{node.lineno}: imports by string"
            for keyword in node.keywords:
                if (
                    keyword.arg == "allow_pickle"
                    and getattr(keyword.value, "value", 1) is not False
                ):
                    yield f"{path}:{node.lineno}: allows pickle"
        for name in names:
            if name.split(".")[0] in BANNED_MODULES and (path, name) != RESTRICTED_PICKLE:
                yield f"{path}:{node.lineno}: imports {name}"


def text_faults(path: str, text: str) -> Iterator[str]:
    """Paths of somebody's machine, and notes about work left over."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in ((_MACHINE_PATH, "machine path"), (_LEFT_OVER, "left-over note")):
            if pattern.search(line):
                yield f"{path}:{number}: {what}: {line.strip()[:80]}"


def _check(check: Callable[[str, str], Iterator[str]], *below: str) -> None:
    faults = [fault for path, text in python_files(*below) for fault in check(path, text)]
    assert not faults, "\n".join(faults)


@pytest.mark.fast
def test_files_functions_and_lines_are_short():
    _check(too_long)


@pytest.mark.fast
def test_public_names_are_documented_and_annotated():
    _check(undocumented, *LIBRARIES)


@pytest.mark.fast
def test_arguments_are_described_by_phrases_of_their_own():
    _check(telegraphic, *LIBRARIES)


@pytest.mark.fast
def test_no_two_classes_have_one_name():
    found = collections.defaultdict(list)
    for path, text in python_files(*LIBRARIES):
        for name in re.findall(r"^class (\w+)", text, re.MULTILINE):
            found[name].append(path)
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


@pytest.mark.fast
def test_no_code_is_run_from_data_and_no_other_framework_is_needed():
    _check(dangerous, *LIBRARIES)


@pytest.mark.fast
def test_no_machine_paths_or_left_overs():
    faults = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, a vocabulary
        faults += text_faults(str(path.relative_to(ROOT)), text)
    assert not faults, "\n".join(faults)


def test_every_config_tells_its_command():
    missing = [
        path
        for path, text in python_files("configs")
        if "def get_config" in text
        and f"retina-jax train --config={Path(path).stem}"
        not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (too_long, "\n" * 401),
        (too_long_config, "\n" * 101),
        (too_long, "x = '" + "a" * 100 + "'"),
        (too_long, "def f():\n" + "    x = 1\n" * 61),
        (undocumented, "x = 1"),
        (undocumented, "'''M.'''\nclass A:\n    pass"),
        (undocumented, "'''M.'''\ndef f(a) -> int:\n    '''D.'''"),
        (undocumented, "'''M.'''\ndef f(a: int):\n    '''D.'''"),
        (undocumented, "'''M.'''\ndef f() -> int:\n    return 1"),
        (
            undocumented,
            "'''M.'''\nclass A:\n    '''D.'''\n    def f(self, a) -> int:\n        '''D.'''",
        ),
        (telegraphic, '"""M.\n\nArgs:\n  key: of the batch.\n"""'),
        (telegraphic, '"""M.\n\nAttributes:\n  mean, std: see there.\n"""'),
        (dangerous, "def f():\n    import pickle"),
        (dangerous, "x = pickle.load(file)"),
        (dangerous, "from torch.nn import Linear"),
        (dangerous, "eval('1')"),
        (dangerous, "np.load(x, allow_pickle=True)"),
        (dangerous, "importlib.import_module(name)"),
        (text_faults, "x = '" + "/ro" + "ot/data'"),
        (text_faults, "# TO" + "DO"),
    ],
)
def test_the_checks_see(check, text):
    assert list(check("x.py", text))


def test_the_checks_let_pass():
    good = (
        "'''M.'''\nimport re\n\n\ndef _f(a):\n    return re.compile(a)\n\n\n"
        "class A:\n    '''D.'''\n\n    def __init__(self, a: int):\n        self.a = a\n"
    )
    for check in (too_long, undocumented, telegraphic, dangerous, text_faults):
        assert list(check("x.py", good)) == []
    assert list(text_faults("x", "https://a.org/home/x a/work/b /workdir/")) == []


def test_parameters_are_updated_by_the_loop_and_by_one_function_of_adapters():
    found = {path for path, text in python_files(*LIBRARIES) if "apply_updates(" in text}
    assert found == {"retina_jax/train/step.py", "retina_jax/adapters/descent.py"}
