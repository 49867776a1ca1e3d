"""Which weights a name means here, and how they get onto this disk: they are there, members give them, or the hub.

Loads nothing and knows no layers being computed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.errors import AmbiguousModelError, ModelError, ModelOnItsWayError, UnknownModelError
from swarm.models.manifest import is_name
from swarm.node.listing import NoSourceError
from swarm.node.pins import Pins
from swarm.node.transfer import Transfer
from swarm.types import LayerSpan, ModelId, NodeId

if TYPE_CHECKING:
    from swarm.models.progress import Progress
    from swarm.models.store import LocalModel, ModelStore, Wanted

log = logging.getLogger("swarm.weights")

Holders = Callable[[ModelId], Iterable[NodeId]]


class Library:
    """Owns what this node knows of models on its disk. ``served`` are the models of which members hold
    layers, ``known`` those that they have on their disks too; ``holders`` are who could give a model's weights.
    """

    def __init__(
        self,
        *,
        store: ModelStore,
        transfer: Transfer,
        served: Callable[[], Iterable[ModelId]],
        known: Callable[[], Iterable[ModelId]],
        holders: Holders,
        joined: Callable[[], Awaitable[None]],
        pins: Pins,
        announce: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._store = store
        self._transfer = transfer
        self._served = served
        self._known = known
        self._holders = holders
        self._joined = joined
        self._pins = pins
        self._announce = announce
        self._progress = progress
        self._models: dict[ModelId, LocalModel] = {}

    @property
    def models(self) -> dict[ModelId, LocalModel]:
        """The models that this node uses, as far as they are on its disk."""
        return self._models

    def resolve(self, name: str, coming: Iterable[ModelId] = ()) -> ModelId:
        """Return the weights that a name means here, or ``NAME@`` with a digest's beginning.

        It means what this node uses itself, else what the settings pin, else the only ones in view. Raises
        AmbiguousModelError naming several, ModelOnItsWayError for one of ``coming``, UnknownModelError.
        """
        plain, digest = _split(name)
        digest = digest or self._pins.digest(plain)
        for candidates in (self._models, self._served()):
            fitting = _fitting(candidates, plain, digest)
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                raise AmbiguousModelError(name, fitting)
        if _fitting(coming, plain, digest):
            raise ModelOnItsWayError(f"nodes of this swarm are loading {name}; try again in a few seconds")
        known = sorted({str(model.name) for model in (*self._models, *self._served())})
        raise UnknownModelError(name, known)

    async def named(self, name_or_folder: str, *, span: Wanted, ends: bool) -> LocalModel:
        """Return a model with the weights of the span and the ends: from disk, members or hub, in that order.

        From now on this node uses it. Raises ModelError.
        """
        found = await self.pull(name_or_folder, span=span, ends=ends, progress=self._progress)
        self._warn_of_others(found.id)
        return self._keep(found)

    async def pull(self, name_or_folder: str, *, span: Wanted, ends: bool, progress: Progress) -> LocalModel:
        """Bring onto the disk what ``named`` returns, without using it. Raises ModelError."""
        plain, digest = _split(name_or_folder)
        digest = digest or self._pins.digest(plain)
        local = await asyncio.to_thread(self._store.find, plain, progress)
        if local is not None and not local.id.digest.startswith(digest):
            local = None
        if local is not None and not local.lacks(span, ends=ends):
            return local
        await self._joined()
        in_swarm = _fitting(self._known(), plain, digest if local is None else local.id.digest)
        if len(in_swarm) > 1:
            raise AmbiguousModelError(plain, in_swarm)
        if in_swarm:
            try:
                return await self._obtain(in_swarm[0], span, ends, progress)
            except NoSourceError as exc:
                self._announce(f"{exc}. Trying the Hugging Face hub.")
        found = await asyncio.to_thread(self._store.obtain, plain, span=span, ends=ends, progress=progress)
        if not found.id.digest.startswith(digest):
            raise ModelError(f"{found.id} is not the {plain}@{digest} that was asked for")
        return found

    async def exactly(self, model: ModelId, *, span: Wanted, ends: bool) -> LocalModel:
        """Return just these weights, from this disk or from members. Raises NoSourceError, ModelError."""
        return self._keep(await self._obtain(model, span, ends, self._progress))

    async def _obtain(self, model: ModelId, span: Wanted, ends: bool, progress: Progress) -> LocalModel:
        found = self._models.get(model)
        if found is None or found.lacks(span, ends=ends):
            found = await self._transfer.obtain(
                model, span=span, ends=ends, sources=lambda: self._holders(model), progress=progress
            )
        return found

    async def complete(self, local: LocalModel, spans: Sequence[LayerSpan], *, ends: bool) -> LocalModel:
        """Return ``local`` with the weights of all ``spans`` and of the ends. Raises ModelError."""
        parts: Sequence[LayerSpan | None] = spans or [None]
        for span in parts:
            if local.lacks(span, ends=ends):
                local = await self._anyhow(local.id, span, ends)
        return local

    async def described(self, model: ModelId) -> LocalModel:
        """Return a model of which at least is known where its tensors lie. Raises ModelError."""
        return await self._anyhow(model, None, False)

    async def for_door(self, model: ModelId) -> LocalModel:
        """Return a model with the weights of its ends, and what tokenizes for it. Raises ModelError."""
        return await self._anyhow(model, None, True)

    async def _anyhow(self, model: ModelId, span: LayerSpan | None, ends: bool) -> LocalModel:
        try:
            return await self.exactly(model, span=span, ends=ends)
        except NoSourceError:
            if not is_name(model.name):
                raise
        return await self.named(f"{model.name}@{model.digest}", span=span, ends=ends)

    def _keep(self, local: LocalModel) -> LocalModel:
        self._models[local.id] = local
        return local

    def _warn_of_others(self, own: ModelId) -> None:
        others = [model for model in self._served() if model.name == own.name and model != own]
        if others and own not in self._served():
            self._announce(
                f"This disk has {own}, the swarm serves {', '.join(map(str, others))}: other weights under the same "
                f"name never share a path. To serve what the swarm serves, name it: --model {others[0]}"
            )


def _split(name: str) -> tuple[str, str]:
    """Take ``NAME@DIGEST`` apart; a folder's path stays as it is."""
    plain, at, digest = name.rpartition("@")
    if at and digest and all(letter in "0123456789abcdef" for letter in digest) and not Path(name).exists():
        return plain, digest
    return name, ""


def _fitting(models: Iterable[ModelId], name: str, digest: str) -> list[ModelId]:
    return sorted({model for model in models if model.name == name and model.digest.startswith(digest)})
