"""Peer-to-peer inference: several machines, one model, one OpenAI-compatible API."""

__version__ = "0.1.0"
