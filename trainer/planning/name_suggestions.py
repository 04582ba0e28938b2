"""Suggestions for the name of a module that the model does not have."""

from __future__ import annotations

import difflib

from trainer.models.module_map import ModuleMap

CUTOFF = 0.7
"""Similarity (difflib's ratio) from which a name counts as a typo of another."""
_NAMES = {
    "attention": "q_proj k_proj v_proj o_proj qkv_proj out_proj c_attn query_key_value Wqkv",
    "mlp": "gate_proj up_proj down_proj gate_up_proj fc1 fc2 fc_in fc_out c_fc w1 w2 w3 dense_h_to_4h dense_4h_to_h",
    "embedding": "embed_tokens lm_head wte embed_in embed_out",
}
ROLES = {name: group for group, names in _NAMES.items() for name in names.split()}
"""Module names of the most common model families, and their groups."""
_ROLE_SUBJECTS = {"attention": "attention is", "mlp": "MLP is", "embedding": "embedding and head are"}


def suggestion(name: str, module_map: ModuleMap) -> str:
    """The end of a sentence about the missing `name`; empty if nothing is similar.

    A typo of a kind's name suggests that kind. A name known from other models suggests this model's modules of
    the same group, since by spelling alone, `v_proj` would suggest an unrelated `o_proj`.
    """
    near = difflib.get_close_matches(name, [*module_map.index, *ROLES], n=1, cutoff=CUTOFF)
    if not near:
        return ""
    if near[0] in module_map.index:
        return f". Did you mean {near[0]}?"
    group = ROLES[near[0]]
    found = [kind.name for kind in module_map.group(group) if kind.slice_of is None and kind.treatments]
    return f": its {_ROLE_SUBJECTS[group]} {' and '.join(found[:4])}" if found else ""
