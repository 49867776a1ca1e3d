"""Weights from peers, decided: what to ask whom for, and whom to answer when. Pure."""
