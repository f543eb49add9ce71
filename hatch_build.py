"""What the package index shows: the README and, in a release, the address of the repository.

The address comes from one environment variable, KERAS_BUCKETING_REPOSITORY, which the release workflow sets. With it,
the package gets its links, and the README tells how to install a release, not a clone; its relative links become
absolute, as indexes resolve none. Without the variable, the package has no links and the README as it is.
`hatch-fancy-pypi-readme` rewrites a README too, but its replacements are fixed in pyproject.toml and know no variable.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "KERAS_BUCKETING_REPOSITORY"
NOTEBOOK = "examples/tour.ipynb"
_INSTALL = """\
## Install

```bash
pip install keras-bucketing             # installs tensorflow, keras and numpy too
pip install "keras-bucketing[plot]"     # and matplotlib, for .plot()
```

"""
# To the table of versions, or the next section.
_INSTALL_SECTION = re.compile(r"^## Install\n.*?(?=^\||^## )", flags=re.DOTALL | re.MULTILINE)
_IMAGES = {".gif", ".jpg", ".png", ".svg", ".webp"}
# Code, in which nothing is a link; or the target of a link or image in Markdown or HTML.
_CODE_OR_TARGET = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)"
    r"|(?P<before>\]\(|^\[[^\]\n]+\]: |\b(?:href|src|srcset)=\")(?P<target>[^)\s\"]+)",
    flags=re.DOTALL | re.MULTILINE,
)


class CustomMetadataHook(MetadataHookInterface):
    """Fills the fields `readme` and `urls`, unless an unpacked sdist has them already."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by Hatchling with the table `[project]`."""
        repository = os.environ.get(VARIABLE, "").removesuffix("/")
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository:
            if not repository.startswith("https://"):
                raise ValueError(f"{VARIABLE} must be an address that begins with https://, received {repository!r}.")
            tag = f"v{metadata['version']}"
            metadata.setdefault("urls", project_urls(repository, tag))
            readme = with_absolute_links(installed_from_index(readme), repository, tag, Path(self.root))
            readme = with_badges(readme, repository, tag)
        metadata.setdefault("readme", {"content-type": "text/markdown", "text": readme})


def project_urls(repository: str, tag: str) -> dict[str, str]:
    """The links beside the description."""
    return {
        "Source": repository,
        "Documentation": f"{repository}/tree/{tag}/docs",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def installed_from_index(text: str) -> str:
    """Tells how to install a release, where the README of a clone tells how to install that."""
    released, count = _INSTALL_SECTION.subn(lambda _: _INSTALL, text)
    if count != 1:
        raise ValueError(f"README.md must have one section '## Install', found {count}.")
    return released


def with_absolute_links(text: str, repository: str, tag: str, root: Path) -> str:
    """Turns the relative links of the README, and its links to its own headings, into links to the tagged files."""

    def replace(found: re.Match[str]) -> str:
        target = found["target"]
        if found["code"] or urlsplit(target).scheme:
            return found[0]
        path = "README.md" + target if target.startswith("#") else target.removeprefix("./")
        file = path.partition("#")[0]
        page = "tree" if (root / file).is_dir() else "blob"
        kind = "raw" if PurePosixPath(file).suffix in _IMAGES else page
        return f"{found['before']}{repository}/{kind}/{tag}/{path}"

    return _CODE_OR_TARGET.sub(replace, text)


def with_badges(text: str, repository: str, tag: str) -> str:
    """Puts the state of the tests and the notebook in Colab below the title; both need a repository on GitHub."""
    if urlsplit(repository).hostname != "github.com":
        return text
    tests = f"{repository}/actions/workflows/ci.yml"
    colab = f"https://colab.research.google.com/github{urlsplit(repository).path}/blob/{tag}/{NOTEBOOK}"
    badges = (
        f"[![CI]({tests}/badge.svg)]({tests})\n"
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
    )
    title, below = text.split("\n", 1)
    return f"{title}\n\n{badges}\n{below}"
