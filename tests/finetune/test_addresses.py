import socket

import pytest

from pipelines.finetune.launch.addresses import find_address, find_interface


def test_an_address_from_spark_is_used_as_it_is():
    assert find_address("10.1.2.3", ["10.1.2.3", "10.1.2.4"]) == "10.1.2.3"


def test_a_name_is_resolved(monkeypatch):
    monkeypatch.setattr(socket, "gethostbyname", {"worker-1": "10.1.2.3"}.__getitem__)
    assert find_address("worker-1", ["worker-1", "worker-2"]) == "10.1.2.3"


@pytest.mark.parametrize("peers", [["debian"], ["debian", "127.0.0.9"]])
def test_debians_loopback_name_is_never_handed_to_peers(monkeypatch, peers):
    # /etc/hosts of Debian: 127.0.1.1 debian. The route to the other machine is over lo in this test.
    monkeypatch.setattr(socket, "gethostbyname", lambda host: "127.0.1.1")
    address = find_address("debian", peers)
    assert address != "127.0.1.1"
    assert find_interface(address) == "lo"


def test_an_address_without_interface_is_an_error():
    with pytest.raises(OSError, match=r"no network interface of this host has the address 203\.0\.113\.7"):
        find_interface("203.0.113.7")
