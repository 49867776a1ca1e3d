"""Every setting and how it is given: TOML, environment, flags. Reads no file and no environment itself."""

from swarm.config.loading import load_config
from swarm.config.settings import (
    MIB,
    ApiKey,
    ApiSettings,
    Config,
    EngineSettings,
    GossipSettings,
    ModelChoice,
    ModelSettings,
    NetSettings,
    NodeSettings,
    SessionSettings,
    WeightsSettings,
)

__all__ = [
    "MIB",
    "ApiKey",
    "ApiSettings",
    "Config",
    "EngineSettings",
    "GossipSettings",
    "ModelChoice",
    "ModelSettings",
    "NetSettings",
    "NodeSettings",
    "SessionSettings",
    "WeightsSettings",
    "load_config",
]
