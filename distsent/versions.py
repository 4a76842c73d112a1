"""The software that a result depends on."""

import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from distsent import __version__, fingerprint

# They decide tokens, rows and numbers, so all workers need the same ones.
SHARED = "torch", "transformers", "tokenizers", "datasets", "numpy"


def versions() -> dict[str, str]:
    """Versions of all software that a result depends on."""
    found = {"python": platform.python_version(), "distsent": __version__}
    for package in (*SHARED, "horovod"):
        if one := version_of(package):
            found[package] = one
    return found


def version_of(package: str) -> str | None:
    """That of an installed package; None of others."""
    # A folder on the path may hide the package that is installed.
    loaded = getattr(sys.modules.get(package), "__version__", None)
    with suppress(PackageNotFoundError):
        return str(loaded or version(package))
    return None


def shared_software() -> dict[str, str | None]:
    """What must be equal on all workers."""
    found = versions()
    return {"code": fingerprint(), **{name: found.get(name) for name in ("distsent", *SHARED)}}
