"""Folder names from model ids."""

import re


def model_slug(model_id: str) -> str:
    """Return a model id as one safe folder name: lower case, `[a-z0-9._-]`, `/` as `--`, never empty or hidden."""
    return re.sub(r"[^a-z0-9._-]", "-", model_id.lower().replace("/", "--")).lstrip(".") or "model"
