"""The models of this swarm and its state, as the API shows them. Knows no framework."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.api.answers import Health, Model, ModelHealth, ModelList
from swarm.errors import UnknownModelError
from swarm.node.front import ServedModel


def listed(models: Sequence[ServedModel]) -> ModelList:
    return ModelList([_model(model) for model in models])


def described_model(models: Sequence[ServedModel], name: str) -> Model:
    """Raises UnknownModelError."""
    for model in models:
        if model.name == name:
            return _model(model)
    raise UnknownModelError(name, [model.name for model in models])


def health_of(models: Sequence[ServedModel]) -> Health:
    """Return ``ok`` when every model can be served, ``degraded`` when one can, else ``unavailable``."""
    servable = sum(model.servable for model in models)
    return Health(
        status="unavailable" if not servable else "ok" if servable == len(models) else "degraded",
        models=[
            ModelHealth(model.name, model.servable, [str(span) for span in model.missing], model.problem)
            for model in models
        ],
    )


def _model(model: ServedModel) -> Model:
    return Model(id=model.name, created=model.created, servable=model.servable)
