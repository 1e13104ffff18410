# SPDX-License-Identifier: Apache-2.0
"""A real Nova in a process of its own, for tests."""
import json
import os
import subprocess
import sys
import time

from tests.servers import programs
from tests.servers.keystone import REPOSITORY

TIMEOUT_S = 30.0
POLL_S = 0.02


def wait_for(look, wanted):
    """Wait until something looks as wanted; return how it looks."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        found = look()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, f'still {found}'
        time.sleep(POLL_S)


class Nova:
    """The compute API and the compute manager; see ``nova_process``.

    :param log: path of its log, at level DEBUG.
    """

    def __init__(self, log, ironic_url, glance_url):
        guard = [sys.executable, programs.__file__, str(os.getpid())]
        with open(log, 'wb') as file:
            self._process = subprocess.Popen(
                [*guard, sys.executable, '-W', 'ignore', '-m',
                 'tests.servers.nova_process'],
                cwd=REPOSITORY, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=file, text=True,
                env={**os.environ, 'OS_STDOUT_CAPTURE': '0',
                     'OS_STDERR_CAPTURE': '0',
                     # Native threads, as Nova is to have them from now on.
                     'OS_NOVA_DISABLE_EVENTLET_PATCHING': '1'})
        assert self._ask({'ironic': ironic_url,
                          'glance': glance_url}) == 'ready'

    def stop(self):
        self._process.stdin.close()
        try:
            self._process.wait(programs.STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def say(self, method, **arguments):
        """Ask for something; see ``nova_process.Compute``."""
        return self._ask([method, arguments])

    def wait(self, server, task_state):
        """Wait until a server is in a task state."""
        return wait_for(lambda: self.say('show', server=server),
                        lambda found: found['task_state'] == task_state)

    # Private

    def _ask(self, request):
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        answer, error = json.loads(self._process.stdout.readline())
        assert error is None, error
        return answer


def context_of(session):
    """Give the user of a session as requests to Nova have it."""
    return {'id': session.get_user_id(), 'project': session.get_project_id(),
            'token': session.get_token()}
