"""Name -> tokenizer: a hub id, a local folder, or the demo's own closed vocabulary."""

from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (  # type: ignore[attr-defined]
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from distsent.data.demo import vocabulary
from distsent.errors import UserError
from distsent.model.load_errors import explain_load_errors

# Without this, transformers asks on the terminal whether it may run a model's code.
NO_REMOTE_CODE = {"trust_remote_code": False}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(
    name: str, revision: str | None = None, key: str = "model.name"
) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder. Raises UserError if it cannot be loaded or is not usable."""
    if name == "demo":
        return demo_tokenizer()
    options = {"revision": revision or "main", **NO_REMOTE_CODE}
    with explain_load_errors(name, key):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    problem = None
    if not tokenizer.is_fast:
        problem = "has no fast version (tokenizer.json), which distsent needs"
    elif tokenizer.vocab_size <= len(tokenizer.all_special_tokens):
        # transformers returns an empty tokenizer if the files are missing.
        problem = "has no vocabulary; is tokenizer.json missing?"
    if problem:
        raise UserError(f"{key} = {name!r}: its tokenizer {problem}")
    return tokenizer


def settle_padding(tokenizer: Any, config: Any) -> None:
    """Make tokenizer and configuration agree on a padding token, where they can.

    Heads of decoders read the last token that is not `config.pad_token_id`. Encoders keep the one
    of their configuration, from which some count positions. Raises UserError for a decoder without
    padding and end-of-text tokens.
    """
    found, known = getattr(config, "pad_token_id", None), tokenizer.get_vocab().values()
    padding = found if found in known else None
    if tokenizer.pad_token_id is None and padding is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    if not is_decoder(config):
        return
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"model.name: {config.model_type} reads the last token before the padding, but its "
                'tokenizer has no padding token: set "pad_token" in its tokenizer_config.json'
            )
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id


def is_decoder(config: Any) -> bool:
    """Whether the architecture only predicts next tokens: GPT-2, Llama, Qwen, XLNet."""
    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return causal and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


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
