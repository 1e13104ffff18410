# SPDX-License-Identifier: Apache-2.0
"""Glance as the conductor uses it: its API, version 2.

With the credentials of Ironic's own group ``[glance]``. What is said to
Glance about where data are holds secrets: it is not logged. Nothing of what
Glance says about it is passed on with a URL in it.
"""
import functools
import json
import re
from typing import Any

from ironic.common import exception
from ironic.common import keystone
from keystoneauth1 import exceptions as keystone_exceptions

from ironic_snapshot_core import errors
from ironic_snapshot_core import redact

_GROUP = 'glance'

# Of one request, in seconds: the node is locked meanwhile.
_TIMEOUT_S = 60

_PATCH_TYPE = 'application/openstack-images-v2.1-json-patch'

# Glance has the import task's id here for as long as it works on an image.
_TASK = 'os_glance_import_task'

QUEUED = 'queued'
ACTIVE = 'active'

_TAG = re.compile(r'<[^>]*>')
_URL = re.compile(r'''[a-z+]+://[^\s'"<>]+''')
_MOST_TEXT = 300


class GlanceTarget:
    """Images, and what Glance does with them. All methods raise ImageError.

    Images are dicts as Glance shows them.
    """

    def __init__(self) -> None:
        self._session, self._auth, self._url = connection()

    def methods(self) -> list[str]:
        """Methods of import that are offered."""
        found = self._call('list', 'import methods', 'GET',
                           'info/import').get('import-methods')
        return list((found or {}).get('value', ()))

    def room(self) -> int | None:
        """Bytes that our own quota leaves; None if there is none.

        Glance counts an image with whoever has it imported. Without unified
        limits it does not say.
        """
        try:
            found = self._call('look at', 'quota', 'GET', 'info/usage')
            total = found['usage']['image_size_total']
            limit, usage = total['limit'], total['usage']
        except (errors.ImageMissing, KeyError, TypeError):
            return None
        return None if limit < 0 else max(limit - usage, 0) * 2 ** 20

    def create(self, image: dict[str, Any]) -> dict[str, Any]:
        """Create an image without data. Doing it twice is safe.

        :param image: with an id of our own choosing.
        """
        try:
            return self._call('create', image['id'], 'POST', 'images', image)
        except errors.ImageError as exc:
            if exc.status != 409:
                raise
            found = self.get(image['id'])
            if found['owner'] != image['owner']:
                raise
            return found

    def get(self, image: str) -> dict[str, Any]:
        """An image as it is now."""
        return self._call('look at', image, 'GET', f'images/{image}')

    def update(self, image: str, patch: list[dict[str, Any]]
               ) -> dict[str, Any]:
        """Change attributes and properties.

        :param patch: a JSON patch.
        """
        return self._call('change', image, 'PATCH', f'images/{image}', patch)

    def import_from(self, image: str, url: str, store: str | None) -> None:
        """Have Glance download the data by itself.

        :param url: holds a signature.
        :param store: of Glance; None: its default one.
        """
        body: dict[str, Any] = {
            'method': {'name': 'web-download', 'uri': url}}
        if store:
            body['stores'] = [store]
        self._call('import', image, 'POST', f'images/{image}/import', body,
                   secret=True)

    def add_location(self, image: str, location: str, algorithm: str,
                     value: str) -> None:
        """Tell Glance where the data are.

        By its interface for services; before 2023.2, or without the role
        ``service``, by the one that show_multiple_locations turns on.

        :param location: holds credentials.
        :param value: hash of the data, in hex.
        """
        body = {'url': location, 'validation_data': {
            'os_hash_algo': algorithm, 'os_hash_value': value}}
        try:
            self._call('link', image, 'POST', f'images/{image}/locations',
                       body, secret=True)
        except errors.ImageError as exc:
            if exc.status not in (403, 404, 405):
                raise
            self._call('link', image, 'PATCH', f'images/{image}', [
                {'op': 'add', 'path': '/locations/-',
                 'value': {**body, 'metadata': {}}}], secret=True)

    def delete(self, image: str) -> None:
        """Delete an image; it does no harm if there is none."""
        try:
            self._call('delete', image, 'DELETE', f'images/{image}')
        except errors.ImageMissing:
            pass

    def deactivate(self, image: str) -> None:
        """Let nobody use the data of an image."""
        self._call('deactivate', image, 'POST',
                   f'images/{image}/actions/deactivate')

    def explain_failure(self, image: str) -> str:
        """Why Glance could not take the data, as far as it says so."""
        try:
            tasks = self._call('look at', image, 'GET',
                               f'images/{image}/tasks').get('tasks') or []
        except errors.ImageError:
            # Earlier than 2021.1, or not for us.
            tasks = []
        for task in tasks:
            if task.get('status') == 'failure' and task.get('message'):
                return f'Glance says: {_clean(task["message"])}'
        return 'its log tells why'

    # Private

    def _call(self, operation: str, image: str, method: str, path: str,
              body: Any = None, secret: bool = False) -> Any:
        headers = {'Accept': 'application/json'}
        options: dict[str, Any] = {}
        if body is not None:
            options['data'] = json.dumps(body)
            headers['Content-Type'] = (
                _PATCH_TYPE if method == 'PATCH' else 'application/json')
        try:
            answer = self._session.request(
                f'{self._url}/v2/{path}', method, auth=self._auth,
                headers=headers, raise_exc=False, redirect=False,
                log=not secret, timeout=_TIMEOUT_S, **options)
        except (keystone_exceptions.ClientException, OSError) as exc:
            error = _lost(operation, image, exc)
        else:
            if answer.status_code < 300:
                return _parse(operation, image, answer)
            error = _refused(operation, image, answer)
        # Not in the except clause: what the library says may hold a URL.
        raise error


def is_busy(image: dict[str, Any]) -> bool:
    """Whether Glance is at work on the data of an image."""
    return bool(image.get(_TASK)) or image.get('status') in (
        'importing', 'saving', 'uploading')


def forget_connection() -> None:
    """Read the configuration anew when it is next needed."""
    connection.cache_clear()


@functools.cache
def connection() -> tuple[Any, Any, str]:
    """Session and auth of keystoneauth, and Glance's URL without a version.

    :raises: ConfigInvalid, ImageError.
    """
    try:
        auth = keystone.get_auth(_GROUP)
        session = keystone.get_session(_GROUP, auth=auth)
        url = keystone.get_endpoint(_GROUP, session=session, auth=auth)
    except exception.ConfigInvalid:
        raise
    except (exception.IronicException,
            keystone_exceptions.ClientException) as exc:
        error: Exception = _lost('reach', 'service', exc)
    else:
        return session, auth, url.rstrip('/').removesuffix('/v2')
    raise error


# Private

def _lost(operation: str, image: str, exc: Exception) -> errors.ImageError:
    """There was no answer of Glance at all."""
    if isinstance(exc, (keystone_exceptions.Unauthorized,
                        keystone_exceptions.Forbidden,
                        exception.KeystoneUnauthorized)):
        return errors.ImageRefused(
            operation, image, 'Keystone does not let the user of [glance] in')
    if isinstance(exc, keystone_exceptions.ConnectTimeout):
        reason = 'there was no answer in time'
    elif isinstance(exc, keystone_exceptions.ConnectionError):
        reason = 'the connection failed'
    else:
        reason = _clean(str(exc)) or type(exc).__name__
    return errors.GlanceUnavailable(operation, image, reason)


def _refused(operation: str, image: str, answer: Any) -> errors.ImageError:
    status = answer.status_code
    said = _said(answer)
    cls = errors.ImageError
    if status in (401, 403):
        cls = errors.ImageRefused
    elif status == 404:
        cls = errors.ImageMissing
    elif status == 413:
        cls = errors.ImageTooLarge
    elif status in (408, 429) or status >= 500:
        cls = errors.GlanceUnavailable
    return cls(operation, image, said or 'the request was not accepted',
               status)


def _said(answer: Any) -> str:
    text = answer.text or ''
    try:
        found = json.loads(text)
        text = found.get('message') or next(
            (each.get('message') for each in found.values()
             if isinstance(each, dict)), '') or ''
    except (ValueError, AttributeError):
        pass
    return _clean(str(text))


def _clean(text: str) -> str:
    """What somebody says, in one line, without markup, URLs and secrets."""
    text = _URL.sub('(a URL)', redact.redact(_TAG.sub(' ', text)))
    return ' '.join(text.split())[:_MOST_TEXT].rstrip('. ')


def _parse(operation: str, image: str, answer: Any) -> Any:
    if answer.status_code in (202, 204) or not answer.content:
        return {}
    try:
        return answer.json()
    except ValueError:
        raise errors.GlanceUnavailable(
            operation, image, 'the answer is not one of Glance',
            answer.status_code) from None
