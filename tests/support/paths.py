"""Where things are in the repository, or in the copy of it that holds the tests."""

from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parent.parent
EXAMPLES = ROOT / "examples"
