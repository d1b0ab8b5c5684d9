"""The inference servers that nobody here wrote: how each is started, and what it does in its own way."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flint.sandbox import ports
from tests.inference import model
from tests.sdk import environments
from tests.stack import until

START_SECONDS = 120.0
STOP_SECONDS = 10.0
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Server:
    """`arguments` follow its Python, and `backend_model` is the model's name there.

    `bounds_prompts`: whether it refuses a prompt that is longer than the model's context.
    `gives_choices`: whether it gives as many answers as `n` asks for, or only one.
    """

    name: str
    arguments: tuple[str, ...]
    backend_model: str
    bounds_prompts: bool
    gives_choices: bool

    def __str__(self) -> str:
        return self.name


LLAMA = Server(
    name="llama",
    arguments=(str(HERE / "llama" / "serve.py"), "{model}/model.gguf", "{port}", str(model.CONTEXT_TOKENS)),
    backend_model="tiny",
    bounds_prompts=True,
    gives_choices=True,
)
MLX = Server(
    name="mlx",
    arguments=("-m", "mlx_lm", "server", "--model", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
    backend_model="default_model",
    bounds_prompts=False,
    gives_choices=False,
)
SERVERS = (LLAMA, MLX)


def install(server: Server) -> Path:
    """The Python that has the server. Raises AssertionError where it cannot be installed."""
    return environments.python(server.name, locks=HERE) / "bin" / "python"


@contextmanager
def running(server: Server, python: Path, folder: Path) -> Iterator[str]:
    """The address of the server, which has the tiny model; `folder` is its own."""
    model.write(folder)
    port = ports.remembered(folder / "port")
    arguments = [argument.format(model=folder, port=port) for argument in server.arguments]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), *arguments],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # The model is here, and no other is looked for.
            stdout=output,
            stderr=output,
        )
    base_url = f"http://127.0.0.1:{port}/v1"
    try:
        until(lambda: process.poll() is not None or _answers(base_url), START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield base_url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(base_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base_url}/models", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
