"""The network address of this host as the other ranks can reach it."""

import ipaddress
import socket

import psutil


def find_address(host: str, peers: list[str]) -> str:
    """The address of `host`, Spark's name of the machine this runs on; `peers`: Spark's names of all ranks'
    machines.

    Many /etc/hosts map a machine's own name to a loopback address (127.0.1.1 on Debian), which other machines
    cannot reach: then it is the address from which packets to another rank's machine leave.
    """
    if _is_ip(host):
        return host
    found = socket.gethostbyname(host)
    if not ipaddress.ip_address(found).is_loopback:
        return found
    others = [peer for peer in peers if peer != host]
    if not others:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((others[0], 9))  # for UDP this sends nothing, it only chooses the route
        return str(probe.getsockname()[0])


def find_interface(address: str) -> str:
    """Name of the network interface that has `address`. Raises OSError if there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    raise OSError(
        f"no network interface of this host has the address {address} that Spark gave for it; "
        "set spark.driver.host or SPARK_LOCAL_IP"
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
