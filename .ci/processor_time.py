"""Runs a command, and fails where it takes more processor time than a number of imports of TensorFlow.

    python .ci/processor_time.py --imports 45 'python -m pytest -n auto'

Seconds depend on the machine and on what else runs there, processor time less, and its ratio to a known piece of work
in the same minutes least.
"""

import argparse
import resource
import subprocess
import sys
import time


def processor_seconds(command: list[str]) -> tuple[float, int]:
    """User and system time of a command and of all processes that it waited for, and its exit status."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status = subprocess.run(command, check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, status


def main() -> int:
    """Runs the command; returns its exit status, or 1 where it took too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imports", type=float, required=True, help="how many imports of TensorFlow are allowed")
    parser.add_argument("command", help="for bash")
    arguments = parser.parse_args()
    python = [sys.executable, "-c", "import tensorflow"]
    processor_seconds(python)  # fills the caches of the disk
    before, _ = processor_seconds(python)
    begin = time.monotonic()
    seconds, status = processor_seconds(["bash", "-c", arguments.command])
    wall = time.monotonic() - begin
    after, _ = processor_seconds(python)
    one = (before + after) / 2
    print(
        f"{seconds:.0f} s of processor time in {wall:.0f} s: {seconds / one:.0f} imports of TensorFlow "
        f"({before:.1f} s before, {after:.1f} s after), at most {arguments.imports:g} are allowed"
    )
    if status == 0 and seconds > arguments.imports * one:
        print("The default layer has grown: mark what trains with @pytest.mark.fit, and see pytest --durations=30.")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
