"""Secrets in the environment: horovodrun over Gloo puts them on command lines, for all to see.

It starts each worker as `sh -c "env NAME=VALUE ... python ..."`, with its whole environment, and
`ps` shows that line to every user of the host. Over MPI only names are on command lines; `srun`,
`torchrun` and `distsent.launch` put none there.
"""

import os
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from distsent.distributed.launchers import is_main_process

SECRET = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(API|ACCESS|SECRET|PRIVATE|AUTH)?_KEY|_PASS|_PWD|JWT)$",
    re.IGNORECASE,
)
ASSIGNED = re.compile(r"(?:^|\s)([A-Za-z_]\w*)=(?!\s|$|''|\"\")")  # in a command line
TRANSPORTS = "HOROVOD_", "OMPI_", "PMI", "UCX_", "NCCL_"  # their keys live for one start
HUB_TOKENS = "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"  # as huggingface_hub reads them
TOKEN_FILE = "HF_TOKEN_PATH"  # Hugging Face's own name, too
FIX = f"put the hub's token into a file, named by {TOKEN_FILE}; unset what the run does not need"
FALSE = ("", "0", "false", "no", "off")


def is_secret(name: str) -> bool:
    """Whether a variable of this name is taken for a secret. Those of transports stay."""
    return bool(SECRET.search(name)) and not name.strip("_").startswith(TRANSPORTS)


def visible_secrets(command_lines: Iterable[str]) -> list[str]:
    """The names of secrets whose values stand on command lines."""
    names = {name for line in command_lines for name in ASSIGNED.findall(line)}
    return sorted(filter(is_secret, names))


def warn_of_visible_secrets() -> None:
    """One line on standard error if a process above rank 0 shows secrets. Never their values."""
    if not is_main_process():
        return
    lines = []
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            with suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
    if names := visible_secrets(lines):
        problem = f"`ps` shows {', '.join(names)} to every user of this host: {FIX}"
        print(f"distsent: {problem}", file=sys.stderr, flush=True)


def without_secrets(env: Mapping[str, str]) -> tuple[dict[str, str], list[str], Path | None]:
    """The environment for horovodrun: (variables, names that were left out, file with a token).

    The hub's token goes to a file in HF_HOME, which all nodes see; only this user may read it.
    Delete it at the end. Where it cannot be written, the token stays in the environment.
    """
    names, file = sorted(n for n in env if is_secret(n) and env[n]), None
    token = next((env[name] for name in HUB_TOKENS if env.get(name)), None)
    offline = env.get("HF_HUB_OFFLINE", "").lower() not in FALSE
    if token and not offline and not env.get(TOKEN_FILE):
        file = _write_token(token, env)
        names = names if file else [name for name in names if name not in HUB_TOKENS]
    kept = {name: value for name, value in env.items() if name not in names}
    return kept | ({TOKEN_FILE: str(file)} if file else {}), names, file


def _write_token(token: str, env: Mapping[str, str]) -> Path | None:
    """A file that other users cannot read, not even for a moment. Replaces that of a lost start."""
    if not env.get("HF_HOME"):
        return None
    start = env.get("SLURM_JOB_ID") or socket.gethostname()
    file = Path(env["HF_HOME"]).resolve() / f"token-{start}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # the hub's folder may not be there yet
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as to:
            to.write(token)
        os.replace(temporary, file)
    except OSError:
        return None
    return file


def as_shell(env: Mapping[str, str] = os.environ) -> str:
    """The same as commands for a shell, without a secret in them. They set `token_file`."""
    _, names, file = without_secrets(env)
    lines = [f"unset {' '.join(names)}", f"log unset for horovodrun: {' '.join(names)}"]
    lines = [*(lines if names else ()), f"token_file={shlex.quote(str(file or ''))}"]
    return "\n".join([*lines, f'export {TOKEN_FILE}="$token_file"'] if file else lines)
