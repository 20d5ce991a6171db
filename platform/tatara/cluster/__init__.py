"""Connect to Ray, say whether a request can ever fit, and submit jobs.

Importing this package imports no Ray: the functions do.
"""

from tatara.cluster.capacity import ensure_fits
from tatara.cluster.connection import ClusterView, connect, disconnect, is_connected, view
from tatara.cluster.jobs import EXCLUDES, JobHandle, attach_job, submit
from tatara.cluster.packing import Node, NodeType, fits

__all__ = [
    "EXCLUDES",
    "ClusterView",
    "JobHandle",
    "Node",
    "NodeType",
    "attach_job",
    "connect",
    "disconnect",
    "ensure_fits",
    "fits",
    "is_connected",
    "submit",
    "view",
]
