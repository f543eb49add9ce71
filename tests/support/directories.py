"""A directory with everything in it, to compare before and after."""

from pathlib import Path


def contents_of(directory: Path) -> dict[str, bytes | None]:
    """The content of every file by its relative path, None for a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }
