"""Ray clusters, for work that is too much for one machine: an optional extra, ``pip install "tttnn[cluster]"``.

Ray's token authentication is always on. Its processes send each other pickled functions and results, so whoever
holds the token can run code on every machine of the cluster: use only machines that you trust.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)

LOCAL, AUTO = "local", "auto"
STARTS = 3  # of a local cluster, until it is given up
RETRIES = 3  # how often work is given out again because its worker died
STORE_BYTES = 100 << 20  # of shared memory that a local cluster takes for objects on their way
REACH_SECONDS = 5.0


class ClusterError(OSError):
    """A cluster that cannot be reached or used, or work that killed its workers; the message says what to do."""


@contextmanager
def cluster(address: str = LOCAL, workers: int = 2) -> Iterator[None]:
    """Be connected to a Ray cluster; one cluster in the life of a process.

    Parameters
    ----------
    address : str
        "local": start one on this machine, for loopback addresses only and with a token of its own, and stop it
        in the end. "auto": the cluster that ``ray start`` made this machine a part of, or that of RAY_ADDRESS.
        Otherwise ``host:port`` of a head node.
    workers : int
        Processes that a local cluster may run at once.

    Raises
    ------
    ClusterError
        If Ray is not installed, nothing answers there, or the token is missing or another one.
    """
    ray = _import_ray(address)
    if address not in (LOCAL, AUTO):
        _reach(address)
    if ray.is_initialized():
        raise ClusterError("this process is connected to a cluster already: leave that one first")
    try:
        _connect(ray, address, workers)
        yield
    finally:
        ray.shutdown()


def _connect(ray: ModuleType, address: str, workers: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "WARNING"}
    try:
        if address == LOCAL:
            start = partial(ray.init, num_cpus=workers, include_dashboard=False, object_store_memory=STORE_BYTES)
            _patiently(partial(start, **quiet), ray.shutdown)
        else:
            ray.init(address=address, **quiet)
    except (Exception, SystemExit) as error:  # Ray exits if the head does not answer, and raises bare exceptions
        raise _not_there(address, error) from error
    if address == LOCAL and not ray.get_runtime_context().gcs_address.startswith("127.0.0.1:"):
        raise ClusterError("Ray was imported before the cluster was started, and would listen on all addresses")


def _patiently(start: Callable[[], object], stop: Callable[[], None]) -> None:
    """Start again: Ray gives its own processes 30 s to come up, which is not enough on a busy machine."""
    for _ in range(STARTS - 1):
        try:
            start()
            return
        except Exception as error:  # noqa: BLE001  (Ray raises bare exceptions here)
            log.warning("Ray did not start, once more: %s", error)
            stop()
    start()


def gpus_for(device: str, processes: int = 1) -> int:
    """Return how many GPUs a process of the cluster asks for: one, which is then its only one, or none on a CPU.

    Raises
    ------
    ClusterError
        If the cluster has fewer than so many processes at once need: they would wait for ever.
    """
    if own_card(device) == "cpu":
        return 0
    import ray

    there = int(ray.cluster_resources().get("GPU", 0))
    if there < processes:
        raise ClusterError(
            f"device={device!r}: {processes} processes need a GPU each, and the cluster has {there}: give fewer "
            "workers, or device=cpu"
        )
    return 1


def own_card(device: str) -> str:
    """Return the device's name in a process of the cluster, which sees no GPU but its own."""
    return device.partition(":")[0]


def start_workers(kind: type, arguments: Iterable[tuple[Any, ...]], device: str = "cpu") -> list[Any]:
    """Start an actor of class `kind` for each tuple of arguments, spread over the machines.

    On a GPU each has one for itself. One that dies is started again, elsewhere if its machine is gone, and is given
    once more what it was doing. So its methods must do no harm when they run twice.
    """
    import ray

    given = list(arguments)
    options = {"max_restarts": -1, "max_task_retries": RETRIES, "scheduling_strategy": "SPREAD"}
    if gpus := gpus_for(device, len(given)):
        # An actor that names anything it needs, be it no GPU, holds a CPU as long as it lives, unless it says so.
        options |= {"num_gpus": gpus, "num_cpus": 0}
    actor = ray.remote(**options)(kind)
    return [actor.remote(*each) for each in given]


def results(references: Any) -> Any:
    """Wait for one or several results; an error in a worker is raised here as it was raised there.

    Raises
    ------
    ClusterError
        If the workers died more than `RETRIES` times.
    """
    import ray

    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ClusterError(f"its worker died {RETRIES + 1} times, for want of memory? {error}") from error


def _import_ray(address: str) -> ModuleType:
    """Import Ray. It reads these variables once, when it is imported."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on any system: listen on the loopback address only
    try:
        import ray
        from ray._raylet import AuthenticationMode, get_authentication_mode
    except ModuleNotFoundError as error:
        raise ClusterError('Ray is not installed: pip install "tttnn[cluster]"') from error
    if get_authentication_mode() != AuthenticationMode.TOKEN:
        raise ClusterError("Ray was imported without authentication: set RAY_AUTH_MODE=token, then start again")
    return ray


def _reach(address: str) -> None:
    """Raise ClusterError unless something listens there: Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        raise _not_there(address, f"an address is '{LOCAL}', '{AUTO}' or host:port")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except OSError as error:
        raise _not_there(address, error) from error


def _not_there(address: str, why: object) -> ClusterError:
    return ClusterError(
        f"{address}: no Ray cluster to connect to ({str(why).strip()}): see `ray start --help`; if there is one, give "
        "this machine its token: copy ~/.ray/auth_token from its head node, or set RAY_AUTH_TOKEN_PATH to a file that "
        "holds it"
    )
