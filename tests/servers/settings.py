# SPDX-License-Identifier: Apache-2.0
"""Configuration files of oslo.config."""

import collections
import collections.abc

#: Group -> name -> value.
Options = collections.abc.Mapping[str, collections.abc.Mapping[str, object]]


def text(*layers: Options) -> str:
    """Return the text of a file; a later layer covers an earlier one."""
    groups: dict[str, dict[str, object]] = collections.defaultdict(dict)
    for layer in layers:
        for group, options in layer.items():
            groups[group].update(options)
    return ''.join(
        f'[{group}]\n' + ''.join(
            f'{name} = {value}\n' for name, value in options.items())
        for group, options in groups.items())
