"""Answer for several releases in one step: each row of a batch gets what its own adapter adds; heavy.

y = W x + B A x, where W is the base's, read once for all rows, and A and B are the row's own (as in Punica, Chen et al.
2023). The adapters of a batch lie side by side, [A1 A2 ...] and [B1; B2; ...], and a row's mask leaves its own in: two
products and a sum a layer, however many adapters there are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from langgraph_learnloop.serving.rows import is_plain

_SIDE_BY_SIDE = 8
"""Adapters that are kept side by side when fewer are asked for: to lay them there costs as much as a step."""
_MORE = ("modules_to_save", "trainable_token_indices", "layer_replication")
"""What an adapter may have learned besides."""


class Pair(NamedTuple):
    """What an adapter adds to one layer."""

    down: torch.Tensor
    """Inputs x rank."""
    up: torch.Tensor
    """Rank x outputs, with the adapter's scale."""


Pairs = Mapping[str, Pair]
"""By the layer's name."""


def shell(model: Any) -> Any:
    """Return a copy whose modules are its own, and whose weights are the model's."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def plain_pairs(model: Any, release_id: str) -> Pairs | None:
    """Return what a model's adapter adds, or None if it is more than a product of two matrices beside linear layers."""
    config, base = model.peft_config[release_id], model.get_base_model()
    if config.bias != "none" or any(getattr(config, name, None) for name in _MORE):
        return None
    layers: dict[str, Any] = {name: one for name, one in base.named_modules() if isinstance(one, BaseTunerLayer)}
    if not all(_is_plain_layer(layer, release_id) for layer in layers.values()):
        return None
    return {name: _pair(layer, release_id) for name, layer in layers.items() if release_id in layer.lora_A}


def touches_words(model: Any) -> bool:
    """Tell whether an adapter changes how words are read; where the output shares those weights, merging is wrong."""
    base = model.get_base_model()
    words = base.get_input_embeddings().weight
    return any(isinstance(one, BaseTunerLayer) and one.get_base_layer().weight is words for one in base.modules())


class RowAdapters:
    """Hold the plain adapters of a base; it belongs to the thread that runs the model, but for `add`."""

    def __init__(self, base: Any) -> None:
        self._model = shell(base)
        self._pairs: dict[str, Pairs] = {}
        self._rows: tuple[str, ...] = ()
        self._beside: tuple[str, ...] = ()
        self._laid: Pairs = {}
        self._now: Pairs = {}
        self._mask: torch.Tensor | None = None
        linears = {name: one for name, one in self._model.named_modules() if type(one) is nn.Linear}
        self.able = frozenset(_see_rows(self._model, linears))
        """Names of the layers that see a batch row by row."""
        for name in self.able:
            linears[name].register_forward_hook(partial(self._add_to, name))

    def __contains__(self, release_id: str) -> bool:
        return release_id in self._pairs

    def fits(self, pairs: Pairs | None) -> bool:
        """Tell whether an adapter can be one of several in a batch."""
        return pairs is not None and bool(self.able) and self.able.issuperset(pairs)

    def add(self, release_id: str, pairs: Pairs) -> None:
        """Make an adapter ready; no pairs at all are the bare base."""
        self._pairs[release_id] = pairs

    def drop(self, release_id: str) -> None:
        """Forget an adapter that no row needs any more."""
        self._pairs.pop(release_id, None)
        self._rows, self._beside, self._laid, self._now = (), (), {}, {}

    def model(self, rows: tuple[str, ...]) -> Any:
        """Return the model in which each row of the next batches gets its own release's adapter."""
        if rows != self._rows:
            self._rows, self._now, self._mask = rows, {}, None
            adapters = tuple(sorted({one for one in rows if self._pairs[one]}))
            if len(set(rows)) == 1:
                self._now = self._pairs[rows[0]]
            elif adapters:
                self._lay(adapters)
                self._now, self._mask = self._laid, self._own(rows)
        return self._model

    def _lay(self, adapters: tuple[str, ...]) -> None:
        """Lay adapters side by side, with those that were lately, so that it need not be done again so soon."""
        if set(adapters) <= set(self._beside):
            return
        lately = [one for one in self._beside if one not in adapters][: max(0, _SIDE_BY_SIDE - len(adapters))]
        self._beside = (*adapters, *lately)
        names = {name for one in self._beside for name in self._pairs[one]}
        self._ranks = {one: max(pair.down.shape[1] for pair in self._pairs[one].values()) for one in self._beside}
        self._laid = {name: _side_by_side([self._padded(one, name) for one in self._beside]) for name in names}

    def _padded(self, release_id: str, name: str) -> Pair:
        """Return a layer's pair of the adapter's largest rank, which one that adds nothing to the layer has too."""
        rank, pair = self._ranks[release_id], self._pairs[release_id].get(name)
        if pair is None:
            weight = self._model.get_submodule(name).weight
            return Pair(weight.new_zeros(weight.shape[1], rank), weight.new_zeros(rank, weight.shape[0]))
        more = rank - pair.down.shape[1]
        return Pair(nn.functional.pad(pair.down, (0, more)), nn.functional.pad(pair.up, (0, 0, 0, more)))

    def _own(self, rows: Sequence[str]) -> torch.Tensor:
        """Return rows x 1 x all ranks: 1 where the row's own adapter lies."""
        own = [[float(one == row) for one in self._beside for _ in range(self._ranks[one])] for row in rows]
        like = next(iter(self._laid.values())).down
        return torch.tensor(own, dtype=like.dtype, device=like.device)[:, None]

    def _add_to(self, name: str, _layer: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        """Add, in place, what the rows' adapters say to what a layer said (rows x tokens x size)."""
        pair = self._now.get(name)
        if pair is None:
            return
        narrow = given[0] @ pair.down
        if self._mask is not None:
            narrow *= self._mask
        out.view(-1, out.shape[-1]).addmm_(narrow.view(-1, narrow.shape[-1]), pair.up)


def _is_plain_layer(layer: Any, release_id: str) -> bool:
    """Tell whether an adapter adds to a layer nothing, or the product of two matrices."""
    if type(layer) is not LoraLinear:
        return False
    variant, bias = release_id in layer.lora_variant, layer.lora_bias.get(release_id, False)
    return type(layer.base_layer) is nn.Linear and not (variant or bias or layer.fan_in_fan_out)


def _pair(layer: Any, release_id: str) -> Pair:
    like = layer.base_layer.weight
    down = layer.lora_A[release_id].weight.detach().to(like).T.contiguous()
    up = layer.lora_B[release_id].weight.detach() * layer.scaling[release_id]
    return Pair(down, up.to(like).T.contiguous())


def _side_by_side(pairs: Sequence[Pair]) -> Pair:
    return Pair(torch.cat([pair.down for pair in pairs], 1), torch.cat([pair.up for pair in pairs], 0))


def _see_rows(model: Any, linears: Mapping[str, nn.Module]) -> set[str]:
    """Return the linear layers that are given rows x tokens x size, by a try; none if the cache is not the plain kind.

    What experts or a vision tower are given is not row by row.
    """
    seen: set[str] = set()

    def look(name: str, _layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if given and given[0].dim() == 3 and given[0].shape[0] == 2:
            seen.add(name)

    hooks = [layer.register_forward_pre_hook(partial(look, name)) for name, layer in linears.items()]
    ids = torch.zeros(2, 3, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return seen if is_plain(out.past_key_values) else set()
