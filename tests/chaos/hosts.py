"""Machines of their own for the parts of a system: network namespaces behind one switch.

Each host has one cable, and `cut` pulls it: packets vanish, no connection is closed. Needs root and
iproute2 (`reason_without` says what is missing); without them everything is this one machine.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Self

LOOPBACK = "127.0.0.1"


def reason_without() -> str | None:
    """Why there can be no hosts of their own here; None where there can be."""
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return "iproute2 or util-linux is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"cxr-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        return "network namespaces are not permitted"
    bridge = ["ip", "-n", name, "link", "add", "bridge", "type", "bridge"]
    bridged = subprocess.run(bridge, capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None if bridged.returncode == 0 else "the kernel has no bridge"


class Host:
    """Where a program runs: its address, and how its command line is to begin."""

    def __init__(self, name: str, address: str, namespace: str | None = None) -> None:
        self.name = name
        self.address = address
        self._namespace = namespace

    def argv(self, argv: Sequence[str]) -> list[str]:
        if self._namespace is None:
            return list(argv)
        return ["nsenter", f"--net=/run/netns/{self._namespace}", *argv]


class Network(AbstractContextManager["Network"]):
    """One switch, and the named hosts; this process is on it too.

    real: False puts them all on the loopback address, where nothing can be cut.
    """

    def __init__(self, names: Sequence[str], *, real: bool) -> None:
        self.real = real
        self._id = secrets.token_hex(3)
        self._subnet = f"10.213.{secrets.randbelow(256)}"
        self._switch = f"cxr-{self._id}-switch"
        if not real:
            self.hosts = {name: Host(name, LOOPBACK) for name in names}
            return
        self.hosts = {
            name: Host(name, f"{self._subnet}.{number}", f"cxr-{self._id}-{name}")
            for number, name in enumerate(names, start=2)
        }

    def __enter__(self) -> Self:
        if self.real:
            try:
                self._build()
            except BaseException:
                self._remove()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.real:
            self._remove()

    def cut(self, name: str) -> None:
        self._set(name, "down")

    def join(self, name: str) -> None:
        self._set(name, "up")

    def _set(self, name: str, state: str) -> None:
        _ip("-n", self._switch, "link", "set", f"port-{name}", state)

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        cable = f"cx{self._id}"
        _ip("link", "add", cable, "type", "veth", "peer", "name", "here", "netns", self._switch)
        _ip("addr", "add", f"{self._subnet}.1/24", "dev", cable)
        _ip("link", "set", cable, "up")
        self._plug_in("here")
        for name, host in self.hosts.items():
            own = f"cxr-{self._id}-{name}"
            _ip("netns", "add", own)
            _ip("-n", own, "link", "add", "cable", "type", "veth", "peer", "name", f"port-{name}",
                "netns", self._switch)  # fmt: skip
            _ip("-n", own, "link", "set", "lo", "up")
            _ip("-n", own, "addr", "add", f"{host.address}/24", "dev", "cable")
            _ip("-n", own, "link", "set", "cable", "up")
            self._plug_in(f"port-{name}")

    def _plug_in(self, port: str) -> None:
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")

    def _remove(self) -> None:
        names = [self._switch, *(f"cxr-{self._id}-{name}" for name in self.hosts)]
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
