"""Upload a finished run to the Hugging Face hub. Only `report --push` calls this."""

import re
from typing import Any

from distsent.errors import UserError
from distsent.reporting.finished_run import FinishedRun
from distsent.storage import is_file


def push_to_hub(run: FinishedRun, name: str, private: bool = False, api: Any = None) -> str:
    """Upload the model folder, with its card, as repository `name`; return its URL.

    Raises UserError.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise UserError(f"--push {name}: expected ORG/NAME, e.g. my-name/{run.name}")
    if not is_file(run.folder.model / "config.json"):
        raise UserError(f"{run.folder.model}: there is no model to push")
    from huggingface_hub import HfApi, errors

    api, message = api or HfApi(), f"Add {run.name}, trained with distsent"
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=run.folder.model, commit_message=message)
    except errors.LocalTokenNotFoundError:
        problem = "not logged in to the hub; `hf auth login`, or set HF_TOKEN"
    except errors.HfHubHTTPError as error:
        problem = f"the hub refused ({str(error).strip().splitlines()[0]})"
    except (errors.OfflineModeIsEnabled, OSError, errors.HTTPError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        problem = f"the hub cannot be reached ({first})"
    else:
        return str(url)
    raise UserError(f"--push {name}: {problem}")
