"""What keeps a checkpoint from being fetched, each in one sentence."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator

from xopd.config.checkpoints import HubId
from xopd.errors import UserError, first_line

FULL = "os error 28"
"""How the library's own downloader, which is no Python, calls a full disk."""


@contextlib.contextmanager
def told(setting: str, source: HubId) -> Iterator[None]:
    """Within the block, what the hub's library raises becomes a UserError about `source`, which `setting` names.

    Its own warnings, such as of each of its retries, are left out.
    """
    import huggingface_hub  # noqa: F401 (its logger has its level from then on)

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library lets exceptions of its HTTP client and of the disk through
        raise UserError(f"{setting} {source}: {_clause(source, error)}.") from None
    finally:
        logger.setLevel(level)


def too_large(setting: str, source: HubId, needed: int, free: int) -> UserError:
    """Weights of `needed` bytes do not fit into the `free` ones."""
    return UserError(
        f"{setting} {source}: {gigabytes(needed)} are to be fetched, and {_cache()} has {gigabytes(free)} free; set"
        " HF_HOME to a larger disk."
    )


def gigabytes(number: int) -> str:
    """Bytes for people: `15.4 GB`, `310 MB`, `2 kB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 100 * size else f"{number / size:,.0f} {unit}"
    return f"{-(-number // 1000)} kB"


def _clause(source: HubId, error: Exception) -> str:
    from huggingface_hub import errors, get_token

    place = f"{_endpoint()}/{source.repo}"
    if isinstance(error, errors.GatedRepoError):
        return f"is gated; accept its terms at {place}, and set HF_TOKEN to a token of that account"
    if isinstance(error, errors.RepositoryNotFoundError):
        if get_token() is None:
            return (
                f"there is no such folder, and {_endpoint()} has no such repository that can be read without a token;"
                " correct the name, or set HF_TOKEN"
            )
        return (
            f"there is no such folder, and {_endpoint()} has no such repository that the token may read; correct the"
            " name, or set HF_TOKEN to a token that may"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{place} has no such revision; give one of its branches, tags or commits"
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(error.response.status_code)
    if isinstance(error, errors.RevisionResolutionError | errors.LocalEntryNotFoundError | errors.DryRunError):
        return _unreachable(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _unreachable(error)
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or FULL in str(error):
        return f"the disk of {_cache()} is full; make room, or set HF_HOME to a larger one"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{_cache()} cannot be written; set HF_HOME to a folder that can"
    return f"could not be fetched from {_endpoint()} ({first_line(error)}); start again, whole files are kept"


def _answered(status: int) -> str:
    if status == 401:
        return f"{_endpoint()} does not accept the token; correct HF_TOKEN"
    if status == 403:
        return f"{_endpoint()} denies access; ask there for access, and set HF_TOKEN to a token that may read it"
    return f"{_endpoint()} answers with HTTP status {status}; try again later"


def _unreachable(error: Exception) -> str:
    from huggingface_hub import errors, is_offline_mode

    cause = error.__cause__ or error
    if is_offline_mode() or isinstance(cause, errors.OfflineModeIsEnabled):
        return (
            f"there is no such folder, and {_cache()} does not hold all of it, while HF_HUB_OFFLINE keeps the hub from"
            " being asked; set HF_HUB_OFFLINE=0, or fetch it beforehand"
        )
    if isinstance(cause, errors.HfHubHTTPError):
        return _answered(cause.response.status_code)
    return f"{_endpoint()} cannot be reached ({first_line(cause)}); see to the network, or correct HF_ENDPOINT"


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)
