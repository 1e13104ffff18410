# SPDX-License-Identifier: Apache-2.0
"""The user's own cloud: where OpenStack clients have its credentials from.

``clouds.yaml`` and ``OS_CLOUD``, or ``OS_*`` variables. Nothing of what the
libraries say but the kind of an error and its text without secrets is passed
on.
"""

import contextlib
import os
import typing
from collections.abc import Iterator

from ironic_snapshot_core import errors
from ironic_snapshot_core import redact


def configured() -> typing.Any:
    """Give the cloud that is configured, as openstacksdk has it."""
    from openstack import config

    # Named, so that one that is not there is an error.
    return config.OpenStackConfig().get_one(os.environ.get('OS_CLOUD'))


@contextlib.contextmanager
def logging_in(service: str) -> Iterator[None]:
    """Make a credential error of whatever goes wrong while logging in.

    :param service: that we want to use.
    :raises CredentialsMissing: always, if anything goes wrong.
    """
    try:
        yield
    except ImportError as error:
        raise errors.CredentialsMissing(
            f'{error.name} is not installed; install "ironic-snapshot[cli]"',
            service,
        ) from None
    except errors.Error:
        raise
    except Exception as error:
        raise errors.CredentialsMissing(describe(error), service) from None


def describe(error: Exception) -> str:
    """Tell in a clause what a library says."""
    return clause(str(error)) or type(error).__name__


def clause(text: str) -> str:
    """Give somebody else's words on one line, without secrets."""
    return ' '.join(redact.redact(text).split()).rstrip('.: ')
