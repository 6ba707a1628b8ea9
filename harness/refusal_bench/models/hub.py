"""Files from the model hub: a snapshot of one revision, or one sentence that says why not and what to do."""

from __future__ import annotations

from pathlib import Path

from refusal_bench.errors import InputError

ELSEWHERE = "or use --model demo, a local folder or a .gguf file"


def snapshot(repo: str, revision: str | None, patterns: list[str], *, pin: str | None = None) -> Path:
    """Return the folder of one revision, fetched once into the hub's cache; its name is the commit.

    The revision is the one asked for, else the pinned commit, else the hub's default branch.
    InputError for a gated, missing or private model, a wrong revision, a wrong token, no network, a download that
    breaks off, or a full disk.
    """
    from huggingface_hub import snapshot_download

    wanted = pin if revision is None else revision
    try:
        # Sub-folders and consolidated files hold the same weights again in other formats.
        return Path(
            snapshot_download(
                repo,
                revision=wanted,
                allow_patterns=patterns,
                ignore_patterns=["*/*", "consolidated*"],
                local_files_only=not _answers(repo, wanted),
            )
        )
    except Exception as error:  # what the client's HTTP libraries raise, which changes with the client's version
        raise InputError(f"{repo}: {_reason(error, repo, wanted, pin)}") from error


def _answers(repo: str, revision: str | None) -> bool:
    """Whether the hub answers, asked once: for the files of a full commit its client would retry for half a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().repo_info(repo, revision=revision)
    except HfHubHTTPError:
        return True
    except Exception:  # no network, in whatever words
        return False
    return True


def _reason(error: Exception, repo: str, revision: str | None, pin: str | None) -> str:
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
    what = "the model" if revision is None else f"revision {revision!r} of the model"
    unreachable = (
        f"the model hub cannot be reached and {what} is not in the local cache; check the network, {ELSEWHERE}."
    )
    if isinstance(error, GatedRepoError):
        if token is None:
            return f"is gated; accept its licence at https://huggingface.co/{repo} and log in with `hf auth login`."
        return (
            f"is gated and your account has no access yet; accept its licence at https://huggingface.co/{repo} "
            "(approval may take hours)."
        )
    if isinstance(error, RevisionNotFoundError) and pin is not None and revision == pin:
        return f"the pin of its alias, commit {pin}, is gone from the hub; --revision main takes the current one."
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {revision!r}; give a branch, a tag or a full commit of it, or leave --revision out."
    if isinstance(error, RepositoryNotFoundError):
        login = "" if token else "; if it is private, log in with `hf auth login`"
        return f"there is no such model on the hub, or it is private{login}; check the name."
    if isinstance(error, HFValidationError):
        return "is not a hub id; give owner/name."
    if isinstance(error, LocalEntryNotFoundError):
        return unreachable
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return "the hub rejects your token; log in again with `hf auth login`."
        return f"the hub answers with an error (HTTP {status}); try again later, {ELSEWHERE}."
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be stored ({error.strerror}); make room, or set HF_HOME to another disk."
    return f"the download broke off ({type(error).__name__}); give the same command again to go on with it."
