"""What a release uploads: both packages, built once with an example address, and the workflows that do it."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import keras_bucketing
from tests.support.paths import ROOT

REPOSITORY = "https://example.org/example/keras-bucketing"
TAG = f"v{keras_bucketing.__version__}"
LINKS = re.compile(r"\]\(([^)\s]+)\)|\b(?:href|src|srcset)=\"([^\"]+)\"")
pytestmark = pytest.mark.skipif(not (ROOT / "hatch_build.py").exists(), reason="needs the source tree")


def build(kind: str, source: Path, output: Path, repository: str | None) -> Path:
    pytest.importorskip("hatchling", reason="needs hatchling: pip install keras-bucketing[test]")
    if source == ROOT and (ROOT / "PKG-INFO").exists():
        pytest.skip("an unpacked sdist has its addresses already")
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BUCKETING_REPOSITORY"}
    if repository is not None:
        environment["KERAS_BUCKETING_REPOSITORY"] = repository
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(output)]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True, text=True)
    (package,) = output.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return package


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"), REPOSITORY)


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (only,) = folder.iterdir()
    return only


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def links_in(description: str) -> list[str]:
    without_code = re.sub(r"^```.*?^```|`[^`\n]+`", "", description, flags=re.DOTALL | re.MULTILINE)
    return [target for found in LINKS.findall(without_code) for target in found if target]


# The wheel comes out of the unpacked sdist, as `python -m build` and an installation from the sdist make it, and
# without the variable: the address is in the sdist.
@pytest.mark.fit
def test_the_description_has_absolute_links_and_the_package_its_addresses(unpacked: Path, tmp_path: Path):
    metadata = metadata_of(build("wheel", unpacked, tmp_path, repository=None))
    assert dict(entry.split(", ") for entry in metadata.get_all("Project-URL", [])) == {
        "Source": REPOSITORY,
        "Documentation": f"{REPOSITORY}/tree/{TAG}/docs",
        "Changelog": f"{REPOSITORY}/blob/{TAG}/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    }
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = str(metadata.get_payload())
    assert "pip install keras-bucketing " in description
    assert "There is no release" not in description
    assert description.count("\n## ") == (ROOT / "README.md").read_text(encoding="utf-8").count("\n## ")
    targets = links_in(description)
    assert [target for target in targets if urlsplit(target).scheme != "https"] == []
    inside = [re.fullmatch(rf"{REPOSITORY}/(\w+)/{TAG}/([^#]+)(#.+)?", target) for target in targets]
    files = {found[2]: found[1] for found in inside if found}
    assert any(kind == "raw" for kind in files.values()), "the README shows no picture"
    for name, kind in files.items():
        assert (ROOT / name).is_dir() if kind == "tree" else (ROOT / name).is_file(), name
        assert (kind == "raw") == name.endswith((".png", ".svg")), name
    assert len(targets) == len(links_in((ROOT / "README.md").read_text(encoding="utf-8")))


@pytest.mark.fit
def test_without_an_address_the_readme_stays_as_it_is_and_there_are_no_urls(tmp_path: Path):
    metadata = metadata_of(build("wheel", ROOT, tmp_path, repository=None))
    assert metadata.get_all("Project-URL") is None
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


@pytest.mark.fit
def test_the_sdist_holds_what_its_tests_need(unpacked: Path):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    tracked = {name for name in listed if name and (ROOT / name).exists()}
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert tracked - packed == set()


@pytest.fixture(scope="module")
def hook():
    pytest.importorskip("hatchling", reason="needs hatchling: pip install keras-bucketing[test]")
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("relative", "absolute"),
    [
        ("[a](docs/tour.md)", f"[a]({REPOSITORY}/blob/v1/docs/tour.md)"),
        ("[a](docs)", f"[a]({REPOSITORY}/tree/v1/docs)"),
        ("[a](docs/tour.md#end)", f"[a]({REPOSITORY}/blob/v1/docs/tour.md#end)"),
        ("[a](#install)", f"[a]({REPOSITORY}/blob/v1/README.md#install)"),
        ("![a](./docs/a.png)", f"![a]({REPOSITORY}/raw/v1/docs/a.png)"),
        ("[![a](a.svg)](LICENSE)", f"[![a]({REPOSITORY}/raw/v1/a.svg)]({REPOSITORY}/blob/v1/LICENSE)"),
        ('<img src="docs/a.png" width="3">', f'<img src="{REPOSITORY}/raw/v1/docs/a.png" width="3">'),
        ("[a]: docs/tour.md", f"[a]: {REPOSITORY}/blob/v1/docs/tour.md"),
        ("[a](https://keras.io)", "[a](https://keras.io)"),
        ("`x[0](y)`", "`x[0](y)`"),
        ("```python\nx[0](y)\n```\n", "```python\nx[0](y)\n```\n"),
    ],
)
def test_links_become_absolute_and_code_stays(hook, relative: str, absolute: str):
    assert hook.with_absolute_links(relative, REPOSITORY, "v1", ROOT) == absolute


def test_a_release_is_installed_from_the_index_and_a_readme_that_does_not_say_how_is_refused(hook):
    before, table = "# Title\n\n", "| Python | 3.10 |\n\n## Next\n"
    released = hook.installed_from_index(f"{before}## Install\n\nFrom a clone:\n\n{table}")
    assert released.startswith(f"{before}## Install\n\n```bash\npip install keras-bucketing ")
    assert released.endswith(f"```\n\n{table}")
    assert "clone" not in released
    with pytest.raises(ValueError, match="one section '## Install', found 0"):
        hook.installed_from_index("# Title\n")


def test_badges_and_the_notebook_in_colab_need_github(hook):
    text = "# Title\n\nWords.\n"
    assert hook.with_badges(text, REPOSITORY, "v1") == text
    first, _, tests, colab, _, words = hook.with_badges(text, "https://github.com/OWNER/NAME", "v1").splitlines()
    assert (first, words) == ("# Title", "Words.")
    assert tests.endswith("(https://github.com/OWNER/NAME/actions/workflows/ci.yml)")
    assert colab.endswith("(https://colab.research.google.com/github/OWNER/NAME/blob/v1/examples/tour.ipynb)")
    assert (ROOT / hook.NOTEBOOK).is_file()


@pytest.mark.fit
def test_an_address_without_https_is_refused(tmp_path: Path):
    with pytest.raises(subprocess.CalledProcessError) as error:
        build("wheel", ROOT, tmp_path, repository="example.org/keras-bucketing")
    assert "must be an address that begins with https://" in error.value.stderr


def load_workflow(name: str) -> dict:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install keras-bucketing[test]")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)  # YAML 1.1 reads the key `on` so
    return workflow


def steps_of(job: dict) -> list[str]:
    return [step.get("run") or step["uses"] for step in job["steps"]]


def test_every_push_and_pull_request_runs_everything():
    workflow = load_workflow("ci.yml")
    assert {"push", "pull_request", "workflow_call"} == set(workflow["on"])
    (job,) = workflow["jobs"].values()
    assert steps_of(job)[-3:] == [".ci/run lint", ".ci/run default", ".ci/run rest"]
    assert "|| lights=(lint default rest)\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (versions,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert sorted(versions.split()) == sorted(classifiers)


def test_a_tag_is_tested_checked_built_and_uploaded_in_this_order():
    workflow = load_workflow("release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    jobs = workflow["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("test", "build")
    check, built = (step for step in jobs["build"]["steps"] if "name" in step)
    assert 'test "$GITHUB_REF_NAME" = "v$version"' in check["run"]
    assert built["env"] == {"KERAS_BUCKETING_REPOSITORY": "${{ github.server_url }}/${{ github.repository }}"}
    assert built["run"] == "python -m build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["environment"] == "pypi"
    assert steps_of(jobs["publish"])[-1] == "pypa/gh-action-pypi-publish@release/v1"
    assert "id-token" not in str([workflow["permissions"], jobs["test"], jobs["build"]])
