"""Which variables are secrets, where they are visible, and what a launcher gets in their place."""

from pathlib import Path

import pytest

from distsent.distributed import secrets

SECRETS = """HF_TOKEN HUGGING_FACE_HUB_TOKEN WANDB_API_KEY AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
    GITHUB_TOKEN OPENAI_API_KEY AZURE_CLIENT_SECRET PGPASSWORD MYSQL_PWD COMET_API_KEY SLURM_JWT
    NEPTUNE_API_TOKEN CLEARML_API_SECRET_KEY KAGGLE_KEY AZURE_STORAGE_KEY my_password"""
OTHERS = """HF_TOKEN_PATH TOKENIZERS_PARALLELISM PWD OLDPWD AWS_ACCESS_KEY_ID SSH_AUTH_SOCK HOME KEY
    HOROVOD_SECRET_KEY _HOROVOD_SECRET_KEY GOOGLE_APPLICATION_CREDENTIALS PYTHONHASHSEED MONKEY"""


def test_names_of_secrets() -> None:
    assert [name for name in SECRETS.split() if not secrets.is_secret(name)] == []
    assert [name for name in OTHERS.split() if secrets.is_secret(name)] == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("/bin/sh -c env HOROVOD_RANK=0 HF_TOKEN=hf_x HOME=/root python -m a", ["HF_TOKEN"]),
        (
            "ssh b bash -l -c 'cd /x; env WANDB_API_KEY='a b' HF_TOKEN=x'",
            ["HF_TOKEN", "WANDB_API_KEY"],
        ),
        ("/bin/sh -c env HF_TOKEN= WANDB_API_KEY='' python", []),
        ("mpirun -x HF_TOKEN -x PATH python -m a", []),
        ("mpirun -x HF_TOKEN=hf_x python", ["HF_TOKEN"]),
        ("python -m distsent.train job.token=x data.source=./token=", []),
    ],
)
def test_secrets_on_command_lines(line: str, names: list[str]) -> None:
    assert secrets.visible_secrets([line]) == names


@pytest.mark.parametrize(
    ("changes", "left_out", "written"),
    [
        ({}, ["HF_TOKEN", "WANDB_API_KEY"], True),
        ({"HF_HUB_OFFLINE": "1"}, ["HF_TOKEN", "WANDB_API_KEY"], False),
        ({"HF_TOKEN_PATH": "/mine"}, ["HF_TOKEN", "WANDB_API_KEY"], False),
        ({"HF_HOME": ""}, ["WANDB_API_KEY"], False),  # no folder that all nodes see
        ({"HF_HOME": "/proc/none"}, ["WANDB_API_KEY"], False),
        ({"HF_TOKEN": ""}, ["WANDB_API_KEY"], False),
        (
            {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "old"},
            ["HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"],
            True,
        ),
    ],
)
def test_what_stays_in_the_environment(
    changes: dict[str, str], left_out: list[str], written: bool, tmp_path: Path
) -> None:
    home = tmp_path / "new" / "huggingface"  # nothing was downloaded yet
    env = {"HF_TOKEN": "new", "WANDB_API_KEY": "w", "HF_HOME": str(home), "PATH": "/bin"}
    env |= changes
    kept, names, file = secrets.without_secrets(env)
    assert names == left_out and (file is not None) == written
    added = {"HF_TOKEN_PATH": str(file)} if file else {}
    assert kept == {name: value for name, value in env.items() if name not in names} | added
    if file is not None:
        assert file.read_text() == (env["HF_TOKEN"] or env["HUGGING_FACE_HUB_TOKEN"])
        assert file.stat().st_mode & 0o777 == 0o600
    assert len([*home.glob("*")]) == written
