"""No network in the suite but loopback. Python imports this file at its start when its folder is on PYTHONPATH, so kernels and workers are guarded too."""
import errno
import ipaddress
import os
import socket


def _loopback(host):
    if host in ("", "localhost", None): return True
    try: return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError: return False


def _check(host):
    if not _loopback(host): raise OSError(errno.ENETUNREACH, f"the suite has no network, and this asked for {host}")


def _guarded(name):
    original = getattr(socket.socket, name)

    def call(self, *args):
        # sendto takes the address last; the others take nothing but the address.
        if self.family in (socket.AF_INET, socket.AF_INET6): _check(args[-1][0])
        return original(self, *args)

    setattr(socket.socket, name, call)


if os.environ.get("OMR_OFFLINE"):
    for name in ("connect", "connect_ex", "sendto"): _guarded(name)
    _getaddrinfo = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        _check(host)
        return _getaddrinfo(host, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo
