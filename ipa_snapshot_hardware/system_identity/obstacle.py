# SPDX-License-Identifier: Apache-2.0
"""What keeps an identity from being reset."""

_LONGEST = 200


class Obstacle(Exception):  # noqa: N818  collected, then one error is raised
    """Something that should be reset, and is not.

    :param reason: where and why, without a full stop. What comes from the
        disk in it is made printable.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = printable(reason, _LONGEST)


def printable(text: str, longest: int) -> str:
    """Make a text of the disk fit to be shown.

    :param longest: in characters.
    """
    shown = ''.join(letter if letter.isprintable() else '?' for letter in text)
    if len(shown) > longest:
        return f'{shown[: longest - 3]}...'
    return shown
