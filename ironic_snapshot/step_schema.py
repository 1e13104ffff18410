# SPDX-License-Identifier: Apache-2.0
"""The arguments of a service step: what there are, and their check.

They are hostile input: whoever may service a node may write them. They never
hold a URL, a path, a container or a format.
"""
from typing import Any

from ironic.common import exception
import jsonschema

from ironic_snapshot.conf import BANDWIDTH_MAX
from ironic_snapshot.conf import CONF

#: Of the steps of ours.
INTERFACE = 'deploy'

UUID_PATTERN = '[0-9a-f]{8}-' + 3 * '[0-9a-f]{4}-' + '[0-9a-f]{12}'
NAME_PATTERN = r'\A[A-Za-z0-9][A-Za-z0-9 ._:~+-]{0,126}\Z'

BANDWIDTH_LIMIT: dict[str, Any] = {
    'type': 'integer',
    'minimum': 1,
    'maximum': BANDWIDTH_MAX,
    'description': 'MiB to move to and from Swift per second at most, 1 to '
                   f'{BANDWIDTH_MAX} (default: [snapshot]bandwidth_limit, '
                   'which is the most there is).',
}
IO_PRIORITY: dict[str, Any] = {
    'type': 'string',
    'enum': ['normal', 'low', 'idle'],
    'description': 'Priority with which the disk is read and written '
                   '(default: [snapshot]io_priority).',
}
SHUTDOWN: dict[str, Any] = {
    'type': 'string',
    'enum': ['soft', 'hard'],
    'description': 'soft: ask the operating system to shut down first '
                   '(default); hard: power off at once.',
}


class StepSchema:
    """What a step accepts.

    :param step: its name.
    :param properties: JSON schema of each argument, with a description.
    :param required: names of those that there must be.
    """

    def __init__(self, step: str, properties: dict[str, dict[str, Any]],
                 required: tuple[str, ...] = ()) -> None:
        self.step = step
        self.argsinfo = {
            name: {'description': schema['description'],
                   'required': name in required}
            for name, schema in properties.items()}
        self._properties = properties
        self._validator = jsonschema.Draft202012Validator({
            'type': 'object',
            'properties': properties,
            'required': list(required),
            'additionalProperties': False,
        })

    def check(self, args: dict[str, Any] | None) -> dict[str, Any]:
        """Check the arguments of one step.

        :param args: as the user wrote them.
        :raises: InvalidParameterValue naming each argument that is wrong.
        """
        args = {} if args is None else args
        faults = sorted(self._validator.iter_errors(args),
                        key=lambda e: str(e.path))
        if faults:
            raise self.refusal(
                '; '.join(self._explain(fault) for fault in faults))
        return args

    def bandwidth(self, args: dict[str, Any]) -> int:
        """The bandwidth limit in MiB per second; 0: none.

        :raises: InvalidParameterValue when the operator allows less.
        """
        asked = args.get('bandwidth_limit', 0)
        limit = CONF.snapshot.bandwidth_limit
        if limit and asked > limit:
            raise self.refusal(
                f'argument "bandwidth_limit" is {asked}, but the operator '
                f'allows {limit} MiB/s at most')
        return asked or limit

    def is_step(self, step: dict[str, Any] | None) -> bool:
        """Whether this is the step."""
        return (bool(step) and step.get('interface') == INTERFACE
                and step.get('step') == self.step)

    def requested(self, node: Any) -> list[dict[str, Any]]:
        """The service steps asked for on this node that are this one."""
        return [step for step in
                node.driver_internal_info.get('service_steps') or []
                if self.is_step(step)]

    def refusal(self, text: str) -> exception.InvalidParameterValue:
        """An error that names the step."""
        return exception.InvalidParameterValue(
            f'Service step {INTERFACE}.{self.step}: {text}')

    # Private

    def _explain(self, fault: jsonschema.ValidationError) -> str:
        if fault.validator == 'additionalProperties':
            unknown = sorted(set(fault.instance) - set(self._properties))
            return (f'unknown argument {", ".join(map(_show, unknown))} '
                    f'(known: {", ".join(self._properties)})')
        if fault.validator == 'required':
            missing = [name for name in fault.validator_value
                       if name not in fault.instance]
            return f'argument {", ".join(map(_show, missing))} is missing'
        if not fault.path:
            return 'the arguments must be a JSON object'
        name = str(fault.path[0])
        value = fault.validator_value
        if fault.validator == 'type':
            types = value if isinstance(value, list) else [value]
            wanted = f'must be of type {" or ".join(types)}'
        elif fault.validator == 'enum':
            wanted = f'must be one of {value}'
        else:
            wanted = self._properties[name]['description']
        return f'argument "{name}" is {_show(fault.instance)}: {wanted}'


def _show(value: Any) -> str:
    # Never the whole of a hostile value, never its control characters.
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + '...'
