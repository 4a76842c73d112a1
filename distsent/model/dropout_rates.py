"""`model.dropout`: set every dropout rate of an encoder, whatever its architecture calls them."""

from collections.abc import Iterator
from typing import Any

from torch import nn

# Not rates of dropped elements: these drop whole layers.
LAYER_DROP = ("layerdrop", "drop_path")
DROPOUTS = nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout


def set_dropout_rates(config: Any, rate: float) -> None:
    """Set the rates in a configuration, from which the model is built and saved."""
    for key, _ in list(_rates(config)):
        if rate == 0 or not _drops_layers(key):
            setattr(config, key, rate)


def unset_dropout_rates(model: nn.Module, rate: float) -> str | None:
    """Set the rates that the model's code holds itself; a line about those that stay as they are.

    Some modules keep a rate as a number, so that attention and heads have it in two places.
    """
    held = list(_rates(model.config))
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = rate
        held += [(key, value) for key, value in vars(module).items() if _is_rate(key, value)]
    kept = {
        key: value
        for key, value in held
        if value not in (None, rate) and not (value == 0 and _drops_layers(key))
    }
    if not kept:
        return None
    rest = ", ".join(f"{key} = {value:g}" for key, value in sorted(kept.items())[:4])
    more = f" and {len(kept) - 4} more" if len(kept) > 4 else ""
    return f"model.dropout = {rate:g} does not change {rest}{more}"


def _rates(config: Any) -> Iterator[tuple[str, float | None]]:
    """The rates in a configuration, by name."""
    return ((key, value) for key, value in vars(config).items() if _is_rate(key, value, True))


def _is_rate(key: str, value: Any, optional: bool = False) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "drop" in key and (number or (optional and value is None))


def _drops_layers(key: str) -> bool:
    return any(word in key for word in LAYER_DROP)
