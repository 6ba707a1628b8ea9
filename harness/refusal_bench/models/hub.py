"""Files from the model hub: a snapshot of one revision, or one sentence that says why not and what to do."""

from __future__ import annotations

from pathlib import Path

from refusal_bench.errors import InputError

ELSEWHERE = "or use --model demo, a local folder or a .gguf file"


def snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Return the folder of one revision, fetched once into the hub's cache; its name is the commit.

    InputError for a gated, missing or private model, a wrong revision, a wrong token, no network, or a full disk.
    """
    from huggingface_hub import snapshot_download

    try:
        # Sub-folders and consolidated files hold the same weights again in other formats.
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"]
            )
        )
    except (OSError, ValueError) as error:  # the hub's errors and httpx's timeouts are OSErrors
        raise InputError(f"{repo}: {_reason(error, repo, revision)}") from error


def _reason(error: Exception, repo: str, revision: str | None) -> str:
    """What is wrong and what to do, for everything that the hub's client raises."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    token = get_token()
    if isinstance(error, GatedRepoError):
        if token is None:
            return f"is gated; accept its licence at https://huggingface.co/{repo} and log in with `hf auth login`."
        return (
            f"is gated and your account has no access yet; accept its licence at https://huggingface.co/{repo} "
            "(approval may take hours)."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {revision!r}; give a branch, a tag or a full commit of it, or leave --revision out."
    if isinstance(error, RepositoryNotFoundError):
        login = "" if token else "; if it is private, log in with `hf auth login`"
        return f"there is no such model on the hub, or it is private{login}; check the name."
    if isinstance(error, HFValidationError):
        return "is not a hub id; give owner/name."
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"the model hub cannot be reached and the model is not in the local cache; check the network, {ELSEWHERE}."
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return "the hub rejects your token; log in again with `hf auth login`."
        return f"the hub answers with an error (HTTP {status}); try again later, {ELSEWHERE}."
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be stored ({error.strerror}); make room, or set HF_HOME to another disk."
    return f"the model hub cannot be reached and the model is not in the local cache; check the network, {ELSEWHERE}."
