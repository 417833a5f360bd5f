"""Options that had other names once: what runs and model folders of then say, in today's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Options that kept their values.
_OPTIONS = {"first_values": "initialization", "figures": "metrics"}
# Entries of tables, where an option of theirs tells them from others of that name.
_ENTRIES = {"slices": ("attention_mil", "encoder")}

# Options that an entry has no longer; in records of then they have the value that changes nothing.
_GONE = {
    "masked_autoencoder": (
        "text_decoder", "cross_attention", "context", "contrastive_on", "caption_mode",
        "bos_id", "eos_id", "max_length", "decoding",
    ),
}  # fmt: skip


def todays(recorded: Any) -> Any:
    """A record of options with today's names; lists and values stay as they are.

    Args:
      recorded: what a JSON file of a run or of a model holds.
    """
    if isinstance(recorded, list | tuple):
        return [todays(value) for value in recorded]
    if not isinstance(recorded, Mapping):
        return recorded
    found = {_OPTIONS.get(key, key): todays(value) for key, value in recorded.items()}
    entry, telling = _ENTRIES.get(str(found.get("name")), (None, None))
    if entry and telling in found:
        found["name"] = entry
    for gone in _GONE.get(str(found.get("name")), ()):
        found.pop(gone, None)
    if found.get("name") == "linear_probe" and found.get("protocol") == "by_patient":
        found["protocol"] = "grouped"
    if found.get("name") == "mask_tokens" and "fates" in found:
        found["mask_token_share"], found["random_token_share"] = found.pop("fates")
    return found
