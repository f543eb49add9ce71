"""Python processes for tests, without the five seconds of importing TensorFlow in each.

A server process imports TensorFlow, Keras on one backend and the package, and forks for every program that a test runs.
Nothing of TensorFlow's runtime has begun by then, so that a program may still configure devices, end in any way, or be
killed: its process is its own. There is a server for each backend, which starts when a test first needs it.
"""

import contextlib
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import BinaryIO

import pytest

# What is read while libraries are imported, so that each program cannot have its own.
SERVER_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # the models are tiny: compiling them takes longer than training them
    "PYTHONHASHSEED": "77",  # another than the tests have
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def run_python(
    *arguments: str,
    backend: str = "tensorflow",
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    check: bool = False,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`python *arguments` in a process of its own, like `subprocess.run` with its output captured."""
    process = start_python(*arguments, backend=backend, cwd=cwd, environment=environment)
    output, errors = process.communicate(timeout)
    assert process.returncode is not None
    if check and process.returncode:
        pytest.fail(f"The process ended with {process.returncode}.\n{output}\n{errors}")
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def run_on_backend(backend: str, *arguments: str) -> str:
    """What `python *arguments` prints under another backend of Keras, the `backends` extra; skips without it."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install 'keras-bucketing[backends]'")
    return run_python(*arguments, backend=backend, check=True, timeout=900).stdout


def start_python(
    *arguments: str,
    backend: str = "tensorflow",
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> "subprocess.Popen[str] | ForkedPython":
    """Starts `python *arguments`: `-c` and a program, `-m` and a module, or the path of a script; and its arguments."""
    if sys.platform == "linux":
        return ForkedPython(list(arguments), backend, cwd, environment or {})
    return subprocess.Popen(  # elsewhere a fork does not survive the libraries of the system
        [sys.executable, *arguments],
        cwd=cwd,
        env=_server_environment(backend) | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def close_servers() -> None:
    """Ends the servers, and waits for them: so what they and their programs took counts as time of this process."""
    for server in _SERVERS.values():
        server.close()
    _SERVERS.clear()


class ForkedPython:
    """A process that a server has forked, with the three members of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: list[str], backend: str, cwd: Path | None, environment: dict[str, str]):
        self.returncode: int | None = None
        self._arguments = arguments
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  `communicate` reads them
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        status, status_of_server = os.pipe()
        self._status = os.fdopen(status, "rb", buffering=0)
        request = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": _server_environment(backend) | environment,
        }
        server = _SERVERS.get(backend) or _SERVERS.setdefault(backend, _Server(backend))
        server.send(request, [self._output.fileno(), self._errors.fileno(), status_of_server])
        os.close(status_of_server)
        self._pid: int | None = None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; returns what was printed to standard output and to standard error."""
        with self._status, self._output, self._errors:
            while self.returncode is None:
                if timeout is not None and not select.select([self._status], [], [], timeout)[0]:
                    self.kill()
                    raise subprocess.TimeoutExpired(self._arguments, timeout)
                self._read_status()
            return _content_of(self._output), _content_of(self._errors)

    def kill(self) -> None:
        """Sends SIGKILL, unless the process has ended."""
        if self._pid is None:
            self._read_status()
        if self.returncode is None and self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def _read_status(self) -> None:
        """The process' number, and then what it ended with, as `_Server` writes them."""
        number = self._status.readline()
        if not number:
            raise RuntimeError("The server that forks processes has ended.")
        if self._pid is None:
            self._pid = int(number)
        else:
            self.returncode = int(number)


def _content_of(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


class _Server:
    """A process that forks: `serve`, and the socket on which it waits for requests."""

    def __init__(self, backend: str):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-c", "from tests.support.processes import serve; serve()"]
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs, stdout=subprocess.DEVNULL, env=_server_environment(backend)
            )

    def send(self, request: dict[str, object], files: list[int]) -> None:
        """Asks for a process with these files as its output, its errors, and where its end is reported."""
        socket.send_fds(self._socket, [json.dumps(request).encode()], files)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_SERVERS: dict[str, _Server] = {}


def _server_environment(backend: str) -> dict[str, str]:
    return {**os.environ, **SERVER_ENVIRONMENT, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}


# What follows runs in the server and in its forks.


def serve() -> None:
    """Imports what takes long, and forks for every request until there are none; a fork returns when it is done."""
    import keras_bucketing  # noqa: F401
    from tests.support import runtime  # noqa: F401

    requests = socket.socket(fileno=os.dup(0))
    while True:
        request, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not request:
            break
        if _fork() == 0:
            requests.close()
            if _watch(files):
                _run(json.loads(request), files)
            return
        for file in files:
            os.close(file)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _watch(files: list[int]) -> bool:
    """Forks once more, and reports how that process, in which this returns True, ends."""
    process = _fork()
    if process == 0:
        return True
    status = files.pop()
    for file in files:
        os.close(file)
    os.write(status, f"{process}\n".encode())
    _, how = os.waitpid(process, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(how)}\n".encode())
    os._exit(0)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python, and JAX, warn that other threads may hold a lock: those of OpenBLAS, which waits for work.
        warnings.simplefilter("ignore")
        return os.fork()


def _run(request: dict[str, object], files: list[int]) -> None:
    """What `python *arguments` does."""
    from tests.support import runtime

    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate([nothing, *files[:2]]):
        os.dup2(file, number)
    for file in (nothing, *files):
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    runtime.begin()
    os.chdir(request["cwd"])
    first, *rest = request["arguments"]
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv, sys.path[0] = [first, *rest[1:]], ""
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")
