"""Plumbline's stages: one package per stage of the chain, and `common` for what they share."""
