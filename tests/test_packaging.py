"""Other ways to get pynas ask for the packages that pyproject.toml asks for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Names that conda-forge has for packages, and what it does not carry.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "opencv-python-headless": "py-opencv"}
ABSENT = {"torch-pruning"}


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11 and later")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_conda_recipe_has_the_packages_and_their_lower_bounds(project):
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text())
    wanted = {}
    for line in project["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(.*)", line).groups()
        if name not in ABSENT:
            wanted[CONDA.get(name, name)] = bound
    got = dict((*line.split(" "), "")[:2] for line in recipe["requirements"]["run"])
    assert got.pop("python") == "" and got == wanted
    needed = {*recipe["requirements"]["build"], *recipe["requirements"]["host"]}
    assert {line.replace(">=", " >=") for line in project["build-system"]["requires"]} <= needed
    assert recipe["package"]["name"] == project["project"]["name"]
    assert recipe["build"]["python"]["entry_points"] == [
        f"{name} = {target}" for name, target in project["project"]["scripts"].items()
    ]


def test_the_dockerfile_copies_what_a_build_needs_and_asks_for_extras_that_exist(project):
    text = (ROOT / "Dockerfile").read_text()
    copied = set(re.search(r"COPY (pyproject.*) \./", text)[1].split()) | set(
        re.findall(r"^COPY (\w+) \w+$", text, re.M)
    )
    files = ["pyproject.toml", "setup.py", "MANIFEST.in", "CMakeLists.txt", "README.md", "LICENSE"]
    assert copied == {*files, "cmake", "csrc", "pynas"}
    extras = re.search(r"\.whl\)\[([\w,-]+)\]", text)[1].split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])


def test_wheels_are_built_for_every_python_that_is_promised(project):
    built = {
        tuple(map(int, re.fullmatch(r"cp(\d)(\d+)-\*", each).groups()))
        for each in project["tool"]["cibuildwheel"]["build"].split()
    }
    lowest = tuple(map(int, re.search(r">=(\d)\.(\d+)", project["project"]["requires-python"]).groups()))
    assert min(built) == lowest and built == {(3, minor) for minor in range(lowest[1], max(built)[1] + 1)}
    named = re.findall(r"Python :: (\d)\.(\d+)", "\n".join(project["project"]["classifiers"]))
    assert {tuple(map(int, each)) for each in named} == built
    images = re.findall(r"^FROM python:(\d)\.(\d+)-", (ROOT / "Dockerfile").read_text(), re.M)
    assert images and {tuple(map(int, each)) for each in images} <= built
    assert (ROOT / "tests" / "load_core.py").exists() and "tests/load_core.py" in project["tool"]["cibuildwheel"][
        "test-command"
    ]


def test_what_the_tests_install_has_lower_bounds(project):
    extras = project["project"]["optional-dependencies"]
    inside = re.match(r"pynas-search\[(.*)\]", extras["test"][0])[1].split(",")
    lines = [*project["project"]["dependencies"], *(line for name in ("test", *inside) for line in extras[name])]
    assert [line for line in lines if ">=" not in line and not line.startswith("pynas-search[")] == []


@pytest.mark.slow
def test_the_lower_bounds_fit_together():
    """As .ci/lowest installs them; the whole of it takes minutes and gigabytes."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv")
    options = re.search(r"--only-binary.*(?=; \})", (ROOT / ".ci" / "lowest").read_text())[0].split()
    command = [uv, "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--extra", "test", *options]
    done = subprocess.run([*command, "pyproject.toml"], cwd=ROOT, capture_output=True, text=True)
    if re.search("error sending request|dns error|connect", done.stderr):
        pytest.skip("no index of packages")
    assert done.returncode == 0, done.stderr
    bound = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert re.search(rf"^torch=={re.escape(bound)}(\.0)?$", done.stdout, re.M), done.stdout
