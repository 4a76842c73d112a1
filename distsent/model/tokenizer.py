"""Name -> tokenizer: a hub id, a local folder, or the demo's own closed vocabulary."""

from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (  # type: ignore[attr-defined]
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedTokenizerBase,
)

from distsent.data import demo
from distsent.errors import UserError
from distsent.model.config import (
    NO_REMOTE_CODE,
    is_decoder,
    load_config,
    padding_token,
    takes_token_types,
    vocabulary,
)
from distsent.model.load_errors import explain_load_errors

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(
    name: str, revision: str | None = None, key: str = "model.name"
) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder. Raises UserError if it cannot be loaded or is not usable."""
    if name == "demo":
        return demo_tokenizer()
    config = load_config(name, revision, key)
    options = {"revision": revision or "main", **NO_REMOTE_CODE}
    with explain_load_errors(name, key):
        tokenizer = AutoTokenizer.from_pretrained(name, config=config, **options)
    problem = None
    if not tokenizer.is_fast:
        problem = "has no fast version (tokenizer.json), which distsent needs"
    elif tokenizer.vocab_size <= len(tokenizer.all_special_tokens):
        # transformers returns an empty tokenizer if the files are missing.
        problem = "has no vocabulary; is tokenizer.json missing?"
    if problem:
        raise UserError(f"{key} = {name!r}: its tokenizer {problem}")
    _settle_types(tokenizer, config, f"{key} = {name!r}")
    return tokenizer


def _settle_types(tokenizer: Any, config: Any, key: str) -> None:
    """Make no token types for an encoder without them, in training and in pipelines."""
    names, backend = tokenizer.model_input_names, tokenizer.backend_tokenizer
    if not takes_token_types(config):
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    elif "token_type_ids" in names:
        made = max(*backend.encode("a").type_ids, *backend.encode("a", "b").type_ids, 0)
        known = getattr(config, "type_vocab_size", None) or made + 1
        if made >= known:
            problem = f"its tokenizer makes token types up to {made}, but its encoder has {known}"
            raise UserError(f"{key}: {problem}: they do not match")


def settle_padding(tokenizer: Any, config: Any) -> None:
    """Make tokenizer and configuration agree on padding, so that pipelines pad like distsent.

    Encoders keep the padding token of their configuration, from which some count positions. Heads
    of decoders read the last token that is not the padding token in the configuration of their
    text. Raises UserError for a decoder without padding and end-of-text tokens.
    """
    found, known = padding_token(config), tokenizer.get_vocab().values()
    if tokenizer.pad_token_id is None and found in known:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(found)
    if is_decoder(config):
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
            raise UserError(
                f"model.name: {config.model_type} reads the last token before the padding, but its "
                'tokenizer has no padding token: set "pad_token" in its tokenizer_config.json'
            )
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    size = vocabulary(config)
    wrong = found is None or found >= size
    if tokenizer.pad_token_id in range(size) and (wrong or is_decoder(config)):
        for part in (config, config.get_text_config()):  # T5Gemma reads both
            part.pad_token_id = tokenizer.pad_token_id
    if config.model_type != "xlnet":  # it reads the last token, padding or not
        tokenizer.padding_side = "right"  # on the left, padding shifts positions in pipelines
    if "attention_mask" not in tokenizer.model_input_names:
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]


def padding_id(config: Any, tokenizer: Any) -> int:
    """The token to pad with: the configuration's, because the model itself knows only that one."""
    found = padding_token(config)
    if isinstance(found, int) and 0 <= found < vocabulary(config):
        return found
    return int(tokenizer.pad_token_id or 0)


def demo_tokenizer() -> PreTrainedTokenizerBase:
    """The words of the demo dataset; any other word is [UNK]."""
    vocab = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *demo.vocabulary()])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return BertTokenizerFast(tokenizer_object=backend, model_max_length=128)
