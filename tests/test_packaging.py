"""What a package, its citation and its workflows must agree on."""

import pathlib
import tomllib

import pytest
import yaml

import ipg_jax

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_one_version_everywhere():
    assert PYPROJECT["project"]["version"] == ipg_jax.__version__
    assert CITATION["version"] == ipg_jax.__version__
    assert f"## [{ipg_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_marker_of_a_typed_package_is_shipped():
    package = pathlib.Path(ipg_jax.__file__).parent
    shipped = PYPROJECT["tool"]["setuptools"]["package-data"]["ipg_jax"]
    assert package / "py.typed" in {path for pattern in shipped for path in package.glob(pattern)}


def test_citation_holds_what_its_format_asks_for():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["license"] == PYPROJECT["project"]["license"]
    for work in (CITATION, CITATION["preferred-citation"]):
        assert work["title"]
        assert all("name" in author or "family-names" in author for author in work["authors"])
    assert CITATION["preferred-citation"]["url"] == PYPROJECT["project"]["urls"]["Paper"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_the_script_of_all_checks(path):
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_the_supported_versions_of_python_are_those_that_are_tested():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    named = [line.rpartition(" ")[2] for line in PYPROJECT["project"]["classifiers"]]
    assert job["strategy"]["matrix"]["python"] == [v for v in named if v.startswith("3.")]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_are_complete(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in form["body"])
