"""Lines without secrets: what a tracker's library says may contain passwords and keys."""

import os
import re
from collections.abc import Mapping

from distsent.distributed.secrets import is_secret

LONGEST = 300  # characters
IN_URL = re.compile(r"(?<=://)[^/\s]+@")
ASSIGNED = re.compile(
    r"(?i)((?:token|secret|passwo?r?d|api[_-]?key|key|signature|authorization)\w*['\"]?\s*[=:]\s*"
    r"(?:bearer\s+|basic\s+)?['\"]?)[^\s'\"&;,]+"
)


def redact(text: str, env: Mapping[str, str] = os.environ) -> str:
    """One line, without passwords in URLs, assigned keys, and the values of secret variables."""
    line = " ".join(text.split())
    for name, value in env.items():
        if is_secret(name) and len(value) >= 4:
            line = line.replace(value, "***")
    line = ASSIGNED.sub(r"\1***", IN_URL.sub("***@", line))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
