# SPDX-License-Identifier: Apache-2.0
"""Who may take snapshots, and where they end: Ironic's own policies.

Real: the API of Ironic with its default policies, the tokens of a real
Keystone, the conductor behind it, Swift and Glance.
"""
import uuid

from ironic.api import app
from ironic.common import rpc
from ironic.common import states
import webob

from tests.contract import publication_base

TO_GLANCE = {'name': 'golden', 'destination': 'glance'}

#: The administrator of the whole system.
SYSTEM = 'system'

OWNER, LESSEE = 'owner', 'lessee'

# What a user gets who asks for a snapshot of a node of project alpha, by what
# alpha is to it. The other project is beta, the owner where alpha is lessee.
ACCEPTED, FORBIDDEN, UNSEEN = 202, 403, 404
RIGHTS = {
    OWNER: {
        'alice': ACCEPTED, 'amy': ACCEPTED, 'rita': FORBIDDEN,
        'bob': UNSEEN, 'boss': UNSEEN, 'nova': ACCEPTED, SYSTEM: ACCEPTED},
    LESSEE: {
        # Members of the lessee's project are none of those who may.
        'alice': FORBIDDEN, 'amy': ACCEPTED, 'rita': FORBIDDEN,
        'bob': ACCEPTED, 'boss': ACCEPTED, 'nova': ACCEPTED,
        SYSTEM: ACCEPTED},
}

# Ways to name a place of one's own.
PLACES = (
    {'container': 'mine'}, {'project': 'mine'}, {'owner': 'mine'},
    {'url': 'https://example.org/'}, {'store': 'mine'},
    {'glance_method': 'import'}, {'visibility': 'public'},
    {'grant': {'container_url': 'https://example.org/'}},
    {'upload': {'url': 'https://example.org/'}},
)


class RbacTestCase(publication_base.PublicationTestCase):
    """A conductor, and an API in front of it that asks Keystone."""

    def setUp(self):
        super().setUp()
        self.config(auth_strategy='keystone', rpc_transport='none',
                    host=self.service.host,
                    # As it must be where Nova uses Ironic.
                    rbac_service_role_elevated_access=True)
        self.set_plugin('keystone_authtoken', 'password')
        keystone = self.cloud.keystone
        self.config(group='keystone_authtoken',
                    www_authenticate_uri=keystone.auth_url,
                    service_token_roles_required=True,
                    **self.cloud.credentials('ironic'))
        before = rpc.GLOBAL_MANAGER
        rpc.GLOBAL_MANAGER = self.service
        self.addCleanup(setattr, rpc, 'GLOBAL_MANAGER', before)
        self.api = app.VersionSelectorApplication()

    def ask(self, user, method, path, body=None):
        """One request to Ironic, answered whatever the answer is."""
        session = (self.cloud.keystone.session(
            self.cloud.keystone.system_admin) if user == SYSTEM
            else self.cloud.session(user))
        answer = self.send(method, path, session.get_token(), body)
        self.node.refresh()
        return answer

    def send(self, method, path, token, body=None):
        request = webob.Request.blank(
            f'/v1/nodes/{self.node.uuid}{path}', method=method,
            headers={'X-OpenStack-Ironic-API-Version': 'latest',
                     'X-Auth-Token': token})
        if body is not None:
            request.content_type = 'application/json'
            request.json = body
        return request.get_response(self.api)

    def ask_for_snapshot(self, user, expected=ACCEPTED, **args):
        """``baremetal node service``, as a user."""
        answer = self.ask(user, 'PUT', '/states/provision', {
            'target': 'service', 'service_steps': [
                {'interface': 'deploy', 'step': 'snapshot', 'args': args}]})
        self.assertEqual(
            expected, answer.status_int, f'{user}: {answer.text}')

    def finish(self):
        """What was asked for comes to its end."""
        self.heartbeat()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        found = self.publish()
        self.assertEqual(('active', ''), (found.status, found.reason))

    def assert_alphas(self):
        """Image and snapshot are of alpha, and of nobody else."""
        image = self.image()
        self.assertEqual(
            (self.cloud.project_id('alpha'), 'private'),
            (image.owner, image.visibility))
        self.assertIsNone(
            self.bob.find_image(image.id, ignore_missing=True))
        self.assertEqual(f'{self.prefix}-{image.owner}',
                         self.record.container)
        self.assert_nobody_reads(self.record.container)

    def assert_nobody_reads(self, container):
        """Snapshots are for Ironic alone, and whom it gives a grant."""
        url = f'{self.cloud.swift.storage_url}/{container}'
        answers = {user: self.cloud.session(user).get(
            url, raise_exc=False).status_code
            for user in ('ironic', 'alice', 'bob', 'boss')}
        self.assertEqual(
            {'ironic': 200, 'alice': 403, 'bob': 403, 'boss': 403}, answers)


class BothRoles:
    """What holds whatever the project is to the node.

    :cvar role: of alpha.
    :cvar unseen: who does not see the record of a snapshot.
    """

    def test_who_may(self):
        """Those who may not leave no trace; the others are heard."""
        for user, expected in RIGHTS[self.role].items():
            del self.power[:]
            self.ask_for_snapshot(user, expected, **TO_GLANCE)
            if expected != ACCEPTED:
                self.assertEqual(states.ACTIVE, self.node.provision_state)
                self.assertEqual([], self.power)
                continue
            self.assertEqual(states.SERVICEWAIT, self.node.provision_state,
                             self.node.last_error)
            self.abort()
            self.assertEqual(states.ACTIVE, self.node.provision_state)

    def test_image(self):
        """It is of the project that uses the node, whoever asks for it; the
        record is for who may read the node, and has no secret.
        """
        self.ask_for_snapshot(self.asking, **TO_GLANCE)
        self.finish()
        self.assert_alphas()
        seen = {}
        for user in RIGHTS[self.role]:
            answer = self.ask(user, 'GET', '')
            for secret in self.secrets():
                self.assertNotIn(secret, answer.text)
            seen[user] = (answer.status_int == 200 and 'snapshot'
                          in answer.json['driver_internal_info'])
        self.assertEqual({
            **dict.fromkeys(RIGHTS[self.role], True),
            **dict.fromkeys(self.unseen, False)}, seen)
        self.assert_no_secret()


class TestOwner(BothRoles, RbacTestCase):

    role = OWNER
    asking = 'alice'
    unseen = ('bob', 'boss')

    def test_nobody_names_a_place(self):
        for args in PLACES:
            self.ask_for_snapshot('amy', **{**TO_GLANCE, **args})
            self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
            self.assertIn(next(iter(args)), self.node.last_error)
            self.assert_abort_does_not_boot()


class TestLessee(BothRoles, RbacTestCase):

    role = LESSEE
    asking = 'bob'
    # Ironic shows this field to the owner's project alone.
    unseen = ('alice', 'amy', 'rita')

    def setUp(self):
        super().setUp()
        self.node.lessee = self.node.owner
        self.node.owner = self.cloud.project_id('beta')
        self.node.save()

    def test_nobody_names_an_image_of_another_project(self):
        """Not even the project that owns the node, but does not use it."""
        for image in (self.given(self.bob), self.given(self.glance),
                      str(uuid.uuid4())):
            self.ask_for_snapshot(
                'bob', destination='glance', image_id=image)
            self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
            self.assertIn('there is none of this id that belongs to the '
                          'project of the node', self.node.last_error)
            self.assert_abort_does_not_boot()


class TestNobody(RbacTestCase):
    """Who has no token, or a made-up one."""

    def test_is_not_let_in(self):
        for token in ('', 'made-up'):
            self.assertEqual(401, self.send('GET', '', token).status_int)
