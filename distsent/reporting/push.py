"""Shipping a finished run to the Hugging Face hub. Nothing here runs unless somebody asks for it by name."""

from __future__ import annotations

import re
from typing import Any

from distsent.errors import UserError
from distsent.reporting.finished_run import FinishedRun


def push_to_hub(run: FinishedRun, name: str, private: bool = False, api: Any = None) -> str:
    """Upload the model folder, card included, as repository `name`; returns its address. Raises UserError."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise UserError(f"--push {name}: expected ORG/NAME, e.g. my-name/{run.name}")
    if not (run.folder.model / "config.json").is_file():
        raise UserError(f"{run.folder.model}: there is no model to push")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    api = api or HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=run.folder.model,
            commit_message=f"Add {run.name}, trained with distsent",
        )
    except LocalTokenNotFoundError:
        raise UserError(
            f"--push {name}: not logged in to the hub; `hf auth login`, or set HF_TOKEN"
        ) from None
    except HfHubHTTPError as error:
        raise UserError(
            f"--push {name}: the hub refused ({str(error).strip().splitlines()[0]})"
        ) from None
    except (OfflineModeIsEnabled, OSError, HTTPError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--push {name}: the hub cannot be reached ({first})") from None
    return str(address)
