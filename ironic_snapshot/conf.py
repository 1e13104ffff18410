# SPDX-License-Identifier: Apache-2.0
"""The options of the conductor side: group ``[snapshot]``."""
from ironic.conf import auth
from ironic.conf import CONF
from oslo_config import cfg

from ironic_snapshot_core.units import KiB, MiB

GROUP = 'snapshot'

# Hardware types that may use Redfish. Its client looks for ``verify_ca`` in a
# group named like the hardware type (ironic.drivers.utils.get_verify_ca), and
# without such a group every call ends with NoSuchOptError.
VERIFY_CA_GROUPS = ('redfish-snapshot', 'idrac-snapshot',
                    'fake-hardware-snapshot')

# MiB/s; a step may ask for it as well.
BANDWIDTH_MAX = 1_000_000

# What a user may ask for as well; qcow2 and the formats of the core agree.
CLUSTER_SIZES = [64 * KiB, 128 * KiB, 256 * KiB, 512 * KiB, MiB, 2 * MiB]

SNAPSHOT_OPTS = [
    cfg.StrOpt('container',
               default='ironic-snapshots',
               regex=r'^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$',
               help='Swift container of the snapshots. A node with a lessee '
                    'or an owner uses "<container>-<project>", so that '
                    'no two projects ever share one.'),
    cfg.StrOpt('manifest_key',
               secret=True,
               help='Key of the message authentication code in every '
                    'manifest, at least 32 characters and the same on all '
                    'conductors, for example from "openssl rand -hex 32". '
                    'Keep it: a snapshot whose code does not match is '
                    'refused. Required.'),
    cfg.URIOpt('ramdisk_endpoint',
               schemes=['http', 'https'],
               help='Swift endpoint for the ramdisk, up to and with the '
                    'account ("https://swift.example.com/v1/AUTH_x"), where '
                    'the ramdisk does not reach the one that the conductor '
                    'uses. The path must be the same.'),
    cfg.BoolOpt('require_https',
                default=True,
                help='Refuse to give the ramdisk an http:// endpoint: on '
                     'plain HTTP anyone on the path can read the disk and '
                     'the temporary URLs.'),
    cfg.IntOpt('grant_ttl',
               default=3600, min=300,
               help='Seconds for which the temporary URLs of a capture or a '
                    'restore are valid. The agent gets new ones with each '
                    'slice, so it may take as long as it takes; this is how '
                    'long it goes on without a conductor. At least four '
                    'times slice_interval.'),
    cfg.IntOpt('slice_interval',
               default=60, min=10, max=600,
               help='Seconds of a slice: the agent captures or restores in '
                    'the background, and this often it reports its progress '
                    'and gets new temporary URLs.'),
    cfg.IntOpt('stall_timeout',
               default=900, min=0,
               help='Seconds without a byte read, stored or written, or '
                    'without an answer of the agent, after which a capture '
                    'or a restore fails. 0: never.'),
    cfg.IntOpt('cluster_size',
               default=256 * KiB,
               choices=CLUSTER_SIZES,
               help='Bytes that are hashed, compressed and stored as one. '
                    'Larger: better ratio, less metadata. Smaller: finer '
                    'increments.'),
    cfg.StrOpt('compression',
               default='zstd',
               choices=[('auto', 'zstd, with a level that keeps up with '
                                 'the upload.'),
                        ('zstd', 'Fast; QEMU 5.1 or newer reads it.'),
                        ('zlib', 'Slow; every QEMU reads it.'),
                        ('none', 'No compression.')],
               help='Compression of the clusters.'),
    cfg.IntOpt('compression_level',
               default=1, min=1, max=19,
               help='Level of the compression; zlib ends at 9, and auto '
                    'chooses its own.'),
    cfg.IntOpt('pack_size',
               default=64, min=1, max=1024,
               help='MiB after which a pack is closed and uploaded.'),
    cfg.IntOpt('redundancy',
               default=0, min=0, max=1000,
               help='Snapshots in a row that may rely on the same pack; the '
                    'next one stores its own copy of what it needs of it, '
                    'and knows of both. Smaller: a lost or damaged pack '
                    'hurts less. Larger: less is stored. 0: no second '
                    'copies.'),
    cfg.IntOpt('workers',
               default=0, min=0, max=64,
               help='Threads that hash, compress and decompress in the '
                    'ramdisk; 0: one for each core.'),
    cfg.IntOpt('memory_limit',
               default=0, min=0,
               help='MiB that a capture or a restore may use in the ramdisk; '
                    '0: half of what is free, at most 1024.'),
    cfg.IntOpt('bandwidth_limit',
               default=0, min=0, max=BANDWIDTH_MAX,
               help='MiB that one capture or one restore may move to and from '
                    'Swift per second: what a capture stores and what it '
                    'reads of its parent count together, and all that a '
                    'restore fetches; 0: no limit. A step may ask for less, '
                    'not for more.'),
    cfg.StrOpt('io_priority',
               default='normal',
               choices=[('normal', 'As everything else in the ramdisk.'),
                        ('low', 'After everything else.'),
                        ('idle', 'Only when nothing else reads or writes.')],
               help='Priority with which the disk is read and written.'),
    cfg.IntOpt('shutdown_timeout',
               default=180, min=30,
               help='Seconds that the operating system of the node gets to '
                    'shut down, being asked three times, before it is '
                    'powered off hard.'),
    cfg.IntOpt('max_tries',
               default=3, min=1,
               help='How many agents in a row may lose a capture without '
                    'storing anything new, or a restore without writing '
                    'anything to speak of, before the step fails. An agent '
                    'that restarts goes on where the last one was.'),
    cfg.IntOpt('sweep_workers',
               default=16, min=1, max=128,
               help='Threads that check the stored objects at the commit of '
                    'a snapshot, and before a restore.'),
    cfg.StrOpt('destination',
               default='swift',
               choices=[('swift', 'A snapshot in Swift.'),
                        ('glance', 'The same, and an image in Glance made of '
                                   'it.')],
               help='What becomes of a snapshot unless the step says '
                    'otherwise. Nodes without a lessee and an owner have no '
                    'project that an image could belong to.'),
    cfg.StrOpt('glance_method',
               default='import',
               choices=[('import', 'Glance downloads the image from Swift '
                                   '(web-download): an independent copy.'),
                        ('link', 'Glance reads the objects of the snapshot, '
                                 'and nothing is copied. Glance must keep '
                                 'its images in the same account of the same '
                                 'Swift, and glance_location must be set.'),
                        ('stream', 'The ramdisk sends the image to Glance, '
                                   'and Swift is not used: there is no '
                                   'snapshot to build upon or to restore, '
                                   'and every image is complete.')],
               help='How an image is made of a snapshot. The user that '
                    '[glance] names must be able to create images of other '
                    "projects: by Glance's default policy, an admin."),
    cfg.StrOpt('glance_store',
               help='Store of Glance to import into; not set: its default '
                    'one.'),
    cfg.StrOpt('glance_location',
               secret=True,
               regex=r'^swift(\+https?)?://[^/@?#]+@[^/@?#]+/[^@?#]*[^/@?#]$',
               help='For the method "link": the location of the images in '
                    "Glance's Swift store, up to and with the container, as "
                    'Glance itself writes it, for example "swift+https://'
                    'service%3Aglance:<password>@keystone.example.com/v3/'
                    'glance". Glance takes no location without credentials. '
                    'They must be those of the project that [snapshot] uses '
                    'in Swift.'),
    cfg.URIOpt('import_endpoint',
               schemes=['http', 'https'],
               help='Swift endpoint for Glance to import from, up to and '
                    'with the account, where it does not reach the one that '
                    'the conductor uses. The path must be the same. '
                    '[import_filtering_opts] of Glance must allow its host '
                    'and port.'),
    cfg.IntOpt('import_ttl',
               default=6 * 3600, min=600,
               help='Seconds after which an image that is not active has '
                    'failed; and for which the temporary URL of an import is '
                    'valid.'),
    cfg.BoolOpt('verify_image',
                default=True,
                help='Read what was captured once more from Swift while '
                     'Glance imports it, and compare the hashes. Without it '
                     'only the size is compared, and the property '
                     'ironic_snapshot_verified of the image says so. An '
                     'image that is linked is always verified.'),
    cfg.IntOpt('verify_workers',
               default=2, min=1, max=32,
               help='Images that a conductor reads at a time to verify '
                    'them.'),
    cfg.IntOpt('publication_interval',
               default=15, min=1,
               help='Seconds between two looks at images that are not active '
                    'yet.'),
    cfg.IntOpt('image_size_cap',
               default=2 ** 40, min=1,
               help='Bytes that an image may have: the image_size_cap of '
                    'Glance, which does not tell it. A larger snapshot is '
                    'not offered to it.'),
    cfg.DictOpt('image_properties',
                default={},
                help='More properties of every image, such as '
                     '"hw_disk_bus:scsi,cloud:lab".'),
    cfg.URIOpt('ramdisk_glance_endpoint',
               schemes=['http', 'https'],
               help='For the method "stream": Glance endpoint for the '
                    'ramdisk, without the version, where the ramdisk does '
                    'not reach the one that the conductor uses.'),
    cfg.BoolOpt('stream_token',
                default=False,
                help='For the method "stream": give the ramdisk a token of '
                     'the user of [glance] where Keystone makes no '
                     'application credential with access rules for that '
                     'user. Whoever gets hold of such a token can do in '
                     'the cloud whatever that user can, until it expires.'),
    cfg.StrOpt('glance_hash',
               default='sha512',
               choices=['sha256', 'sha384', 'sha512'],
               help='The hashing_algorithm of Glance. With the methods '
                    '"link" and "stream" Glance must be told, or asked for, '
                    'a hash before it has one of its own.'),
    cfg.IntOpt('orphan_check_interval',
               default=60, min=0,
               help='Seconds between two looks for nodes that a conductor '
                    'died on while they were prepared for a snapshot or a '
                    'restore; they are booted back, unless their disk is '
                    'half restored. 0: never.'),
]

VERIFY_CA_OPT = cfg.StrOpt(
    'verify_ca',
    help='CA bundle for the BMC of nodes with this hardware type where '
         'driver_info does not name one. The default is the one of '
         '[redfish].')


def register_opts(conf):
    """Register everything that this package reads with `conf`."""
    conf.register_opts(SNAPSHOT_OPTS, group=GROUP)
    auth.register_auth_opts(conf, GROUP, service_type='object-store')
    for group in VERIFY_CA_GROUPS:
        conf.register_opts([VERIFY_CA_OPT], group=group)


def list_opts():
    """The options, for oslo-config-generator."""
    yield GROUP, auth.add_auth_opts(SNAPSHOT_OPTS,
                                    service_type='object-store')
    for group in VERIFY_CA_GROUPS:
        yield group, [VERIFY_CA_OPT]


register_opts(CONF)
