"""Name -> tokenizer: a hub id, a local folder, or the demo's own closed vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsent.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Where nothing is said, transformers asks on the terminal whether it may run the code that came with a model.
NO_REMOTE_CODE = {"trust_remote_code": False}

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder. Raises UserError when there is none under that name."""
    if name == "demo":
        return demo_tokenizer()
    from transformers import AutoTokenizer

    with explain_load_errors(name, "model.name"):
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", **NO_REMOTE_CODE
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"model.name = {name!r}: its tokenizer has no fast version (tokenizer.json), which distsent needs"
        )
    if tokenizer.vocab_size <= len(
        tokenizer.all_special_tokens
    ):  # transformers makes one up where the files are missing
        raise UserError(
            f"model.name = {name!r}: its tokenizer has no vocabulary; is tokenizer.json missing?"
        )
    return tokenizer


def demo_tokenizer() -> PreTrainedTokenizerBase:
    """WordPiece over the demo corpus's words, and letters for all others."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    from distsent.data.demo import vocabulary

    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces = [*SPECIAL, *letters, *(f"##{c}" for c in letters), *vocabulary()]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return BertTokenizerFast(tokenizer_object=backend, model_max_length=128)


class explain_load_errors:
    """Turns the many ways in which loading from the hub fails into one line that names the key."""

    def __init__(self, name: str, key: str) -> None:
        self.name, self.key = name, key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from safetensors import SafetensorError

        if isinstance(error, (OSError, ValueError, SafetensorError)):
            pickled = (
                "no file named model.safetensors" in str(error)
                and (Path(self.name) / "pytorch_model.bin").exists()
            )
            if pickled or "use_safetensors" in str(error):  # in a folder, or on the hub
                raise UserError(
                    f"{self.key} = {self.name!r}: its weights come as a pickle alone (pytorch_model.bin), which distsent does not "
                    "read; docs/jobs.md shows how to convert them once"
                ) from error
            first = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise UserError(
                f"{self.key} = {self.name!r}: cannot be loaded ({first}); give a local folder, or a hub id where the hub or its "
                "cache (HF_HOME) is reachable"
            ) from error
