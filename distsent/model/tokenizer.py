"""Name -> tokenizer: a hub id, a local folder, or the demo's own closed vocabulary."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (  # type: ignore[attr-defined]
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedTokenizerBase,
)

from distsent.data.demo import vocabulary
from distsent.errors import UserError

# Without this, transformers asks on the terminal whether it may run a model's code.
NO_REMOTE_CODE = {"trust_remote_code": False}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder. Raises UserError if it cannot be loaded or is not usable."""
    if name == "demo":
        return demo_tokenizer()
    options = {"revision": revision or "main", **NO_REMOTE_CODE}
    with explain_load_errors(name, "model.name"):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    problem = None
    if not tokenizer.is_fast:
        problem = "has no fast version (tokenizer.json), which distsent needs"
    elif tokenizer.vocab_size <= len(tokenizer.all_special_tokens):
        # transformers returns an empty tokenizer if the files are missing.
        problem = "has no vocabulary; is tokenizer.json missing?"
    if problem:
        raise UserError(f"model.name = {name!r}: its tokenizer {problem}")
    return tokenizer


def demo_tokenizer() -> PreTrainedTokenizerBase:
    """WordPiece over the words of the demo dataset, and single letters for other words."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces = [*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters), *vocabulary()]
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


@contextmanager
def explain_load_errors(name: str, key: str) -> Iterator[None]:
    """Convert the errors of loading from the hub into a UserError of one line with the key."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        text = str(error).strip() or type(error).__name__
        has_pickle = (Path(name) / "pytorch_model.bin").exists()
        in_folder = "no file named model.safetensors" in text and has_pickle
        if in_folder or "use_safetensors" in text:  # the second: on the hub
            problem = (
                "its only weights are a pickle (pytorch_model.bin), which distsent never reads"
            )
            fix = "docs/jobs.md shows how to convert them once"
        else:
            problem = f"cannot be loaded ({text.splitlines()[0]})"
            fix = "use a local folder, or a hub id if the hub or its cache (HF_HOME) is available"
        raise UserError(f"{key} = {name!r}: {problem}; {fix}") from error
