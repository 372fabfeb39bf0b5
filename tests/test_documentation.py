"""What the documentation says can be done, can be done; and the reference has every public name."""

import ast
import functools
import importlib
import json
import pathlib
import re
import shlex
import shutil
import sys
import tomllib
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import ipg_jax
from configs.common import default_config
from ipg_jax import build_task, kernels
from ipg_jax.cli.main import COMMANDS
from ipg_jax.training.build_checks import checked
from ipg_jax.training.build_compat import get_field, has_field

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
LOG = "docs/dev/xla_log.md"  # of what was done with programs as they were then
FENCE = re.compile(r"^(<!-- needs: .+ -->\n+)?( *)```(\w*)\n(.*?)^\2```", re.M | re.S)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# Public names


def module_file(module: str) -> pathlib.Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def parsed(module: str) -> ast.Module:
    return ast.parse(module_file(module).read_text())


def public_names(module: str) -> list[str]:
    for node in parsed(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def docstring(module: str, name: str) -> str | None:
    """What is written below a name's definition, wherever the module has it from."""
    body = parsed(module).body
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_docstring(node)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if ast.unparse(target) == name:
                is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                return below.value.value if is_text else None
    for node in ast.walk(parsed(module)):
        elsewhere = isinstance(node, ast.ImportFrom) and node.module != module
        if elsewhere and any(imported.name == name for imported in node.names):
            return docstring(node.module, name)
    return ast.get_docstring(parsed(f"{module}.{name}"))


MODULES = sorted(
    ".".join(path.relative_to(ROOT).parent.parts)
    for path in (ROOT / "ipg_jax").rglob("__init__.py")
    if "configs" not in path.parts
)


@pytest.mark.parametrize("module", [name for name in MODULES if public_names(name)])
def test_every_public_name_has_a_docstring_and_is_in_the_reference(module: str):
    names = public_names(module)
    assert [name for name in names if not docstring(module, name)] == []
    if module == "ipg_jax":
        listed = re.findall(r"^\| \[`ipg_jax\.(\w+)`\]", PAGES["docs/api/index.md"], re.M)
        assert sorted(names) == sorted(listed)
        assert all(hasattr(ipg_jax, name) for name in names)
        return
    top = ".".join(module.split(".")[:2])
    page = PAGES[f"docs/api/{top.partition('.')[2]}.md"]
    assert f"::: {top}\n" in page  # which has all of its `__all__`, but what is also a module
    also_modules = [name for name in names if module_file(f"{top}.{name}").exists()]
    assert [name for name in also_modules if f"::: {top}.{name}.{name}\n" not in page] == []
    beyond = set(names) - set(public_names(top))
    shown = re.search(rf"^::: {module}\n(?: .*\n)*? +members: \[(.*)\]", page, re.M)
    assert beyond == (set(shown[1].split(", ")) if shown else set())


# Python


def snippets(page: str) -> list[str]:
    """The Python blocks of a page that need nothing but the package."""
    return [
        code
        for needs, _, kind, code in FENCE.findall(PAGES[page])
        if kind == "python" and not needs
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """What snippets find where they run: a tiny trained run and pictures."""
    folder = tmp_path_factory.mktemp("documentation")
    run = folder / "runs" / "hit_uav"
    shutil.copytree(ROOT / "tests" / "golden" / "v0_1" / "retinanet", run)
    config = json.loads((run / "config.json").read_text()) | {"image_size": [64, 96]}
    (run / "config.json").write_text(json.dumps(config))
    classes = [{"id": i, "name": name} for i, name in enumerate(("person", "car", "bicycle"), 1)]
    (run / "classes.json").write_text(json.dumps(classes))
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for name in ("street.jpg", "photos/a.jpg", "photos/b.jpg"):
        Image.fromarray(noise).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != "CONTRIBUTING.md" and snippets(page)]
)
def test_python_blocks_run_in_their_order(page: str, folder, monkeypatch):
    monkeypatch.chdir(folder)
    module = types.ModuleType("snippets")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with kernels.lowered_for("cpu"), jax.default_prng_impl("rbg"):  # which compile sooner
        for number, code in enumerate(snippets(page)):
            exec(compile(code, f"{page}, block {number}", "exec"), module.__dict__)


# Commands

SHELL = ("", "sh")
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python (?:-m )?[\w./]+|ipg-jax [a-z]+|pip install)\b")


def command_lines(page: str) -> list[str]:
    """The commands of a page, of blocks and within its text, and parts of such."""
    text = PAGES[page]
    lines = []
    for _, _, kind, code in FENCE.findall(text):
        if kind in SHELL:
            lines += code.replace("\\\n", " ").splitlines()
    prose = FENCE.sub("", text)
    lines += [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]
    parts = [part.strip().removesuffix("&") for line in lines for part in line.split("&&")]
    return [part for part in parts if PROGRAM.match(part) or part.startswith("--config.")]


@functools.cache
def known_flags(program: str) -> set[str]:
    """The flags that a program's source defines; programs of one folder share some."""
    if program.startswith("ipg_jax.cli."):
        files = [module_file(program), ROOT / "ipg_jax" / "cli" / "flags.py"]
    elif program.startswith("benchmarks/"):
        files = (ROOT / "benchmarks").glob("*.py")
    else:
        path = module_file(program.removesuffix(".py").replace("/", "."))
        files = path.parent.glob("*.py") if path.name == "__init__.py" else [path]
    text = "\n".join(path.read_text() for path in files)
    found = re.findall(r'DEFINE_\w+\(\s*"(\w+)"|"--([\w-]+)"', text)
    return {name for pair in found for name in pair if name} | {"help", "traceback"}


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """The module or file that a command runs, and its arguments."""
    if words[0] == "ipg-jax":
        assert words[1] in COMMANDS
        return f"ipg_jax.cli.{words[1]}", words[2:]
    name, *rest = words[1:]
    if name == "-m":
        name, *rest = rest
    if name in ("train.py", "eval.py", "predict.py"):
        name = f"ipg_jax.cli.{name.removesuffix('.py')}"
    assert module_file(name.removesuffix(".py").replace("/", ".")).exists(), name
    return name, rest


def config_of(value: str) -> ConfigDict:
    """The config that `--config=...` names, unlocked; the default for a reader's own."""
    file, _, argument = value.partition(":")
    name = file.removeprefix("configs/").removesuffix(".py")
    if name in ("NAME", "...", ""):
        return default_config()
    return importlib.import_module(f"configs.{name}").get_config(argument or None).unlock()


def set_field(config: ConfigDict, path: str, text: str | None) -> None:
    assert has_field(config, path), f"config.{path}"
    section, _, name = f".{path}".rpartition(".")
    section = get_field(config, section[1:]) if section else config
    kind = section.get_type(name)
    if text is None:  # a flag, or a name in a sentence
        value = True if kind is bool else section[name]
    elif kind is str:
        value = text
    else:
        value = ast.literal_eval(text) if text else None
    with section.ignore_type():
        section[name] = value


def check_flags(flags: list[str], known: set[str], config: ConfigDict | None) -> None:
    """Fails for an unknown flag, or a field or a value that the config does not take."""
    for flag in flags:
        name, equals, value = flag.removeprefix("--").partition("=")
        top, _, path = name.partition(".")
        if name.endswith("..."):
            continue
        assert {name, top, name.removeprefix("no")} & known, flag
        if path and not value.endswith("...") and path != "a.b":
            set_field(config, path, value if equals else None)
    if config is not None:
        build_task(checked(config))


def check_command(line: str) -> None:
    if line.startswith("--"):
        check_flags(shlex.split(line), {"config"}, default_config())
        return
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[:2] == ["pip", "install"]:
        named = re.findall(r"(?:\.|ipg-jax|ipg_jax)\[([\w,-]+)\]", line)
        assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)
        return
    # What is in brackets may be left out.
    words = shlex.split(re.sub(r"\[(--.*?)\](?= |$)", r"\1", line), comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, arguments = program_of(words)
    flags = [word for word in arguments if word.startswith("--")]
    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--config=")]
    config = config_of(named[0]) if named else default_config()
    check_flags(flags, known_flags(program), config)


@pytest.mark.parametrize("page", [page for page in PAGES if page != LOG and command_lines(page)])
def test_commands_are_understood(page: str):
    for line in command_lines(page):
        try:
            check_command(line)
        except Exception as error:
            raise AssertionError(f"{page}: {line}") from error


@pytest.mark.parametrize("page", [page for page in PAGES if page != LOG])
def test_every_field_of_the_config_that_is_named_exists(page: str):
    names = re.findall(r"(?<![/\w])config\.([a-z]\w*(?:\.[a-z]\w*)*)", PAGES[page])
    made_up = {"a.b", "a.b.value", "json", "lock", "model.update"}
    unknown = {
        name for name in names if name not in made_up and not has_field(default_config(), name)
    }
    assert unknown == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_repository_lead_to_files(page: str):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", PAGES[page])
    assert [link for link in links if not (ROOT / link).exists()] == []


# Messages


def pieces(text: str) -> list[str]:
    """The literal parts of a message as it is quoted, with `...` where it differs."""
    return [part.strip() for part in text.split("...") if len(part.strip()) > 2]


@functools.cache
def texts_of_the_package() -> str:
    """All literal texts of the package; a blank stands for what is formatted into them."""
    texts = []
    for path in [*(ROOT / "ipg_jax").rglob("*.py"), ROOT / "configs" / "common.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [x.value if isinstance(x, ast.Constant) else "\0" for x in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_messages_of_troubleshooting_are_those_of_the_program():
    page = PAGES["docs/troubleshooting.md"]
    messages = re.findall(r"^\| `(.+?)` \|", page, re.M)
    assert len(messages) > 40
    missing = [m for m in messages for part in pieces(m) if part not in texts_of_the_package()]
    assert missing == []
