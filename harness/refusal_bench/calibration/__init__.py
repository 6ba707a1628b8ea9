"""Planted worlds: models whose refusal directions are known, to calibrate the instrument on."""
